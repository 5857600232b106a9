"""Processor seconds and peak memory of scoring with 5 and with 100 members, beside as many bare forward passes.

Run: python -m benchmarks.members [SHARDS...] [--proxy preact_resnet20] [--size 32] [--images 2048]

    curate   what `curate score` does: decode, then all members, read from their files, then all columns
    bare     as many forward passes of one network on batches that are tensors already; logits thrown away

Processor time is compared, because other work on a machine leaves it alone; with one thread (OMP_NUM_THREADS=1)
it is the wall time of a machine that has nothing else to do.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.arms import compare, module, report
from benchmarks.pools import opened, stored
from benchmarks.scoring import BATCH, forward_all, score_all
from benchmarks.training import plan_of
from curate.pool.index import Pool
from curate.progress import Silent
from curate.proxy.members import Member, Members
from curate.proxy.models import build_model
from curate.proxy.plan import normalised
from curate.proxy.training import member_path, save_member
from curate.recipe import Recipe, Train
from curate.workflows.run import Request, Run
from curate.workflows.setting import Setting

COUNTS, CHECKPOINTS = (5, 100), 5


def write_members(arguments: argparse.Namespace, folder: Path) -> None:
    """Writes as many members as are asked for at most, each with weights of its own."""
    plan = plan_of(arguments, 10)
    for number in range(max(COUNTS)):
        save_member(member_path(folder, number), build_model(plan.spec, seed=number), plan, seed=number, epoch=1)


def run_arm(arguments: argparse.Namespace, pool: Pool) -> None:
    """Measures one arm in this process."""
    plan = plan_of(arguments, pool.classes.num_classes)
    kind, _, count = arguments.arm.partition("-")
    members = [Member(n // CHECKPOINTS, n, member_path(arguments.members, n)) for n in range(int(count))]
    if kind == "bare":
        pixels, network = stored(pool, arguments.size), build_model(plan.spec, seed=0).eval()
        cuts = torch.arange(len(pixels.rows)).split(BATCH)
        batches = [normalised(pixels.take(rows_B.numpy()), plan) for rows_B in cuts]
        forward_all(plan, batches[:2], [(0, network)])
        started = time.process_time()
        forward_all(plan, batches, [(0, network)] * len(members))
    else:
        recipe = Recipe(train=Train(seeds=len(members) // CHECKPOINTS, checkpoints=CHECKPOINTS))
        setting = Setting(arguments.size, 3, "memory", 2, plan.spec.stem, plan.is_bf16, torch.get_num_threads(), "cpu")
        run = Run(Request([], Path(), recipe), pool, setting, replace(plan, train=recipe.train), Silent())
        started = time.process_time()
        score_all(run, stored(pool, arguments.size), Members(plan, members))
    report(value=time.process_time() - started, images=pool.total, members=len(members))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("shards", nargs="*")
    parser.add_argument("--proxy", default="preact_resnet20")
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--images", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--arm", default="")
    parser.add_argument("--members", type=Path)
    arguments = parser.parse_args()
    arguments.batch, arguments.rate = BATCH, 0.1
    if arguments.arm:
        with opened(arguments.shards, noise=arguments.images, size_px=arguments.size) as pool:
            run_arm(arguments, pool)
        return
    with tempfile.TemporaryDirectory(prefix="curate-bench-") as folder:
        write_members(arguments, Path(folder))
        options = ["--proxy", arguments.proxy, "--size", arguments.size, "--images", arguments.images]
        names = [f"{kind}-{count}" for count in COUNTS for kind in ("curate", "bare")]
        words = [*arguments.shards, *options, "--members", folder]
        arms = {name: module("members", *words, "--arm", name) for name in names}
        medians = compare(arms, repeats=arguments.repeats, unit="processor seconds")
    for count in COUNTS:
        print(f"curate / bare, {count} members: {medians[f'curate-{count}'] / medians[f'bare-{count}']:.3f}")


if __name__ == "__main__":
    main()
