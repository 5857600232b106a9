"""Several scores as one: means, mean ranks, and what cannot be combined."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.errors import ScoreError, UsageError
from curate.selection.combine import combined
from curate.selection.rank import order_keys

A, B = np.array([0.9, 0.1, 0.5, 0.5]), np.array([0.2, 0.3, 0.8, 0.1])


def test_mean_ranks_of_a_worked_example():
    score = combined([A, B], "rank")
    assert (5 - score).tolist() == [2, 3, 1.75, 3.25]
    keys = order_keys(score, tie_N=None, identity_N=np.arange(4, dtype=np.uint64), order="hardest")
    assert np.lexsort(keys[::-1]).tolist() == [2, 0, 1, 3]


def test_the_mean_is_of_the_scores_as_they_are():
    assert combined([A, B], "mean") == pytest.approx([0.55, 0.2, 0.65, 0.3])
    assert combined([A.astype(np.float32)], "mean").dtype == np.float64


@given(st.lists(st.lists(st.integers(-3, 3), min_size=6, max_size=6), min_size=1, max_size=4), st.integers(0, 99))
@settings(max_examples=50, deadline=None)
def test_ranks_ask_for_the_order_of_each_alone(scores, seed):
    scores = [np.array(score, dtype=np.float64) for score in scores]
    stretched = [np.exp((place + 1) * score) for place, score in enumerate(scores)]
    assert combined(scores, "rank").tolist() == combined(stretched, "rank").tolist()
    order = np.random.default_rng(seed).permutation(6)
    moved = combined([score[order] for score in scores], "rank")
    assert moved.tolist() == combined(scores, "rank")[order].tolist()


def test_what_cannot_be_combined_is_refused():
    with pytest.raises(ScoreError, match="0 scores"):
        combined([], "mean")
    with pytest.raises(ScoreError, match=r"2 scores of \[3, 4\] samples"):
        combined([A, B[:3]], "rank")
    for how in ("mean", "rank"):
        with pytest.raises(ScoreError, match="score 1 of sample 2 is inf"):
            combined([A, np.array([0, 1, np.inf, 3])], how)
    with pytest.raises(UsageError, match="Known: mean, rank"):
        combined([A], "median")
