"""Samples a second of indexing tar shards, beside tarfile, webdataset and GNU tar.

Run: python -m benchmarks.scan SHARDS... --arm curate|tarfile|webdataset|limit

    curate       what `curate index` does: headers checked and hashed, labels, identities, tables written
    tarfile      iteration over the entries of `tarfile`, nothing done with them
    webdataset   iteration over the samples of `webdataset`, nothing decoded
    GNU tar      `tar -tv` of each shard, its output thrown away
    limit        reading every header block at its known place in Python, nothing done with them

One thread each, shards in the page cache; time starts after the imports, but for GNU tar, which has none.
"""

from __future__ import annotations

import argparse
import os
import tarfile
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from benchmarks.arms import Absent, Arm, module, report, timed
from benchmarks.suite import LIMIT, OURS, Benchmark, Case, Setting, Target, compared
from curate.pool.labels import LabelSource
from curate.pool.writer import write_shards
from curate.progress import Silent
from curate.workflows.index import index_pool


def by_curate(paths: Sequence[str]) -> int:
    with tempfile.TemporaryDirectory(prefix="curate-bench-") as folder:
        found = index_pool(
            paths, Path(folder) / "index", LabelSource(), decode=False, skip_faults=False, progress=Silent()
        )
        return int(found["samples"])


def by_tarfile(paths: Sequence[str]) -> int:
    entries = 0
    for path in paths:
        with tarfile.open(path) as tar:
            entries += sum(1 for _ in tar)
    return entries // 2


def by_webdataset(paths: Sequence[str]) -> int:
    import webdataset

    return sum(1 for _ in webdataset.WebDataset(list(paths), shardshuffle=False))


ARMS: dict[str, Callable[[Sequence[str]], int]] = {
    OURS: by_curate,
    "tarfile": by_tarfile,
    "webdataset": by_webdataset,
}


def headers_of(paths: Sequence[str]) -> dict[str, list[int]]:
    """Returns where the header blocks of some shards lie."""
    found = {}
    for path in paths:
        with tarfile.open(path) as tar:
            found[path] = [entry.offset for entry in tar]
    return found


def read_headers(places: dict[str, list[int]]) -> int:
    """Reads header blocks and nothing else; returns the number of samples."""
    for path, offsets in places.items():
        file = os.open(path, os.O_RDONLY)
        for offset in offsets:
            os.pread(file, 512, offset)
        os.close(file)
    return sum(map(len, places.values())) // 2


def write_pool(folder: Path, *, shards: int, samples: int, kib: int) -> list[str]:
    """Writes shards of noise with a class id beside each image; returns their paths."""
    noise = np.random.default_rng(0).bytes(kib * 2048)
    keyed = (
        (f"{n:08d}", {"jpg": noise[n * 37 % (kib * 1024) :][: kib * 1024], "cls": str(n % 1000).encode()})
        for n in range(shards * samples)
    )
    return [str(p) for p in write_shards(folder, "train", keyed, total=shards * samples, samples_per_shard=samples)]


def bench(setting: Setting) -> list[Case]:
    cases = []
    for kib in (4, 110):
        shards, samples = (2, 100) if setting.quick else (8, 10_000 if kib == 4 else 1_000)
        paths = write_pool(setting.folder / str(kib), shards=shards, samples=samples, kib=kib)
        arms: dict[str, Arm | Absent] = {name: Arm(module("scan", *paths, "--arm", name)) for name in (*ARMS, LIMIT)}
        case = compared(
            f"{shards * samples:,} samples of {kib} KiB and a class in {shards} shards", "samples/s", arms,
            repeats=setting.repeats, targets=[Target("tarfile", 10), Target("webdataset", 10)],
            note="limit: every header block read at its known place, in Python",
        )  # fmt: skip
        tar = compared("", "s", {"tar": timed("sh", "-c", 'for s; do tar -tvf "$s"; done >/dev/null', "sh", *paths)},
                       repeats=setting.repeats, targets=[])  # fmt: skip
        if "tar" in tar.measured:
            listed = tar.measured["tar"]
            listed.values = [shards * samples / seconds for seconds in listed.values]
            case.measured["GNU tar -tv"] = listed
        else:
            case.absent["GNU tar -tv"] = tar.absent["tar"]
        cases.append(case)
    return cases


BENCHMARK = Benchmark(
    bench,
    "Index of tar shards, one thread, shards in the page cache.",
    needs_gib=3,
    why="Every header is checked and hashed and every key hashed, in Python.",
)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("shards", nargs="+")
    parser.add_argument("--arm", choices=(*ARMS, LIMIT), required=True)
    arguments = parser.parse_args()
    act: Callable[[], int] = lambda: ARMS[arguments.arm](arguments.shards)  # noqa: E731
    if arguments.arm == LIMIT:
        places = headers_of(arguments.shards)
        act = lambda: read_headers(places)  # noqa: E731
    if arguments.arm == "webdataset":
        import webdataset  # noqa: F401  (before the time starts)
    started = time.perf_counter()
    samples = act()
    report(value=samples / (time.perf_counter() - started), samples=samples)


if __name__ == "__main__":
    main()
