"""The learning rate, the end of training and the members: pure functions of time and of what was measured.

Nothing here holds state: what patience has come to is read off the accuracies of the epochs so far, so
that a resumed run goes on as if it had never stopped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from curate.recipe import Train


def constant_stage(train: Train) -> int:
    """Returns the epochs at the end that run at a constant rate: where checkpoints become members.

    Under a rate that has annealed to nothing, the checkpoints of a seed would be copies of each other.
    """
    return train.stage if train.checkpoints > 1 else 0


def best_epoch(val_E: Sequence[float]) -> int:
    """Returns the epoch (counted from 1) with the highest accuracy, the first of equals; 0 before the first."""
    return max(range(len(val_E)), key=lambda e: (val_E[e], -e)) + 1 if val_E else 0


def drops(val_E: Sequence[float], train: Train) -> int:
    """Returns how often `patience` has lowered the rate after the epochs whose accuracies are given.

    It does so after every `train.patience` epochs without a new highest accuracy, and not in the constant stage.

    Source: Chitta et al. 2021, appendix A (patience 25, factor 0.1).
    """
    if train.schedule != "patience":
        return 0
    best, since, count = -math.inf, 0, 0
    for epoch, val in enumerate(val_E[: train.epochs - constant_stage(train)], 1):
        since = 0 if val > best or epoch == 1 else since + 1
        best = max(best, val)
        count += since > 0 and since % train.patience == 0
    return count


def has_ended(epochs: int, val_E: Sequence[float], train: Train) -> bool:
    """Says whether training is over: all epochs are done, or `train.stop_after` of them brought nothing.

    Chitta et al. stop "when dropping the learning rate also gives no improvement […] after a number of
    epochs equal to twice the patience": here twice the patience after the best epoch, `stop_after = 50`.
    """
    stalled = len(val_E) - best_epoch(val_E)
    return epochs >= train.epochs or 0 < train.stop_after <= stalled


def member_epochs(epochs: int, val_E: Sequence[float], train: Train) -> list[int]:
    """Returns the epochs (counted from 1) whose checkpoints are the members of a training that ends after `epochs`."""
    if train.member == "best":
        return [best_epoch(val_E)]
    return [e for e in range(epochs - train.stage + 1, epochs + 1, train.checkpoint_every) if e > 0]


def may_be_member(epoch: int, epochs: int, val_E: Sequence[float], train: Train) -> bool:
    """Says whether a checkpoint can still become a member after `epochs` of training."""
    if train.member == "best":
        return epoch == best_epoch(val_E)
    if not train.stop_after:
        return epoch in member_epochs(train.epochs, (), train)
    return epoch > epochs - train.stage


def rate_at(epoch: float, train: Train, *, dropped: int = 0) -> float:
    """Returns the learning rate at a point in time, `epoch` in [0, train.epochs].

    Warm-up is linear. `cosine` (Loshchilov and Hutter 2017) and `onecycle` (Smith 2018, its
    triangle) end at `final_rate` of the peak where a constant stage follows, else at nothing.
    `step` multiplies by `step_factor` at each milestone, `patience` at each of the `dropped`.
    """
    warmup = min(train.warmup_epochs, train.epochs / 2)
    if epoch < warmup:
        return train.rate * (epoch + 1e-3) / (warmup + 1e-3)
    if train.schedule == "constant":
        return train.rate
    if train.schedule == "patience":
        return float(train.rate * train.step_factor**dropped)
    if train.schedule == "step":
        return float(train.rate * train.step_factor ** sum(epoch >= milestone for milestone in train.milestones))
    stage = constant_stage(train)
    low = train.final_rate if stage else 0.0
    t = min(1.0, (epoch - warmup) / max(1e-9, train.epochs - stage - warmup))
    height = 1 - t if train.schedule == "onecycle" else 0.5 * (1 + math.cos(math.pi * t))
    return train.rate * (low + (1 - low) * height)
