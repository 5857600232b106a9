"""`--dry-run` of `curate score` and `build-up`: what would run, and what it would take. Writes nothing."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from curate.acquisition.dynamics import BYTES_A_ROW
from curate.manifest.schema import load_head
from curate.pool.index import build_index
from curate.pool.texts import CHARACTERS
from curate.proxy.augment import augmented
from curate.proxy.models import build_model, parameter_count
from curate.proxy.pixels import Form
from curate.proxy.plan import Plan, autocast, normalised
from curate.proxy.step import WARM_UP, Step
from curate.proxy.training import build_optimizer
from curate.selection.budget import parse_keep
from curate.workflows.run import Request, given_members
from curate.workflows.setting import plan_for, settle

STEPS = 3


def estimate(request: Request, schedule: Sequence[str] = ()) -> dict[str, Any]:
    """Returns counts, seconds, and bytes of memory and disk, from a scan and a few timed steps.

    The index is built in a temporary folder and thrown away; `request.out` is not touched. Epochs and members are those
    of all iterations together.

    Args:
        request: of a run; in build-up of each iteration.
        schedule: of a build-up, what is kept after each iteration; empty for a run of its own.

    Raises:
        UsageError: a size that the pool has not.
    """
    given = given_members(request)
    recipe = given.recipe(request.recipe) if given else request.recipe
    with tempfile.TemporaryDirectory(prefix="curate-dry-") as folder:
        pool = build_index(request.shards, Path(folder), request.labels, skip_faults=request.skip_faults)
        setting = settle(recipe, pool, request.out, request.device)
    plan = plan_for(recipe, setting, max(2, pool.classes.num_classes, given.num_classes if given else 0))
    train = recipe.train
    kept = [parse_keep(keep, what="--schedule").budget(pool.total - pool.bad) for keep in schedule]
    trained = kept[:-1] if kept else [load_head(request.within).totals.kept if request.within else pool.total]
    epochs = 0 if given else train.seeds * train.epochs
    members = len(given.members) if given else train.seeds * train.checkpoints
    step, forward = _timed(plan, setting.form(pool), min(train.batch_size, max(2, pool.total)))
    pixels = pool.total * setting.form(pool).row_bytes
    dynamics = BYTES_A_ROW * pool.total
    weights = 4 * parameter_count(build_model(plan.spec, seed=0))
    seconds = epochs * sum(trained) * step + len(trained) * members * pool.total * forward
    return {
        "samples": pool.total,
        **({"kept": kept} if kept else {}),
        "classes": pool.classes.num_classes,
        "proxy": plan.spec.name,
        **({"size_px": setting.size_px} if setting.size_px else {"length": setting.length, "reads": setting.reads}),
        "pixels": setting.store,
        "precision": "bfloat16" if setting.is_bf16 else "float32",
        "epochs": epochs * len(trained),
        "members": members * len(trained),
        "seconds": round(seconds),
        # Weights, gradients and momentum while training; scoring holds one member at a time.
        "memory_bytes": 3 * weights + dynamics + (pixels if setting.store == "memory" else 0),
        "disk_bytes": (0 if given else (members + 2 * train.seeds) * weights + train.seeds * dynamics) * len(trained)
        + (pixels if setting.store == "disk" else 0),
    }


def _timed(plan: Plan, form: Form, size: int) -> tuple[float, float]:
    """Returns seconds a sample for a training step and for a forward pass, medians of a few."""
    model = build_model(plan.spec, seed=0).to(plan.device)
    step = Step(plan, model, build_optimizer(model, plan.train), None)
    draw = np.random.default_rng(0)
    # Characters are few, and every number below their count is a pixel and a word's hash too.
    pixels = torch.from_numpy(draw.integers(1, CHARACTERS, (size, *form.of_row)).astype(form.dtype)).to(plan.device)
    label_B = torch.zeros(size, dtype=torch.long, device=plan.device)
    steps, forwards = list[float](), list[float]()
    for _ in range(STEPS + (WARM_UP + 1 if plan.kind == "cuda" else 0)):
        started = time.perf_counter()
        inputs = normalised(augmented(pixels, plan.augment, draw), plan)
        step(inputs, label_B, plan.train.rate).loss.item()
        middle = time.perf_counter()
        with torch.inference_mode(), autocast(plan):
            float(model(inputs).float().sum())
        steps.append(middle - started)
        forwards.append(time.perf_counter() - middle)
    steps, forwards = steps[-STEPS:], forwards[-STEPS:]
    return sorted(steps)[STEPS // 2] / size, sorted(forwards)[STEPS // 2] / size
