"""Training dynamics: values worked out by hand, what the order must not change, and what is refused."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.acquisition import ACQUISITIONS
from curate.acquisition.columns import dynamics_columns
from curate.acquisition.difficulty import (
    aum,
    confidence,
    correctness,
    el2n,
    first_learned,
    forgetting,
    grand,
    mean_loss,
    never_learned,
    never_learned_last,
    over_seeds,
    variability,
)
from curate.acquisition.dynamics import BYTES_A_ROW, STATE, Dynamics, Presentation
from curate.errors import ScoreError

CORRECT = np.array(
    [list(row) for row in ("0110101", "1111111", "0000000", "0011111", "1010101", "0000001")], dtype=np.int64
)
A, B, C, D, E, F = range(6)
SCORES = sorted(name for name, row in ACQUISITIONS.items() if "dynamics" in row.needs)


def shown(correct_K, *, probability=0.5, margin=0.0, loss=1.0, el2n=0.5, grand=0.5):
    """Returns a presentation of K samples; what is not given is the same for all."""
    rest = [np.broadcast_to(np.float32(value), len(correct_K)) for value in (probability, margin, loss, el2n, grand)]
    return Presentation(np.asarray(correct_K, dtype=np.bool_), *rest)


def trained(correct_NE, **options):
    dynamics = Dynamics(len(correct_NE), **options)
    for correct_N in correct_NE.T:
        dynamics.add_epoch(np.arange(len(correct_N)), shown(correct_N))
    return dynamics


def random_run(seed, *, size=12, epochs=5, order=None):
    """Returns the presentations of some epochs; about a third of the samples are left out of each."""
    rng = np.random.default_rng(seed)
    run = []
    for _ in range(epochs):
        rows_K = np.flatnonzero(rng.random(size) < 0.7)
        values = [rng.normal(size=len(rows_K)).astype(np.float32) ** 2 for _ in range(5)]
        place_K = np.arange(len(rows_K))
        if order is not None:
            np.random.default_rng(order).shuffle(place_K)
        correct_K = rng.random(len(rows_K)) < 0.5
        run.append((rows_K[place_K], Presentation(correct_K[place_K], *(value[place_K] for value in values))))
    return run


def after(run, *, size=12, early_epochs=3):
    dynamics = Dynamics(size, early_epochs=early_epochs)
    for rows_K, presentation in run:
        dynamics.add_epoch(rows_K, presentation)
    return dynamics


def bits(dynamics):
    return {name: array.tobytes() for name, array in dynamics.state().items()}


def test_forgetting_events_of_worked_examples():
    dynamics = trained(CORRECT)
    assert dynamics.rows["forgetting_events"].tolist() == [2, 0, 0, 0, 3, 0]
    assert never_learned(dynamics).tolist() == [0, 0, 1, 0, 0, 0]
    assert np.array_equal(first_learned(dynamics), [1, 0, np.nan, 2, 0, 6], equal_nan=True)
    assert forgetting(dynamics).tolist() == [2, 0, 7, 0, 3, 0]
    assert correctness(dynamics).tolist() == pytest.approx([3 / 7, 0, 1, 2 / 7, 3 / 7, 6 / 7])


def test_what_was_never_learned_goes_first_or_last():
    dynamics = trained(CORRECT)
    first = forgetting(dynamics)
    last = never_learned_last(first, never_learned(dynamics), dynamics.epochs)
    assert (first.argmax(), last.argmin()) == (C, C)
    assert np.delete(first, C).tolist() == np.delete(last, C).tolist()


def test_over_two_seeds_forgetting_is_summed_and_the_others_are_averaged():
    one, two = trained(CORRECT), trained(CORRECT[[A, C, C, B, A, F]])
    seeds = [one, two]
    assert over_seeds(forgetting, seeds).tolist() == [4, 7, 14, 0, 5, 0]
    never = over_seeds(never_learned, seeds)
    assert never.tolist() == [0, 1, 2, 0, 0, 0]
    assert never_learned_last(over_seeds(forgetting, seeds), never, 7).tolist() == [4, -7, -14, 0, 5, 0]
    assert np.array_equal(over_seeds(first_learned, seeds), [1, 0, np.nan, 1, 0.5, 6], equal_nan=True)
    assert over_seeds(correctness, seeds) == pytest.approx(np.array([3, 3.5, 7, 1, 3, 6]) / 7)


def test_no_sample_is_forgotten_as_often_as_never_learned_counts():
    worst = trained(np.tile([[1, 0]], (1, 10)))
    assert forgetting(worst)[0] == 10
    assert worst.epochs == 20


def test_data_map_and_area_under_the_margin_of_worked_examples():
    dynamics = Dynamics(1)
    for probability in (0.2, 0.6, 0.8, 0.9):
        dynamics.add_epoch(np.array([0]), shown([1], probability=probability))
    assert confidence(dynamics)[0] == pytest.approx(1 - 0.625, abs=1e-7)
    assert variability(dynamics)[0] == pytest.approx(0.268095133, abs=1e-7)
    dynamics = Dynamics(1)
    for margin, loss in ((1, 0.5), (-2, 1.0), (2, 0.0)):
        dynamics.add_epoch(np.array([0]), shown([1], margin=margin, loss=loss))
    assert aum(dynamics)[0] == pytest.approx(-1 / 3)
    assert mean_loss(dynamics)[0] == pytest.approx(0.5)


def test_el2n_and_grand_look_at_the_early_epochs_alone():
    for early_epochs, expected in ((2, 1.5), (0, 2.0), (9, 2.0)):
        dynamics = Dynamics(1, early_epochs=early_epochs)
        for value in (1, 2, 3):
            dynamics.add_epoch(np.array([0]), shown([1], el2n=value, grand=10 * value))
        assert (el2n(dynamics)[0], grand(dynamics)[0]) == (expected, 10 * expected)


def test_a_sample_that_was_never_presented_has_no_score():
    dynamics = Dynamics(3)
    dynamics.add_epoch(np.array([2, 0]), shown([1, 0]))
    for name, values in dynamics_columns([dynamics]).items():
        assert np.isnan(values).tolist() == [name == "first_learned", True, False], name


def test_grand_is_not_known_where_the_features_are_not():
    dynamics = Dynamics(2)
    dynamics.add_epoch(np.array([0, 1]), shown([1, 1], grand=np.nan))
    assert np.isnan(grand(dynamics)).all()
    assert el2n(dynamics).tolist() == [0.5, 0.5]


def test_the_spread_of_close_probabilities_keeps_its_digits():
    probability_E = 1 - np.random.default_rng(0).random(200) * 1e-4
    dynamics = Dynamics(1)
    for value in probability_E:
        dynamics.add_epoch(np.array([0]), shown([1], probability=value))
    assert variability(dynamics)[0] == pytest.approx(probability_E.astype(np.float32).std(dtype=np.float64), rel=1e-9)
    dynamics = Dynamics(1)
    for _ in range(50):
        dynamics.add_epoch(np.array([0]), shown([1], probability=0.1))
    assert variability(dynamics)[0] == 0


@given(st.integers(0, 10_000), st.integers(0, 10_000))
@settings(max_examples=50, deadline=None)
def test_the_order_within_an_epoch_changes_no_bit(seed, order):
    assert bits(after(random_run(seed))) == bits(after(random_run(seed, order=order)))


@given(st.integers(0, 10_000), st.integers(0, 12))
@settings(max_examples=50, deadline=None)
def test_shards_of_a_pool_end_as_the_whole_pool_does(seed, cut):
    run = random_run(seed)
    whole = after(run)
    for first, last in ((0, cut), (cut, 12)):
        part = Dynamics(last - first, early_epochs=3)
        for rows_K, presentation in run:
            mine_K = (rows_K >= first) & (rows_K < last)
            part.add_epoch(
                rows_K[mine_K] - first, Presentation(*(value_K[mine_K] for value_K in vars(presentation).values()))
            )
        assert bits(part) == bits(whole.of_rows(first, last))


@given(st.integers(0, 10_000), st.integers(0, 5))
@settings(max_examples=50, deadline=None)
def test_what_is_resumed_from_a_state_ends_with_the_same_bits(seed, killed):
    run = random_run(seed)
    before = after(run[:killed])
    resumed = Dynamics(12)
    resumed.restore({name: array.copy() for name, array in before.state().items()})
    for rows_K, presentation in run[killed:]:
        resumed.add_epoch(rows_K, presentation)
    assert bits(resumed) == bits(after(run))


@given(st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_the_counts_are_those_of_the_presentations_told_one_by_one(seed):
    run = random_run(seed)
    dynamics = after(run)
    for row in range(12):
        seen = [bool(p.correct_K[rows_K == row][0]) for rows_K, p in run if (rows_K == row).any()]
        assert dynamics.rows["presentations"][row] == len(seen)
        assert dynamics.rows["correct"][row] == sum(seen)
        assert dynamics.rows["forgetting_events"][row] == sum(a and not b for a, b in pairwise(seen))


@given(st.lists(st.integers(0, 10_000), min_size=1, max_size=4))
@settings(max_examples=25, deadline=None)
def test_the_order_of_the_seeds_changes_no_more_than_last_bits(numbers):
    seeds = [after(random_run(number)) for number in numbers]
    forward, backward = dynamics_columns(seeds), dynamics_columns(seeds[::-1])
    for name in forward:
        assert forward[name] == pytest.approx(backward[name], rel=1e-12, abs=1e-12, nan_ok=True), name
    for name in ("forgetting", "never_learned"):
        assert np.array_equal(forward[name], sum(dynamics_columns([seed])[name] for seed in seeds), equal_nan=True)


def test_a_restored_state_is_a_copy():
    dynamics, other = trained(CORRECT), Dynamics(6)
    other.restore(dynamics.state())
    dynamics.add_epoch(np.arange(6), shown(CORRECT[:, 0]))
    assert other.rows["presentations"].tolist() == [7] * 6
    assert other.epochs == 7


def test_the_state_of_a_row_is_small():
    assert BYTES_A_ROW == sum(array.nbytes for name, array in Dynamics(1).state().items() if name != "clock") == 69


@pytest.mark.parametrize("name", SCORES)
def test_the_sample_that_was_hard_to_learn_outranks_the_easy_one(name):
    dynamics = Dynamics(2)
    rows_K = np.arange(2)
    for hard, easy in ((0.1, 0.8), (0.9, 0.85), (0.2, 0.9)):
        p_K = np.array([hard, easy], dtype=np.float32)
        dynamics.add_epoch(rows_K, Presentation(p_K > 0.5, p_K, 2 * p_K - 1, -np.log(p_K), 1 - p_K, 2 * (1 - p_K)))
    score_N = ACQUISITIONS[name].function(dynamics)
    assert score_N[0] > score_N[1]


@pytest.mark.parametrize("name", SCORES)
def test_scores_are_float64_and_leave_the_state_as_it_was(name):
    dynamics = after(random_run(3))
    before = bits(dynamics)
    score_N = ACQUISITIONS[name].function(dynamics)
    assert (score_N.dtype, score_N.shape) == (np.float64, (12,))
    assert not np.signbit(score_N[score_N == 0]).any()
    assert bits(dynamics) == before
    assert ACQUISITIONS[name].function(Dynamics(0)).shape == (0,)


@pytest.mark.parametrize(
    ("rows_K", "presentation", "said"),
    [
        ([0, 3], shown([1, 1]), "rows from 0 to 3 are not rows of 3 samples"),
        ([-1, 1], shown([1, 1]), "rows from -1 to 1"),
        ([2, 2], shown([1, 1]), "row 2 was presented 2 times in one epoch"),
        ([0, 1, 2], shown([1, 1]), "correct_K has shape"),
        ([[0, 1]], shown([1, 1]), "but the rows have shape"),
        ([2, 0], shown([1, 1], loss=np.nan), "loss_K of row 2 is not finite"),
        ([2, 0], shown([1, 1], margin=np.inf), "margin_K of row 2 is not finite"),
    ],
)
def test_what_cannot_be_added_is_refused_and_nothing_is_added(rows_K, presentation, said):
    dynamics = trained(CORRECT[:3])
    before = bits(dynamics)
    with pytest.raises(ScoreError, match=said):
        dynamics.add_epoch(np.array(rows_K), presentation)
    assert bits(dynamics) == before


@pytest.mark.parametrize(
    "spoil",
    [
        lambda state: state.pop("clock"),
        lambda state: state.pop("grand_sum"),
        lambda state: state.update(correct=state["correct"].astype(np.int64)),
        lambda state: state.update({name: state[name][:-1] for name in STATE}),
    ],
)
def test_a_damaged_state_is_refused(spoil):
    state = trained(CORRECT).state()
    spoil(state)
    with pytest.raises(ScoreError, match="no array"):
        Dynamics(6).restore(state)


def test_seeds_that_do_not_fit_together_are_refused():
    with pytest.raises(ScoreError, match="0 seeds"):
        dynamics_columns([])
    with pytest.raises(ScoreError, match="2 seeds over"):
        dynamics_columns([Dynamics(2), Dynamics(3)])
