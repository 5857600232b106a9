"""What every row of the table promises, whoever added it."""

import dataclasses
import inspect

import numpy as np
import pytest

from curate.acquisition import ACQUISITIONS, Ensemble, acquisition, ensemble_of
from curate.samples import identities

EVERY_NAME = sorted(ACQUISITIONS)
NAMES = sorted(name for name in ACQUISITIONS if "dynamics" not in ACQUISITIONS[name].needs)  # others: test_dynamics


def ensemble_at(rows, size=64):
    """Returns rows of a pool of doubtful and sure samples under four members."""
    rng = np.random.default_rng(7)
    doubt_B1 = rng.choice([0.05, 1.0, 20.0], size=(size, 1))
    logits_MBC = rng.normal(size=(1, size, 5)) * 4 + rng.normal(size=(4, size, 5)) * doubt_B1
    probs_MBC = np.exp(logits_MBC - logits_MBC.max(axis=2, keepdims=True))
    probs_MBC /= probs_MBC.sum(axis=2, keepdims=True)
    labels_B = rng.integers(0, 5, size)
    identity_B = identities("train-000000.tar", [f"{i:06d}" for i in range(size)])
    return ensemble_of(probs_MBC[:, rows], labels_B[rows], identity_B[rows])


EVERY_ROW = np.arange(64)


@pytest.mark.parametrize("name", NAMES)
def test_scores_are_finite_float64_of_shape_n_and_plus_zero(name):
    score = ACQUISITIONS[name].function(ensemble_at(EVERY_ROW))
    assert score.dtype == np.float64
    assert score.shape == (64,)
    assert np.isfinite(score).all()
    assert not np.signbit(score).any()
    assert len(np.unique(score)) > 1


@pytest.mark.parametrize("name", NAMES)
def test_none_and_one_sample_are_scored(name):
    function = ACQUISITIONS[name].function
    assert function(ensemble_at(EVERY_ROW[:0])).shape == (0,)
    assert function(ensemble_at(EVERY_ROW[:1])).tobytes() == function(ensemble_at(EVERY_ROW))[:1].tobytes()


@pytest.mark.parametrize("name", NAMES)
def test_the_same_input_gives_the_same_bits(name):
    function = ACQUISITIONS[name].function
    assert function(ensemble_at(EVERY_ROW)).tobytes() == function(ensemble_at(EVERY_ROW)).tobytes()


@pytest.mark.parametrize("name", NAMES)
def test_the_input_is_left_as_it_was(name):
    ensemble, untouched = ensemble_at(EVERY_ROW), ensemble_at(EVERY_ROW)
    ACQUISITIONS[name].function(ensemble)
    for field in dataclasses.fields(Ensemble):
        assert np.array_equal(getattr(untouched, field.name), getattr(ensemble, field.name))


@pytest.mark.parametrize("name", NAMES)
def test_permuting_samples_permutes_scores(name):
    function = ACQUISITIONS[name].function
    order = np.random.default_rng(1).permutation(64)
    assert function(ensemble_at(EVERY_ROW))[order].tobytes() == function(ensemble_at(order)).tobytes()


@pytest.mark.parametrize("name", NAMES)
def test_two_halves_equal_the_whole(name):
    function = ACQUISITIONS[name].function
    halves = [function(ensemble_at(half)) for half in (EVERY_ROW[:21], EVERY_ROW[21:])]
    assert function(ensemble_at(EVERY_ROW)).tobytes() == np.concatenate(halves).tobytes()


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"random"}))
def test_the_doubtful_sample_outranks_the_sure_one(name):
    sure = [[0.96, 0.02, 0.02]] * 4
    doubtful = [[0.5, 0.3, 0.2], [0.3, 0.5, 0.2], [0.2, 0.5, 0.3], [0.3, 0.3, 0.4]]
    ensemble = ensemble_of(np.array([sure, doubtful]).transpose(1, 0, 2), np.array([0, 0]))
    score = ACQUISITIONS[name].function(ensemble)
    assert score[1] > score[0]


@pytest.mark.parametrize("name", NAMES)
def test_float32_sums_score_nearly_as_float64_sums(name):
    function = ACQUISITIONS[name].function
    ensemble = ensemble_at(EVERY_ROW)
    rounded = dataclasses.replace(
        ensemble,
        mean_probs_BC=ensemble.mean_probs_BC.astype(np.float32),
        mean_entropy_B=ensemble.mean_entropy_B.astype(np.float32),
    )
    assert function(rounded).dtype == np.float64
    assert function(ensemble) == pytest.approx(function(rounded), abs=1e-5)


@pytest.mark.parametrize("name", EVERY_NAME)
def test_the_documentation_says_what_comes_back_and_who_defined_it(name):
    doc = inspect.getdoc(ACQUISITIONS[name].function)
    assert "Returns:" in doc
    assert "Source:" in doc
    assert "higher is kept first" in " ".join(doc.split())


@pytest.mark.parametrize("name", EVERY_NAME)
def test_the_row_is_complete(name):
    row = acquisition(name)
    assert row is ACQUISITIONS[name]
    assert row.needs
    assert row.needs <= {"identity", "ensemble", "labels"} or row.needs == {"dynamics"}
    assert row.function.__name__ == name
    assert row.tie is None or ACQUISITIONS[row.tie].needs <= row.needs
    assert row.line
    assert row.source
    assert row.unit_range


@pytest.mark.parametrize("name", NAMES)
def test_a_function_asks_for_nothing_that_its_row_does_not_name(name):
    needs = ACQUISITIONS[name].needs
    ensemble = ensemble_at(EVERY_ROW)
    bare = ensemble
    if "labels" not in needs:
        bare = dataclasses.replace(bare, errors_B=None, labels_B=None)
    if "identity" not in needs:
        bare = dataclasses.replace(bare, identity_B=None)
    assert np.array_equal(ACQUISITIONS[name].function(ensemble), ACQUISITIONS[name].function(bare))
