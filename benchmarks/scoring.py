"""Images a second of scoring with 8 members, beside the bare forward passes of the same networks.

Run: python -m benchmarks.scoring [SHARDS...] [--proxy preact_resnet20] [--size 32] [--images 4096]

    curate   what `curate score` does for a shard: pixels from the store, all members, all columns
    bare     the same networks, precision and layout on batches that are tensors already; logits thrown away
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import sys
import tempfile
import time
from pathlib import Path

import torch

from benchmarks import suite
from benchmarks.arms import Arm, compare, module, report, timed
from benchmarks.pools import opened, stored, write_pool
from benchmarks.suite import LIMIT, OURS, Benchmark, Case, Target, compared
from benchmarks.training import plan_of
from benchmarks.whole import slice_of
from curate.progress import Silent
from curate.proxy.members import Member, Members
from curate.proxy.models import build_model
from curate.proxy.pixels import StoredPixels
from curate.proxy.plan import Plan, autocast, normalised
from curate.proxy.training import member_path, save_member
from curate.recipe import Recipe
from curate.workflows.run import Request, Run
from curate.workflows.score import score_columns
from curate.workflows.setting import Setting

MEMBERS, BATCH = 8, 256


def written(plan: Plan, folder: Path) -> Members:
    """Returns members that are read from files, as a run's are."""
    paths = [member_path(folder, seed) for seed in range(MEMBERS)]
    for seed, path in enumerate(paths):
        save_member(path, build_model(plan.spec, seed=seed), plan, seed=seed, epoch=1)
    return Members(plan, [Member(seed, 1, path) for seed, path in enumerate(paths)])


def score_all(run: Run, pixels: StoredPixels, members: Members) -> int:
    """Scores every shard as `curate score` does; returns the number of samples."""
    columns = score_columns(run, pixels, members, range(len(run.pool.scans)))
    return sum(len(own["ordinal"]) for _, own in columns)


def forward_all(plan: Plan, batches: list[torch.Tensor], members: list[tuple[int, torch.nn.Module]]) -> None:
    """Nothing but the forward passes."""
    with torch.inference_mode(), autocast(plan):
        for inputs in batches:
            for _, model in members:
                model(inputs)


def bench(setting: suite.Setting) -> list[Case]:
    images = 256 if setting.quick else 2048
    arms = {
        name: Arm(module("scoring", "--images", images, "--arm", arm))
        for name, arm in {OURS: OURS, LIMIT: "bare"}.items()
    }
    case = compared(
        f"scoring by {MEMBERS} preact_resnet20, 32 px", "images/s", arms, repeats=setting.repeats,
        targets=[Target(LIMIT, 0.9)], note="limit: bare forward passes of the same networks on ready tensors",
    )  # fmt: skip
    seeds = Case("training 8 seeds of a ResNet-20 on one GPU", "s", targets=[Target("one seed", 1 / 3)])
    seeds.absent = dict.fromkeys((OURS, "one seed"), "no GPU here")
    if torch.cuda.is_available():
        seeds = compared(seeds.name, "s", seeds_on_gpu(setting), repeats=setting.repeats, targets=seeds.targets)
    return [case, apart(setting), seeds]


def apart(setting: suite.Setting) -> Case:
    """Returns two seeds of two members each, trained and scored together and by two stock scripts."""
    images = 256 if setting.quick else 2560
    shards, out = setting.folder / "few", setting.folder / "together"
    found = sorted((setting.data / "cifar10").glob("train-*.tar.zst"))[:1] if setting.data else []
    if found:
        slice_of(found, shards, images)
    else:
        write_pool(shards, images, 32, samples_per_shard=images)
    (shard,) = shards.glob("*.tar")

    def fresh() -> None:
        shutil.rmtree(out, ignore_errors=True)

    words = [sys.executable, "-m", "curate", "score", shards, "--proxy", "preact_resnet20", "--epochs", 2, "--seeds", 2]
    stock = " && ".join(shlex.join([*module("stock", shard, "--seed", seed)]) for seed in range(2))
    return compared(
        f"training 2 seeds, scoring with 2 members of each: {images:,} images", "s",
        {OURS: timed(*words, "--checkpoints", 2, "--set", "train.rate=0.05", "--set", "train.batch_size=128",
                     "--out", out, before=fresh),
         "2 stock scripts": timed("sh", "-c", stock)},
        repeats=setting.repeats, targets=[],
        note="whole processes; stock: webdataset, PIL, torchvision, a DataLoader, float32, one script a seed",
    )  # fmt: skip


def seeds_on_gpu(setting: suite.Setting) -> dict[str, Arm]:
    """Returns the whole `curate score` of eight seeds and of one."""
    shards = setting.folder / "shards"
    write_pool(shards, 10_000, 32)
    words = [sys.executable, "-m", "curate", "score", shards, "--proxy", "preact_resnet20", "--epochs", 4]
    out = setting.folder / "scores"

    def fresh() -> None:
        shutil.rmtree(out, ignore_errors=True)

    return {
        name: timed(*words, "--checkpoints", 1, "--seeds", seeds, "--out", out, "--device", "cuda", before=fresh)
        for name, seeds in {OURS: 8, "one seed": 1}.items()
    }


BENCHMARK = Benchmark(bench, "Scoring by many members, and training many seeds.")


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
    with (
        tempfile.TemporaryDirectory(prefix="curate-bench-") as folder,
        opened(arguments.shards, noise=arguments.images, size_px=arguments.size) as pool,
    ):
        plan, pixels = plan_of(arguments, pool.classes.num_classes), stored(pool, arguments.size)
        members = written(plan, Path(folder))
        setting = Setting(arguments.size, 3, "memory", 2, plan.spec.stem, plan.is_bf16, torch.get_num_threads(), "cpu")
        run = Run(Request([], Path(), Recipe()), pool, setting, plan, Silent())
        batches = [
            normalised(pixels.take(pixels.rows.of_shard(0)[:BATCH]), plan) for _ in range(len(pixels.rows) // BATCH)
        ]
        networks = [(seed, build_model(plan.spec, seed=seed).eval()) for seed in range(MEMBERS)]
        forward_all(plan, batches[:2], networks)
        started = time.perf_counter()
        if arguments.arm == "curate":
            images = score_all(run, pixels, members)
        else:
            forward_all(plan, batches, networks)
            images = len(batches) * BATCH
        report(value=images / (time.perf_counter() - started), images=images, members=MEMBERS)


if __name__ == "__main__":
    main()
