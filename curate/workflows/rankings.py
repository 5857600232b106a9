"""How a run ranks its pool, and how alike two rankings are."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from curate.acquisition import ACQUISITIONS
from curate.embeddings import Embeddings
from curate.manifest.origin import Origin
from curate.samples import IdentityArray
from curate.scores import RUN, SUMMARY, column_names, read_columns, read_record
from curate.selection.budget import parse_keep
from curate.selection.combine import combined
from curate.selection.k_centers import k_centers
from curate.selection.rank import take_first
from curate.statistics import kendall, pearson, spearman, top_overlap
from curate.workflows.cover import K_CENTERS, check_memory, start_size
from curate.workflows.gather import random_order

CORRELATIONS = {"spearman": spearman, "pearson": pearson, "kendall": kendall}
FloatArray = NDArray[np.float64]


class Ranking(NamedTuple):
    """The scores of samples, and what decides between equal ones; None for their identity alone."""

    identity_N: IdentityArray
    score_N: FloatArray
    tie_N: FloatArray | None = None

    def of(self, rows: NDArray[Any]) -> Ranking:
        """Returns that of some samples."""
        return Ranking(self.identity_N[rows], self.score_N[rows], None if self.tie_N is None else self.tie_N[rows])


def ranking(origin: Origin, fn: str, seed: int | None = None) -> Ranking:
    """Returns how a run ranks what it has scored, or one seed of it; NaN where a sample has no score.

    By `k_centers` the rank is the order in which centers are chosen until none is left, the first one highest. A start
    of 1,000 (a tenth of a small pool), random and the same for all runs that scored the same samples, is in place
    before that: it has no rank.

    Raises:
        RunError: the run has no embeddings.
        ScoreError: it has no such scores.

    Cost: of `k_centers` that of greedy centers as many as there are samples; else one read of a column.

    Source: of the order of centers Coleman et al. 2020, figure 7.
    """
    if fn == K_CENTERS:
        return _by_distance(origin)
    names = [fn, *_tie(fn)]
    suffix = "" if seed is None else f"@{seed}"
    values = origin.columns([name + suffix for name in names], null_is_nan=True).values
    return Ranking(values["identity"], *(values[name + suffix].astype(np.float64) for name in names))


def traced_ranking(origin: Origin, tables: Path, fn: str, identity_N: IdentityArray) -> Ranking:
    """Returns how an epoch of a run ranked, whose trace holds the run's samples in the same order, as `identity_N`."""
    names = [fn, *[tie for tie in _tie(fn) if tie in column_names(tables, origin.pool)]]
    values = read_columns(tables, origin.pool, names, bad=origin.bad, null_is_nan=True).values
    return Ranking(identity_N, *(values[name].astype(np.float64) for name in names))


def _tie(fn: str) -> list[str]:
    tie = ACQUISITIONS[fn].tie
    return [tie] if tie else []


def _by_distance(origin: Origin) -> Ranking:
    columns = origin.columns([])
    identity_N = columns.values["identity"]
    size = start_size(len(identity_N))
    start_N = take_first(random_order(identity_N, 0), identity_N=identity_N, count=size)
    embeddings = Embeddings(origin.scores, origin.pool, columns.ordinals)
    check_memory(embeddings, len(identity_N), hint="Expected room for all: the order is that of the whole pool.")
    x_ND = embeddings.read(np.arange(len(identity_N)))
    found = k_centers(x_ND, len(identity_N) - size, start=np.flatnonzero(start_N), rank_N=identity_N)
    score_N = np.full(len(identity_N), np.nan)
    score_N[found.order_K] = -np.arange(len(found.order_K))
    return Ranking(identity_N, score_N)


def single_rankings(origin: Origin, fn: str, whole: Ranking) -> list[Ranking]:
    """Returns the rankings that each come of one training: those of the seeds that a run keeps, or the run's only one.

    None where a run of several seeds keeps their scores only together. By `k_centers` a run has one, of one member.

    Args:
        origin: the run.
        fn: an acquisition function, or k_centers.
        whole: how the run ranks, of all its seeds.
    """
    known, seeds = column_names(origin.scores, origin.pool), seeds_of(origin.scores)
    if fn == K_CENTERS or len(seeds) == 1:
        return [whole]
    return [ranking(origin, fn, seed) for seed in seeds if f"{fn}@{seed}" in known]


def seeds_of(folder: Path) -> list[int]:
    """Returns the seeds of a run's members."""
    return sorted({member["seed"] for member in read_record(folder / SUMMARY)["members"]})


def keeps_seeds(folder: Path) -> bool:
    """Says whether a run keeps the scores of several seeds, which can be compared among themselves."""
    return len(seeds_of(folder)) > 1 and bool(read_record(folder / RUN)["recipe"]["score"]["per_seed"])


def aligned(rankings: Sequence[Ranking]) -> list[Ranking]:
    """Returns the rankings of the samples that are in all of them, in one order."""
    first = rankings[0].identity_N
    if all(np.array_equal(one.identity_N, first) for one in rankings):
        return list(rankings)
    common = reduce(np.intersect1d, [one.identity_N for one in rankings])
    orders = [np.argsort(one.identity_N) for one in rankings]
    return [
        one.of(order[np.searchsorted(one.identity_N, common, sorter=order)])
        for one, order in zip(rankings, orders, strict=True)
    ]


def rank_combination(rankings: Sequence[Ranking]) -> Ranking:
    """Returns the rank combination of aligned rankings: of what all have a score of, NaN for other samples."""
    ties = [one.tie_N for one in rankings if one.tie_N is not None]
    score_N = _combined([one.score_N for one in rankings])
    return Ranking(rankings[0].identity_N, score_N, _combined(ties) if ties else None)


def _combined(scores: Sequence[FloatArray]) -> FloatArray:
    in_all_N = np.logical_and.reduce([np.isfinite(score_N) for score_N in scores])
    combined_N = np.full(len(in_all_N), np.nan)
    combined_N[in_all_N] = combined([score_N[in_all_N] for score_N in scores], "rank")
    return combined_N


def correlations(a: Ranking, b: Ranking, tops: Sequence[str]) -> dict[str, Any]:
    """Returns how alike aligned rankings are: {n, spearman, pearson, kendall, overlap: {top: share}}.

    Of the n samples that have both scores; all the others are NaN where fewer than two have.

    Args:
        a, b: of the same samples in one order.
        tops: fractions or counts of the highest scores whose overlap is asked for.
    """
    both_N = np.isfinite(a.score_N) & np.isfinite(b.score_N)
    if both_N.sum() < 2:
        return {"n": int(both_N.sum()), **dict.fromkeys(CORRELATIONS, np.nan), "overlap": dict.fromkeys(tops, np.nan)}
    a, b = a.of(both_N), b.of(both_N)
    counts = {top: parse_keep(top, what="--top").budget(len(a.score_N)) for top in tops}
    overlap = {
        top: top_overlap(a.score_N, b.score_N, count, a.identity_N, ties=(a.tie_N, b.tie_N))
        for top, count in counts.items()
    }
    found = {name: function(a.score_N, b.score_N) for name, function in CORRELATIONS.items()}
    return {"n": len(a.score_N), **found, "overlap": overlap}
