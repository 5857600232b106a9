"""Ranks, correlations, means and counts."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from curate.errors import ScoreError, UsageError
from curate.statistics import (
    average_ranks,
    dominance,
    kendall,
    kolmogorov_smirnov,
    kolmogorov_smirnov_by_chance,
    mean_and_spread,
    pearson,
    spearman,
    top_overlap,
)

FEW_VALUES = st.lists(st.integers(-3, 3), min_size=2, max_size=20)


def test_descending_average_ranks():
    assert average_ranks(-np.array([0.9, 0.1, 0.5, 0.5])).tolist() == [1, 4, 2.5, 2.5]
    assert average_ranks(-np.array([0.2, 0.3, 0.8, 0.1])).tolist() == [3, 2, 1, 4]


@given(FEW_VALUES)
@settings(max_examples=100, deadline=None)
def test_a_rank_is_the_mean_of_the_places_that_equal_values_share(values):
    places = {v: [i for i, w in enumerate(sorted(values), 1) if w == v] for v in values}
    assert [sum(places[v]) / len(places[v]) for v in values] == average_ranks(values).tolist()


def test_minus_zero_ranks_as_zero():
    assert average_ranks([0.0, -0.0, 0.0]).tolist() == [2, 2, 2]


def test_pearson_of_a_worked_example():
    assert pearson([1, 2, 3, 4], [2, 1, 4, 3]) == pytest.approx(0.6)


@given(FEW_VALUES, st.integers(0, 100))
@settings(max_examples=100, deadline=None)
def test_pearson_agrees_with_numpy(values, seed):
    other = np.random.default_rng(seed).normal(size=len(values))
    if len(set(values)) > 1:
        assert pearson(values, other) == pytest.approx(np.corrcoef(values, other)[0, 1], abs=1e-12)


def test_spearman_sees_order_alone():
    values = np.array([0.1, 0.4, 0.2, 0.9])
    assert spearman(values, np.exp(10 * values)) == 1
    assert spearman(values, -(values**3)) == -1


def test_spearman_with_ties():
    # Ranks 1, 2.5, 2.5, 4 and 1.5, 1.5, 3.5, 3.5; 1 − 6 ∑d² / (n³ − n) would give 0.75.
    assert spearman([1, 2, 2, 3], [1, 1, 2, 2]) == pytest.approx(3 / math.sqrt(4.5 * 4))


@pytest.mark.parametrize("correlation", [pearson, spearman, kendall])
def test_a_correlation_that_is_not_defined_is_nan(correlation):
    assert math.isnan(correlation([0.1, 0.1, 0.1], [1, 2, 3]))
    assert math.isnan(correlation([1, 2, 3], [5, 5, 5]))
    assert math.isnan(correlation([1], [2]))
    assert math.isnan(correlation([], []))


def test_large_values_do_not_overflow():
    assert pearson([1e200, 2e200, 3e200], [1, 2, 3]) == pytest.approx(1)


@pytest.mark.parametrize("correlation", [pearson, spearman, kendall])
def test_what_cannot_be_correlated_is_refused(correlation):
    with pytest.raises(ScoreError, match="3 values with 2"):
        correlation([1, 2, 3], [1, 2])
    with pytest.raises(ScoreError, match="value 1 is NaN"):
        correlation([1, np.nan], [1, 2])
    with pytest.raises(ScoreError, match="shape"):
        correlation([[1, 2]], [[1, 2]])


def test_infinity_has_a_rank_but_no_covariance():
    assert spearman([1, 2, np.inf], [1, 2, 3]) == pytest.approx(1)
    with pytest.raises(ScoreError, match="not finite"):
        pearson([1, 2, np.inf], [1, 2, 3])


def test_the_spread_of_one_run_is_unknown():
    assert mean_and_spread([93.5]) == (93.5, None)
    mean, spread = mean_and_spread([92.0, 93.0, 94.0])
    assert (mean, spread) == (93.0, 1.0)
    with pytest.raises(ScoreError, match="0 values"):
        mean_and_spread([])


def test_kendall_of_worked_examples():
    """P − Q is 4 − 2 of 6 pairs; as scipy.stats.kendalltau gives it; 10 of 21, of which 4 and 2 are tied."""
    assert kendall([1, 2, 3, 4], [2, 1, 4, 3]) == pytest.approx(1 / 3)
    assert kendall([12, 2, 1, 12, 2], [1, 4, 7, 1, 0]) == pytest.approx(-0.47140452079103173)
    assert kendall([1, 2, 2, 3, 5, 5, 5], [3, 1, 2, 2, 8, 7, 8]) == pytest.approx(10 / math.sqrt(17 * 19))
    assert kendall([3, 1, 2], [-3, -1, -2]) == -1


@given(FEW_VALUES, st.integers(0, 100))
@settings(max_examples=200, deadline=None)
def test_kendall_agrees_with_its_definition(values, seed):
    other = np.random.default_rng(seed).integers(0, 5, len(values))
    sign_a, sign_b = (np.sign(np.subtract.outer(v, v))[np.triu_indices(len(v), 1)] for v in (np.array(values), other))
    if sign_a.any() and sign_b.any():
        expected = (sign_a * sign_b).sum() / math.sqrt((sign_a**2).sum() * (sign_b**2).sum())
        assert kendall(values, other) == pytest.approx(expected, abs=1e-12)
    else:
        assert math.isnan(kendall(values, other))


def test_correlations_agree_with_scipy_on_many_ties():
    stats = pytest.importorskip("scipy.stats")
    a, b = np.random.default_rng(0).integers(0, 40, (2, 5000))
    b = a + b
    assert kendall(a, b) == pytest.approx(stats.kendalltau(a, b).statistic, abs=1e-12)
    assert spearman(a, b) == pytest.approx(stats.spearmanr(a, b).statistic, abs=1e-12)
    assert pearson(a, b) == pytest.approx(stats.pearsonr(a, b).statistic, abs=1e-12)


def test_the_overlap_of_the_highest():
    identity = np.arange(5, dtype=np.uint64)
    a, b = [9, 8, 7, 1, 0], [8, 0, 9, 1, 7]
    assert [top_overlap(a, b, count, identity) for count in (1, 2, 3, 5)] == [0, 0.5, pytest.approx(2 / 3), 1]


def test_ties_for_the_highest_go_to_the_identity_and_not_to_the_place():
    tied, other = np.zeros(4), np.array([0.0, 0, 1, 1])
    assert top_overlap(tied, other, 2, np.array([7, 8, 1, 2], np.uint64)) == 1
    assert top_overlap(tied, other, 2, np.array([1, 2, 7, 8], np.uint64)) == 0


def test_what_has_no_overlap_is_refused():
    identity = np.arange(2, dtype=np.uint64)
    for count in (0, 3):
        with pytest.raises(UsageError):
            top_overlap([1, 2], [1, 2], count, identity)
    with pytest.raises(ScoreError, match="2 values with 1"):
        top_overlap([1, 2], [1], 1, identity)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=30), st.lists(st.integers(0, 9), min_size=1, max_size=30))
@settings(max_examples=60, deadline=None)
def test_distances_of_distributions_are_as_defined(a, b):
    below = [np.mean(np.array(a) <= x) - np.mean(np.array(b) <= x) for x in range(10)]
    assert kolmogorov_smirnov(a, b) == pytest.approx(np.abs(below).max())
    pairs = np.sign(np.subtract.outer(a, b))
    assert dominance(a, b) == pytest.approx(pairs.mean())


def test_chance_is_the_asymptotic_critical_value():
    assert kolmogorov_smirnov_by_chance(50_000, 80_000) == pytest.approx(
        stats.kstwobign.isf(0.05) * (130_000 / 4e9) ** 0.5, rel=1e-3
    )


def test_nothing_has_no_distribution():
    with pytest.raises(ScoreError, match="0 values"):
        kolmogorov_smirnov([], [1.0])


def test_the_overlap_is_that_of_what_would_be_kept_ties_broken_as_there():
    identity = np.arange(4, dtype=np.uint64)
    tied = np.zeros(4)
    ties = (np.array([4.0, 3, 2, 1]), np.array([1.0, 2, 3, 4]))
    assert top_overlap(tied, tied, 2, identity) == 1
    assert top_overlap(tied, tied, 2, identity, ties=ties) == 0
    assert top_overlap(tied, tied, 2, identity, ties=(ties[0], ties[0])) == 1
