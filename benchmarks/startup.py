"""Seconds until a command is there: `curate --help`, and the first byte of `curate cat`.

Run: python -m benchmarks.startup [MANIFEST SHARD] [--repeats 20]

Beside them: a Python that does nothing, and one that imports typer or zstandard alone.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path


def first_byte(command: list[str]) -> float:
    """Returns seconds from the start of a process to the first byte on its stdout, or its end."""
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0)
    assert process.stdout is not None
    process.stdout.read(1)
    seconds = time.perf_counter() - started
    process.kill()
    process.wait()
    return seconds


def whole(command: list[str]) -> float:
    """Returns seconds from the start of a process to its end."""
    started = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("manifest", nargs="?", default="")
    parser.add_argument("shard", nargs="?", default="")
    parser.add_argument("--repeats", type=int, default=20)
    arguments = parser.parse_args()
    curate = shutil.which("curate", path=str(Path(sys.executable).parent)) or "curate"
    arms = {
        "curate --help": (whole, [curate, "--help"]),
        "python -c pass": (whole, [sys.executable, "-c", "pass"]),
        "python -c 'import typer'": (whole, [sys.executable, "-c", "import typer"]),
        "python -c 'import zstandard'": (whole, [sys.executable, "-c", "import zstandard"]),
    }
    if arguments.manifest:
        arms["curate cat, first byte"] = (first_byte, [curate, "cat", arguments.manifest, arguments.shard])
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for turn in range(arguments.repeats + 1):
        for name, (measure, command) in arms.items():
            taken = measure(command)
            if turn:
                seconds[name].append(taken)
    print(f"| | milliseconds, median of {arguments.repeats} | lowest to highest |\n|---|---|---|")
    for name, values in seconds.items():
        print(
            f"| {name} | {statistics.median(values) * 1e3:.0f} | {min(values) * 1e3:.0f} to {max(values) * 1e3:.0f} |"
        )


if __name__ == "__main__":
    main()
