"""Values worked out by hand from the definitions, and what is refused."""

import math

import numpy as np
import pytest

from curate.acquisition import Ensemble, EnsembleSums, acquisition, ensemble_of
from curate.acquisition.baseline import loss, random
from curate.acquisition.disagreement import (
    checkpoint_agreement,
    error_count,
    mutual_information,
    variation_ratio,
)
from curate.acquisition.uncertainty import entropy, least_confidence, margin
from curate.errors import ScoreError, UsageError
from curate.samples import identities

ONE_MEMBER = np.array([[[0.5, 0.3, 0.2], [0.9, 0.05, 0.05], [1 / 3, 1 / 3, 1 / 3], [1.0, 0.0, 0.0], [0.6, 0.4, 0.0]]])
A = [[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.8, 0.1, 0.1], [0.6, 0.3, 0.1]]
B = [[0.4, 0.4, 0.2]] * 4
C = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
FOUR_MEMBERS = np.array([A, B, C]).transpose(1, 0, 2)
LABELS = np.array([0, 1, 1])


def close(expected):
    return pytest.approx(np.array(expected), abs=1e-9)


def test_one_member():
    ensemble = ensemble_of(ONE_MEMBER)
    assert close([1.029653014, 0.394397691, 1.098612289, 0, 0.673011667]) == entropy(ensemble)
    assert close([0.5, 0.1, 0.666666667, 0, 0.4]) == least_confidence(ensemble)
    assert close([0.8, 0.15, 1, 0, 0.8]) == margin(ensemble)


def test_four_members():
    ensemble = ensemble_of(FOUR_MEMBERS, LABELS)
    assert ensemble.members == 4
    assert close([[0.575, 0.325, 0.1], [0.4, 0.4, 0.2], [0.5, 0.5, 0]]) == ensemble.mean_probs_BC
    assert close([0.703760326, 1.054920168, 0]) == ensemble.mean_entropy_B
    assert ensemble.votes_BC.tolist() == [[3, 1, 0], [4, 0, 0], [2, 2, 0]]
    assert ensemble.errors_B.tolist() == [1, 4, 2]
    assert close([0.913732303, 1.054920168, 0.693147181]) == entropy(ensemble)
    assert close([0.209971977, 0, 0.693147181]) == mutual_information(ensemble)
    assert variation_ratio(ensemble).tolist() == [0.25, 0, 0.5]
    assert error_count(ensemble).tolist() == [0.25, 1, 0.5]
    assert close([-math.log(0.575), -math.log(0.4), -math.log(0.5)]) == loss(ensemble)


def test_agreement_of_four_checkpoints():
    """They vote 0, 0, 0; 1, 0, 1; 0, 0, 0; 0, 0, 1."""
    last, pair = checkpoint_agreement(list(FOUR_MEMBERS.argmax(axis=2)))
    assert close([2 / 3, 1 / 3, 1 / 3]) == last  # from the last two to all four
    assert close([2 / 3, 1 / 3, 1 / 3]) == pair  # the last two, then one earlier
    alone, nothing = checkpoint_agreement([np.array([1, 2])])
    assert (len(alone), len(nothing)) == (0, 0)
    for votes in ([], [np.array([], dtype=np.int64)] * 2):
        with pytest.raises(ScoreError, match="is not defined"):
            checkpoint_agreement(votes)


def test_a_one_hot_row_scores_plus_zero_and_ranks_last():
    """The logarithm of zero must make neither NaN nor −0.0, in any precision."""
    probs = np.array([[[1, 0, 0], [0.4, 0.3, 0.3]]], dtype=np.float32)
    for function in (entropy, least_confidence, margin, mutual_information, variation_ratio):
        sure = function(ensemble_of(probs))[0]
        assert sure == 0
        assert not np.signbit(sure)
    labelled = ensemble_of(probs, np.array([0, 0]))
    assert not np.signbit(loss(labelled)[0])
    assert not np.signbit(error_count(labelled)[0])


@pytest.mark.parametrize("function", [entropy, least_confidence, margin, mutual_information, variation_ratio])
def test_a_single_class_leaves_no_doubt(function):
    assert function(ensemble_of(np.ones((3, 2, 1)))).tolist() == [0.0, 0.0]


def test_the_two_most_likely_of_many_classes():
    probs = np.random.default_rng(0).dirichlet(np.ones(1000), size=(1, 50))
    top = np.sort(probs[0], axis=1)
    ensemble = ensemble_of(probs)
    assert (1 - (top[:, -1] - top[:, -2])).tolist() == margin(ensemble).tolist()
    assert (1 - top[:, -1]).tolist() == least_confidence(ensemble).tolist()


def test_a_single_member_shares_no_information_to_the_bit():
    probs = np.random.default_rng(0).dirichlet(np.ones(10), size=(1, 200))
    assert not mutual_information(ensemble_of(probs)).any()


def test_mutual_information_of_copies_is_never_negative():
    probs = np.random.default_rng(0).dirichlet(np.ones(10), size=(1, 500)).repeat(7, axis=0)
    information = mutual_information(ensemble_of(probs))
    assert information.min() >= 0
    assert information.max() < 1e-12


def test_mutual_information_of_float32_sums_stays_in_range():
    """A mean that was rounded can show less entropy than the members have, or more than ln M."""
    ensemble = ensemble_of(FOUR_MEMBERS)
    low = Ensemble(4, ensemble.mean_probs_BC, ensemble.mean_entropy_B + 1e-6, ensemble.votes_BC)
    high = Ensemble(2, ensemble.mean_probs_BC, ensemble.mean_entropy_B - 1, ensemble.votes_BC)
    assert mutual_information(low)[1] == 0
    assert mutual_information(high)[2] == math.log(2)


def test_a_sample_without_a_label_has_no_loss_and_no_errors():
    ensemble = ensemble_of(FOUR_MEMBERS, np.array([0, -1, 1]))
    assert np.isnan(loss(ensemble)).tolist() == [False, True, False]
    assert np.isnan(error_count(ensemble)).tolist() == [False, True, False]
    assert ensemble.errors_B.tolist() == [1, 0, 2]


@pytest.mark.parametrize("function", [loss, error_count, random])
def test_a_function_refuses_an_ensemble_without_what_it_needs(function):
    with pytest.raises(UsageError, match="needs"):
        function(ensemble_of(FOUR_MEMBERS))


def test_the_loss_of_a_label_of_probability_zero_is_finite():
    assert loss(ensemble_of(ONE_MEMBER, np.array([0, 0, 0, 1, 0])))[3] == pytest.approx(149 * math.log(2))


def test_random_depends_on_identity_and_seed_alone():
    identity_B = identities("train-000000.tar", [f"{i:04d}" for i in range(1000)])
    probs = np.full((1, 1000, 2), 0.5)
    score = random(ensemble_of(probs, identity_B=identity_B))
    assert np.array_equal(score[::-1], random(ensemble_of(probs, identity_B=identity_B[::-1])))
    other = random(ensemble_of(probs, identity_B=identity_B), seed=1)
    assert abs(np.corrcoef(score, other)[0, 1]) < 0.1
    assert score.mean() == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ([0.5, np.nan, 0.5], "not finite"),
        ([np.inf, 0, 0], "not finite"),
        ([1.2, -0.2, 0], "negative value, -0.2"),
        ([0.5, 0.3, 0.1], "sums to 0.9"),
        ([0.5, 0.5, 0.1], "sums to 1.1"),
    ],
)
def test_the_first_bad_row_is_named(row, fault):
    probs = np.array([[1, 0, 0], [0.2, 0.3, 0.5], row, row])
    with pytest.raises(ScoreError, match=f"row 2 .*{fault}"):
        EnsembleSums().update(probs)


def test_half_precision_probabilities_are_accepted():
    logits = np.random.default_rng(0).normal(size=(100, 1000))
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert entropy(ensemble_of([probs.astype(np.float16)])) == pytest.approx(entropy(ensemble_of([probs])), abs=0.01)


def test_a_refused_member_leaves_the_sums_as_they_were():
    sums = EnsembleSums()
    sums.update(FOUR_MEMBERS[0])
    with pytest.raises(ScoreError, match="row 0"):
        sums.update(FOUR_MEMBERS[1] * 2)
    with pytest.raises(ScoreError, match="shape"):
        sums.update(FOUR_MEMBERS[1][:2])
    assert np.array_equal(FOUR_MEMBERS[0], sums.finish().mean_probs_BC)


def test_what_is_finished_does_not_change_when_members_are_added():
    sums = EnsembleSums(LABELS)
    sums.update(FOUR_MEMBERS[0])
    early = sums.finish()
    sums.update(FOUR_MEMBERS[1])
    assert early.votes_BC.sum(axis=1).max() == 1
    assert early.errors_B.tolist() == [0, 1, 1]


def test_no_member_is_no_ensemble():
    with pytest.raises(ScoreError, match="0 members"):
        ensemble_of([])
    with pytest.raises(ScoreError, match="C ≥ 1"):
        ensemble_of(np.zeros((1, 3, 0)))


@pytest.mark.parametrize("label", [3, -2])
def test_a_label_that_no_member_knows_is_named(label):
    with pytest.raises(ScoreError, match=f"row 1 has label {label}"):
        ensemble_of(FOUR_MEMBERS, np.array([0, label, 1]))


def test_arrays_that_do_not_fit_together_are_refused():
    with pytest.raises(ScoreError, match="labels_B has shape"):
        ensemble_of(FOUR_MEMBERS, LABELS[:2])
    good = ensemble_of(FOUR_MEMBERS, LABELS)
    with pytest.raises(ScoreError, match="votes_BC has shape"):
        Ensemble(4, good.mean_probs_BC, good.mean_entropy_B, good.votes_BC[:2])
    with pytest.raises(ScoreError, match="come together"):
        Ensemble(4, good.mean_probs_BC, good.mean_entropy_B, good.votes_BC, labels_B=LABELS)
    with pytest.raises(ScoreError, match="predicts nothing"):
        Ensemble(0, good.mean_probs_BC, good.mean_entropy_B, good.votes_BC)


def test_an_unknown_name_is_answered_with_the_closest():
    with pytest.raises(UsageError, match="Did you mean 'entropy'"):
        acquisition("entropie")
