"""Kept samples a second through `pipe:curate cat`, beside webdataset's own `.select()` on the originals.

Run: python -m benchmarks.reading [--shards 8] [--samples 1000] [--kib 50]

Nothing is decoded. Then: milliseconds to find one shard's line in a manifest of 100,000 shards.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import webdataset as wds

import curate
from benchmarks.arms import compare, module, report
from benchmarks.materialize import make_manifest
from curate.manifest.lines import Line, find_line, read_lines, write_lines
from curate.manifest.materialize import materialize

SHARDS, LOOKS = 100_000, 50


def through_cat(manifest: Path) -> int:
    """Reads every kept sample through the pipe; returns their number."""
    command = Path(sys.executable).with_name("curate")
    urls = [f"pipe:{command} cat {manifest} {line.name}" for line in read_lines(manifest)]
    return sum(1 for _ in wds.WebDataset(urls, shardshuffle=False))


def through_new_shards(manifest: Path) -> int:
    """Reads what `curate materialize` wrote; returns the number of samples."""
    paths = sorted(map(str, (manifest.parent / "new").glob("*.tar")))
    return sum(1 for _ in wds.WebDataset(paths, shardshuffle=False))


def in_code(manifest: Path) -> int:
    """Reads every kept sample as `curate.KeptStream` does; returns their number."""
    return sum(1 for _ in curate.KeptStream(manifest))


def through_select(manifest: Path) -> int:
    """Reads every sample and selects the kept ones by key; returns their number."""
    pool, kept = manifest.parent / "pool", set[str]()
    place = 0
    for line in read_lines(manifest):
        at = place
        for skip, take in zip(line.runs[::2], line.runs[1::2], strict=True):
            kept.update(f"{n:08d}" for n in range(at + skip, at + skip + take))
            at += skip + take
        place += line.samples
    paths = sorted(map(str, pool.glob("*.tar")))
    return sum(1 for _ in wds.WebDataset(paths, shardshuffle=False).select(lambda sample: sample["__key__"] in kept))


def milliseconds_to_find(folder: Path, line: Line) -> float:
    """Returns the median time to find a line among many, the files opened anew each time."""
    folder.mkdir()
    write_lines(folder, (line._replace(name=f"part-{n // 1000:03d}/train-{n:06d}.tar") for n in range(SHARDS)))
    taken = []
    for look in range(LOOKS):
        number = look * 7919 % SHARDS
        started = time.perf_counter()
        assert find_line(folder, f"train-{number:06d}.tar").samples == line.samples
        taken.append(time.perf_counter() - started)
    return statistics.median(taken) * 1e3


ARMS = {
    "pipe:curate cat": through_cat,
    "select": through_select,
    "new shards": through_new_shards,
    "KeptStream": in_code,
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--kib", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--arm", default="")
    parser.add_argument("--manifest", type=Path)
    arguments = parser.parse_args()
    if arguments.arm:
        started = time.perf_counter()
        samples = ARMS[arguments.arm](arguments.manifest)
        report(value=samples / (time.perf_counter() - started), samples=samples)
        return
    with tempfile.TemporaryDirectory(prefix="curate-bench-") as name:
        make_manifest(Path(name), arguments.shards, arguments.samples, arguments.kib)
        manifest = Path(name) / "manifest"
        materialize(manifest, Path(name) / "new", sync=False)
        arms = {arm: module("reading", "--arm", arm, "--manifest", manifest) for arm in ARMS}
        medians = compare(arms, repeats=arguments.repeats, unit="kept samples/s", warm_up=1)
        print(f"cat / select: {medians['pipe:curate cat'] / medians['select']:.2f}")
        found = milliseconds_to_find(Path(name) / "many", next(iter(read_lines(manifest))))
        print(f"one line of {SHARDS:,}: {found:.2f} ms, median of {LOOKS}")


if __name__ == "__main__":
    main()
