"""Checkpoints that vote. They take turns in one network, so that memory does not grow with their number."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file
from torch import nn

from curate.errors import RunError, UsageError
from curate.proxy.models import build_model
from curate.proxy.training import Plan


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


def _fill(model: nn.Module, path: Path, plan: Plan) -> None:
    try:
        state = load_file(path)
    except Exception as error:  # safetensors raises many kinds for a damaged file; all mean the same
        raise RunError(f"{path}: cannot be read as a member ({error}).", hint="Delete it and score again.") from error
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise UsageError(f"{path}: holds another network than {plan.spec.name}.", hint=str(error)[:200]) from error
