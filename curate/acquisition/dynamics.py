"""What training itself reveals about each sample, as O(1) numbers a sample.

A `Dynamics` is told once an epoch what the trained samples showed, by row number, and keeps 69 bytes a
row whatever the number of epochs. What a row ends with depends on its own presentations alone: not on
the order or the batches they came in, and not on the other rows. The scores made of it are in
`difficulty`. Nothing here reads files or knows which model is trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.acquisition.ensemble import IntArray, RealArray
from curate.errors import ScoreError

NEVER = -1  # the first correct epoch of a sample that had none

STATE = {
    "presentations": np.int32,
    "early_presentations": np.int32,
    "correct": np.int32,
    "forgetting_events": np.int32,
    "first_learned": np.int32,
    "last_correct": np.bool_,
    "probability_mean": np.float64,
    "probability_squares": np.float64,
    "margin_sum": np.float64,
    "loss_sum": np.float64,
    "el2n_sum": np.float64,
    "grand_sum": np.float64,
}  # fmt: skip
BYTES_A_ROW = sum(np.dtype(kind).itemsize for kind in STATE.values())


@dataclass(frozen=True, eq=False)
class Presentation:
    """What K samples show, each before the step that learns from it. All against the plain label.

    Attributes:
        correct_K: whether the label has the largest logit; of equal logits the lowest class counts.
        probability_K: softmax probability of the label.
        margin_K: logit of the label less the largest other logit.
        loss_K: cross-entropy, in nats.
        el2n_K: Euclidean norm of softmax less one-hot label.
        grand_K: norm of the gradient of the loss in the last layer; NaN where it is not known.
    """

    correct_K: NDArray[np.bool_]
    probability_K: RealArray
    margin_K: RealArray
    loss_K: RealArray
    el2n_K: RealArray
    grand_K: RealArray


class Dynamics:
    """The training dynamics of N samples under one seed.

    Args:
        size: N, the number of rows.
        early_epochs: EL2N and GraNd count in so many first epochs alone; 0 for all epochs.

    Attributes:
        epochs: how many have been added.
        rows: the state, by the names of `STATE`, each of shape (N,).
    """

    def __init__(self, size: int, *, early_epochs: int = 0) -> None:
        self.early_epochs = early_epochs
        self.epochs = 0
        self.rows: dict[str, NDArray[Any]] = {name: np.zeros(size, kind) for name, kind in STATE.items()}
        self.rows["first_learned"][:] = NEVER

    @property
    def size(self) -> int:
        """N, the number of rows."""
        return len(self.rows["correct"])

    def add_epoch(self, rows_K: IntArray, shown: Presentation) -> None:
        """Adds an epoch, in which each of K samples was presented once.

        Args:
            rows_K: row numbers from 0 to N − 1 in any order; the other rows were not presented.
            shown: K values of each kind, finite but for `grand_K`.

        Raises:
            ScoreError: a row does not exist or comes twice, a shape does not fit, or a value is not
                finite. Nothing is added.

        Cost: O(K) time, and O(N) for the check that no row comes twice.
        """
        _check(rows_K, shown, self.size)
        rows, correct_K = self.rows, shown.correct_K
        rows["presentations"][rows_K] += 1
        rows["correct"][rows_K] += correct_K
        rows["forgetting_events"][rows_K] += rows["last_correct"][rows_K] & ~correct_K
        rows["last_correct"][rows_K] = correct_K
        rows["first_learned"][rows_K[correct_K & (rows["first_learned"][rows_K] == NEVER)]] = self.epochs
        self._add_probability(rows_K, shown.probability_K)
        rows["margin_sum"][rows_K] += shown.margin_K
        rows["loss_sum"][rows_K] += shown.loss_K
        if self.epochs < self.early_epochs or not self.early_epochs:
            rows["early_presentations"][rows_K] += 1
            rows["el2n_sum"][rows_K] += shown.el2n_K
            rows["grand_sum"][rows_K] += shown.grand_K
        self.epochs += 1

    def of_rows(self, first: int, last: int) -> Dynamics:
        """Returns the dynamics of the rows from `first` up to `last`; the arrays are shared, not copied."""
        part = Dynamics(0, early_epochs=self.early_epochs)
        part.epochs = self.epochs
        part.rows = {name: value_N[first:last] for name, value_N in self.rows.items()}
        return part

    def state(self) -> dict[str, NDArray[Any]]:
        """Returns everything as arrays, shared: what `restore` goes on from, to the bit."""
        return {"clock": np.array([self.epochs, self.early_epochs], dtype=np.int64), **self.rows}

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Becomes what had this `state`, for the same N.

        Raises:
            ScoreError: an array is missing, or has another type or length than it was saved with.
        """
        shapes = {"clock": (np.int64, 2)} | {name: (kind, self.size) for name, kind in STATE.items()}
        for name, (kind, size) in shapes.items():
            value = state.get(name)
            if value is None or value.dtype != kind or value.shape != (size,):
                raise ScoreError(
                    f"a state of training dynamics has no array '{name}' of {size:,} values of {np.dtype(kind)}"
                )
        self.epochs, self.early_epochs = state["clock"].tolist()
        self.rows = {name: np.array(state[name]) for name in STATE}

    def _add_probability(self, rows_K: IntArray, probability_K: RealArray) -> None:
        """Mean and sum of squared deviations by Welford's recurrence, which loses no digits."""
        mean_N, squares_N = self.rows["probability_mean"], self.rows["probability_squares"]
        before_K = probability_K - mean_N[rows_K]
        mean_N[rows_K] += before_K / self.rows["presentations"][rows_K]
        squares_N[rows_K] += before_K * (probability_K - mean_N[rows_K])


def _check(rows_K: IntArray, shown: Presentation, size: int) -> None:
    for field in fields(Presentation):
        value_K = getattr(shown, field.name)
        if value_K.shape != rows_K.shape or rows_K.ndim != 1:
            raise ScoreError(f"{field.name} has shape {value_K.shape}, but the rows have shape {rows_K.shape}")
        if field.name != "grand_K" and not np.isfinite(value_K).all():
            raise ScoreError(
                f"{field.name} of row {rows_K[np.argmin(np.isfinite(value_K))]} is not finite",
                hint="The training has diverged: lower the learning rate.",
            )
    if len(rows_K) and not 0 <= rows_K.min() <= rows_K.max() < size:
        raise ScoreError(f"rows from {rows_K.min()} to {rows_K.max()} are not rows of {size:,} samples")
    counts_N = np.bincount(rows_K, minlength=1)
    if counts_N.max() > 1:
        raise ScoreError(f"row {counts_N.argmax()} was presented {counts_N.max()} times in one epoch")
