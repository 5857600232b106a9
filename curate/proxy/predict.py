"""All members look at each batch; what remains of a batch is its running sums.

Members come one after the other and each sees a whole block of batches, so that memory is that of one
member and one block, whatever the number of members and samples; nothing is decoded twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from curate.acquisition import Ensemble
from curate.errors import DivergedError
from curate.proxy.device import on_device
from curate.proxy.pixels import Pixels
from curate.proxy.plan import Plan, autocast, normalised
from curate.samples import IdentityArray

Part = TypeVar("Part")
VoteArray = NDArray[np.unsignedinteger[Any]]

BLOCK_BYTES = {"cpu": 64 << 20, "cuda": 2 << 30}  # enough that reading a member is little beside its forward passes


class Voters(Protocol):
    """Members in order, as (seed, network in evaluation mode); one is used up before the next is asked for."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[tuple[int, nn.Module]]: ...


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

    def add(self, logits_BC: Tensor) -> Tensor:
        """Adds one member's logits; returns the class of each sample that it votes for."""
        logs_BC = torch.log_softmax(logits_BC.double(), 1)
        probs_BC = logs_BC.exp()
        self.probs_BC += probs_BC
        self.entropy_B -= (probs_BC * logs_BC.nan_to_num(neginf=0.0)).sum(1)
        vote_B = logits_BC.argmax(1)
        self.votes_BC.scatter_add_(1, vote_B[:, None], torch.ones_like(vote_B[:, None], dtype=torch.int32))
        self.members += 1
        return vote_B

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
    votes_MB: VoteArray


@dataclass
class _Batch:
    """A batch on the device, with its sums so far."""

    rows_B: NDArray[np.int64]
    label_B: NDArray[np.int32]
    inputs: Tensor
    whole: VoteSums
    by_seed: dict[int, VoteSums]
    votes: list[VoteArray] = field(default_factory=list)  # of each member so far

    @property
    def bytes(self) -> int:
        sums = [self.whole, *self.by_seed.values()]
        return sum(t.nbytes for t in (self.inputs, *(t for s in sums for t in (s.probs_BC, s.entropy_B, s.votes_BC))))

    def add(self, seed: int, logits_BC: Tensor) -> Tensor:
        if seed in self.by_seed:
            self.by_seed[seed].add(logits_BC)
        return self.whole.add(logits_BC)

    def predicted(self) -> Predicted:
        by_seed = {seed: sums.ensemble(self.label_B) for seed, sums in self.by_seed.items()}
        return Predicted(self.rows_B, self.whole.ensemble(self.label_B), by_seed, np.stack(self.votes))


def predict(
    plan: Plan,
    members: Voters,
    pixels: Pixels,
    shards: Iterable[int],
    *,
    batch_size: int,
    seeds: Sequence[int] = (),
    progress: Callable[[int], None] = lambda row: None,
) -> Iterator[tuple[int, Predicted | None]]:
    """Yields (shard, what the members say of a batch of it) on plain images, and (shard, None) at a shard's end.

    Args:
        plan: normalisation, precision, device.
        members: read once for each block of batches.
        pixels: where the rows' pixels come from.
        shards: which, in order.
        batch_size: samples at once; part of what decides the last bits.
        seeds: those whose members are also summed up alone.
        progress: called with the row up to which all would be done if members were done one batch at a time.

    Raises:
        DivergedError: a member's prediction is not finite; names the member and the sample.

    Cost: members x samples forward passes; `BLOCK_BYTES` of memory, or one batch if that is more.
    """

    def prepared() -> Iterator[tuple[int, _Batch | None]]:
        for index in shards:
            for rows_B, pixels_B in pixels.in_order(index, batch_size=batch_size):
                yield index, _prepared(plan, pixels, rows_B, pixels_B, seeds)
            yield index, None

    for block in in_blocks(prepared(), lambda part: part[1].bytes if part[1] else 0, BLOCK_BYTES[plan.kind]):
        _vote(plan, members, [batch for _, batch in block if batch], pixels, progress)
        yield from ((index, batch.predicted() if batch else None) for index, batch in block)
        block.clear()  # before the next block is built


def _vote(
    plan: Plan, members: Voters, batches: Sequence[_Batch], pixels: Pixels, progress: Callable[[int], None]
) -> None:
    if not batches:
        return
    first, last = int(batches[0].rows_B[0]), int(batches[-1].rows_B[-1]) + 1
    for number, (seed, model) in enumerate(members):
        # What a member says is looked at once for all batches: a GPU need not be waited for in between.
        said = [_voted(plan, model, batch, seed) for batch in batches]
        votes_K, is_finite_K = (torch.cat(parts).cpu().numpy() for parts in zip(*said, strict=True))
        _check_finite(is_finite_K, batches, seed, number, pixels)
        ends = np.cumsum([len(batch.rows_B) for batch in batches])[:-1]
        narrow = np.uint16 if plan.spec.num_classes <= 1 << 16 else np.uint32
        for batch, votes_B in zip(batches, np.split(votes_K.astype(narrow), ends), strict=True):
            batch.votes.append(votes_B)
        progress(first + (last - first) * (number + 1) // len(members))


def _prepared(plan: Plan, pixels: Pixels, rows_B: NDArray[np.int64], pixels_B: Tensor, seeds: Sequence[int]) -> _Batch:
    size, classes = len(rows_B), plan.spec.num_classes
    whole, *own = (VoteSums.empty(size, classes, plan.device) for _ in range(1 + len(seeds)))
    label_B = pixels.rows.label_N[rows_B]
    return _Batch(rows_B, label_B, normalised(pixels_B, plan), whole, dict(zip(seeds, own, strict=True)))


def _voted(plan: Plan, model: nn.Module, batch: _Batch, seed: int) -> tuple[Tensor, Tensor]:
    """Adds a member's prediction to a batch; returns each sample's class, and whether all its logits are finite."""
    with torch.inference_mode():
        with autocast(plan):
            logits_BC: Tensor = model(batch.inputs).float()
        return batch.add(seed, logits_BC), torch.isfinite(logits_BC).all(1)


def in_blocks(parts: Iterable[Part], size: Callable[[Part], int], limit: int) -> Iterator[list[Part]]:
    """Yields parts in blocks; a block ends as soon as it reaches the limit."""
    block, total = list[Part](), 0
    for part in parts:
        block.append(part)
        total += size(part)
        if total >= limit:
            yield block
            block, total = [], 0
    if block:
        yield block


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


@dataclass
class _Held:
    """A batch of labelled samples on the device, with the sum of the predictions so far."""

    label_B: Tensor
    inputs: Tensor
    total: Tensor

    @property
    def bytes(self) -> int:
        return self.inputs.nbytes + self.total.nbytes

    def hits(self, plan: Plan, model: nn.Module) -> Tensor:
        """Adds one member's prediction; returns how often it is right, on the device."""
        with torch.inference_mode():
            with autocast(plan):
                probs_BC = model(self.inputs).float().softmax(1)
            self.total += probs_BC
            hits: Tensor = (probs_BC.argmax(1) == self.label_B).sum()
            return hits

    def right_labels(self) -> NDArray[np.int64]:
        return self.label_B[self.total.argmax(1) == self.label_B].cpu().numpy()


def measured(plan: Plan, members: Voters, pixels: Pixels, rows_K: NDArray[np.int64], *, batch_size: int) -> Accuracy:
    """Returns the accuracy of each member and of their mean prediction over labelled rows.

    Rows that turn out to be undecodable only now, as streamed pixels do, are not among those that count.
    """
    hits_M, (hits_C, count_C) = np.zeros(len(members)), np.zeros((2, plan.spec.num_classes))
    held = _held(plan, pixels, rows_K, batch_size)
    for block in in_blocks(held, lambda batch: batch.bytes, BLOCK_BYTES[plan.kind]):
        for number, (_, model) in enumerate(members):
            hits_M[number] += int(torch.stack([batch.hits(plan, model) for batch in block]).sum())
        for batch in block:
            np.add.at(hits_C, batch.right_labels(), 1)
            np.add.at(count_C, batch.label_B.cpu().numpy(), 1)
        block.clear()
    per_class = np.divide(hits_C, count_C, out=np.ones_like(hits_C), where=count_C > 0)
    size = max(1, count_C.sum())
    return Accuracy((hits_M / size).tolist(), float(hits_C.sum() / size), per_class.tolist())


def _held(plan: Plan, pixels: Pixels, rows_K: NDArray[np.int64], batch_size: int) -> Iterator[_Held]:
    chosen = np.zeros(len(pixels.rows), dtype=np.bool_)
    chosen[rows_K] = True
    for index in np.unique(np.searchsorted(pixels.rows.offset_S, rows_K, "right") - 1).tolist():
        for rows_B, pixels_B in pixels.in_order(index, batch_size=batch_size):
            keep_B = chosen[rows_B]
            if keep_B.any():
                label_B = pixels.rows.labels_on(plan.device, rows_B[keep_B])
                total = torch.zeros(len(label_B), plan.spec.num_classes, device=plan.device)
                kept_B = pixels_B[on_device(np.flatnonzero(keep_B), pixels_B.device)]
                yield _Held(label_B, normalised(kept_B, plan), total)


def _check_finite(
    is_finite_K: NDArray[np.bool_], batches: Sequence[_Batch], seed: int, number: int, pixels: Pixels
) -> None:
    if not is_finite_K.all():
        row = int(np.concatenate([batch.rows_B for batch in batches])[is_finite_K.argmin()])
        shard = pixels.rows.shard_of(row)
        raise DivergedError(
            f"Member {number}, of seed {seed}, predicts values that are not finite for sample "
            f"{row - int(pixels.rows.offset_S[shard])} of {pixels.rows.shards[shard].name}.",
            seed=seed,
        )
