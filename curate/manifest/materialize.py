"""`curate materialize`: the kept samples as new shards, byte for byte, and the side files of every reader.

A shard's file appears under its final name when it is whole, so a killed run goes on where it was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import groupby, pairwise
from pathlib import Path

from curate import durable
from curate.apart import most_processes
from curate.errors import ManifestError, RunError, ShardError
from curate.manifest.layout import NewShard, one_to_one, repacked
from curate.manifest.lines import Line, check_files, manifest_digest, read_lines, read_root
from curate.manifest.new_shards import Block, write_apart, write_here
from curate.manifest.schema import Head, load_head
from curate.manifest.sidecars import (
    ShardCount,
    class_map,
    hf_readme,
    sizes,
    timm_info,
    wids_index,
)
from curate.manifest.stream import END, INFO, split_of
from curate.pool.labels import CLASSES
from curate.pool.sources import open_source
from curate.pool.tar import Tally, entries, split_key

DONE, BEGUN = "materialized.json", ".materializing.json"
SAMPLES_EACH, BYTES_EACH = 4096, 1 << 28  # what is worth another process, which starts for a tenth of a second
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Materialized:
    """What lies at `out`."""

    out: Path
    shards: int
    samples: int
    bytes: int
    written: int


def materialize(
    folder: Path,
    out: Path,
    *,
    root: Path | None = None,
    shards: int | None = None,
    samples_per_shard: int | None = None,
    sync: bool = True,
    processes: int = 0,
    progress: Progress = lambda done, total, name: None,
) -> Materialized:
    """Writes the kept samples of a manifest as plain tars, and side files for their readers.

    Without `shards` or `samples_per_shard` every source becomes one shard, to the byte what
    `curate cat` streams. With one of them all kept samples are dealt to shards of equal counts.

    Args:
        folder: the manifest.
        out: where the shards go; an unfinished run of the same there is gone on with.
        root: where the sources lie, if not where they were pruned.
        shards: number of new shards.
        samples_per_shard: or else the samples in each, at most.
        sync: wait until the shards would outlast a power cut.
        processes: that write shards at once; 0 for what the work and the machine are worth.
        progress: called with shards done, shards in all and a name.

    Raises:
        ManifestError: a source is not what was pruned, or nothing is kept.
        RunError: something else lies at `out`, or two samples of one new shard have the same key.
    """
    head, digest = load_head(folder), manifest_digest(folder)
    check_files(folder)
    lines = list(read_lines(folder))
    if not head.totals.kept:
        raise ManifestError(f"{folder} keeps no sample.", hint="There is nothing to write.")
    if shards or samples_per_shard:
        layout = repacked(lines, digest, shards=shards, samples_per_shard=samples_per_shard)
    else:
        layout = one_to_one(lines, digest)
    record = {"manifest": digest, "shards": [shard.name for shard in layout]}
    _check_out(out, record)  # before anything is written there
    with durable.lock(out):
        if not _check_out(out, record):
            durable.write_json(out / BEGUN, record, sync=sync)
        missing = [shard for shard in layout if not _is_whole(out / shard.name, shard.samples)]
        is_mixed = bool(shards or samples_per_shard)
        base = root or read_root(folder)
        at_once = min(processes or _worth(lines), len(missing))
        blocks = [
            Block(part, {piece.line: lines[piece.line] for shard in part for piece in shard.pieces},
                  base, out, sync=sync, with_preamble=not is_mixed)
            for part in _parts(missing, at_once)
        ]  # fmt: skip
        _write(blocks, len(layout), progress)
        counts = [ShardCount(shard.name, shard.samples, (out / shard.name).stat().st_size) for shard in layout]
        _check_bytes(counts, lines, with_preambles=not is_mixed)
        _write_side_files(out, counts, head, sync=sync)
        if sync:
            _sync_names(out, layout)
        durable.write_json(out / DONE, {**record, "samples": [count.samples for count in counts]}, sync=sync)
        (out / BEGUN).unlink(missing_ok=True)
    return Materialized(out, len(layout), head.totals.kept, sum(c.bytes for c in counts), len(missing))


def _worth(lines: Sequence[Line]) -> int:
    samples, size = sum(line.kept for line in lines), sum(line.kept_bytes for line in lines)
    wanted = 1 + samples // SAMPLES_EACH + size // BYTES_EACH
    return min(wanted, most_processes())


def _parts(shards: Sequence[NewShard], count: int) -> list[list[NewShard]]:
    """Returns neighbours together: they come from the same sources."""
    edges = [len(shards) * n // max(1, count) for n in range(count + 1)]
    return [list(shards[first:end]) for first, end in pairwise(edges)]


def _write(blocks: Sequence[Block], total: int, progress: Progress) -> None:
    done = total - sum(len(block.shards) for block in blocks)
    progress(done, total, "")
    with closing(write_apart(blocks) if len(blocks) > 1 else write_here(blocks)) as names:
        for name in names:
            done += 1
            progress(done, total, name)


def _check_out(out: Path, record: Mapping[str, object]) -> bool:
    """Returns whether the same command has begun at `out`; raises RunError where something else lies there."""
    known = next((path for path in (out / DONE, out / BEGUN) if path.is_file()), None)
    if known:
        found = durable.read_json(known)
        if {name: found.get(name) for name in record} != dict(record):
            raise RunError(f"{out} holds other shards.", hint="Choose another folder, or delete that one.")
    elif out.exists() and (not out.is_dir() or any(map(_is_foreign, out.iterdir()))):
        raise RunError(f"{out} exists and is not empty.", hint="Choose another folder.")
    return known is not None


def _is_foreign(path: Path) -> bool:
    return path.name != ".lock" and not durable.is_leftover(path.name)


def _check_bytes(counts: Sequence[ShardCount], lines: Sequence[Line], *, with_preambles: bool) -> None:
    """Raises ManifestError where the shards on the disk are not as large as what was kept."""
    kept = sum(line.kept_bytes + line.preamble * with_preambles for line in lines if line.kept)
    expected, found = kept + len(END) * len(counts), sum(count.bytes for count in counts)
    if found != expected:
        raise ManifestError(
            f"The shards have {found:,} bytes, and what is kept has {expected:,}.", hint="Delete them and try again."
        )


def _sync_names(out: Path, layout: Sequence[NewShard]) -> None:
    folders = {folder for shard in layout for folder in (out / shard.name).parents}
    for folder in sorted(folder for folder in folders if folder.is_relative_to(out)):
        durable.sync_path(folder)


def _is_whole(path: Path, samples: int) -> bool:
    """Says whether a shard of an earlier run holds its samples: counted on the disk, from headers alone."""
    if not (path.is_file() and path.with_suffix(".idx").is_file()):
        return False
    try:
        with open_source(path, path.name, buffering=0) as stream:
            keys = (split_key(entry.name) for entry in entries(stream, path.name, Tally()))
            return sum(1 for _ in groupby(key[0] for key in keys if key)) == samples
    except ShardError:
        return False


def _write_side_files(out: Path, counts: Sequence[ShardCount], head: Head, *, sync: bool) -> None:
    splits: dict[str, list[ShardCount]] = {}
    for count in counts:
        splits.setdefault(split_of(count.name), []).append(count)
    classes = head.classes
    texts = {
        INFO: timm_info("kept", splits),
        "sizes.json": sizes(counts),
        "wids.json": wids_index("kept", counts),
        "class_map.json": class_map(classes.kind, classes.names, classes.before, classes.after),
        "urls.txt": "".join(f"{count.name}\n" for count in counts),
        "README.md": hf_readme("kept", splits),
    }
    if classes.kind == "id" and any(classes.names):
        texts[CLASSES] = "".join(f"{name}\n" for name in classes.names)
    for name, text in texts.items():
        durable.write_bytes(out / name, text.encode("utf-8", "surrogateescape"), sync=sync)
