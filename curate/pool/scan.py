"""One pass over one shard: every sample's key, label, byte range and header digests.

Structural faults fail the shard; a bad sample gets a reason and is counted.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa

from curate.errors import SampleError, ShardError
from curate.pool.frames import check_frames
from curate.pool.labels import MAX_LABEL_BYTES, LabelSource
from curate.pool.shards import Shard
from curate.pool.sources import BUFFER_BYTES, open_source
from curate.pool.tar import Entry, Tally, entries, printable, split_key
from curate.pool.texts import TEXT_EXTENSION
from curate.samples import identities

DIGEST_BYTES = 8
IMAGE_EXTENSIONS = frozenset({"jpg", "jpeg", "png", "gif", "webp", "bmp", "tif", "tiff", "ppm", "pgm", "pbm", "pnm"})
SCAN_BYTES = 1 << 14  # read at once of a plain tar: most of it is data that is skipped
NO_IMAGE, NO_TEXT = "no image entry", "no text entry"
SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("label", pa.string()),
        ("reason", pa.string()),
        ("start", pa.int64()),
        ("length", pa.int64()),  # to the end of its last entry, what lies between included
        ("size", pa.int64()),  # of its entries alone; less than length where others lie between
        ("image_start", pa.int64()),  # of the entry that a proxy reads: an image, or else a text
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
        kind: what its samples are, `image` or `text`; empty where no sample is either.
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
    kind: str = "image"


@dataclass(slots=True)
class _Sample:
    key: str
    start: int
    end: int = 0
    size: int = 0
    extensions: dict[str, None] = field(default_factory=dict)  # in their order
    headers: bytearray = field(default_factory=bytearray)
    image: tuple[int, int] | None = None
    text: tuple[int, int] | None = None
    label_entry: bytes | None = None
    is_label_overlong: bool = False


def scan_shard(shard: Shard, labels: LabelSource, *, skip_faults: bool = False) -> tuple[Scan, pa.Table]:
    """Reads one shard once; returns what it holds and one row a sample.

    With `skip_faults`, the samples before a structural fault are returned as failed.

    Raises:
        ShardError: not a tar, cut short, damaged, empty, duplicate or torn keys.
        UsageError: multi-label data.
    """
    tally, samples = Tally(), list[_Sample]()
    fault = ""
    status = stat(shard)
    try:
        with open_source(
            shard.path, shard.name, buffering=SCAN_BYTES if shard.codec == "tar" else BUFFER_BYTES
        ) as stream:
            wanted = _wants(labels)
            for entry in entries(stream, shard.name, tally, wanted=wanted):
                _add(entry, samples, shard, tally, labels)
            _check_keys(samples, shard)
        if shard.codec == "tar.zst":
            check_frames(shard.path, shard.name)
    except ShardError as error:
        if not skip_faults:
            raise
        fault = error.message
    check_unchanged(replace(shard, stamp=(status.st_size, status.st_mtime_ns)))
    rows = [_row(sample, shard, labels, fault) for sample in samples]
    digest = hashlib.blake2b(digest_size=16)
    for row in rows:
        digest.update(repr((row["key"], row["label"], row["reason"], row["start"], row["length"])).encode())
        digest.update(row["headers"])
    kind = _kind(samples, labels)
    if kind == "text":
        _take_texts(rows, samples)
    table = _table(rows, shard)
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
        first_header=hashlib.blake2b(tally.first_block, digest_size=16).hexdigest(),
        digest=digest.hexdigest(),
        fault=fault,
        kind=kind,
    )
    return scan, table


def stat(shard: Shard) -> os.stat_result:
    """Returns what the system says of a shard's file, or a ShardError that names it."""
    try:
        return shard.path.stat()
    except OSError as error:
        raise ShardError(
            f"{shard.name}: cannot be read ({error.strerror}).", hint=f"Looked at {shard.path}."
        ) from error


def check_unchanged(shard: Shard) -> None:
    """Raises ShardError where a file is no longer the one that the shard was known by."""
    status = stat(shard)
    if shard.stamp not in (None, (status.st_size, status.st_mtime_ns)):
        raise ShardError(
            f"{shard.name} changed while it was read, or since it was indexed.",
            hint="What was read of it may be of two files. Index and score the new one in a new folder.",
        )


def _wants(labels: LabelSource) -> Callable[[str, int], bool]:
    extension = labels.extension
    if extension is None:
        return lambda name, size: False
    # Only a name that ends so can have that extension; most are told by that alone.
    ending = f".{extension}"

    def wanted(name: str, size: int) -> bool:
        if not name.lower().endswith(ending):
            return False
        parts = split_key(name)
        return parts is not None and parts[1] == extension and size <= MAX_LABEL_BYTES

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
    sample.extensions[extension] = None
    sample.headers += hashlib.blake2b(entry.header, digest_size=DIGEST_BYTES).digest()
    sample.end = end = entry.end
    sample.size += end - entry.start
    if extension == labels.extension:
        sample.label_entry, sample.is_label_overlong = entry.content, entry.content is None
    if extension in IMAGE_EXTENSIONS and sample.image is None:
        sample.image = (entry.data, entry.size)
    if extension == ("json" if labels.text_field else TEXT_EXTENSION):
        sample.text = (entry.data, entry.size)


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
        if sample.is_label_overlong:
            raise SampleError(f"the label's entry has more than {MAX_LABEL_BYTES:,} bytes")
        label = labels.read(shard.name, _shown(sample.key), sample.label_entry)
    except SampleError as error:
        reason = reason or str(error)
    if sample.image is None:
        reason = reason or NO_IMAGE
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
        "extensions": list(sample.extensions),
        "headers": bytes(sample.headers),
    }


def _kind(samples: Sequence[_Sample], labels: LabelSource) -> str:
    """Returns what a shard's samples are; a text beside an image is its caption, unless a field is named."""
    if not labels.text_field and any(sample.image for sample in samples):
        return "image"
    return "text" if labels.text_field or any(sample.text for sample in samples) else ""


def _take_texts(rows: Sequence[dict[str, Any]], samples: Sequence[_Sample]) -> None:
    """Makes the texts what a proxy reads. The digest was taken before: it does not depend on what is read."""
    for row, sample in zip(rows, samples, strict=True):
        row["image_start"], row["image_size"] = sample.text or (0, 0)
        if row["reason"] in (None, NO_IMAGE):
            row["reason"] = None if sample.text else NO_TEXT


def _table(rows: list[dict[str, Any]], shard: Shard) -> pa.Table:
    identity_N = identities(shard.name, (row["key"] for row in rows))
    for row in rows:
        # Bytes that are not UTF-8 are shown escaped; the identity above was taken from the bytes.
        row["key"] = _shown(row["key"])
        row["extensions"] = [_shown(extension) for extension in row["extensions"]]
    columns = [pa.array([row[name] for row in rows], type=SCHEMA.field(name).type) for name in SCHEMA.names[:-1]]
    return pa.table([*columns, pa.array(identity_N)], schema=SCHEMA)


def _shown(name: str) -> str:
    return name if name.isascii() else name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
