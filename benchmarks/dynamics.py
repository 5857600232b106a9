"""What measuring training dynamics costs: training with and without, in interleaved pairs of one process.

Run: python -m benchmarks.dynamics [SHARDS...] [--proxy preact_resnet20] [--size 32] [--pairs 15] [--steps 20]

Each pair trains the same epoch from the same weights twice, once watched and once not, in turns first and
second; what is compared is the median of the pairs' ratios, in wall and in processor time. `parts` are
the costs alone: of reading a batch, and of an epoch's end (transfer, update, the bytes of the state).
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save

from benchmarks.pools import opened, stored
from benchmarks.training import plan_of
from curate.acquisition.dynamics import BYTES_A_ROW, Dynamics
from curate.proxy.models import build_model
from curate.proxy.pixels import Pixels
from curate.proxy.plan import Plan
from curate.proxy.training import train_member
from curate.proxy.watch import Watch

WARM_UP, REPEATS = 3, 50


def epoch_times(plan: Plan, pixels: Pixels, rows_K: NDArray[np.int64], *, watched: bool) -> tuple[float, float]:
    """Trains one epoch, its state saved; returns wall and processor seconds."""
    dynamics = Dynamics(len(pixels.rows)) if watched else None
    wall, processor = time.perf_counter(), time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        train_member(
            plan, pixels, rows_K, seed=0, folder=Path(folder), progress=lambda epoch, seen: None,
            on_epoch=lambda epoch, model, record: None, dynamics=dynamics,
        )  # fmt: skip
    return time.perf_counter() - wall, time.process_time() - processor


def parts_of(plan: Plan, rows: int) -> dict[str, float]:
    """Returns the seconds of reading one batch, and of ending an epoch of so many rows."""
    watch = Watch(build_model(plan.spec, seed=0))
    size, classes = plan.train.batch_size, plan.spec.num_classes
    logits_BC, label_B = torch.randn(size, classes), torch.randint(0, classes, (size,))
    places = np.array_split(np.random.default_rng(0).permutation(rows), max(1, rows // size))
    batch = _timed(lambda: watch.add(places[0][:size], watch.look(logits_BC, label_B)))
    watch.finish()
    dynamics, ends = Dynamics(rows), list[float]()
    for _ in range(3):
        for rows_B in places:
            logits_BC, label_B = torch.randn(len(rows_B), classes), torch.randint(0, classes, (len(rows_B),))
            watch.add(rows_B, watch.look(logits_BC, label_B))
        started = time.perf_counter()
        dynamics.add_epoch(*watch.finish())
        save({name: torch.from_numpy(array) for name, array in dynamics.state().items()})
        ends.append(time.perf_counter() - started)
    return {"batch": batch, "epoch": statistics.median(ends)}


def _timed(act: Callable[[], object]) -> float:
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        act()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("shards", nargs="*")
    parser.add_argument("--proxy", default="preact_resnet20")
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rate", type=float, default=0.02)
    parser.add_argument("--pairs", type=int, default=15)
    arguments = parser.parse_args()
    images = arguments.steps * arguments.batch
    with opened(arguments.shards, noise=images, size_px=arguments.size) as pool:
        plan, pixels = plan_of(arguments, pool.classes.num_classes), stored(pool, arguments.size)
        rows_K = np.arange(min(len(pixels.rows), images))
        epoch_times(plan, pixels, rows_K[: WARM_UP * arguments.batch], watched=True)
        plain, watched = list[tuple[float, float]](), list[tuple[float, float]]()
        for turn in range(arguments.pairs):
            for is_watched in (turn % 2 == 0, turn % 2 == 1):
                (watched if is_watched else plain).append(epoch_times(plan, pixels, rows_K, watched=is_watched))
    print(f"\n| time | without, images/s | with, images/s | ratio, median of {len(plain)} pairs | lowest to highest |")
    print("|---|---|---|---|---|")
    for place, name in enumerate(("wall", "processor")):
        rates = [statistics.median(len(rows_K) / times[place] for times in arm) for arm in (plain, watched)]
        ratios = [w[place] / p[place] for p, w in zip(plain, watched, strict=True)]
        spread = f"{min(ratios):.3f} to {max(ratios):.3f}"
        print(f"| {name} | {rates[0]:,.0f} | {rates[1]:,.0f} | {statistics.median(ratios):.4f} | {spread} |")
    parts = parts_of(plan, 50_000)
    step = statistics.median(times[0] for times in plain) / arguments.steps
    share = (parts["batch"] + parts["epoch"] * arguments.batch / 50_000) / step
    print(
        f"\nparts: {1e3 * parts['batch']:.3f} ms a batch, {1e3 * parts['epoch']:.1f} ms an epoch of 50,000 rows "
        f"({50_000 * BYTES_A_ROW / 2**20:.1f} MiB of state); a step takes {1e3 * step:.1f} ms: {share:.2%} of it"
    )


if __name__ == "__main__":
    main()
