"""Training and scoring on a GPU, beside the same steps without what `curate` does around and for them.

Run: python -m benchmarks gpu

All arms of a case run in one process, in turn: starting one for each would take longer than what is measured.

    curate      `train_member` (pixels and augmentation on the GPU, steps recorded once), or `predict`
    eager       the same steps by plain PyTorch, one call after the other, on batches that are tensors already
    limit       the recorded steps alone on such batches; for scoring, bare forward passes
    any order   the limit with whatever convolutions cuDNN finds fastest, so that a resumed run may end otherwise
    unwatched   `train_member` without training dynamics
    numpy       greedy k-centers with the processor's products; both find the same centers, or there is no figure
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.arms import Measured
from benchmarks.k_centers import embeddings
from benchmarks.pools import opened
from benchmarks.suite import LIMIT, OURS, Benchmark, Case, Setting, Target
from benchmarks.training import ready
from curate.acquisition.dynamics import Dynamics
from curate.pool.index import Pool
from curate.proxy.device import has_fast_bf16, make_repeatable
from curate.proxy.models import ModelSpec, build_model, stem_for
from curate.proxy.pixels import Shape, StoredPixels
from curate.proxy.plan import Plan, autocast, normalised
from curate.proxy.predict import predict
from curate.proxy.products import TorchKernel
from curate.proxy.step import Step
from curate.proxy.training import build_optimizer, train_member
from curate.recipe import Augment, Train
from curate.selection.k_centers import k_centers

SIDE, MEMBERS, EPOCHS = 32, 8, 3
TRAININGS = (("preact_resnet20", 128), ("preact_resnet20", 512), ("convnet3", 512), ("resnet18", 512))
Act = Callable[[], int]  # does it once; returns how many images


def plan_of(name: str, batch: int, classes: int) -> Plan:
    spec = ModelSpec(name, classes, 3, SIDE, stem_for("auto", SIDE))
    train = Train(
        epochs=EPOCHS, checkpoints=1, seeds=1, batch_size=batch, schedule="constant", warmup_epochs=0, rate=0.02
    )
    return Plan(spec, train, Augment(), (0.5,) * 3, (0.25,) * 3, has_fast_bf16("cuda"), "cuda")


def network(plan: Plan) -> tuple[nn.Module, torch.optim.SGD]:
    model = build_model(plan.spec, seed=0).to("cuda").train()
    return model, build_optimizer(model, plan.train)


def by_curate(plan: Plan, pixels: StoredPixels, *, watched: bool = False) -> Act:
    def act() -> int:
        dynamics = Dynamics(len(pixels.rows)) if watched else None
        with tempfile.TemporaryDirectory() as folder:
            train_member(
                plan, pixels, np.arange(len(pixels.rows)), seed=0, folder=Path(folder),
                progress=lambda epoch, seen: None, on_epoch=lambda epoch, model, record: None,
                dynamics=dynamics,
            )  # fmt: skip
        return EPOCHS * len(pixels.rows)

    return act


def by_recorded_steps(plan: Plan, batches: list[tuple[Tensor, Tensor]], *, repeatable: bool = True) -> Act:
    step = Step(plan, *network(plan), None)

    def act() -> int:
        torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = not repeatable, repeatable
        for inputs, label_B in batches:
            step(inputs, label_B, 0.02)
        make_repeatable()
        return sum(len(label_B) for _, label_B in batches)

    return act


def by_eager_steps(plan: Plan, batches: list[tuple[Tensor, Tensor]]) -> Act:
    model = build_model(plan.spec, seed=0).to("cuda").train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9, nesterov=True, weight_decay=5e-4)

    def act() -> int:
        for inputs, label_B in batches:
            with autocast(plan):
                loss = nn.functional.cross_entropy(model(inputs).float(), label_B)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        return sum(len(label_B) for _, label_B in batches)

    return act


def scorers(plan: Plan, pixels: StoredPixels, batch: int) -> dict[str, Act]:
    networks = [(seed, build_model(plan.spec, seed=seed).to("cuda").eval()) for seed in range(MEMBERS)]
    shards = range(len(pixels.rows.shards))

    def ours() -> int:
        return sum(len(part.rows_B) for _, part in predict(plan, networks, pixels, shards, batch_size=batch) if part)

    inputs = [normalised(pixels_B, plan) for i in shards for _, pixels_B in pixels.in_order(i, batch_size=batch)]

    def bare() -> int:
        with torch.inference_mode(), autocast(plan):
            for _, model in networks:
                for batch_BCHW in inputs:
                    model(batch_BCHW)
        return len(pixels.rows)

    return {OURS: ours, LIMIT: bare}


def centers(x_ND: NDArray[np.float32], budget: int, device: str) -> dict[str, Act]:
    """Returns greedy k-centers after a start of 1,000, with products by torch on a device and by numpy."""
    start = np.arange(1000)
    found = dict[str, NDArray[np.int64]]()

    def by(name: str, kernel: Callable[[], TorchKernel | None]) -> Act:
        def act() -> int:
            found[name] = k_centers(x_ND, budget, start=start, kernel=kernel()).order_K
            if any(not np.array_equal(order_K, found[name]) for order_K in found.values()):
                raise RuntimeError("the orders of centers differ")
            return budget

        return act

    return {OURS: by(OURS, lambda: TorchKernel(x_ND, device)), "numpy": by("numpy", lambda: None)}


def timed(
    name: str, acts: dict[str, Act], *, repeats: int, targets: list[Target], note: str = "", unit: str = "images/s"
) -> Case:
    """Returns a case whose arms ran in turn, after one run each that does not count."""
    values: dict[str, list[float]] = {arm: [] for arm in acts}
    peaks = dict.fromkeys(acts, 0.0)
    for turn in range(1 + repeats):
        for arm, act in acts.items():
            torch.cuda.reset_peak_memory_stats()
            torch.cuda.synchronize()
            started = time.perf_counter()
            images = act()
            torch.cuda.synchronize()
            if turn:
                values[arm].append(images / (time.perf_counter() - started))
            peaks[arm] = torch.cuda.max_memory_allocated() / 2**20
    measured = {arm: Measured(values[arm], peaks[arm]) for arm in acts}
    return Case(name, unit, measured, {}, targets, note)


def cases_of(pool: Pool, setting: Setting, what: str) -> Iterator[Case]:
    pixels = StoredPixels(pool, Shape(SIDE, 3), folder=None, threads=8, device="cuda")
    pixels.build(lambda done, name: None)
    classes, repeats = pool.classes.num_classes, setting.repeats
    for name, batch in TRAININGS[: 1 if setting.quick else None]:
        plan = plan_of(name, batch, classes)
        batches = ready(plan, pixels, np.arange(min(64, len(pixels.rows) // batch) * batch))
        acts = {
            OURS: by_curate(plan, pixels),
            "eager": by_eager_steps(plan, batches),
            LIMIT: by_recorded_steps(plan, batches),
            "any order": by_recorded_steps(plan, batches, repeatable=False),
        }
        targets = [Target(LIMIT, 0.85)]
        yield timed(f"{EPOCHS} epochs of {name}, batch {batch}", acts, repeats=repeats, targets=targets,
                    note=f"{what}; building, recording, state and member with it")  # fmt: skip
    name, batch = TRAININGS[1]
    plan = plan_of(name, batch, classes)
    acts = {OURS: by_curate(plan, pixels, watched=True), "unwatched": by_curate(plan, pixels)}
    yield timed(f"dynamics in {EPOCHS} epochs of {name}, batch {batch}", acts, repeats=repeats,
                targets=[Target("unwatched", 0.97)], note=what)  # fmt: skip
    yield _centers_found(5_000 if setting.quick else 50_000)
    for batch in (256, 1024):
        plan = plan_of("preact_resnet20", 128, classes)
        yield timed(f"scoring by {MEMBERS} preact_resnet20, batch {batch}", scorers(plan, pixels, batch),
                    repeats=repeats, targets=[Target(LIMIT, 0.85)], note=what)  # fmt: skip


def _centers_found(size: int) -> Case:
    name, unit = f"{size // 2:,} centers of {size:,} x 512", "centers/s"
    acts = centers(embeddings("thin", size, 512), size // 2, "cuda")
    try:
        return timed(name, acts, repeats=1, targets=[], unit=unit, note="made-up features, rectified")
    except RuntimeError as error:
        return Case(name, unit, absent={OURS: str(error)})


def bench(setting: Setting) -> list[Case]:
    if not torch.cuda.is_available():
        reason = "no GPU here"
        return [
            Case(f"{EPOCHS} epochs of {name}, batch {batch}", "images/s", absent={OURS: reason, LIMIT: reason},
                 targets=[Target(LIMIT, 0.85)])
            for name, batch in TRAININGS
        ]  # fmt: skip
    make_repeatable()
    shards = sorted((setting.data / "cifar10").glob("train-*.tar.zst")) if setting.data else []
    images = 2_000 if setting.quick else 50_000
    with opened(list(map(str, shards)), noise=images, size_px=SIDE) as pool:
        return list(cases_of(pool, setting, "CIFAR-10" if shards else "made-up images"))


BENCHMARK = Benchmark(
    bench,
    "Training and scoring on a GPU, all arms in one process; memory is the GPU's, the other arms' batches included.",
    why="Where a step takes a GPU less than a millisecond, gathering its batch and writing the state at the end of the "
    "epoch count.",
)
