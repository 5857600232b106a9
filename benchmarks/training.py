"""Images a second of training, beside a plain float32 NCHW PyTorch loop; and of streamed pixels.

Run: python -m benchmarks.training [SHARDS...] [--proxy preact_resnet20] [--size 32] [--batch 128] [--steps 30]

    curate   `train_member` over pixels in memory: bfloat16 where it pays, channels_last
    stream   the same over `--pixels stream`: every image decoded again, in worker processes
    plain    the same network, batch, order, augmentation and optimiser, float32, NCHW, pixels in memory

Each trains one epoch on the first steps x batch samples after a warm-up of three batches; `loss` is
the mean over that epoch, which says whether the arms learn alike.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from benchmarks.arms import compare, module, report
from benchmarks.pools import opened, stored
from curate.pool.index import Pool
from curate.proxy.augment import augmented
from curate.proxy.models import ModelSpec, build_model, stem_for
from curate.proxy.pixels import Pixels, Shape
from curate.proxy.streaming import StreamedPixels
from curate.proxy.training import Plan, build_optimizer, has_fast_bf16, train_member
from curate.recipe import Augment, Train

WARM_UP = 3


def plan_of(arguments: argparse.Namespace, classes: int) -> Plan:
    """Returns what all arms train; one epoch at a constant rate."""
    spec = ModelSpec(arguments.proxy, classes, 3, arguments.size, stem_for("auto", arguments.size), "")
    train = Train(epochs=1, checkpoints=1, seeds=1, batch_size=arguments.batch, schedule="constant", warmup_epochs=0)
    train = train.model_copy(update={"rate": arguments.rate})
    return Plan(spec, train, Augment(), (0.5,) * 3, (0.25,) * 3, has_fast_bf16("cpu"), "cpu")


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
        batch = torch.from_numpy(
            np.ascontiguousarray(augmented(pixels_B, plan.augment, generator).transpose(0, 3, 1, 2))
        )
        inputs = (batch.float() / 255 - 0.5) / 0.25
        label_B = torch.from_numpy(pixels.rows.label_N[rows_B]).long()
        loss = functional.cross_entropy(model(inputs), label_B)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total, seen = total + loss.item() * len(rows_B), seen + len(rows_B)
    return total / seen


def run_arm(arguments: argparse.Namespace, pool: Pool) -> None:
    """Measures one arm in this process."""
    plan = plan_of(arguments, pool.classes.num_classes)
    shape = Shape(arguments.size, 3)
    streamed = StreamedPixels(pool, shape, workers=2, shuffle_buffer=8192) if arguments.arm == "stream" else None
    pixels = streamed or stored(pool, arguments.size)
    train = train_plain if arguments.arm == "plain" else train_ours
    rows_K = np.arange(min(len(pixels.rows), arguments.steps * arguments.batch))
    train(plan, pixels, rows_K[: WARM_UP * arguments.batch])
    started = time.perf_counter()
    loss = train(plan, pixels, rows_K)
    report(value=len(rows_K) / (time.perf_counter() - started), loss=round(loss, 3), images=len(rows_K))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("shards", nargs="*")
    parser.add_argument("--proxy", default="preact_resnet20")
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--rate", type=float, default=0.02)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--arms", default="curate,stream,plain")
    parser.add_argument("--arm", default="")
    arguments = parser.parse_args()
    if arguments.arm:
        with opened(arguments.shards, noise=arguments.steps * arguments.batch, size_px=arguments.size) as pool:
            run_arm(arguments, pool)
        return
    options = [
        word for name in ("proxy", "size", "batch", "steps", "rate") for word in (f"--{name}", getattr(arguments, name))
    ]
    arms = {name: module("training", *arguments.shards, *options, "--arm", name) for name in arguments.arms.split(",")}
    medians = compare(arms, repeats=arguments.repeats, unit="images/s")
    for name in set(medians) - {"curate"}:
        print(f"curate / {name}: {medians['curate'] / medians[name]:.2f}")


if __name__ == "__main__":
    main()
