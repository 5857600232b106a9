"""Seconds of `curate materialize` at keep 0.5, beside `cp` of everything and webdataset's own writer.

Run: python -m benchmarks.materialize [--shards 22] [--samples 1000] [--kib 50] [--folder DIR]

    materialize          without waiting for the disk        cp               all shards
    materialize + sync   as it is by default                 cp + sync        and `sync` of each
    webdataset           WebDataset, select, TarWriter
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from curate.cli import run
from curate.pool.writer import write_shards

WEBDATASET = """
import sys, pathlib, webdataset as wds
source, out, manifest = sys.argv[1:]
from curate.manifest.lines import read_lines
for line in read_lines(pathlib.Path(manifest)):
    kept, at = set(), 0
    for skip, take in zip(line.runs[::2], line.runs[1::2]):
        kept.update(range(at + skip, at + skip + take)); at += skip + take
    with wds.TarWriter(f"{out}/{line.name}") as sink:
        for place, sample in enumerate(wds.WebDataset(f"{source}/{line.name}", shardshuffle=False)):
            if place in kept:
                sink.write({name: sample[name] for name in sample if name == "__key__" or name[:2] != "__"})
"""


def make_manifest(folder: Path, shards: int, samples: int, kib: int) -> None:
    """Writes shards of noise, an index, random scores, and a manifest that keeps half."""
    noise = np.random.default_rng(0).bytes(kib * 2048)
    keyed = (
        (f"{n:08d}", {"jpg": noise[n * 37 % (kib * 1024) :][: kib * 1024], "cls": b"0"})
        for n in range(shards * samples)
    )
    paths = write_shards(folder / "pool", "train", keyed, total=shards * samples, samples_per_shard=samples)
    places = [(path.name, ordinal) for path in paths for ordinal in range(samples)]
    columns = {"shard": [p[0] for p in places], "ordinal": [p[1] for p in places]}
    pq.write_table(pa.table(columns), folder / "scores.parquet")
    assert run(["index", str(folder / "pool"), "--out", str(folder / "index")]) == 0
    words = ["--scores", str(folder / "scores.parquet"), "--index", str(folder / "index"), "--fn", "random"]
    assert run(["prune", *words, "--keep", "0.5", "--out", str(folder / "manifest")]) == 0


def measured(command: list[str], out: Path, after: Callable[[], object] = lambda: None) -> tuple[float, float]:
    """Returns (seconds, processor seconds) of a command that fills `out`, which is deleted before and after."""
    shutil.rmtree(out, ignore_errors=True)
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    after()
    seconds = time.perf_counter() - started
    if status:
        raise SystemExit(f"{command} failed")
    shutil.rmtree(out, ignore_errors=True)
    return seconds, usage.ru_utime + usage.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--shards", type=int, default=22)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--kib", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", default=None)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="curate-bench-", dir=arguments.folder) as name:
        folder, out = Path(name), Path(name) / "out"
        make_manifest(folder, arguments.shards, arguments.samples, arguments.kib)
        pool, manifest = str(folder / "pool"), str(folder / "manifest")
        ours = [sys.executable, "-m", "curate", "materialize", manifest, str(out)]

        def synced() -> None:
            for path in out.iterdir():
                with path.open("rb") as file:
                    os.fsync(file.fileno())

        peer = f"mkdir {out} && {sys.executable} -c '{WEBDATASET}' {pool} {out} {manifest}"
        arms: dict[str, Callable[[], tuple[float, float]]] = {
            "materialize": lambda: measured([*ours, "--no-sync"], out),
            "cp": lambda: measured(["cp", "-r", pool, str(out)], out),
            "materialize + sync": lambda: measured(ours, out),
            "cp + sync": lambda: measured(["cp", "-r", pool, str(out)], out, synced),
            "webdataset": lambda: measured(["sh", "-c", peer], out),
        }
        runs: dict[str, list[tuple[float, float]]] = {arm: [] for arm in arms}
        for turn in range(arguments.repeats + 1):
            for arm, measure in arms.items():
                os.sync()
                result = measure()
                if turn:
                    runs[arm].append(result)
        seconds = {arm: statistics.median(s for s, _ in rows) for arm, rows in runs.items()}
        busy = {arm: statistics.median(s for _, s in rows) for arm, rows in runs.items()}
        size = sum(path.stat().st_size for path in (folder / "pool").iterdir())
        print(f"{size / 1e9:.2f} GB in {arguments.shards} shards, keep 0.5, median of {arguments.repeats}")
        print("| arm | seconds | lowest to highest | processor seconds |\n|---|---|---|---|")
        for arm, rows in runs.items():
            print(f"| {arm} | {seconds[arm]:.2f} | {min(rows)[0]:.2f} to {max(rows)[0]:.2f} | {busy[arm]:.2f} |")
        pairs = ("materialize", "cp"), ("materialize + sync", "cp + sync"), ("webdataset", "materialize")
        for one, other in pairs:
            ratio, of_busy = seconds[one] / seconds[other], busy[one] / busy[other]
            print(f"{one} / {other}: {ratio:.2f}; of processor seconds {of_busy:.2f}")


if __name__ == "__main__":
    main()
