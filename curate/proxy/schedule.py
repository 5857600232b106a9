"""The learning rate as a pure function of time, in epochs."""

from __future__ import annotations

import math

from curate.recipe import Train


def constant_stage(train: Train) -> int:
    """Returns the epochs at the end that run at a constant rate: where checkpoints become members.

    Under a rate that has annealed to nothing, the checkpoints of a seed would be copies of each other.
    """
    return (train.checkpoints - 1) * train.checkpoint_every + 1 if train.checkpoints > 1 else 0


def checkpoint_epochs(train: Train) -> list[int]:
    """Returns the epochs (counted from 1) after which a checkpoint becomes a member."""
    first = train.epochs - (train.checkpoints - 1) * train.checkpoint_every
    return list(range(first, train.epochs + 1, train.checkpoint_every))


def rate_at(epoch: float, train: Train) -> float:
    """Returns the learning rate at a point in time, `epoch` in [0, train.epochs].

    Warm-up is linear. `cosine` (Loshchilov and Hutter 2017) and `onecycle` (Smith 2018, its
    triangle) end at `final_rate` of the peak where a constant stage follows, else at nothing.
    `step` multiplies by `step_factor` at each milestone.
    """
    warmup = min(train.warmup_epochs, train.epochs / 2)
    if epoch < warmup:
        return train.rate * (epoch + 1e-3) / (warmup + 1e-3)
    if train.schedule == "constant":
        return train.rate
    if train.schedule == "step":
        return float(train.rate * train.step_factor ** sum(epoch >= milestone for milestone in train.milestones))
    stage = constant_stage(train)
    low = train.final_rate if stage else 0.0
    t = min(1.0, (epoch - warmup) / max(1e-9, train.epochs - stage - warmup))
    height = 1 - t if train.schedule == "onecycle" else 0.5 * (1 + math.cos(math.pi * t))
    return train.rate * (low + (1 - low) * height)
