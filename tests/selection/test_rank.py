"""The total order: score, then tie, then identity, and never position."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.errors import ScoreError, UsageError
from curate.selection.rank import order_keys, rank_of, ranks_of, take_first


def identity(*values):
    return np.array(values, dtype=np.uint64)


def oracle(score, tie, identity_N, count, order, eligible):
    """Sorts tuples of Python numbers, as the definition reads."""
    sign = -1 if order == "hardest" else 1
    rows = [i for i in range(len(score)) if eligible[i]]
    rows.sort(key=lambda i: (sign * score[i], sign * tie[i], int(identity_N[i])))
    return sorted(rows[:count])


@st.composite
def pools(draw):
    """Draws few distinct scores, so that ties are the normal case."""
    size = draw(st.integers(1, 40))
    floats = st.sampled_from([-1.5, -0.0, 0.0, 0.25, 0.5, 3e8])
    score = draw(st.lists(floats, min_size=size, max_size=size))
    tie = draw(st.lists(floats, min_size=size, max_size=size))
    hashes = draw(st.lists(st.integers(0, 2**64 - 1), min_size=size, max_size=size, unique=True))
    eligible = np.array(draw(st.lists(st.booleans(), min_size=size, max_size=size)), dtype=bool)
    count = draw(st.integers(0, int(eligible.sum())))
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    return np.array(score, dtype), np.array(tie, dtype), identity(*hashes), count, eligible


@given(pools(), st.sampled_from(["hardest", "easiest"]))
@settings(max_examples=200, deadline=None)
def test_the_first_of_the_order(pool, order):
    score, tie, identity_N, count, eligible = pool
    first = take_first(score, tie_N=tie, identity_N=identity_N, count=count, order=order, eligible_N=eligible)
    assert oracle(score, tie, identity_N, count, order, eligible) == np.flatnonzero(first).tolist()


@given(pools(), st.sampled_from(["hardest", "easiest"]), st.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None)
def test_permuting_the_input_permutes_the_mask(pool, order, random):
    score, tie, identity_N, count, eligible = pool
    place = np.array(random.sample(range(len(score)), len(score)))
    first = take_first(score, tie_N=tie, identity_N=identity_N, count=count, order=order, eligible_N=eligible)
    moved = take_first(
        score[place],
        tie_N=tie[place],
        identity_N=identity_N[place],
        count=count,
        order=order,
        eligible_N=eligible[place],
    )
    assert np.array_equal(first[place], moved)


@given(pools(), st.sampled_from(["hardest", "easiest"]))
@settings(max_examples=100, deadline=None)
def test_the_keys_sorted_in_full_begin_with_the_first(pool, order):
    score, tie, identity_N, count, _ = pool
    keys = order_keys(score, tie_N=tie, identity_N=identity_N, order=order)
    assert not any(np.signbit(key[key == 0]).any() for key in keys)
    first = take_first(score, tie_N=tie, identity_N=identity_N, count=count, order=order)
    assert set(np.lexsort(keys[::-1])[:count].tolist()) == set(np.flatnonzero(first).tolist())


@given(pools(), st.sampled_from(["hardest", "easiest"]))
@settings(max_examples=50, deadline=None)
def test_a_larger_count_keeps_what_a_smaller_one_kept(pool, order):
    score, tie, identity_N, count, _ = pool
    fewer = take_first(score, tie_N=tie, identity_N=identity_N, count=count // 2, order=order)
    more = take_first(score, tie_N=tie, identity_N=identity_N, count=count, order=order)
    assert not (fewer & ~more).any()


def test_hardest_takes_the_highest_and_easiest_the_lowest():
    score = np.array([0.1, 0.9, 0.5])
    assert np.flatnonzero(take_first(score, identity_N=identity(1, 2, 3), count=1)).tolist() == [1]
    easiest = take_first(score, identity_N=identity(1, 2, 3), count=1, order="easiest")
    assert np.flatnonzero(easiest).tolist() == [0]


def test_equal_scores_fall_to_the_tie_and_then_to_the_identity():
    score, tie = np.zeros(4), np.array([0.1, 0.7, 0.7, 0.2])
    assert np.flatnonzero(take_first(score, tie_N=tie, identity_N=identity(0, 9, 8, 1), count=1)).tolist() == [2]
    assert np.flatnonzero(take_first(score, identity_N=identity(0, 9, 8, 1), count=1)).tolist() == [0]


@pytest.mark.parametrize("order", ["hardest", "easiest"])
def test_minus_zero_is_zero(order):
    score = np.array([0.0, -0.0, 0.0, -0.0])
    first = take_first(score, identity_N=identity(4, 3, 2, 1), count=2, order=order)
    assert np.flatnonzero(first).tolist() == [2, 3]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_the_first_score_that_is_not_finite_is_named(bad):
    score = np.array([0.1, 0.2, bad, bad])
    with pytest.raises(ScoreError, match=r"the score of sample 2 is .*; 2 are not finite"):
        take_first(score, identity_N=identity(1, 2, 3, 4), count=1)
    with pytest.raises(ScoreError, match="the tie score of sample 2 is"):
        take_first(np.zeros(4), tie_N=score, identity_N=identity(1, 2, 3, 4), count=1)


def test_a_sample_that_cannot_be_taken_may_have_any_score():
    score = np.array([np.nan, 0.2, 0.3])
    eligible = np.array([False, True, True])
    first = take_first(score, identity_N=identity(1, 2, 3), count=1, eligible_N=eligible)
    assert np.flatnonzero(first).tolist() == [2]


@pytest.mark.parametrize("count", [-1, 4])
def test_more_than_there_is_cannot_be_taken(count):
    with pytest.raises(UsageError, match="out of 3"):
        take_first(np.zeros(3), identity_N=identity(1, 2, 3), count=count)


def test_arrays_that_do_not_fit_are_refused():
    with pytest.raises(ScoreError, match="identity has shape"):
        take_first(np.zeros(3), identity_N=identity(1, 2), count=1)
    with pytest.raises(ScoreError, match="tie has shape"):
        take_first(np.zeros(3), tie_N=np.zeros(2), identity_N=identity(1, 2, 3), count=1)
    with pytest.raises(ScoreError, match="expected floating point"):
        take_first(np.zeros(3, np.uint8), identity_N=identity(1, 2, 3), count=1)
    with pytest.raises(UsageError, match="unknown order 'descending'"):
        take_first(np.zeros(3), identity_N=identity(1, 2, 3), count=1, order="descending")


def test_an_empty_pool_has_an_empty_order():
    assert take_first(np.zeros(0), identity_N=identity(), count=0).shape == (0,)


@given(
    st.lists(st.tuples(st.sampled_from([0.0, 0.5, 1.0, float("nan")]), st.integers(0, 2)), min_size=1, max_size=30),
    st.sampled_from(["hardest", "easiest"]),
)
@settings(max_examples=100, deadline=None)
def test_ranks_of_several_samples_are_those_of_each(samples, order):
    score_N, tie_N = (np.array(column, dtype=np.float64) for column in zip(*samples, strict=True))
    identity_N = np.random.default_rng(len(samples)).permutation(len(samples)).astype(np.uint64)
    rows = np.flatnonzero(~np.isnan(score_N))[::-1]
    for tie in (tie_N, None):
        keys = order_keys(score_N, tie_N=tie, identity_N=identity_N, order=order)
        assert ranks_of(rows, keys).tolist() == [rank_of(int(row), keys) for row in rows]
