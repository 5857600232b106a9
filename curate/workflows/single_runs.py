"""Do single runs of a proxy rank as single runs of the target do, and those as each other?

Source: Coleman et al. 2020, figure 5: a proxy is held against the target's own correlation from run to run.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import reduce
from itertools import combinations, product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.manifest.origin import Origin
from curate.scores import SUMMARY, column_names, read_record
from curate.statistics import mean_and_spread, spearman

FloatArray = NDArray[np.float64]


def single_runs(names: Sequence[str], origins: Sequence[Origin], fns: Sequence[str]) -> list[dict[str, Any]]:
    """Returns for each function how single runs rank: {fn, run, is_target, pairs, spearman, spread, gap}.

    `gap` is what a run lacks to the target's own correlation from run to run. Without several runs of the
    target (`score --seeds 2 --per-seed`) there is nothing to hold against, and no row.

    Args:
        names: of the runs.
        origins: the runs, the target last; of one with several seeds only those that keep each seed's scores.
        fns: acquisition functions.

    Cost: one correlation a pair of runs, O(N log N) each.
    """
    rows = []
    for fn in fns:
        columns = [_columns(origin, fn) for origin in origins]
        if len(columns[-1]) < 2:
            continue
        *others, target = _aligned(origins, columns)
        own = _row(fn, names[-1], combinations(target, 2), None)
        for name, runs in zip(names, others, strict=False):
            if runs:
                rows.append(_row(fn, name, product(runs, target), own["spearman"]))
        rows.append({**own, "is_target": True})
    return rows


def _columns(origin: Origin, fn: str) -> list[str]:
    """Returns the columns that hold what single seeds score."""
    seeds = sorted({member["seed"] for member in read_record(origin.scores / SUMMARY)["members"]})
    known = column_names(origin.scores, origin.pool)
    wanted = [fn] if len(seeds) == 1 else [f"{fn}@{seed}" for seed in seeds]
    return wanted if set(wanted) <= set(known) else []


def _aligned(origins: Sequence[Origin], columns: Sequence[Sequence[str]]) -> list[list[FloatArray]]:
    """Returns the scores of the samples that all runs have scored, in one order."""
    parts = [
        origin.columns(names, null_is_nan=True).values if names else None
        for origin, names in zip(origins, columns, strict=True)
    ]
    common = reduce(np.intersect1d, [part["identity"] for part in parts if part is not None])
    aligned = []
    for part, names in zip(parts, columns, strict=True):
        if part is None:
            aligned.append(list[FloatArray]())
            continue
        order = np.argsort(part["identity"])
        rows = order[np.searchsorted(part["identity"], common, sorter=order)]
        aligned.append([part[name][rows].astype(np.float64) for name in names])
    return aligned


def _row(fn: str, name: str, pairs: Iterable[tuple[FloatArray, FloatArray]], own: float | None) -> dict[str, Any]:
    values = [spearman_of_both(a_N, b_N) for a_N, b_N in pairs]
    # Of scores that are all alike there is no correlation, and none of the mean.
    mean, spread = mean_and_spread(values) if np.isfinite(values).all() else (np.nan, None)
    return {
        "fn": fn, "run": name, "is_target": False, "pairs": len(values), "spearman": mean, "spread": spread or 0.0,
        "gap": None if own is None else own - mean,
    }  # fmt: skip


def spearman_of_both(a_N: NDArray[Any], b_N: NDArray[Any]) -> float:
    """Returns the rank correlation of the samples that have both scores."""
    both_N = np.isfinite(a_N) & np.isfinite(b_N)
    return spearman(a_N[both_N], b_N[both_N])
