"""How time and memory of each stage grow with the samples and the members: at n, 4n and 16n.

Run: python -m benchmarks growth

Each is a whole process. What a process takes to start, measured at a sixteenth of n, is taken off; the
exponent is the slope of a line through the logarithms of what is left: 1 is linear.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from math import log
from pathlib import Path

from benchmarks.arms import Arm, measure, module, timed
from benchmarks.pools import write_pool
from benchmarks.suite import OURS, Benchmark, Case, Setting, Target, compared

CURATE = (sys.executable, "-m", "curate")
TINY = ("--proxy", "preact_resnet20", "--epochs", 1, "--checkpoints", 1, "--set", "train.rate=0.001")
Command = Callable[[int, Path], tuple[object, ...]]


def bench(setting: Setting) -> list[Case]:
    n = 32 if setting.quick else 256
    folder = setting.folder
    for size in (n // 16, n, 4 * n, 16 * n):
        write_pool(folder / f"pool-{size}", size, 32)

    def pool(size: int) -> Path:
        return folder / f"pool-{size}"

    def score(size: int, out: Path) -> tuple[object, ...]:
        return (*CURATE, "score", pool(size), "--out", out, "--pixels", "disk", "--seeds", 1, *TINY)

    def seeds(count: int, out: Path) -> tuple[object, ...]:
        return (*CURATE, "score", pool(n), "--out", out, "--pixels", "disk", "--seeds", count, *TINY)

    def index(size: int, out: Path) -> tuple[object, ...]:
        return (*CURATE, "index", pool(size), "--out", out)

    cases = [
        grown(setting, "index, samples", n, index),
        grown(setting, "score, samples", n, score),
        grown(setting, "score, seeds", 1, seeds, start=None),
    ]
    for size in (n // 16, n, 4 * n, 16 * n):
        shutil.rmtree(pool(size))
    scale = 1_000 if setting.quick else 20_000
    return [*cases, *pruned(setting, scale)]


def pruned(setting: Setting, n: int) -> list[Case]:
    """Returns the growth of `curate prune`, on made-up scores."""
    for size in (n, 4 * n, 16 * n):
        made = Arm(module("prune", size, "--make", setting.folder / f"scores-{size}"), is_timed=True)
        measure({"made": made}, repeats=1)

    def prune(size: int, out: Path) -> tuple[object, ...]:
        scores = setting.folder / f"scores-{size}"
        return (*CURATE, "prune", "--scores", scores, "--fn", "variation_ratio", "--keep", "0.5", "--out", out)

    return [grown(setting, "prune, samples", n, prune, start=None)]


def grown(setting: Setting, name: str, n: int, command: Command, *, start: int | None = 16) -> Case:
    """Returns a case of one stage: ours at 16n, beside n and 4n."""
    out = setting.folder / "out"

    def fresh() -> None:
        shutil.rmtree(out, ignore_errors=True)

    sizes = {OURS: 16 * n, "4n": 4 * n, "n": n} | ({"start": n // start} if start else {})
    arms = {arm: timed(*command(size, out), before=fresh) for arm, size in sizes.items()}
    case = compared(f"{name}: 16 x {n:,}", "s", arms, repeats=1 if setting.quick else 3,
                    targets=[Target("n", memory=1.25)])  # fmt: skip
    fresh()
    if case.absent:
        return case
    origin = case.measured.pop("start").median if start else 0.0
    left = [max(1e-3, case.measured[arm].median - origin) for arm in ("n", "4n", OURS)]
    case.note = f"exponent {slope(left):.2f}" + (
        f" after {origin:.2f} s of start-up" if start else ", start-up included"
    )
    return case


def slope(seconds: list[float]) -> float:
    """Returns the slope through the logarithms of what n, 4n and 16n took."""
    return (log(seconds[2]) - log(seconds[0])) / log(16)


BENCHMARK = Benchmark(bench, "Time and memory of each stage at n, 4n and 16n; ours is 16n.")
