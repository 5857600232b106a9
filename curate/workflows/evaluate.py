"""Was pruning worth it? Train a target on the kept samples, on random ones of the same size, and on all."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.progress import Progress
from curate.proxy.pixels import Pixels
from curate.proxy.predict import accuracy
from curate.proxy.training import Plan, load_member, member_path, train_member
from curate.statistics import mean_and_spread
from curate.workflows.held_out import HeldOut


def compare_subsets(
    plan: Plan,
    pixels: Pixels,
    subsets: Mapping[str, NDArray[np.int64]],
    test: HeldOut,
    *,
    seeds: int,
    first_seed: int,
    batch_size: int,
    progress: Progress,
) -> list[dict[str, Any]]:
    """Returns one row a subset: test accuracy of a target trained on it from scratch, over seeds.

    Every subset is trained with the same recipe and the same number of epochs, so a smaller one takes
    fewer steps. Nothing of the test set steers anything.

    Args:
        plan: the target; one checkpoint, the last epoch.
        pixels: the pool's.
        subsets: name -> rows to train on.
        test: what is measured on.
        seeds: training runs behind each figure.
        first_seed: of the target's runs; other than the proxy's, or the target would be a member.
        batch_size: of the measuring.
        progress: who listens.
    """
    table = []
    progress.stage("train the target", len(subsets) * seeds, "runs")
    for place, (name, rows_K) in enumerate(subsets.items()):
        values = []
        for number in range(seeds):
            progress.at(place * seeds + number, name)
            values.append(_trained_accuracy(plan, pixels, rows_K, test, first_seed + number, batch_size))
        mean, spread = mean_and_spread(values)
        table.append({"trained_on": name, "samples": len(rows_K), "mean": mean, "spread": spread, "runs": values})
    progress.at(len(subsets) * seeds, "")
    return table


def _trained_accuracy(
    plan: Plan,
    pixels: Pixels,
    rows_K: NDArray[np.int64],
    test: HeldOut,
    seed: int,
    batch_size: int,
) -> float:
    with tempfile.TemporaryDirectory(prefix="curate-target-") as folder:
        train_member(
            plan,
            pixels,
            rows_K,
            seed=seed,
            folder=Path(folder),
            progress=lambda epoch, seen: None,
            on_epoch=lambda epoch, model, record: None,
        )
        member = (seed, load_member(member_path(Path(folder), plan.train.epochs), plan))
    return accuracy(plan, [member], test.pixels, test.good_K, batch_size=batch_size)[1]
