"""What the members of an ensemble said about a batch, as running sums.

An acquisition function needs the mean prediction, the mean entropy, the votes and the errors; it
never needs the M × B × C probabilities themselves. `EnsembleSums` takes one member after the other
and keeps B × C numbers whatever M is; it is the reference that faster accumulations are tested
against. Nothing here knows which model made the probabilities.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.errors import ScoreError
from curate.samples import IdentityArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.integer[Any]]
RealArray = NDArray[np.floating[Any]]

UNLABELLED = -1
SUM_TOLERANCE = 1e-3  # a row of half-precision probabilities is off by up to a few 1e-4


@dataclass(frozen=True, eq=False)
class Ensemble:
    """The running sums of M members over a batch of B samples and C classes.

    Attributes:
        members: M, at least 1.
        mean_probs_BC: mean of the members' class probabilities, float32 or float64.
        mean_entropy_B: mean of the members' entropies, in nats.
        votes_BC: how many members put each class first; each row sums to M. A member that puts
            several classes first votes for the lowest.
        errors_B: how many members do not vote for the label; 0 where a sample has none. None without
            labels.
        labels_B: class ids, −1 where a sample has no label. None without labels.
        identity_B: identity hashes. None where nothing asks for them.
    """

    members: int
    mean_probs_BC: RealArray
    mean_entropy_B: RealArray
    votes_BC: IntArray
    errors_B: IntArray | None = None
    labels_B: IntArray | None = None
    identity_B: IdentityArray | None = None

    def __post_init__(self) -> None:
        if self.members < 1:
            raise ScoreError(f"an ensemble of {self.members} members predicts nothing")
        if self.mean_probs_BC.ndim != 2 or self.mean_probs_BC.shape[1] == 0:
            raise ScoreError(f"mean_probs_BC has shape {self.mean_probs_BC.shape}, expected (B, C) with C ≥ 1")
        size, classes = self.mean_probs_BC.shape
        _check_shape("votes_BC", self.votes_BC, (size, classes))
        for name in ("mean_entropy_B", "errors_B", "labels_B", "identity_B"):
            _check_shape(name, getattr(self, name), (size,))
        if (self.errors_B is None) != (self.labels_B is None):
            raise ScoreError("errors_B and labels_B come together or not at all")
        if self.labels_B is not None:
            check_labels(self.labels_B, classes)


class EnsembleSums:
    """Sums up an ensemble, one member at a time.

    Args:
        labels_B: class ids, −1 where a sample has no label; None without labels.
        identity_B: identity hashes, handed through.

    Cost: O(BC) time for each member, O(BC) memory for any number of them; all sums are float64.
    """

    def __init__(self, labels_B: IntArray | None = None, identity_B: IdentityArray | None = None) -> None:
        self._labels_B = labels_B
        self._identity_B = identity_B
        self._members = 0
        self._probs_BC: FloatArray = np.zeros((0, 0))
        self._entropy_B: FloatArray = np.zeros(0)
        self._votes_BC: NDArray[np.int32] = np.zeros((0, 0), np.int32)
        self._errors_B: NDArray[np.int32] = np.zeros(0, np.int32)

    def update(self, probs_BC: RealArray) -> None:
        """Adds one member's class probabilities, shape (B, C), rows that sum to 1 within 1e-3.

        Raises:
            ScoreError: a probability is negative or not finite, a row does not sum to 1, or a label
                is not one of the C classes; the first such row is named. Or the shape is not that of
                the members before.
        """
        probs_BC = np.ascontiguousarray(probs_BC, dtype=np.float64)
        check_probs(probs_BC)
        if self._members == 0:
            self._start(probs_BC.shape)
        _check_shape("probs_BC", probs_BC, self._probs_BC.shape)
        vote_B = probs_BC.argmax(axis=1)
        self._probs_BC += probs_BC
        self._entropy_B += row_entropy(probs_BC)
        self._votes_BC[np.arange(len(vote_B)), vote_B] += 1
        if self._labels_B is not None:
            self._errors_B += (vote_B != self._labels_B) & (self._labels_B != UNLABELLED)
        self._members += 1

    def finish(self) -> Ensemble:
        """Returns the ensemble of the members so far; there must be one.

        Raises:
            ScoreError: no member was added.
        """
        if self._members == 0:
            raise ScoreError("an ensemble of 0 members predicts nothing")
        return Ensemble(
            members=self._members,
            mean_probs_BC=self._probs_BC / self._members,
            mean_entropy_B=self._entropy_B / self._members,
            votes_BC=self._votes_BC.copy(),
            errors_B=None if self._labels_B is None else self._errors_B.copy(),
            labels_B=self._labels_B,
            identity_B=self._identity_B,
        )

    def _start(self, shape: tuple[int, ...]) -> None:
        _check_shape("labels_B", self._labels_B, shape[:1])
        if self._labels_B is not None:
            check_labels(self._labels_B, shape[1])
        self._probs_BC = np.zeros(shape)
        self._entropy_B = np.zeros(shape[0])
        self._votes_BC = np.zeros(shape, np.int32)
        self._errors_B = np.zeros(shape[0], np.int32)


def ensemble_of(
    probs_MBC: Iterable[RealArray],
    labels_B: IntArray | None = None,
    identity_B: IdentityArray | None = None,
) -> Ensemble:
    """Returns the ensemble of explicit member probabilities, M arrays of shape (B, C).

    Raises:
        ScoreError: as `EnsembleSums.update`.
    """
    sums = EnsembleSums(labels_B, identity_B)
    for probs_BC in probs_MBC:
        sums.update(probs_BC)
    return sums.finish()


def row_entropy(probs_BC: RealArray) -> FloatArray:
    """Returns the entropy of each row, in nats, shape (B,), in [0, ln C].

    H(p) = −∑ p ln p with 0 ln 0 = 0. A one-hot row gives 0.0, never −0.0 and never NaN: code that
    takes the logarithm of zero ranks its surest samples as its least sure.
    """
    probs_BC = np.ascontiguousarray(probs_BC, dtype=np.float64)
    logs_BC = np.zeros_like(probs_BC)
    np.log(probs_BC, out=logs_BC, where=probs_BC > 0)
    entropy_B: FloatArray = np.maximum(0.0 - (probs_BC * logs_BC).sum(axis=1), 0.0)
    return entropy_B


def check_probs(probs_BC: RealArray) -> None:
    """Accepts rows of class probabilities, or names the first row that holds none.

    Raises:
        ScoreError: not of shape (B, C) with C ≥ 1, or a row is negative, not finite, or does not
            sum to 1 within 1e-3.
    """
    if probs_BC.ndim != 2 or probs_BC.shape[1] == 0:
        raise ScoreError(f"probabilities have shape {probs_BC.shape}, expected (B, C) with C ≥ 1")
    sum_B = probs_BC.sum(axis=1, dtype=np.float64)
    # NaN fails every comparison, so it is refused by asking what is good, not what is bad.
    good_B = (np.abs(sum_B - 1) <= SUM_TOLERANCE) & (probs_BC >= 0).all(axis=1)
    if good_B.all():
        return
    row = int(np.argmin(good_B))
    if not np.isfinite(probs_BC[row]).all():
        fault = "holds a value that is not finite"
    elif (probs_BC[row] < 0).any():
        fault = f"holds a negative value, {probs_BC[row].min():.6g}"
    else:
        fault = f"sums to {sum_B[row]:.6g}"
    raise ScoreError(f"row {row} of the probabilities {fault}", hint="Expected the softmax of finite logits.")


def check_labels(labels_B: IntArray, classes: int) -> None:
    """Accepts class ids from −1 (no label) to C − 1, or names the first row that holds another.

    Raises:
        ScoreError: a label is not one of the C classes.
    """
    bad_B = (labels_B < UNLABELLED) | (labels_B >= classes)
    if bad_B.any():
        row = int(np.argmax(bad_B))
        raise ScoreError(
            f"row {row} has label {labels_B[row]}, but the members know {classes} classes",
            hint=f"Expected a class id from 0 to {classes - 1}, or -1 for no label.",
        )


def _check_shape(name: str, array: NDArray[Any] | None, shape: tuple[int, ...]) -> None:
    if array is not None and array.shape != shape:
        raise ScoreError(f"{name} has shape {array.shape}, expected {shape}")
