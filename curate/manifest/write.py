"""Writes a manifest: built in a hidden folder, counted again from disk, then renamed into place."""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from curate import durable
from curate.errors import ManifestError, RunError, UsageError
from curate.manifest.lines import (
    HEAD,
    SOURCE,
    Line,
    file_digest,
    fits_on_a_line,
    manifest_digest,
    read_lines,
    write_lines,
)
from curate.manifest.schema import ClassTable, Head, PoolRecord, Scored, Selection, Totals
from curate.pool.index import Pool
from curate.pool.tar import BLOCK, printable

KEPT = 0  # in an array of reasons; the other codes are named by the caller
KEEP_LIST = "keep.txt"


@dataclass(frozen=True)
class Choice:
    """What was decided for one shard.

    Attributes:
        kept_N: mask over the shard's ordinals.
        dropped, failed: counts by reason.
    """

    kept_N: NDArray[np.bool_]
    dropped: Mapping[str, int]
    failed: Mapping[str, int]


def write_manifest(
    out: Path,
    pool: Pool,
    choices: Iterable[Choice],
    *,
    classes: ClassTable,
    selection: Selection,
    scored: Scored,
    source: Mapping[str, Any],
    keep_list: bool = False,
    beside: Mapping[str, Iterable[str]] | None = None,
    force: bool = False,
) -> str:
    """Writes the manifest of a pool, one choice a shard in order. Returns its digest.

    An identical manifest at `out` is left as it is; a different one is refused without `force`.

    Args:
        out: the manifest's folder.
        pool: its index.
        choices: one for each shard.
        classes, selection, scored: what `manifest.json` records of them.
        source: what goes into the unhashed `source.json`.
        keep_list: also write `keep.txt`, one `shard TAB key` a line.
        beside: further text files by name, as lines.
        force: replace a different manifest.

    Raises:
        RunError: another manifest lies there, or something that is no manifest.
        ManifestError: the counts on disk do not add up.
    """
    with durable.building(out) as build:
        _write_files(build, pool, choices, keep_list=keep_list, beside=beside or {})
        head = Head(
            format_version=1,
            totals=_totals(build),
            classes=classes,
            selection=selection,
            scored=scored,
            pool=PoolRecord(fingerprint=pool.fingerprint, bytes=sum(scan.bytes for scan in pool.scans)),
            files={path.name: file_digest(path) for path in sorted(build.iterdir())},
        )
        _check_totals(head, pool)
        durable.write_json(build / HEAD, head.model_dump(mode="json"))
        durable.write_json(build / SOURCE, {"root": str(pool.root), **source})
        digest = manifest_digest(build)
        _put_in_place(build, out, digest, force=force)
        return digest


def _write_files(
    build: Path, pool: Pool, choices: Iterable[Choice], *, keep_list: bool, beside: Mapping[str, Iterable[str]]
) -> None:
    keys = (build / KEEP_LIST).open("w", encoding="utf-8", newline="\n") if keep_list else None
    try:
        write_lines(build, _lines(pool, choices, keys))
    finally:
        if keys:
            keys.close()
    for name, lines in beside.items():
        with (build / name).open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(lines)
    for path in build.iterdir():
        durable.sync_path(path)


def _lines(pool: Pool, choices: Iterable[Choice], keys: Any) -> Iterator[Line]:
    for index, choice in enumerate(choices):
        columns = ["start", "length", "size", "headers", *(["key"] if keys else [])]
        table = pool.read(index, columns)
        yield shard_line(pool, index, table, choice)
        if keys:
            kept = table["key"].filter(pa.array(choice.kept_N)).to_pylist()
            name = pool.scans[index].name
            if torn := [key for key in kept if not fits_on_a_line(name, key)]:
                raise UsageError(
                    f"'{printable(torn[0])}' of {printable(name)} does not fit on a line.",
                    hint="Leave out --keep-list.",
                )
            keys.writelines(f"{name}\t{key}\n" for key in kept)


def shard_line(pool: Pool, index: int, table: pa.Table, choice: Choice) -> Line:
    """Returns one shard's line from its index and the choice made for it."""
    scan, kept_N = pool.scans[index], choice.kept_N
    start_K, length_K, size_K = (table[name].to_numpy()[kept_N] for name in ("start", "length", "size"))
    return Line(
        name=scan.name,
        codec=pool.shard(index).codec,
        bytes=scan.bytes,
        first_header=scan.first_header,
        headers=_headers_digest(table["headers"], kept_N),
        samples=scan.samples,
        kept=int(kept_N.sum()),
        dropped={reason: count for reason, count in sorted(choice.dropped.items()) if count},
        failed={reason: count for reason, count in sorted(choice.failed.items()) if count},
        preamble=scan.preamble,
        runs=runs(kept_N),
        ranges=ranges(start_K, length_K),
        kept_bytes=int(size_K.sum()),
    )


def runs(kept_N: NDArray[np.bool_]) -> list[int]:
    """Returns [skip, take, skip, take, …] for a mask; empty where nothing is kept."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], kept_N, [False]]).astype(np.int8)))
    steps: list[int] = np.diff(edges, prepend=0).tolist()
    return steps


def ranges(start_K: NDArray[np.int64], length_K: NDArray[np.int64]) -> list[int]:
    """Returns [gap, length, …] in blocks for byte ranges in rising order; touching ones become one."""
    if not len(start_K):
        return []
    end_K = start_K + length_K
    first_K = np.concatenate([[True], start_K[1:] != end_K[:-1]])
    last_K = np.concatenate([first_K[1:], [True]])
    edges = np.column_stack([start_K[first_K], end_K[last_K]]).ravel()
    steps: list[int] = (np.diff(edges, prepend=0) // BLOCK).tolist()
    return steps


def _headers_digest(headers: pa.ChunkedArray, kept_N: NDArray[np.bool_]) -> str:
    kept = headers.filter(pa.array(kept_N)).combine_chunks()
    if not len(kept):
        return hashlib.blake2b(digest_size=16).hexdigest()
    # The values of a binary array lie one after another: one update hashes them all.
    _, offsets, values = kept.buffers()
    edges = np.frombuffer(offsets, dtype=np.int32)[kept.offset : kept.offset + len(kept) + 1]
    return hashlib.blake2b(memoryview(values)[edges[0] : edges[-1]], digest_size=16).hexdigest()


def _totals(build: Path) -> Totals:
    """Returns the totals, counted from the lines on disk."""
    shards = samples = kept = kept_bytes = 0
    dropped: dict[str, int] = {}
    failed: dict[str, int] = {}
    for line in read_lines(build):
        shards, samples = shards + 1, samples + line.samples
        kept, kept_bytes = kept + sum(line.runs[1::2]), kept_bytes + line.kept_bytes
        for counts, more in ((dropped, line.dropped), (failed, line.failed)):
            for reason, count in more.items():
                counts[reason] = counts.get(reason, 0) + count
    return Totals(shards=shards, samples=samples, kept=kept, dropped=dropped, failed=failed, kept_bytes=kept_bytes)


def _check_totals(head: Head, pool: Pool) -> None:
    totals, budget = head.totals, head.selection.budget
    if (totals.samples, totals.kept) != (pool.total, budget):
        raise ManifestError(
            f"The manifest on disk keeps {totals.kept:,} of {totals.samples:,} samples; "
            f"expected {budget:,} of {pool.total:,}.",
            hint="This is a fault of curate. Nothing was written.",
        )


def _put_in_place(build: Path, out: Path, digest: str, *, force: bool) -> None:
    if not (out / HEAD).is_file():
        try:
            return durable.place_folder(build, out)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
    if not (out / HEAD).is_file():
        raise RunError(f"{out} exists and is no manifest.", hint="Choose another --out.")
    if manifest_digest(out) == digest and _is_whole(out, build):
        return None
    if not force:
        raise RunError(f"{out} holds a different manifest.", hint="Choose another --out, or add --force.")
    return durable.replace_folder(build, out)


def _is_whole(out: Path, build: Path) -> bool:
    names = [path.name for path in build.iterdir() if path.name not in (HEAD, SOURCE)]
    same_files = all((out / name).is_file() and file_digest(out / name) == file_digest(build / name) for name in names)
    return same_files and (out / SOURCE).is_file() and _root(out) == _root(build)


def _root(folder: Path) -> object:
    try:
        return durable.read_json(folder / SOURCE).get("root")
    except RunError:
        return None
