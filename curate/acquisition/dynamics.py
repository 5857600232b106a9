"""What training itself reveals about each sample, as O(1) numbers a sample.

A `Dynamics` is told of every presentation of every sample during training, batch by batch and by row
number, and keeps 77 bytes a row whatever the number of epochs. What a row ends with depends on its
own presentations and their order alone: not on the batches they came in, and not on the other rows.
The scores made of it are in `difficulty`. Nothing here reads files or knows which model is trained.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.acquisition.ensemble import UNLABELLED, FloatArray, IntArray, RealArray, check_labels
from curate.errors import ScoreError, UsageError

NEVER = -1  # the first epoch of a sample that was never classified correctly

STATE = {
    "presentations": np.int32,
    "early_presentations": np.int32,
    "correct": np.int32,
    "forgetting_events": np.int32,
    "first_learned": np.int32,
    "last_epoch": np.int32,
    "last_correct": np.bool_,
    "probability_mean": np.float64,
    "probability_squares": np.float64,
    "margin_sum": np.float64,
    "loss_sum": np.float64,
    "el2n_sum": np.float64,
    "grand_sum": np.float64,
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Presentation:
    """What one batch of B samples shows, seen before the step that learns from it.

    Attributes:
        correct_B: whether the label has the largest logit; of equal logits the lowest class counts.
        probability_B: softmax probability of the label.
        margin_B: logit of the label less the largest other logit; 0 where there is no other class.
        loss_B: cross-entropy, in nats.
        el2n_B: Euclidean norm of softmax less one-hot label.
        grand_B: norm of the gradient of the loss in the last layer; NaN where it is not known.
    """

    correct_B: NDArray[np.bool_]
    probability_B: RealArray
    margin_B: RealArray
    loss_B: RealArray
    el2n_B: RealArray
    grand_B: RealArray


def presentation(logits_BC: RealArray, labels_B: IntArray, feature_norm_B: RealArray | None = None) -> Presentation:
    """Returns what a batch shows, all in float64.

    EL2N = ‖p − y‖₂ with p the softmax and y the one-hot label; GraNd of the last layer =
    ‖p − y‖₂ √(1 + ‖h‖²), with h the input of that layer and the 1 for its bias.

    Args:
        logits_BC: unnormalised, finite. Logarithms of probabilities do as well: everything here is the
            same when a constant is added to a row.
        labels_B: class ids from 0 to C − 1.
        feature_norm_B: ‖h‖₂ of each sample; None where it is not at hand.

    Raises:
        ScoreError: a shape does not fit, a logit is not finite, or a label is no class; the first such
            row is named.

    Cost: O(BC).

    Source: EL2N and GraNd: Paul, Ganguli and Dziugaite 2021, arXiv 2107.07075, definitions 2.1 and
        2.2, GraNd restricted to the last layer. Margin: Pleiss et al. 2020, arXiv 2001.10528,
        equation 1.
    """
    logits_BC = np.ascontiguousarray(logits_BC, dtype=np.float64)
    _check_batch(logits_BC, labels_B, feature_norm_B)
    size, classes = logits_BC.shape
    row_B = np.arange(size)
    label_logit_B = logits_BC[row_B, labels_B]
    top_B1 = logits_BC.max(axis=1, keepdims=True, initial=-np.inf)
    shares_BC = np.exp(logits_BC - top_B1)
    sum_B = shares_BC.sum(axis=1)
    error_BC = shares_BC / sum_B[:, None]
    probability_B = error_BC[row_B, labels_B]
    error_BC[row_B, labels_B] -= 1.0
    el2n_B = np.sqrt((error_BC * error_BC).sum(axis=1))
    others_BC = logits_BC.copy()
    others_BC[row_B, labels_B] = -np.inf if classes > 1 else label_logit_B
    norm_B = np.full(size, np.nan) if feature_norm_B is None else feature_norm_B.astype(np.float64)
    return Presentation(
        correct_B=logits_BC.argmax(axis=1) == labels_B,
        probability_B=probability_B,
        margin_B=label_logit_B - others_BC.max(axis=1, initial=-np.inf),
        loss_B=np.maximum(top_B1[:, 0] - label_logit_B + np.log(sum_B), 0.0),
        el2n_B=el2n_B,
        grand_B=el2n_B * np.sqrt(1.0 + norm_B * norm_B),
    )


class Dynamics:
    """The training dynamics of N samples under one seed.

    Args:
        size: N, the number of rows.
        early: first and last epoch, both included, that count for EL2N and GraNd; None for all.

    Cost: 77 bytes a row; O(B) time for each batch beyond its `Presentation`.
    """

    def __init__(self, size: int, *, early: tuple[int, int] | None = None) -> None:
        self.early = early
        self.epochs = 0  # ended
        self.rows: dict[str, NDArray[Any]] = {name: np.zeros(size, kind) for name, kind in STATE.items()}
        self.rows["first_learned"][:] = NEVER
        self.rows["last_epoch"][:] = NEVER
        self._ended = NEVER

    @property
    def size(self) -> int:
        """N, the number of rows."""
        return len(self.rows["correct"])

    def update(
        self,
        rows_B: IntArray,
        logits_BC: RealArray,
        labels_B: IntArray,
        *,
        epoch: int,
        feature_norm_B: RealArray | None = None,
    ) -> None:
        """Adds a batch by its logits; samples without a label (−1) are passed over.

        Raises:
            ScoreError: as `presentation` and `add`.
        """
        labelled_B = labels_B != UNLABELLED
        if not labelled_B.all():
            rows_B, logits_BC, labels_B = rows_B[labelled_B], logits_BC[labelled_B], labels_B[labelled_B]
            feature_norm_B = None if feature_norm_B is None else feature_norm_B[labelled_B]
        self.add(rows_B, presentation(logits_BC, labels_B, feature_norm_B), epoch=epoch)

    def add(self, rows_B: IntArray, shown: Presentation, *, epoch: int) -> None:
        """Adds a batch by what it shows, which an accelerator may have worked out.

        A row that is in the batch more than once is presented that many times, in the batch's order.

        Args:
            rows_B: row numbers from 0 to N − 1.
            shown: B values of each kind, finite but for `grand_B`.
            epoch: ≥ 0, of this batch; never one that has ended, nor one before it.

        Raises:
            ScoreError: a row does not exist, a shape does not fit, or a value is not finite.
            UsageError: the epoch has ended already: the batch would count twice.
        """
        if epoch <= self._ended:
            raise UsageError(
                f"a batch of epoch {epoch} came after epoch {self._ended} had ended",
                hint="Resume from the state saved at the end of that epoch.",
            )
        _check_presentation(rows_B, shown, self.size)
        for place_b in _waves(rows_B):
            self._add_distinct(rows_B[place_b], shown, place_b, epoch)

    def end_epoch(self, epoch: int) -> int:
        """Ends an epoch; returns how many rows were not presented in it.

        Raises:
            UsageError: the epoch has ended already.
        """
        if epoch <= self._ended:
            raise UsageError(f"epoch {epoch} cannot end: epoch {self._ended} has ended already")
        self._ended = epoch
        self.epochs += 1
        return int(np.count_nonzero(self.rows["last_epoch"] != epoch))

    def state(self) -> dict[str, NDArray[Any]]:
        """Returns everything as arrays, copies: what `from_state` goes on from, to the bit."""
        early = (NEVER, NEVER) if self.early is None else self.early
        clock = np.array([self.epochs, self._ended, *early], dtype=np.int64)
        return {"clock": clock, **{name: value_N.copy() for name, value_N in self.rows.items()}}

    @classmethod
    def from_state(cls, state: Mapping[str, NDArray[Any]]) -> Dynamics:
        """Returns the dynamics whose `state` this is.

        Raises:
            ScoreError: an array is missing, or has another type or length than it was saved with.
        """
        expected = {"clock": np.int64, **STATE}
        for name, kind in expected.items():
            value = state.get(name)
            if value is None or value.dtype != kind or value.ndim != 1:
                raise ScoreError(f"the state of training dynamics has no array '{name}' of type {np.dtype(kind)}")
        lengths = {len(state[name]) for name in STATE}
        if len(lengths) != 1 or len(state["clock"]) != 4:
            raise ScoreError(f"the arrays of a state of training dynamics differ in length: {sorted(lengths)}")
        epochs, ended, *early = state["clock"].tolist()
        dynamics = cls(lengths.pop(), early=None if early[1] == NEVER else (early[0], early[1]))
        dynamics.epochs, dynamics._ended = epochs, ended
        dynamics.rows = {name: state[name].copy() for name in STATE}
        return dynamics

    def _add_distinct(self, rows_B: IntArray, shown: Presentation, place_B: IntArray, epoch: int) -> None:
        rows, correct_B = self.rows, shown.correct_B[place_B]
        rows["forgetting_events"][rows_B] += rows["last_correct"][rows_B] & ~correct_B
        rows["last_correct"][rows_B] = correct_B
        rows["first_learned"][rows_B[correct_B & (rows["first_learned"][rows_B] == NEVER)]] = epoch
        rows["last_epoch"][rows_B] = epoch
        rows["correct"][rows_B] += correct_B
        rows["presentations"][rows_B] += 1
        self._add_probability(rows_B, shown.probability_B[place_B])
        rows["margin_sum"][rows_B] += shown.margin_B[place_B]
        rows["loss_sum"][rows_B] += shown.loss_B[place_B]
        if self.early is None or self.early[0] <= epoch <= self.early[1]:
            rows["early_presentations"][rows_B] += 1
            rows["el2n_sum"][rows_B] += shown.el2n_B[place_B]
            rows["grand_sum"][rows_B] += shown.grand_B[place_B]

    def _add_probability(self, rows_B: IntArray, probability_B: RealArray) -> None:
        """Mean and sum of squared deviations, by Welford's recurrence: stable, and a row's own."""
        mean_N, squares_N = self.rows["probability_mean"], self.rows["probability_squares"]
        before_B: FloatArray = probability_B - mean_N[rows_B]
        mean_N[rows_B] += before_B / self.rows["presentations"][rows_B]
        squares_N[rows_B] += before_B * (probability_B - mean_N[rows_B])


def _waves(rows_B: IntArray) -> Iterator[NDArray[np.int64]]:
    """Yields places of a batch so that no row comes twice in one wave, and each in its order."""
    left = np.arange(len(rows_B))
    while len(left):
        first = np.unique(rows_B[left], return_index=True)[1]
        if len(first) == len(left):
            yield left
            return
        yield left[np.sort(first)]
        left = np.delete(left, first)


def _check_batch(logits_BC: RealArray, labels_B: IntArray, feature_norm_B: RealArray | None) -> None:
    if logits_BC.ndim != 2 or logits_BC.shape[1] == 0:
        raise ScoreError(f"logits have shape {logits_BC.shape}, expected (B, C) with C ≥ 1")
    for name, value_B in {"labels_B": labels_B, "feature_norm_B": feature_norm_B}.items():
        if value_B is not None and value_B.shape != logits_BC.shape[:1]:
            raise ScoreError(f"{name} has shape {value_B.shape}, expected {logits_BC.shape[:1]}")
    check_labels(labels_B, logits_BC.shape[1])
    if (labels_B == UNLABELLED).any():
        raise ScoreError(f"row {int(np.argmax(labels_B == UNLABELLED))} has no label: there is nothing to learn")
    finite_B = np.isfinite(logits_BC).all(axis=1)
    if not finite_B.all():
        raise ScoreError(
            f"row {int(np.argmin(finite_B))} of the logits holds a value that is not finite",
            hint="The training has diverged: lower the learning rate.",
        )


def _check_presentation(rows_B: IntArray, shown: Presentation, size: int) -> None:
    for name, value_B in vars(shown).items():
        if value_B.shape != rows_B.shape or rows_B.ndim != 1:
            raise ScoreError(f"{name} has shape {value_B.shape}, but the rows have shape {rows_B.shape}")
        if name != "grand_B" and not np.isfinite(value_B).all():
            raise ScoreError(f"{name} of sample {rows_B[np.argmin(np.isfinite(value_B))]} is not finite")
    if len(rows_B) and not 0 <= rows_B.min() <= rows_B.max() < size:
        raise ScoreError(f"rows from {rows_B.min()} to {rows_B.max()} are not rows of {size:,} samples")
