"""All members look at each batch once; what remains of a batch is its running sums.

Memory is that of one batch, whatever the number of members, samples and classes together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from curate.acquisition import Ensemble
from curate.errors import ScoreError
from curate.proxy.pixels import Pixels
from curate.proxy.training import Plan, autocast, normalised
from curate.samples import IdentityArray


@dataclass
class VoteSums:
    """The sums of some members over one batch, on the device."""

    probs_BC: Tensor
    entropy_B: Tensor
    votes_BC: Tensor
    members: int = 0

    @classmethod
    def empty(cls, size: int, classes: int, device: str) -> VoteSums:
        probs = torch.zeros(size, classes, dtype=torch.float64, device=device)
        return cls(
            probs, torch.zeros(size, dtype=torch.float64, device=device), torch.zeros_like(probs, dtype=torch.int32)
        )

    def add(self, logits_BC: Tensor) -> None:
        """Adds one member's logits."""
        logs_BC = torch.log_softmax(logits_BC.double(), 1)
        probs_BC = logs_BC.exp()
        self.probs_BC += probs_BC
        self.entropy_B -= (probs_BC * logs_BC.nan_to_num(neginf=0.0)).sum(1)
        votes_B = logits_BC.argmax(1, keepdim=True)
        self.votes_BC.scatter_add_(1, votes_B, torch.ones_like(votes_B, dtype=torch.int32))
        self.members += 1

    def ensemble(self, label_B: NDArray[np.int32], identity_B: IdentityArray | None = None) -> Ensemble:
        """Returns the sums as an ensemble."""
        votes_BC = self.votes_BC.cpu().numpy()
        right_B = votes_BC[np.arange(len(label_B)), np.maximum(label_B, 0)]
        return Ensemble(
            members=self.members,
            mean_probs_BC=(self.probs_BC / self.members).cpu().numpy(),
            mean_entropy_B=(self.entropy_B / self.members).clamp(min=0).cpu().numpy(),
            votes_BC=votes_BC,
            errors_B=np.where(label_B >= 0, self.members - right_B, 0),
            labels_B=label_B,
            identity_B=identity_B,
        )


@dataclass(frozen=True)
class Predicted:
    """One batch: its rows, the ensemble of all members, that of each seed, and each member's class."""

    rows_B: NDArray[np.int64]
    whole: Ensemble
    by_seed: dict[int, Ensemble]
    votes_MB: NDArray[np.uint16]


def predict_shard(
    plan: Plan,
    members: Sequence[tuple[int, nn.Module]],
    pixels: Pixels,
    index: int,
    *,
    batch_size: int,
    per_seed: bool = False,
) -> Iterator[Predicted]:
    """Yields what the members say of one shard, batch by batch, on plain images.

    Args:
        plan: normalisation, precision, device.
        members: (seed, network in evaluation mode).
        pixels: where the rows' pixels come from.
        index: which shard.
        batch_size: samples at once; part of what decides the last bits.
        per_seed: also sum up each seed's members alone.

    Raises:
        ScoreError: a member's prediction is not finite; names the member and the sample.
    """
    for rows_B, pixels_B in pixels.in_order(index, batch_size=batch_size):
        label_B = pixels.rows.label_N[rows_B]
        with torch.inference_mode():
            inputs = normalised(pixels_B, plan)
            size, classes = len(rows_B), plan.spec.num_classes
            whole = VoteSums.empty(size, classes, plan.device)
            seeds = {seed: VoteSums.empty(size, classes, plan.device) for seed, _ in members if per_seed}
            votes = []
            for number, (seed, model) in enumerate(members):
                with autocast(plan):
                    logits_BC = model(inputs).float()
                _check_finite(logits_BC, number, pixels, rows_B)
                votes.append(logits_BC.argmax(1).cpu().numpy().astype(np.uint16))
                whole.add(logits_BC)
                if per_seed:
                    seeds[seed].add(logits_BC)
        by_seed = {seed: sums.ensemble(label_B) for seed, sums in seeds.items()}
        yield Predicted(rows_B, whole.ensemble(label_B), by_seed, np.stack(votes))


def embed_shard(
    plan: Plan, model: nn.Module, pixels: Pixels, index: int, *, batch_size: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Yields rows of one shard with what the network's classifier is given for them, batch by batch, plain images.

    Shapes (B,) and (B, D). The feature maps have the plan's precision and are pooled in float32.

    Args:
        plan: normalisation, precision, device.
        model: a timm network in evaluation mode.
        pixels: where the rows' pixels come from.
        index: which shard.
        batch_size: samples at once; part of what decides the last bits.
    """
    for rows_B, pixels_B in pixels.in_order(index, batch_size=batch_size):
        with torch.inference_mode():
            with autocast(plan):
                features = model.forward_features(normalised(pixels_B, plan))  # type: ignore[operator]  # timm's
            embedding_BD = model.forward_head(features.float(), pre_logits=True).flatten(1)  # type: ignore[operator]  # the same
        yield rows_B, embedding_BD.cpu().numpy()


@dataclass(frozen=True)
class Accuracy:
    """How often some members are right.

    Attributes:
        each: of every member.
        together: of their mean prediction.
        per_class: of their mean prediction, by class id; classes that are not there count as 1.
    """

    each: list[float]
    together: float
    per_class: list[float]


def measured(
    plan: Plan, members: Sequence[tuple[int, nn.Module]], pixels: Pixels, rows_K: NDArray[np.int64], *, batch_size: int
) -> Accuracy:
    """Returns the accuracy of each member and of their mean prediction over labelled rows."""
    chosen = np.zeros(len(pixels.rows), dtype=np.bool_)
    chosen[rows_K] = True
    hits_M, hits_C = np.zeros(len(members)), np.zeros(plan.spec.num_classes)
    for index in range(len(pixels.rows.shards)):
        for rows_B, pixels_B in pixels.in_order(index, batch_size=batch_size):
            keep_B = chosen[rows_B]
            if keep_B.any():
                label_B = pixels.rows.label_N[rows_B[keep_B]]
                right_MB, right_B = _right(plan, members, pixels_B[keep_B], label_B)
                hits_M += right_MB.sum(1)
                np.add.at(hits_C, label_B[right_B], 1)
    count_C = np.bincount(pixels.rows.label_N[rows_K], minlength=plan.spec.num_classes)
    per_class = np.divide(hits_C, count_C, out=np.ones_like(hits_C), where=count_C > 0)
    size = max(1, len(rows_K))
    return Accuracy((hits_M / size).tolist(), float(hits_C.sum() / size), per_class.tolist())


def _right(
    plan: Plan, members: Sequence[tuple[int, nn.Module]], pixels_B: NDArray[np.uint8], label_B: NDArray[np.int32]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Returns where each member is right, shape (M, B), and where their mean prediction is."""
    labels = torch.from_numpy(label_B).long().to(plan.device)
    right, total = [], torch.zeros((), device=plan.device)
    with torch.inference_mode():
        inputs = normalised(pixels_B, plan)
        for _, model in members:
            with autocast(plan):
                probs_BC = model(inputs).float().softmax(1)
            right.append((probs_BC.argmax(1) == labels).cpu().numpy())
            total = total + probs_BC
    return np.stack(right), (total.argmax(1) == labels).cpu().numpy()


def _check_finite(logits_BC: Tensor, number: int, pixels: Pixels, rows_B: NDArray[np.int64]) -> None:
    finite_B = torch.isfinite(logits_BC).all(1)
    if not bool(finite_B.all()):
        row = int(rows_B[int((~finite_B).nonzero()[0])])
        shard = pixels.rows.shard_of(row)
        raise ScoreError(
            f"Member {number} predicts values that are not finite for sample "
            f"{row - int(pixels.rows.offset_S[shard])} of {pixels.rows.shards[shard].name}.",
            hint="Its training diverged. Lower train.rate, or set train.precision = 'float32'.",
        )
