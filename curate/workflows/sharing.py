"""Work that several processes share: what all of them need is prepared by one, the rest is claimed piece by piece."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol, TypeVar

from curate import durable
from curate.progress import Progress

Alone = Callable[[], AbstractContextManager[None]]


class Piece(Protocol):
    """What one process does at a time; its result is never taken back."""

    def claim(self, out: Path) -> Path:
        """Returns the file by which a process holds it."""
        ...

    def path(self, out: Path) -> Path:
        """Returns where its result lies."""
        ...


OnePiece = TypeVar("OnePiece", bound=Piece)


def alone_in(folder: Path, progress: Progress) -> Alone:
    """Returns what holds a folder for one process; the others wait, say once for whom, and let a deadline look."""
    told = set[str]()

    def waiting(owner: str) -> None:
        if owner not in told:
            progress.stage(f"wait for process {owner}", 1, "process")
            told.add(owner)
        progress.at(0)

    return lambda: durable.lock(folder, waiting=waiting)


def claimed(pieces: Sequence[OnePiece], out: Path) -> Iterator[OnePiece]:
    """Yields the pieces without a result, each while it is held; goes round until none is left that nobody holds."""
    is_done = False
    while not is_done:
        is_done = True
        for piece in pieces:
            claim, result = piece.claim(out), piece.path(out)
            if result.exists():
                continue
            with durable.claim(claim) as is_free:
                if is_free and not result.exists():
                    is_done = False
                    yield piece
                if is_free and result.exists():
                    claim.unlink(missing_ok=True)  # whoever has it open finds the result
