"""Kept samples a second through `pipe:curate cat`, beside webdataset's own `.select()` on the originals.

Run: python -m benchmarks reading

Nothing is decoded. From memory, as webdataset advises and as smaller shards have it, and from storage, as sets larger
than memory are read. Then: milliseconds to find one shard's line in a manifest of 100,000 shards.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import shutil
import statistics
import sys
import time
from functools import partial
from pathlib import Path

import webdataset as wds

import curate
from benchmarks.arms import Arm, drop_shards, module, report
from benchmarks.materialize import make_manifest
from benchmarks.suite import LIMIT, OURS, Benchmark, Case, Setting, Target, compared
from curate.manifest.lines import HEAD, Line, find_line, read_lines, write_lines
from curate.manifest.materialize import materialize

SHARDS, LOOKS = 100_000, 50


def through_cat(manifest: Path) -> int:
    """Reads every kept sample through the pipe; returns their number."""
    command = Path(sys.executable).with_name("curate")
    urls = [f"pipe:{command} cat {manifest} {line.name}" for line in read_lines(manifest)]
    return sum(1 for _ in wds.WebDataset(urls, shardshuffle=False))


def through_new_shards(manifest: Path) -> int:
    """Reads what `curate materialize` wrote; returns the number of samples."""
    return _through_new(manifest, "")


def through_plain_cat(manifest: Path) -> int:
    """Reads the same bytes through a pipe that `cat` fills; returns the number of samples."""
    return _through_new(manifest, "pipe:cat ")


def _through_new(manifest: Path, how: str) -> int:
    urls = [f"{how}{path}" for path in sorted((manifest.parent / "new").glob("*.tar"))]
    return sum(1 for _ in wds.WebDataset(urls, shardshuffle=False))


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


def make_many(folder: Path, line: Line) -> None:
    """Writes the lines of many shards."""
    folder.mkdir()
    write_lines(folder, (line._replace(name=shard_name(n)) for n in range(SHARDS)))


def shard_name(number: int) -> str:
    return f"part-{number // 1000:03d}/train-{number:06d}.tar"


def by_index(folder: Path) -> float:
    """Returns the median milliseconds to find a line among many, the files opened anew each time."""
    taken = []
    for look in range(LOOKS):
        name = shard_name(look * 7919 % SHARDS)
        started = time.perf_counter()
        assert find_line(folder, name.partition("/")[2]).name == name
        taken.append(time.perf_counter() - started)
    return statistics.median(taken) * 1e3


def by_reading_all(folder: Path) -> float:
    """Returns the milliseconds to read all lines until one is found: what the index is there for."""
    started = time.perf_counter()
    assert any(line.name == shard_name(SHARDS // 2) for line in read_lines(folder))
    return (time.perf_counter() - started) * 1e3


READERS = {
    OURS: through_cat,
    "select": through_select,
    "new shards": through_new_shards,
    "KeptStream": in_code,
    LIMIT: through_plain_cat,
}
FINDERS = {OURS: by_index, "reading all lines": by_reading_all}
SIZES = ((2, 6000, 50), (8, 1250, 110), (2, 10000, 25), (20, 500, 50))  # the third as img2dataset packs by default


def bench(setting: Setting) -> list[Case]:
    cases = []
    for shards, samples, kib in ((2, 50, 50),) if setting.quick else SIZES:
        folder = setting.folder / f"{shards}-{kib}"
        folder.mkdir()
        with contextlib.redirect_stdout(io.StringIO()):
            make_manifest(folder, shards, samples, kib)
        materialize(folder / "manifest", folder / "new", sync=False)
        arms = {name: Arm(module("reading", name, folder / "manifest")) for name in READERS}
        # Asked of shards as large as webdataset advises; the others say what smaller ones cost.
        aims = [Target("select", 1.5)] * (samples > 5000)
        what = f"{shards} shards of {samples:,} samples of {kib} KiB, keep 0.5, nothing decoded"
        cases.append(
            compared(what, "kept samples/s", arms, repeats=setting.repeats, warm_up=1, targets=aims, note=NOTE)
        )
        if aims or setting.quick:  # what is larger than memory comes from there in every epoch
            arms = {
                name: Arm(module("reading", name, folder / "manifest"), partial(drop_shards, folder))
                for name in READERS
            }
            what, note = f"{what}, from storage", f"{NOTE}; the shards' pages dropped from the cache before each run"
            cases.append(compared(what, "kept samples/s", arms, repeats=setting.repeats, targets=aims, note=note))
        line = next(iter(read_lines(folder / "manifest")))
        shutil.rmtree(folder)
    many = setting.folder / "many"
    make_many(many, line)
    arms = {name: Arm(module("reading", name, many)) for name in FINDERS}
    what = f"one line of a manifest of {SHARDS:,} shards"
    return [*cases, compared(what, "ms", arms, repeats=setting.repeats, targets=[Target(OURS, value=50)])]


NOTE = (
    "ours is `pipe:curate cat`, a process for each shard; webdataset reads, as in `select` and new shards; "
    "limit: `pipe:cat` of the new shards, the same bytes from a program that does nothing else"
)
BENCHMARK = Benchmark(
    bench,
    "The kept samples as webdataset reads them, and one line of many.",
    needs_gib=4,
    why="A pipe has its price, whoever fills it, and what `.select()` throws away is in memory here.",
)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("arm", choices=[*READERS, "reading all lines"])
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    if not (arguments.folder / HEAD).exists():
        report(value=FINDERS[arguments.arm](arguments.folder))
        return
    started = time.perf_counter()
    samples = READERS[arguments.arm](arguments.folder)
    report(value=samples / (time.perf_counter() - started), samples=samples)


if __name__ == "__main__":
    main()
