"""Do single runs of a proxy rank as single runs of the target do, and those as each other?

Source: Coleman et al. 2020, figure 5: a proxy is held against the target's own correlation from run to run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations, product
from typing import Any

import numpy as np

from curate.manifest.origin import Origin
from curate.statistics import mean_and_spread
from curate.workflows.rankings import CORRELATIONS, Ranking, aligned, correlations, single_rankings

TARGETS = "targets"


def single_runs(
    fn: str, origins: Mapping[str, Origin], rankings: Mapping[str, Ranking], targets: Sequence[str], tops: Sequence[str]
) -> list[dict[str, Any]]:
    """Returns how single runs rank by a function.

    A row is {fn, run, is_target, pairs, spearman, spread, gap, pearson, kendall, overlap}: means over pairs of runs,
    the spread that of Spearman's correlation, None of one pair. `gap` is what a run lacks in it to the target's own
    correlation from run to run. Without several runs of the target (`score --seeds 2 --per-seed`, or several targets)
    there is nothing to hold against, and no row.

    Args:
        fn: an acquisition function, or k_centers.
        origins: the runs by name; of one with several seeds only those that keep each seed's scores.
        rankings: of each run, all its seeds together.
        targets: which of the runs are targets; what several of them have counts as that of one.
        tops: fractions or counts of the highest scores whose overlap is asked for.

    Cost: three correlations a pair of runs, O(N log² N) each.
    """
    named = [(name, one) for name, run in origins.items() for one in single_rankings(run, fn, rankings[name])]
    if sum(name in targets for name, _ in named) < 2:
        return []
    runs: dict[str, list[Ranking]] = {name: [] for name in origins}
    for (name, _), one in zip(named, aligned([one for _, one in named]), strict=True):
        runs[name].append(one)
    target = [one for name in targets for one in runs.pop(name)]
    own = _row(fn, targets[0] if len(targets) == 1 else TARGETS, combinations(target, 2), tops, None)
    rows = [_row(fn, name, product(other, target), tops, own["spearman"]) for name, other in runs.items() if other]
    return [*rows, {**own, "is_target": True}]


def _row(
    fn: str, name: str, pairs: Iterable[tuple[Ranking, Ranking]], tops: Sequence[str], own: float | None
) -> dict[str, Any]:
    found = [correlations(a, b, tops) for a, b in pairs]
    # Of scores that are all alike there is no correlation, and none of the mean.
    means = {name: float(np.mean([one[name] for one in found])) for name in CORRELATIONS}
    is_known = means["spearman"] == means["spearman"]
    spread = mean_and_spread([one["spearman"] for one in found])[1] if is_known else None
    return {
        "fn": fn, "run": name, "is_target": False, "pairs": len(found), **means, "spread": spread,
        "gap": None if own is None else own - means["spearman"],
        "overlap": {top: float(np.mean([one["overlap"][top] for one in found])) for top in tops},
    }  # fmt: skip
