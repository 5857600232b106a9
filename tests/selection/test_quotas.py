"""How a budget is divided among classes."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.errors import UsageError
from curate.selection.quotas import quotas


@pytest.mark.parametrize(
    ("counts", "budget", "rule", "minimum", "expected"),
    [
        ([10, 10, 10], 9, "equal", 0, [3, 3, 3]),
        ([10, 10, 10], 10, "equal", 0, [4, 3, 3]),  # equal remainders: the lowest class id
        ([10, 1, 10], 9, "equal", 0, [4, 1, 4]),  # what one class cannot take goes to the others
        ([10, 0, 10], 5, "equal", 0, [3, 0, 2]),
        ([1, 2, 50], 30, "equal", 0, [1, 2, 27]),
        ([50, 30, 20], 10, "proportional", 0, [5, 3, 2]),
        ([55, 30, 15], 10, "proportional", 0, [6, 3, 1]),  # 5.5, 3, 1.5: the lower id
        ([53, 29, 18], 10, "proportional", 0, [5, 3, 2]),  # 5.3, 2.9, 1.8
        ([97, 2, 1], 10, "proportional", 1, [8, 1, 1]),
        ([10, 1, 0], 3, None, 2, [2, 1, 0]),
        ([5, 5], 0, "equal", 0, [0, 0]),
        ([], 0, "proportional", 0, []),
        ([3 * 10**9, 10**9], 2 * 10**9, "proportional", 0, [1_500_000_000, 500_000_000]),
    ],
)
def test_quotas(counts, budget, rule, minimum, expected):
    assert expected == quotas(np.array(counts, dtype=np.int64), budget, rule, minimum).tolist()


@given(st.lists(st.integers(0, 30), min_size=1, max_size=8), st.floats(0, 1), st.integers(0, 4))
@settings(max_examples=200, deadline=None)
def test_equal_quotas_level_the_classes(counts, part, minimum):
    counts_C = np.array(counts)
    low_C = np.minimum(counts_C, minimum)
    budget = int(low_C.sum() + part * (counts_C - low_C).sum())
    quota_C = quotas(counts_C, budget, "equal", minimum)
    assert quota_C.sum() == budget
    assert (low_C <= quota_C).all()
    assert (quota_C <= counts_C).all()
    # No class that has more to give lies two below one that need not keep so many.
    can_rise, can_fall = quota_C < counts_C, quota_C > low_C
    if can_rise.any() and can_fall.any():
        assert quota_C[can_rise].min() >= quota_C[can_fall].max() - 1


@given(st.lists(st.integers(0, 30), min_size=1, max_size=8), st.floats(0, 1))
@settings(max_examples=200, deadline=None)
def test_proportional_quotas_are_those_of_largest_remainder(counts, part):
    budget = int(part * sum(counts))
    total = max(sum(counts), 1)
    exact = [Fraction(count * budget, total) for count in counts]
    expected = [int(share) for share in exact]
    by_remainder = sorted(range(len(counts)), key=lambda c: (expected[c] - exact[c], c))
    for c in by_remainder[: budget - sum(expected)]:
        expected[c] += 1
    assert expected == quotas(np.array(counts), budget, "proportional").tolist()


@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), st.floats(0, 1), st.integers(0, 12))
@settings(max_examples=200, deadline=None)
def test_bounded_proportional_quotas_follow_one_level(counts, part, minimum):
    """There is a level t with every quota within one of t · count, cut off at the bounds."""
    counts_C = np.array(counts)
    low_C = np.minimum(counts_C, minimum)
    budget = int(low_C.sum() + part * (counts_C - low_C).sum())
    quota_C = quotas(counts_C, budget, "proportional", minimum)
    assert quota_C.sum() == budget
    assert (low_C <= quota_C).all()
    assert (quota_C <= counts_C).all()
    reach = [(Fraction(q - 1, n), Fraction(q + 1, n)) for q, n in zip(quota_C.tolist(), counts, strict=True)]
    at_least = max((below for c, (below, _) in enumerate(reach) if quota_C[c] > low_C[c]), default=0)
    at_most = min((above for c, (_, above) in enumerate(reach) if quota_C[c] < counts_C[c]), default=1)
    assert at_least <= at_most


def test_quotas_refuse_what_cannot_be():
    with pytest.raises(UsageError, match="need at least 4 samples, but the budget is 3"):
        quotas(np.array([5, 5]), 3, "equal", 2)
    with pytest.raises(UsageError, match="the budget is 11, but the classes have 10"):
        quotas(np.array([5, 5]), 11, "equal")
    with pytest.raises(UsageError, match="unknown class rule 'fair'"):
        quotas(np.array([5, 5]), 3, "fair")


def test_what_is_placed_is_settled_before_small_classes_are_filled():
    """A third each is 4: too little for the first by 5, too much for the second by 1."""
    counts, placed = np.array([10, 3, 10]), np.array([9, 0, 0])
    assert quotas(counts, 12, "equal", placed_C=placed).tolist() == [9, 2, 1]


def test_what_a_small_class_leaves_is_shared_before_what_is_placed_is_settled():
    """A third each is 6: too much for the first by 5, too little for the second by 1."""
    counts, placed = np.array([1, 20, 20]), np.array([0, 7, 0])
    assert quotas(counts, 18, "equal", placed_C=placed).tolist() == [1, 9, 8]
