"""Peak memory of `curate score` against the number of samples, with pixels on disk and streamed.

Run: python -m benchmarks.memory [5000 50000 200000] [--proxy test_resnet.r160_in1k] [--size 32]

Kept in memory, the pixels of 200,000 images of 32 px alone would be 586 MiB.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.pools import write_pool


def score(shards: Path, out: Path, proxy: str, way: str) -> tuple[float, float]:
    """Runs `curate score` for one epoch and one member; returns (seconds, MiB of its largest process)."""
    command = [
        sys.executable, "-m", "curate", "score", str(shards), "--out", str(out), "--proxy", proxy, "--seeds", "1",
        "--epochs", "1", "--checkpoints", "1", "--pixels", way, "--set", "train.rate=0.001",
    ]  # fmt: skip
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{command} failed")
    return time.perf_counter() - started, usage.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("samples", nargs="*", type=int, default=[5_000, 50_000, 200_000])
    parser.add_argument("--proxy", default="test_resnet.r160_in1k")
    parser.add_argument("--size", type=int, default=32)
    arguments = parser.parse_args()
    print("| pixels | samples | seconds | peak MiB |\n|---|---|---|---|")
    for samples in arguments.samples:
        with tempfile.TemporaryDirectory(prefix="curate-bench-") as folder:
            write_pool(Path(folder) / "shards", samples, arguments.size)
            for way in ("disk", "stream"):
                seconds, peak = score(Path(folder) / "shards", Path(folder) / way, arguments.proxy, way)
                print(f"| {way} | {samples:,} | {seconds:,.0f} | {peak:,.0f} |", flush=True)


if __name__ == "__main__":
    main()
