"""Checkpoints that vote. They take turns in one network, so that memory does not grow with their number."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from curate.errors import RunError, UsageError
from curate.proxy.models import build_model, read_weights
from curate.proxy.plan import Plan


@dataclass(frozen=True)
class Member:
    """One checkpoint of one seed, and where it lies."""

    seed: int
    epoch: int
    path: Path


class Members:
    """The members of an ensemble, in order; each is read from its file when its turn comes.

    What is iterated over is (seed, network in evaluation mode), and it is always the same network with
    other weights: use it before the next turn.

    Raises (while iterating):
        RunError: a file is missing or damaged.
        UsageError: a file holds another network.
    """

    def __init__(self, plan: Plan, members: Sequence[Member]) -> None:
        self.members = tuple(members)
        self._plan = plan
        self._model: nn.Module | None = None
        self._loaded: Member | None = None

    def __len__(self) -> int:
        return len(self.members)

    def __iter__(self) -> Iterator[tuple[int, nn.Module]]:
        for member in self.members:
            yield member.seed, self.load(member)

    def load(self, member: Member) -> nn.Module:
        """Returns the network with a member's weights."""
        if self._model is None:
            self._model = build_model(self._plan.spec, seed=0).to(self._plan.device).eval()
        if member != self._loaded:
            self._loaded = None
            _fill(self._model, member.path, self._plan)
            self._loaded = member
        return self._model


def check_members(members: Sequence[Member], plan: Plan) -> None:
    """Refuses files that do not hold the plan's network, and hold it whole: found later, in the middle of scoring,
    it would cost that time.

    Raises:
        RunError: a file is missing or damaged.
        UsageError: a file holds another network.

    Cost: each file is read once.
    """
    with torch.device("meta"):
        expected = {name: tuple(t.shape) for name, t in build_model(plan.spec, seed=0).state_dict().items()}
    for member in members:
        found = {name: tuple(tensor.shape) for name, tensor in _weights(member.path).items()}
        if found != expected:
            raise UsageError(
                f"{member.path}: holds another network than {_named(plan)}.", hint=_unlike(found, expected)
            )


def _weights(path: Path) -> dict[str, Tensor]:
    try:
        return read_weights(path)
    except Exception as error:  # torch and safetensors raise many kinds for a damaged file; all mean the same
        raise _unreadable(path, error) from error


def _unlike(found: dict[str, tuple[int, ...]], expected: dict[str, tuple[int, ...]]) -> str:
    name = next(name for name in [*expected, *found] if found.get(name) != expected.get(name))
    here, there = (shapes.get(name, "missing") for shapes in (found, expected))
    return f"'{name}' is {here}, and would be {there}."


def _named(plan: Plan) -> str:
    return f"{plan.spec.name} for {plan.spec.num_classes} classes and {plan.spec.in_chans} channels"


def _unreadable(path: Path, error: Exception) -> RunError:
    why, hint = str(getattr(error, "message", error)).removeprefix(f"{path}: ").rstrip("."), "Bring it whole."
    if path.parent.name.startswith("seed-"):
        hint = f"Bring it whole, or delete {path.parent} and run the same command again: that seed is trained anew."
    return RunError(f"{path}: cannot be read as a member: {why}.", hint=hint)


def _fill(model: nn.Module, path: Path, plan: Plan) -> None:
    state = _weights(path)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise UsageError(f"{path}: holds another network than {_named(plan)}.", hint=str(error)[:200]) from error
