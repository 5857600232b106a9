"""Images a second of scoring with 8 members, beside the bare forward passes of the same networks.

Run: python -m benchmarks.scoring [SHARDS...] [--proxy preact_resnet20] [--size 32] [--images 4096]

    curate   what `curate score` does for a shard: pixels from the store, all members, all columns
    bare     the same networks, precision and layout on batches that are tensors already; logits thrown away
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

from benchmarks.arms import compare, module, report
from benchmarks.pools import opened, stored
from benchmarks.training import plan_of
from curate.progress import Silent
from curate.proxy.models import build_model
from curate.proxy.pixels import StoredPixels
from curate.proxy.predict import Voters
from curate.proxy.training import Plan, autocast, normalised
from curate.recipe import Recipe
from curate.workflows.run import Request, Run
from curate.workflows.score import score_columns
from curate.workflows.setting import Setting

MEMBERS, BATCH = 8, 256


def score_all(run: Run, pixels: StoredPixels, members: Voters) -> int:
    """Scores every shard as `curate score` does; returns the number of samples."""
    columns = score_columns(run, pixels, members, range(len(run.pool.scans)))
    return sum(len(own["ordinal"]) for _, own in columns)


def forward_all(plan: Plan, batches: list[torch.Tensor], members: list[tuple[int, torch.nn.Module]]) -> None:
    """Nothing but the forward passes."""
    with torch.inference_mode(), autocast(plan):
        for inputs in batches:
            for _, model in members:
                model(inputs)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("shards", nargs="*")
    parser.add_argument("--proxy", default="preact_resnet20")
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--images", type=int, default=4096)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--arm", default="")
    arguments = parser.parse_args()
    arguments.batch, arguments.rate = BATCH, 0.1
    if not arguments.arm:
        options = ["--proxy", arguments.proxy, "--size", arguments.size, "--images", arguments.images]
        arms = {name: module("scoring", *arguments.shards, *options, "--arm", name) for name in ("curate", "bare")}
        medians = compare(arms, repeats=arguments.repeats, unit="images/s")
        print(f"curate / bare: {medians['curate'] / medians['bare']:.2f}")
        return
    with opened(arguments.shards, noise=arguments.images, size_px=arguments.size) as pool:
        plan, pixels = plan_of(arguments, pool.classes.num_classes), stored(pool, arguments.size)
        members = [(seed, build_model(plan.spec, seed=seed).eval()) for seed in range(MEMBERS)]
        setting = Setting(arguments.size, 3, "memory", 2, plan.spec.stem, plan.is_bf16, torch.get_num_threads(), "cpu")
        run = Run(Request([], Path(), Recipe()), pool, setting, plan, Silent())
        batches = [
            normalised(pixels.take(pixels.rows.of_shard(0)[:BATCH]), plan) for _ in range(len(pixels.rows) // BATCH)
        ]
        forward_all(plan, batches[:2], members)
        started = time.perf_counter()
        if arguments.arm == "curate":
            images = score_all(run, pixels, members)
        else:
            forward_all(plan, batches, members)
            images = len(batches) * BATCH
        report(value=images / (time.perf_counter() - started), images=images, members=MEMBERS)


if __name__ == "__main__":
    main()
