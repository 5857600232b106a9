"""How work says how far it is, without knowing who listens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class Progress(Protocol):
    """A listener. One stage at a time; `note` says something once."""

    def stage(self, name: str, total: int, unit: str) -> None:
        """A stage begins: `total` units lie ahead."""
        ...

    def at(self, done: int, detail: str = "") -> None:
        """So many units of the stage are done."""
        ...

    def note(self, text: str) -> None:
        """Something worth a line."""
        ...


def as_stage(progress: Progress, name: str, unit: str) -> Callable[[int, int, str], None]:
    """Returns a listener as the function (done, total, detail) that the lower floors call."""
    has_begun = False

    def listen(done: int, total: int, detail: str) -> None:
        nonlocal has_begun
        if done == 0 or not has_begun:  # a resumed stage does not begin at nothing
            progress.stage(name, total, unit)
        has_begun = True
        progress.at(done, detail)

    return listen


class Silent:
    """Nobody listens."""

    def stage(self, name: str, total: int, unit: str) -> None: ...

    def at(self, done: int, detail: str = "") -> None: ...

    def note(self, text: str) -> None: ...
