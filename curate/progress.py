"""How work says how far it is, without knowing who listens."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from curate.errors import TimeUpError


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


class Deadline:
    """Passes everything on, and ends the work where it says how far it is after the time that was allowed.

    Work that can be killed at any moment loses nothing by that but the epoch or the shard that was begun, and on a
    GPU the epochs of some seconds.
    """

    def __init__(self, progress: Progress, seconds: float) -> None:
        self._progress, self._seconds = progress, seconds
        self._end = time.monotonic() + seconds

    def stage(self, name: str, total: int, unit: str) -> None:
        self._progress.stage(name, total, unit)
        self._look()

    def at(self, done: int, detail: str = "") -> None:
        self._progress.at(done, detail)
        self._look()

    def note(self, text: str) -> None:
        self._progress.note(text)
        self._look()

    def _look(self) -> None:
        if time.monotonic() >= self._end:
            raise TimeUpError(f"The {self._seconds:,.0f} seconds of --max-time are over.")


class Silent:
    """Nobody listens."""

    def stage(self, name: str, total: int, unit: str) -> None: ...

    def at(self, done: int, detail: str = "") -> None: ...

    def note(self, text: str) -> None: ...
