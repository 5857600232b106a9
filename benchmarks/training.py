"""Images a second of training, beside a plain float32 NCHW PyTorch loop; and of streamed pixels.

Run: python -m benchmarks.training [SHARDS...] [--proxy preact_resnet20] [--size 32] [--batch 128] [--steps 30]

    curate   `train_member` over pixels in memory: bfloat16 where it pays, channels_last
    stream   the same over `--pixels stream`: every image decoded again, in worker processes
    plain    the same network, batch, order, augmentation and optimiser, float32, NCHW, pixels in memory
    stock    a webdataset pipeline with PIL and torchvision's transforms, a DataLoader, float32, NCHW
    limit    the same steps as curate's on batches that are tensors on the device already

Each trains one epoch on the first steps x batch samples after a warm-up of three batches; `loss` is
the mean over that epoch, which says whether the arms learn alike.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from benchmarks.arms import Arm, compare, module, report
from benchmarks.pools import opened, stored
from benchmarks.stock import batches
from benchmarks.suite import LIMIT, OURS, Benchmark, Case, Setting, Target, compared
from curate.pool.index import Pool
from curate.proxy.augment import augmented
from curate.proxy.device import has_fast_bf16
from curate.proxy.models import ModelSpec, build_model, stem_for
from curate.proxy.pixels import Pixels, Shape
from curate.proxy.plan import Plan, autocast, normalised
from curate.proxy.streaming import StreamedPixels
from curate.proxy.training import build_optimizer, train_member
from curate.recipe import Augment, Train

WARM_UP = 3


def plan_of(arguments: argparse.Namespace, classes: int) -> Plan:
    """Returns what all arms train; one epoch at a constant rate."""
    spec = ModelSpec(arguments.proxy, classes, 3, arguments.size, stem_for("auto", arguments.size), "")
    train = Train(epochs=1, checkpoints=1, seeds=1, batch_size=arguments.batch, schedule="constant", warmup_epochs=0)
    train = train.model_copy(update={"rate": arguments.rate})
    device = getattr(arguments, "device", "cpu")
    return Plan(spec, train, Augment(), (0.5,) * 3, (0.25,) * 3, has_fast_bf16(device), device)


def train_ours(plan: Plan, pixels: Pixels, rows_K: NDArray[np.int64]) -> float:
    """Trains one epoch; returns its mean loss."""
    losses = []
    with tempfile.TemporaryDirectory() as folder:
        train_member(
            plan, pixels, rows_K, seed=0, folder=Path(folder),
            progress=lambda epoch, seen: None, on_epoch=lambda epoch, model, record: losses.append(record["loss"]),
        )  # fmt: skip
    return float(losses[0])


def train_plain(plan: Plan, pixels: Pixels, rows_K: NDArray[np.int64]) -> float:
    """The loop that a tutorial would write, over the same batches; returns the mean loss."""
    model = build_model(plan.spec, seed=0).to(memory_format=torch.contiguous_format)
    optimizer = build_optimizer(model, plan.train)
    generator, total, seen = np.random.default_rng(0), 0.0, 0
    for rows_B, pixels_B in pixels.epoch(rows_K, batch_size=plan.train.batch_size, seed=[0, 0]):
        batch = augmented(pixels_B, plan.augment, generator).permute(0, 3, 1, 2).contiguous()
        inputs = (batch.float() / 255 - 0.5) / 0.25
        label_B = torch.from_numpy(pixels.rows.label_N[rows_B]).long()
        loss = functional.cross_entropy(model(inputs), label_B)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total, seen = total + loss.item() * len(rows_B), seen + len(rows_B)
    return total / seen


def train_stock(plan: Plan, pixels: Pixels, rows_K: NDArray[np.int64]) -> float:
    """The loop of both libraries' documentation, images decoded on the way; returns the mean loss."""
    shards = [shard.path for shard in pixels.rows.shards]
    loader = batches(shards, plan.spec.size_px, plan.train.batch_size, mean=plan.mean, std=plan.std, augment=True)
    model = build_model(plan.spec, seed=0).to(memory_format=torch.contiguous_format).to(plan.device)
    optimizer = build_optimizer(model, plan.train)
    total, seen = 0.0, 0
    for inputs, labels in loader:
        loss = functional.cross_entropy(model(inputs.to(plan.device)), torch.as_tensor(labels).to(plan.device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total, seen = total + loss.item() * len(inputs), seen + len(inputs)
        if seen >= len(rows_K):
            break
    return total / seen


def ready(plan: Plan, pixels: Pixels, rows_K: NDArray[np.int64]) -> list[tuple[Tensor, Tensor]]:
    """Returns the augmented batches of an epoch, and their labels, on the device."""
    draw = np.random.default_rng(0)
    return [
        (normalised(augmented(pixels_B, plan.augment, draw), plan), pixels.rows.labels_on(plan.device, rows_B))
        for rows_B, pixels_B in pixels.epoch(rows_K, batch_size=plan.train.batch_size, seed=[0, 0])
    ]


def limit_of(plan: Plan, pixels: Pixels, rows_K: NDArray[np.int64]) -> Callable[[], float]:
    """Returns the training of one epoch whose batches are ready."""
    batches = ready(plan, pixels, rows_K)
    model = build_model(plan.spec, seed=0).to(plan.device).train()
    optimizer = build_optimizer(model, plan.train)

    def train() -> float:
        total = 0.0
        for inputs, label_B in batches:
            with autocast(plan):
                logits_BC = model(inputs).float()
            loss = functional.cross_entropy(logits_BC, label_B)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            total += loss.item() * len(inputs)
        return total / len(rows_K)

    return train


TRAINERS = {OURS: train_ours, "stream": train_ours, "plain": train_plain, "stock": train_stock}


def bench(setting: Setting) -> list[Case]:
    steps = 2 if setting.quick else 16
    shards = sorted((setting.data / "cifar10").glob("train-*.tar.zst"))[:2] if setting.data else []
    what = "CIFAR-10" if shards else "made-up images"
    words = [*shards, "--proxy", "preact_resnet20", "--size", 32, "--steps", steps]
    names = (OURS, "stream", "stock", LIMIT)
    arms = {name: Arm(module("training", *words, "--arm", name)) for name in names}
    targets = [Target(LIMIT, 0.93), Target("stock", 3)]
    note = f"{what}, {steps} steps of 128; limit: the same steps on batches that are tensors already"
    stored = compared("preact_resnet20, 32 px", "images/s", arms, repeats=setting.repeats, targets=targets, note=note)
    streamed = Case(stored.name + ", streamed", stored.unit, dict(stored.measured), dict(stored.absent), targets)
    for case in (stored, streamed):
        for found in (case.measured, case.absent):
            other = found.pop("stream", None)
            if case is streamed and other is not None:
                found[OURS] = other  # type: ignore[assignment]
    return [stored, streamed]


BENCHMARK = Benchmark(
    bench,
    "A training epoch on the processor: pixels stored, and streamed.",
    why="Nearly all of the time is the network's, in bfloat16 without a matrix unit; decoding shares its cores.",
)


def run_arm(arguments: argparse.Namespace, pool: Pool) -> None:
    """Measures one arm in this process."""
    plan = plan_of(arguments, pool.classes.num_classes)
    shape = Shape(arguments.size, 3)
    streamed = StreamedPixels(pool, shape, workers=2, shuffle_buffer=8192) if arguments.arm == "stream" else None
    pixels = streamed or stored(pool, arguments.size)
    rows_K = np.arange(min(len(pixels.rows), arguments.steps * arguments.batch))
    prepare = limit_of if arguments.arm == LIMIT else partial(partial, TRAINERS[arguments.arm])
    prepare(plan, pixels, rows_K[: WARM_UP * arguments.batch])()
    train = prepare(plan, pixels, rows_K)
    started = time.perf_counter()
    loss = train()
    report(value=len(rows_K) / (time.perf_counter() - started), loss=round(loss, 3), images=len(rows_K))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("shards", nargs="*")
    parser.add_argument("--proxy", default="preact_resnet20")
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--rate", type=float, default=0.02)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--arms", default="curate,stream,plain")
    parser.add_argument("--arm", default="")
    arguments = parser.parse_args()
    if arguments.arm:
        with opened(arguments.shards, noise=arguments.steps * arguments.batch, size_px=arguments.size) as pool:
            run_arm(arguments, pool)
        return
    options = [
        word
        for name in ("proxy", "size", "batch", "steps", "rate", "device")
        for word in (f"--{name}", getattr(arguments, name))
    ]
    arms = {name: module("training", *arguments.shards, *options, "--arm", name) for name in arguments.arms.split(",")}
    medians = compare(arms, repeats=arguments.repeats, unit="images/s")
    for name in set(medians) - {"curate"}:
        print(f"curate / {name}: {medians['curate'] / medians[name]:.2f}")


if __name__ == "__main__":
    main()
