"""The index: what a pool holds, one file a shard."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from curate import durable
from curate.errors import RunError
from curate.pool.classes import Classes, class_names, count_labels, join_classes, label_ids
from curate.pool.labels import LabelSource, is_class_id
from curate.pool.scan import NO_IMAGE, SCHEMA, Scan
from curate.pool.scanning import Scanning
from curate.pool.shards import Shard, Sources, find_shards
from curate.pool.tar import printable
from curate.tables import read_table, write_table

FORMAT = 1
POOL = "pool.json"
Answers = Mapping[tuple[str, str], str]


@dataclass(frozen=True)
class Pool:
    """An indexed pool, read from its index folder. Per-sample columns are read shard by shard."""

    folder: Path
    root: Path
    scans: tuple[Scan, ...]
    classes: Classes
    text_field: str = ""

    @property
    def kind(self) -> str:
        """What its samples are: `image` or `text`."""
        return "text" if kind_of(self.scans) == "text" else "image"

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
        scan = self.scans[index]
        return Shard(scan.name, self.root / scan.name, (scan.bytes, scan.mtime_ns))

    def read(self, index: int, columns: Sequence[str]) -> pa.Table:
        """Returns columns of one shard's samples, in order of their ordinals."""
        path, scan = self.folder / f"{self.scans[index].name}.parquet", self.scans[index]
        table = read_table(path, columns)
        if table.num_rows != scan.samples or table.column_names != list(columns):
            raise _damaged_index(path, f"it has {table.num_rows:,} rows of {scan.samples:,} samples")
        return table

    def labels(self, index: int) -> NDArray[np.int32]:
        """Returns class ids of one shard's samples, shape (N,), int32; -1 where there is none."""
        return label_ids(self.read(index, ["label"])["label"], self.classes)

    def reasons(self, index: int) -> list[str | None]:
        """Returns why each sample of a shard is bad, None where it is good."""
        reasons: list[str | None] = self.read(index, ["reason"])["reason"].to_pylist()
        return reasons


def build_index(
    sources: Sequence[str],
    folder: Path,
    labels: LabelSource,
    *,
    skip_faults: bool = False,
    progress: Callable[[int, int, str], None] = lambda done, total, name: None,
    answers: Answers | None = None,
    copied: bool = False,
    root: Path | None = None,
    processes: int = 0,
) -> Pool:
    """Scans every shard that is not indexed yet, then joins the pool. Returns the pool.

    Args:
        sources: what names the shards, see `find_shards`.
        folder: where the index lies; a complete scan there is not repeated.
        labels: where labels come from.
        skip_faults: count the samples of a damaged shard as failed instead of ending.
        progress: called with shards done, shards in all and a name.
        answers: labels of samples that have none in the shards, by (shard, key). They are no part of the
            fingerprint, which is of the shards.
        copied: scan a shard again that has its old size and another time; it must hold the same samples.
        root: the shards' common folder, where it is known.
        processes: that scan at once; 0 for what the work and the machine are worth.

    Raises:
        RunError: the folder indexes other shards, or a shard changed since it was indexed.
        ShardError: a shard is damaged.
    """
    found = find_shards(sources, root)
    _check_same_pool(folder, found, labels)
    scans = Scanning(folder, labels, skip_faults, copied).scan_all(found.shards, progress, processes=processes)
    if answers:
        scans = [_answered(folder, scan, answers) for scan in scans]
    if kind_of(scans) == "image":
        scans = [_without_texts(folder, scan) if scan.kind == "text" else scan for scan in scans]
    counts = count_labels(_good_labels(folder, scans))
    classes = join_classes(counts, class_names(found.root))
    if classes.kind == "id" and not all(map(is_class_id, counts)):
        scans = [_without_names(folder, scan) for scan in scans]
    pool = Pool(folder, found.root, tuple(scans), classes, labels.text_field)
    write_pool(pool, labels)
    return pool


def load_pool(folder: Path) -> Pool:
    """Returns the pool that a finished index describes."""
    path = folder / POOL
    try:
        text = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise RunError(
            f"{folder}: no index here.", hint="Run `curate index SHARDS` or `curate score SHARDS`."
        ) from None
    except (OSError, ValueError) as error:
        raise _damaged_index(path, error) from error
    if not isinstance(text, dict) or text.get("format") != FORMAT:
        raise RunError(f"{path}: not an index of format {FORMAT}.", hint="Delete the folder and index again.")
    try:
        classes = Classes(text["classes"]["kind"], tuple(text["classes"]["names"]), tuple(text["classes"]["counts"]))
        pool = Pool(
            folder,
            Path(text["root"]),
            tuple(Scan(**scan) for scan in text["shards"]),
            classes,
            text.get("text_field", ""),
        )
        is_whole = pool.fingerprint == text["fingerprint"] and pool.total >= sum(classes.counts)
    except (KeyError, TypeError) as error:
        raise _damaged_index(path, error) from error
    if not is_whole:
        raise _damaged_index(path, "it is not what was written")
    return pool


def kind_of(scans: Sequence[Scan]) -> str:
    """Returns what a pool's samples are: `image` as soon as one shard has images, else `text` or nothing."""
    return max((scan.kind for scan in scans), key=("", "text", "image").index, default="")


def _damaged_index(path: Path, how: object) -> RunError:
    return RunError(f"{path}: damaged ({printable(str(how))}).", hint="Delete the folder and index again.")


def labels_of(folder: Path) -> tuple[str, str]:
    """Returns (kind, field) of where the labels of an index came from."""
    labels = durable.read_json(folder / POOL, labels=list)["labels"]
    if len(labels) != 2 or not all(isinstance(word, str) for word in labels):
        raise _damaged_index(folder / POOL, "it does not say where labels are from")
    return labels[0], labels[1]


def _check_same_pool(folder: Path, found: Sources, labels: LabelSource) -> None:
    path = folder / POOL
    if not path.exists():
        return
    known, recorded = load_pool(folder), labels_of(folder)
    names = [shard.name for shard in found.shards]
    same_entries = (recorded, known.text_field) == ((labels.kind, labels.field), labels.text_field)
    if [scan.name for scan in known.scans] != names or not same_entries:
        raise RunError(
            f"{folder} indexes another pool: {len(known.scans)} shards under {known.root}, "
            f"labels from {':'.join(filter(None, recorded))}.",
            hint="Choose another --out, or delete that folder.",
        )


def _answered(folder: Path, scan: Scan, answers: Answers) -> Scan:
    """Gives samples of a shard that have no label the one that was answered."""
    path = folder / f"{scan.name}.parquet"
    table = read_table(path, SCHEMA.names)
    rows = zip(table["key"].to_pylist(), table["label"].to_pylist(), strict=True)
    labels = [answers.get((scan.name, key)) if label is None else label for key, label in rows]
    filled = replace(scan, unlabelled=labels.count(None))
    column = pa.array(labels, SCHEMA.field("label").type)
    write_table(path, table.set_column(SCHEMA.get_field_index("label"), "label", column), vars(filled))
    return filled


def _without_texts(folder: Path, scan: Scan) -> Scan:
    """Marks the samples of a shard of texts bad, in a pool of images; only the whole pool can tell."""
    path = folder / f"{scan.name}.parquet"
    table = read_table(path, SCHEMA.names)
    column = pc.fill_null(table["reason"], NO_IMAGE)
    marked = replace(scan, bad=scan.samples)
    if marked != scan:
        write_table(path, table.set_column(SCHEMA.get_field_index("reason"), "reason", column), vars(marked))
    return marked


def _without_names(folder: Path, scan: Scan) -> Scan:
    """Marks the samples bad whose label is a name, in a pool of class ids; only the whole pool can tell."""
    path = folder / f"{scan.name}.parquet"
    table = read_table(path, SCHEMA.names)
    rows = zip(table["label"].to_pylist(), table["reason"].to_pylist(), strict=True)
    reasons = [reason or _no_id(label) for label, reason in rows]
    bad = sum(reason is not None for reason in reasons)
    if bad == scan.bad:
        return scan
    marked = replace(scan, bad=bad)
    column = pa.array(reasons, SCHEMA.field("reason").type)
    write_table(path, table.set_column(SCHEMA.get_field_index("reason"), "reason", column), vars(marked))
    return marked


def _no_id(label: str | None) -> str | None:
    return None if label is None or is_class_id(label) else f"the label '{printable(label)[:40]}' is no class id"


def _good_labels(folder: Path, scans: Sequence[Scan]) -> Iterator[pa.ChunkedArray]:
    for scan in scans:
        table = read_table(folder / f"{scan.name}.parquet", ["label", "reason"])
        yield table.filter(pc.is_null(table["reason"]))["label"].drop_null()


def write_pool(pool: Pool, labels: LabelSource) -> None:
    """Writes `pool.json`, which makes the index complete."""
    text = {
        "format": FORMAT,
        "root": str(pool.root),
        "labels": [labels.kind, labels.field],
        "text_field": labels.text_field,
        "fingerprint": pool.fingerprint,
        "classes": {"kind": pool.classes.kind, "names": pool.classes.names, "counts": pool.classes.counts},
        "shards": [vars(scan) for scan in pool.scans],
    }
    durable.write_json(pool.folder / POOL, text)


def bad_samples(pool: Pool) -> Iterator[tuple[str, int, str, str]]:
    """Yields (shard, ordinal, key, reason) of every sample that the scan found bad."""
    for index in range(len(pool.scans)):
        yield from bad_samples_of(pool, index)


def bad_samples_of(pool: Pool, index: int) -> Iterator[tuple[str, int, str, str]]:
    """Yields (shard, ordinal, key, reason) of what the scan found bad in one shard."""
    scan = pool.scans[index]
    if scan.bad:
        table = pool.read(index, ["key", "reason"])
        for ordinal, (key, reason) in enumerate(zip(*(c.to_pylist() for c in table.columns), strict=True)):
            if reason is not None:
                yield scan.name, ordinal, key, reason
