"""How a budget is divided among classes.

Integers in, integers out: nothing is rounded but by largest remainder, and nothing depends on the
machine's floating point.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from curate.errors import UsageError

IntArray = NDArray[np.integer[Any]]
CountArray = NDArray[np.int64]
ClassRule = Literal["equal", "proportional"]

CLASS_RULES: tuple[ClassRule, ...] = ("equal", "proportional")


def quotas(
    counts_C: IntArray,
    budget: int,
    rule: ClassRule | None,
    minimum: int = 0,
    *,
    placed_C: IntArray | None = None,
) -> CountArray:
    """Returns how many samples each class keeps, shape (C,), int64.

    A class keeps at least what it has placed and its minimum (or all it has), and at most all it has.
    Between these bounds the budget is divided in equal parts, or in proportion to the counts; what
    one class cannot take goes to the others until the budget is met exactly. Parts of a sample are
    settled by largest remainder, equal remainders by class id. Without a rule only the minimum is
    given out, and the sum may be less than the budget.

    Args:
        counts_C: samples that each class has, ≥ 0.
        budget: from 0 to the sum of the counts.
        rule: "equal", "proportional", or None.
        minimum: samples that each class keeps, if it has them.
        placed_C: samples of each class that are kept in any case, ≤ counts_C; None for none.

    Raises:
        UsageError: the minimum and what is placed are more than the budget, or the budget is more
            than the counts.

    Cost: O(C²) at worst, O(C log C) in practice, in exact integers.

    Source: largest remainder: Hamilton 1792. Bounds: the shares that break theirs are fixed, all those
        that ask too much or all those that ask too little, whichever weigh more, and the rest is
        divided anew.
    """
    if rule is not None and rule not in CLASS_RULES:
        raise UsageError(f"unknown class rule '{rule}'", hint=f"Known: {', '.join(CLASS_RULES)}.")
    # Python's integers: a count times a budget passes 2⁶³ for pools that fit on a disk.
    high_C = np.asarray(counts_C).astype(object)
    low_C = np.minimum(high_C, minimum)
    if placed_C is not None:
        low_C = np.maximum(low_C, np.asarray(placed_C).astype(object))
    if sum(low_C) > budget:
        raise UsageError(
            f"the classes need at least {sum(low_C):,} samples, but the budget is {budget:,}",
            hint=f"Each of {np.count_nonzero(high_C):,} classes keeps its best {minimum:,}, or all that it "
            "has. Keep more, or lower the minimum.",
        )
    if rule is None:
        return _counts(low_C)
    if sum(high_C) < budget:
        raise UsageError(f"the budget is {budget:,}, but the classes have {sum(high_C):,} samples")
    weight_C = high_C if rule == "proportional" else np.ones_like(high_C)
    return _counts(_divided(weight_C, low_C, high_C, budget))


def _counts(quota_C: NDArray[np.object_]) -> CountArray:
    return np.array(quota_C.tolist(), dtype=np.int64)


def _divided(
    weight_C: NDArray[np.object_], low_C: NDArray[np.object_], high_C: NDArray[np.object_], budget: int
) -> NDArray[np.object_]:
    """Returns integers that sum to the budget, as near the weights as the bounds allow."""
    quota_C = low_C.copy()
    open_C = np.flatnonzero(low_C < high_C)
    while len(open_C):
        weight, low, high = weight_C[open_C], low_C[open_C], high_C[open_C]
        total = int(weight.sum())
        left = budget - (int(quota_C.sum()) - int(quota_C[open_C].sum()))
        share = weight * left  # of each open class, in units of 1 / total
        above, below = share > high * total, share < low * total
        if not (above.any() or below.any()):
            quota_C[open_C] = _largest_remainder(share, total, left)
            break
        excess = (share - high * total)[above].sum()
        deficit = (low * total - share)[below].sum()
        fixed = np.zeros(len(open_C), dtype=np.bool_)
        if excess >= deficit:
            fixed |= above
        if excess <= deficit:
            fixed |= below
        quota_C[open_C[fixed]] = np.where(above, high, low)[fixed]
        open_C = open_C[~fixed]
    return quota_C


def _largest_remainder(share: NDArray[np.object_], total: int, left: int) -> NDArray[np.object_]:
    quota: NDArray[np.object_] = share // total
    remainder = share % total
    by_remainder = sorted(range(len(share)), key=lambda place: (-remainder[place], place))
    for place in by_remainder[: left - int(quota.sum())]:
        quota[place] += 1
    return quota
