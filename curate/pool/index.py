"""The index: per sample its key, label, byte range and header digests. One scan, one file a shard.

A shard's file appears under its final name only when its scan is complete, so a killed scan goes on
where it was. Structural faults fail a shard; a bad sample is listed with its reason and counted.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from curate import durable
from curate.errors import RunError, SampleError, ShardError, UsageError
from curate.pool.images import IMAGE_EXTENSIONS
from curate.pool.labels import MAX_LABEL_BYTES, LabelSource, is_class_id
from curate.pool.shards import Shard, Sources, find_shards
from curate.pool.sources import open_source
from curate.pool.tar import Entry, Tally, entries, printable, split_key
from curate.samples import identities

FORMAT = 1
DIGEST_BYTES = 8
SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("label", pa.string()),
        ("reason", pa.string()),
        ("start", pa.int64()),
        ("length", pa.int64()),  # to the end of its last entry, what lies between included
        ("size", pa.int64()),  # of its entries alone; less than length where others lie between
        ("image_start", pa.int64()),
        ("image_size", pa.int64()),
        ("extensions", pa.list_(pa.string())),
        ("headers", pa.binary()),
        ("identity", pa.uint64()),
    ]
)


@dataclass(frozen=True)
class Scan:
    """What the scan of one shard found beside its samples; stored with its table.

    Attributes:
        first_header: BLAKE2b-128 of the first header block, hexadecimal.
        digest: BLAKE2b-128 of keys, labels and every header digest, hexadecimal.
        preamble: bytes of global headers before the first entry.
        ignored: entries that belong to no sample.
        fault: why the shard failed, empty where it did not.
    """

    name: str
    bytes: int
    mtime_ns: int
    samples: int
    bad: int
    unlabelled: int
    ignored: int
    preamble: int
    tar_bytes: int
    first_header: str
    digest: str
    fault: str = ""


@dataclass
class _Sample:
    key: str
    start: int
    end: int = 0
    size: int = 0
    extensions: list[str] = field(default_factory=list)
    headers: bytearray = field(default_factory=bytearray)
    image: tuple[int, int] | None = None
    label_entry: bytes | None = None


def scan_shard(shard: Shard, labels: LabelSource, *, skip_faults: bool = False) -> tuple[Scan, pa.Table]:
    """Reads one shard once; returns what it holds and one row a sample.

    With `skip_faults`, the samples before a structural fault are returned as failed.

    Raises:
        ShardError: not a tar, cut short, damaged, empty, duplicate or torn keys.
        UsageError: multi-label data.
    """
    tally, samples, first = Tally(), list[_Sample](), b""
    fault = ""
    status = _stat(shard)
    try:
        with open_source(shard.path, shard.name) as stream:
            wanted = _wants(labels)
            for entry in entries(stream, shard.name, tally, wanted=wanted):
                first = first or entry.header[:512]
                _add(entry, samples, shard, tally, labels)
            _check_keys(samples, shard)
    except ShardError as error:
        if not skip_faults:
            raise
        fault = error.message
    rows = [_row(sample, shard, labels, fault) for sample in samples]
    table = _table(rows, shard)
    digest = hashlib.blake2b(digest_size=16)
    for row in rows:
        digest.update(repr((row["key"], row["label"], row["reason"], row["start"], row["length"])).encode())
        digest.update(row["headers"])
    scan = Scan(
        name=shard.name,
        bytes=status.st_size,
        mtime_ns=status.st_mtime_ns,
        samples=len(rows),
        bad=len(rows) - table["reason"].null_count,
        unlabelled=sum(row["label"] is None for row in rows),
        ignored=tally.ignored,
        preamble=tally.preamble,
        tar_bytes=tally.end,
        first_header=hashlib.blake2b(first, digest_size=16).hexdigest(),
        digest=digest.hexdigest(),
        fault=fault,
    )
    return scan, table


def _stat(shard: Shard) -> Any:
    try:
        return shard.path.stat()
    except OSError as error:
        raise ShardError(
            f"{shard.name}: cannot be read ({error.strerror}).", hint=f"Looked at {shard.path}."
        ) from error


def _wants(labels: LabelSource) -> Callable[[str, int], bool]:
    def wanted(name: str, size: int) -> bool:
        parts = split_key(name)
        return parts is not None and labels.wants(parts[1]) and size <= MAX_LABEL_BYTES

    return wanted


def _add(entry: Entry, samples: list[_Sample], shard: Shard, tally: Tally, labels: LabelSource) -> None:
    parts = split_key(entry.name)
    if parts is None:
        tally.ignored += 1
        return
    key, extension = parts
    if not samples or samples[-1].key != key:
        samples.append(_Sample(key, entry.start))
    sample = samples[-1]
    if extension in sample.extensions:
        raise ShardError(
            f"{shard.name}: '{printable(entry.name)}' appears twice, at byte {entry.start} again.",
            hint="Names must be unique in a shard. Pack the shard again.",
        )
    sample.extensions.append(extension)
    sample.headers += hashlib.blake2b(entry.header, digest_size=DIGEST_BYTES).digest()
    sample.end = entry.end
    sample.size += entry.end - entry.start
    if labels.wants(extension):
        sample.label_entry = entry.content if entry.content is not None else b"\xff"
    if extension in IMAGE_EXTENSIONS and sample.image is None:
        sample.image = (entry.data, entry.size)


def _check_keys(samples: Sequence[_Sample], shard: Shard) -> None:
    if not samples:
        raise ShardError(f"{shard.name}: holds no samples.", hint="Entries need names such as KEY.jpg, KEY.cls.")
    seen: dict[str, int] = {}
    for sample in samples:
        at = seen.setdefault(sample.key, sample.start)
        if at != sample.start:
            raise ShardError(
                f"{shard.name}: key '{printable(sample.key)}' appears twice, at bytes {at:,} and {sample.start:,}.",
                hint="Entries of one sample must be adjacent and keys unique in a shard. Pack the shard again.",
            )


def _row(sample: _Sample, shard: Shard, labels: LabelSource, fault: str) -> dict[str, Any]:
    label, reason = None, f"shard: {fault}" if fault else None
    try:
        label = labels.read(shard.name, sample.key, sample.label_entry)
    except SampleError as error:
        reason = reason or str(error)
    if sample.image is None:
        reason = reason or "no image entry"
    start, size = sample.image or (0, 0)
    return {
        "key": sample.key,
        "label": label,
        "reason": reason,
        "start": sample.start,
        "length": sample.end - sample.start,
        "size": sample.size,
        "image_start": start,
        "image_size": size,
        "extensions": sample.extensions,
        "headers": bytes(sample.headers),
    }


def _table(rows: list[dict[str, Any]], shard: Shard) -> pa.Table:
    identity_N = identities(shard.name, (row["key"] for row in rows))
    for row in rows:
        # Bytes that are not UTF-8 are shown escaped; the identity above was taken from the bytes.
        row["key"] = row["key"].encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    columns = [pa.array([row[name] for row in rows], type=SCHEMA.field(name).type) for name in SCHEMA.names[:-1]]
    return pa.table([*columns, pa.array(identity_N)], schema=SCHEMA)


@dataclass(frozen=True)
class Classes:
    """What the labels of a pool mean.

    Attributes:
        kind: `id` (texts are class ids), `name` (texts are names, ids in sorted order), or `none`.
        names: class name by id, empty where unknown.
        counts: good labelled samples by class id; its length is `num_classes`.
    """

    kind: str
    names: tuple[str, ...]
    counts: tuple[int, ...]

    @property
    def num_classes(self) -> int:
        return len(self.counts)


@dataclass(frozen=True)
class Pool:
    """An indexed pool, read from its index folder. Per-sample columns are read shard by shard."""

    folder: Path
    root: Path
    scans: tuple[Scan, ...]
    classes: Classes

    @property
    def total(self) -> int:
        """Samples in all shards, bad ones included."""
        return sum(scan.samples for scan in self.scans)

    @property
    def unlabelled(self) -> int:
        return sum(scan.unlabelled for scan in self.scans)

    @property
    def bad(self) -> int:
        return sum(scan.bad for scan in self.scans)

    @cached_property
    def fingerprint(self) -> str:
        """BLAKE2b-128 over every shard's name, size and digest; says nothing of where they lie."""
        digest = hashlib.blake2b(digest_size=16)
        for scan in self.scans:
            digest.update(f"{scan.name}\0{scan.bytes}\0{scan.digest}\n".encode())
        return digest.hexdigest()

    def shard(self, index: int) -> Shard:
        """Returns a shard by its place in the pool."""
        return Shard(self.scans[index].name, self.root / self.scans[index].name)

    def read(self, index: int, columns: Sequence[str]) -> pa.Table:
        """Returns columns of one shard's samples, in order of their ordinals."""
        return _read_table(self.folder / f"{self.scans[index].name}.parquet", columns)

    def labels(self, index: int) -> NDArray[np.int32]:
        """Returns class ids of one shard's samples, shape (N,), int32; -1 where there is none."""
        return label_ids(self.read(index, ["label"])["label"], self.classes)

    def reasons(self, index: int) -> list[str | None]:
        """Returns why each sample of a shard is bad, None where it is good."""
        reasons: list[str | None] = self.read(index, ["reason"])["reason"].to_pylist()
        return reasons


def label_ids(texts: pa.ChunkedArray, classes: Classes) -> NDArray[np.int32]:
    """Returns class ids for label texts, shape (N,), int32; -1 for null and for texts of no class."""
    encoded = texts.combine_chunks().dictionary_encode()
    of_name = {name: i for i, name in enumerate(classes.names)} if classes.kind == "name" else {}
    words = encoded.dictionary.to_pylist()
    table = [of_name.get(word, -1) if of_name else int(word) if is_class_id(word) else -1 for word in words]
    ids_W = np.array([*table, -1], dtype=np.int32)
    id_N: NDArray[np.int32] = ids_W[pc.fill_null(encoded.indices, len(words)).to_numpy(zero_copy_only=False)]
    return id_N


def build_index(
    sources: Sequence[str],
    folder: Path,
    labels: LabelSource,
    *,
    skip_faults: bool = False,
    progress: Callable[[int, int, str], None] = lambda done, total, name: None,
) -> Pool:
    """Scans every shard that is not indexed yet, then joins the pool. Returns the pool.

    Args:
        sources: what names the shards, see `find_shards`.
        folder: where the index lies; a complete scan there is not repeated.
        labels: where labels come from.
        skip_faults: count the samples of a damaged shard as failed instead of ending.
        progress: called with shards done, shards in all and the next shard's name.

    Raises:
        RunError: the folder indexes other shards, or a shard changed since it was indexed.
        ShardError: a shard is damaged.
    """
    found = find_shards(sources)
    _check_same_pool(folder, found, labels)
    scans = []
    for done, shard in enumerate(found.shards):
        progress(done, len(found.shards), shard.name)
        scans.append(_known_scan(folder, shard) or _scan_into(folder, shard, labels, skip_faults=skip_faults))
    progress(len(found.shards), len(found.shards), "")
    pool = Pool(folder, found.root, tuple(scans), _join_classes(folder, scans, _class_names(found)))
    _write_pool(pool, labels)
    return pool


def load_pool(folder: Path) -> Pool:
    """Returns the pool that a finished index describes."""
    path = folder / "pool.json"
    try:
        text = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise RunError(
            f"{folder}: no index here.", hint="Run `curate index SHARDS` or `curate score SHARDS`."
        ) from None
    except ValueError as error:
        raise RunError(f"{path}: damaged ({error}).", hint="Delete the folder and index again.") from error
    if text.get("format") != FORMAT:
        raise RunError(f"{path}: an index of format {text.get('format')}.", hint=f"Expected format {FORMAT}.")
    classes = Classes(text["classes"]["kind"], tuple(text["classes"]["names"]), tuple(text["classes"]["counts"]))
    return Pool(folder, Path(text["root"]), tuple(Scan(**scan) for scan in text["shards"]), classes)


def _check_same_pool(folder: Path, found: Sources, labels: LabelSource) -> None:
    path = folder / "pool.json"
    if not path.exists():
        return
    known = load_pool(folder)
    recorded = json.loads(path.read_bytes())["labels"]
    names = [shard.name for shard in found.shards]
    if [scan.name for scan in known.scans] != names or recorded != [labels.kind, labels.field]:
        raise RunError(
            f"{folder} indexes another pool: {len(known.scans)} shards under {known.root}, "
            f"labels from {':'.join(filter(None, recorded))}.",
            hint="Choose another --out, or delete that folder.",
        )


def _known_scan(folder: Path, shard: Shard) -> Scan | None:
    path = folder / f"{shard.name}.parquet"
    if not path.exists():
        return None
    scan = Scan(**json.loads(pq.read_schema(path).metadata[b"curate"]))
    status = _stat(shard)
    if (scan.bytes, scan.mtime_ns) != (status.st_size, status.st_mtime_ns):
        raise RunError(
            f"{shard.name} changed since it was indexed ({scan.bytes:,} bytes then, {status.st_size:,} now).",
            hint=f"Scores of the old bytes say nothing of the new ones. Choose another --out, or delete {folder}.",
        )
    return scan


def _scan_into(folder: Path, shard: Shard, labels: LabelSource, *, skip_faults: bool) -> Scan:
    scan, table = scan_shard(shard, labels, skip_faults=skip_faults)
    write_table(folder / f"{shard.name}.parquet", table, vars(scan))
    return scan


def write_table(path: Path, table: pa.Table, metadata: dict[str, Any]) -> None:
    """Writes a Parquet file under a temporary name and renames it; `metadata` is stored as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    about = {"curate": json.dumps(metadata, sort_keys=True)}
    with durable.replace(path) as file:
        pq.write_table(table.replace_schema_metadata(about), file, compression="zstd", write_statistics=False)


def _read_table(path: Path, columns: Sequence[str]) -> pa.Table:
    try:
        return pq.ParquetFile(path, memory_map=True).read(columns=list(columns), use_threads=False)
    except (OSError, pa.ArrowInvalid) as error:
        raise RunError(
            f"{path}: cannot be read ({error}).", hint="Delete it and run the same command again."
        ) from error


def _join_classes(folder: Path, scans: Sequence[Scan], names: tuple[str, ...]) -> Classes:
    """Returns what the labels mean, from all shards: the first label decides between ids and names."""
    counts: dict[str, int] = {}
    kind = ""
    for scan in scans:
        table = _read_table(folder / f"{scan.name}.parquet", ["label", "reason"])
        good = table.filter(pc.is_null(table["reason"]))["label"].drop_null()
        if not kind and len(good):
            kind = "id" if is_class_id(good[0].as_py()) else "name"
        for row in good.value_counts().to_pylist():
            counts[row["values"]] = counts.get(row["values"], 0) + row["counts"]
    if not counts:
        return Classes("none", (), ())
    if kind == "name":
        words = sorted(counts)
        return Classes("name", tuple(words), tuple(counts[word] for word in words))
    ids = {int(word): count for word, count in counts.items() if is_class_id(word)}
    size = max(max(ids) + 1, len(names))
    return Classes("id", names, tuple(ids.get(i, 0) for i in range(size)))


def _class_names(found: Sources) -> tuple[str, ...]:
    path = found.root / "classes.txt"
    if not path.is_file():
        return ()
    try:
        return tuple(path.read_text(encoding="utf-8").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read ({error}).", hint="Expected one class name a line, UTF-8.") from error


def _write_pool(pool: Pool, labels: LabelSource) -> None:
    text = {
        "format": FORMAT,
        "root": str(pool.root),
        "labels": [labels.kind, labels.field],
        "fingerprint": pool.fingerprint,
        "classes": {"kind": pool.classes.kind, "names": pool.classes.names, "counts": pool.classes.counts},
        "shards": [vars(scan) for scan in pool.scans],
    }
    durable.write_json(pool.folder / "pool.json", text)


def bad_samples(pool: Pool) -> Iterator[tuple[str, int, str, str]]:
    """Yields (shard, ordinal, key, reason) of every sample that the scan found bad."""
    for index, scan in enumerate(pool.scans):
        if scan.bad:
            table = pool.read(index, ["key", "reason"])
            for ordinal, (key, reason) in enumerate(zip(*(c.to_pylist() for c in table.columns), strict=True)):
                if reason is not None:
                    yield scan.name, ordinal, key, reason
