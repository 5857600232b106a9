"""What is kept and why not: lists, outliers, class rules, then rank.

Every sample leaves with exactly one reason, and the kept samples are exactly as many as the budget.
The order itself is made in `rank`, what each class may keep in `quotas`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from curate.errors import ScoreError, UsageError
from curate.samples import IdentityArray
from curate.selection.quotas import ClassRule, IntArray, quotas
from curate.selection.radix import Order
from curate.selection.rank import BoolArray, RealArray, check_scores, take_first

REASONS = ("kept", "rank", "outlier", "never")  # the name of each code
KEPT, RANK, OUTLIER, NEVER = range(4)
UNLABELLED = -1


@dataclass(frozen=True, eq=False)
class Selection:
    """Which samples are kept, and why the others are not.

    Attributes:
        reason_N: a code for each sample, uint8: KEPT, RANK (too far down the order), OUTLIER (set
            aside at its top) or NEVER (on the list of what is never kept).
    """

    reason_N: NDArray[np.uint8]

    @property
    def kept_N(self) -> BoolArray:
        """Mask of the kept samples, shape (N,)."""
        kept_N: BoolArray = self.reason_N == KEPT
        return kept_N

    @property
    def counts(self) -> dict[str, int]:
        """How many samples have each of `REASONS`; the sum is N."""
        counts = np.bincount(self.reason_N, minlength=len(REASONS))
        return dict(zip(REASONS, counts.tolist(), strict=True))


@dataclass(frozen=True, eq=False)
class _Ranking:
    """The arrays that order a pool, handed on together."""

    score_N: RealArray
    tie_N: RealArray | None
    identity_N: IdentityArray

    def first(self, count: int, *, order: Order, eligible_N: BoolArray) -> BoolArray:
        return take_first(
            self.score_N,
            tie_N=self.tie_N,
            identity_N=self.identity_N,
            count=count,
            order=order,
            eligible_N=eligible_N,
        )

    def rows(self, row_K: NDArray[np.int64]) -> _Ranking:
        tie_K = None if self.tie_N is None else self.tie_N[row_K]
        return _Ranking(self.score_N[row_K], tie_K, self.identity_N[row_K])


def select(
    score_N: RealArray,
    tie_N: RealArray | None,
    identity_N: IdentityArray,
    label_N: IntArray | None,
    *,
    budget: int,
    outliers: int = 0,
    order: Order = "hardest",
    per_class: ClassRule | None = None,
    min_per_class: int = 0,
    always_N: BoolArray | None = None,
    never_N: BoolArray | None = None,
) -> Selection:
    """Returns which samples are kept, exactly `budget` of them.

    In this order: what is on the never list is dropped; the `outliers` samples of highest score that
    are on no list are set aside; what is on the always list is kept; class rules give each class its
    best; the rest of the budget goes by rank.

    Args:
        score_N: shape (N,), higher = harder. Samples on a list may have any score, also NaN.
        tie_N: shape (N,), decides between equal scores; None to leave it to the identity.
        identity_N: shape (N,), uint64.
        label_N: class ids, −1 for none, shape (N,); None where there are no class rules.
        budget: how many samples to keep, those on the always list included.
        outliers: how many samples of highest score to set aside, whichever end is kept.
        order: "hardest" keeps the highest scores, "easiest" the lowest.
        per_class: "equal" or "proportional" to divide the budget among classes; see `quotas.quotas`.
        min_per_class: each class keeps its best so many, or all that it has.
        always_N: mask of samples to keep in any case.
        never_N: mask of samples to drop in any case.

    Raises:
        ScoreError: shapes differ, or a score that is looked at is not finite.
        UsageError: a sample is on both lists; the budget is too small for the always list or for the
            minimum of each class; too few samples are left for the outliers or the budget; class
            rules meet samples without a label.

    Cost: O(N), and O(N log N) with class rules; O(N) memory.

    Source: outliers as in Chitta et al., "Training Data Distribution Search with Ensemble Active
        Learning", Table 5: skip the top, take what comes next.
    """
    always_N, never_N = _mask(always_N, len(score_N)), _mask(never_N, len(score_N))
    _check_lists(always_N, never_N, budget=budget)
    ranking = _Ranking(score_N, tie_N, identity_N)
    free_N = ~(always_N | never_N)
    check_scores(score_N, tie_N=tie_N, identity_N=identity_N, eligible_N=free_N)
    _check_supply(int(always_N.sum()), int(free_N.sum()), budget=budget, outliers=outliers)
    outlier_N = ranking.first(outliers, order="hardest", eligible_N=free_N)
    free_N &= ~outlier_N
    kept_N = always_N.copy()
    if per_class is not None or min_per_class > 0:
        class_N = _class_places(label_N, ~never_N)
        kept_N |= _best_of_classes(
            ranking,
            class_N,
            free_N,
            kept_N,
            order=order,
            budget=budget,
            rule=per_class,
            minimum=min_per_class,
        )
    rest = budget - int(kept_N.sum())
    kept_N |= ranking.first(rest, order=order, eligible_N=free_N & ~kept_N)
    return Selection(_reasons(kept_N, outlier_N, never_N))


def _best_of_classes(
    ranking: _Ranking,
    class_N: NDArray[np.int64],
    free_N: BoolArray,
    placed_N: BoolArray,
    *,
    order: Order,
    budget: int,
    rule: ClassRule | None,
    minimum: int,
) -> BoolArray:
    """Returns the mask of the samples that fill each class's quota, beyond those already placed."""
    classes = int(class_N.max(initial=-1)) + 1
    placed_C = np.bincount(class_N[placed_N], minlength=classes)
    supply_C = np.bincount(class_N[free_N], minlength=classes)
    open_C = quotas(placed_C + supply_C, budget, rule, minimum, placed_C=placed_C) - placed_C
    # Rows in groups of one class, so that the cost is that of the pool and not pool × classes.
    row_K = np.flatnonzero(free_N)
    row_K = row_K[np.argsort(class_N[row_K], kind="stable")]
    best_N: BoolArray = np.zeros(len(class_N), dtype=np.bool_)
    for row_k, count in zip(np.split(row_K, np.cumsum(supply_C)[:-1]), open_C.tolist(), strict=True):
        every_k = np.ones(len(row_k), dtype=np.bool_)
        best_N[row_k] = ranking.rows(row_k).first(count, order=order, eligible_N=every_k)
    return best_N


def _class_places(label_N: IntArray | None, eligible_N: BoolArray) -> NDArray[np.int64]:
    """Returns each sample's place among the class ids in use, which may be few and far between."""
    if label_N is None:
        raise UsageError("class rules need labels, and this pool has none")
    if label_N.shape != eligible_N.shape:
        raise ScoreError(f"label has shape {label_N.shape}, but there are {len(eligible_N):,} scores")
    unlabelled = int(np.count_nonzero((label_N < 0) & eligible_N))
    if unlabelled:
        raise UsageError(
            f"class rules need labels, and {unlabelled:,} of {int(eligible_N.sum()):,} samples have none",
            hint="Label them, list them as never to be kept, or prune without class rules.",
        )
    return np.unique(label_N, return_inverse=True)[1].astype(np.int64)


def _check_lists(always_N: BoolArray, never_N: BoolArray, *, budget: int) -> None:
    both_N = always_N & never_N
    if both_N.any():
        raise UsageError(
            f"{int(both_N.sum()):,} samples are listed both as always and as never to be kept; "
            f"the first is sample {int(np.argmax(both_N))}"
        )
    always = int(always_N.sum())
    if always > budget:
        raise UsageError(
            f"{always:,} samples are kept in any case, by a list or a base, but the budget is {budget:,}",
            hint="Keep more, shorten the list, or name a smaller base.",
        )


def _check_supply(always: int, free: int, *, budget: int, outliers: int) -> None:
    if budget < 0 or outliers < 0:
        raise UsageError(f"a budget of {budget} and {outliers} outliers cannot be negative")
    if always + free - outliers < budget or free < outliers:
        raise UsageError(
            f"the budget is {budget:,}, but {always:,} listed + {free:,} others - {outliers:,} outliers "
            f"= {always + free - outliers:,} samples may be kept",
            hint="Keep less, set fewer outliers aside, or shorten the list of what is never kept.",
        )


def _mask(mask_N: BoolArray | None, size: int) -> BoolArray:
    if mask_N is None:
        return np.zeros(size, dtype=np.bool_)
    if mask_N.shape != (size,):
        raise ScoreError(f"a list has shape {mask_N.shape}, but there are {size:,} scores")
    return mask_N


def _reasons(kept_N: BoolArray, outlier_N: BoolArray, never_N: BoolArray) -> NDArray[np.uint8]:
    reason_N = np.full(len(kept_N), RANK, dtype=np.uint8)
    reason_N[never_N] = NEVER
    reason_N[outlier_N] = OUTLIER
    reason_N[kept_N] = KEPT
    return reason_N
