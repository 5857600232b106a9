"""Seconds and peak memory of `curate prune` on synthetic scores.

Run: python -m benchmarks.prune [SAMPLES] [--make RUN]

The whole process is timed, start-up included, median of five after one warm-up. The limit beside it
is reading the columns that prune needs from the same files, in one process, without selecting. With --make
the scores are written and nothing is measured.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from curate.pool.classes import Classes
from curate.pool.index import Pool, write_pool
from curate.pool.labels import LabelSource
from curate.pool.scan import SCHEMA, Scan
from curate.samples import identities
from curate.scores import BAD, INDEX, SUMMARY, write_bad, write_record, write_scores
from curate.tables import write_table

PER_SHARD, CLASSES, RUNS = 1000, 1000, 5
READ = """
import sys, pyarrow.parquet as pq, pathlib
for path in sorted(pathlib.Path(sys.argv[1], 'tables').iterdir()):
    pq.ParquetFile(path, memory_map=True).read(
        columns=['ordinal', 'identity', 'label', 'variation_ratio', 'mutual_information'], use_threads=False)
for path in sorted(pathlib.Path(sys.argv[1], 'index').glob('*.parquet')):
    pq.ParquetFile(path, memory_map=True).read(columns=['start', 'length', 'size', 'headers'], use_threads=False)
"""


def make_scores(run: Path, samples: int) -> None:
    """Writes the index and the score tables of a pool that does not exist."""
    generator = np.random.default_rng(0)
    scans = []
    for number in range(samples // PER_SHARD):
        name = f"train-{number:06d}.tar"
        keys = [f"n{number:08d}_{place}" for place in range(PER_SHARD)]
        length = generator.integers(20, 400, PER_SHARD) * 512
        start = np.concatenate([[0], np.cumsum(length)[:-1]])
        identity = identities(name, keys)
        label = generator.integers(0, CLASSES, PER_SHARD).astype(np.int32)
        columns = [
            pa.array(keys), pa.array(label.astype(str)), pa.nulls(PER_SHARD, pa.string()), pa.array(start),
            pa.array(length), pa.array(length), pa.array(start), pa.array(length),
            pa.array([["jpg", "cls"]] * PER_SHARD), pa.array([generator.bytes(16) for _ in keys], pa.binary()),
            pa.array(identity),
        ]  # fmt: skip
        scan = Scan(name, int(length.sum()), 0, PER_SHARD, 0, 0, 0, 0, int(length.sum()), "0" * 32, "0" * 32)
        write_table(run / INDEX / f"{name}.parquet", pa.table(columns, schema=SCHEMA), vars(scan))
        scans.append(scan)
        scores = {"variation_ratio": generator.integers(0, 7, PER_SHARD) / 8}
        scores |= {f: generator.random(PER_SHARD) for f in ("mutual_information", "entropy", "margin", "loss")}
        ordinal = np.arange(PER_SHARD)
        write_scores(run, name, {"ordinal": ordinal, "key": keys, "identity": identity, "label": label, **scores})
    pool = Pool(run / INDEX, Path("/data"), tuple(scans), Classes("id", (), (samples // CLASSES,) * CLASSES))
    write_pool(pool, LabelSource())
    write_bad(run / BAD, [])
    members = [{"seed": 0, "epoch": epoch} for epoch in range(8)]
    summary = {"pool": pool.fingerprint, "members": members, "ensemble": {}, "recipe_digest": "0" * 32, "proxy": "none"}
    write_record(run / SUMMARY, summary)


def as_installed(bytecode: Path) -> dict[str, str]:
    """Returns an environment in which modules are compiled once, as by an installation, whatever is set here."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, "PYTHONPYCACHEPREFIX": str(bytecode)}


def measure(command: list[str], bytecode: Path) -> tuple[float, float]:
    """Returns (seconds, peak MiB) of a process that finds its modules compiled in a folder."""
    started = time.perf_counter()
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, env=as_installed(bytecode), **quiet)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{command} failed")
    return time.perf_counter() - started, usage.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("samples", nargs="?", type=int, default=1_300_000)
    parser.add_argument("--make", type=Path, metavar="RUN")
    arguments = parser.parse_args()
    samples = arguments.samples
    if arguments.make:
        make_scores(arguments.make, samples)
        return
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "scores"
        make_scores(run, samples)
        curate = [sys.executable, "-m", "curate", "prune", "--scores", str(run), "--keep", "0.8"]
        arms = {
            "prune, variation_ratio": [*curate, "--fn", "variation_ratio", "--out", f"{folder}/m", "--force"],
            "limit: read the columns": [sys.executable, "-c", READ, str(run)],
        }
        for name, command in arms.items():
            runs = [measure(command, Path(folder, "bytecode")) for _ in range(RUNS + 1)][1:]
            seconds, peak = (statistics.median(column) for column in zip(*runs, strict=True))
            print(f"{name}: {samples:,} samples, {seconds:.2f} s, {peak:.0f} MiB peak, median of {RUNS}")


if __name__ == "__main__":
    main()
