"""Whether sources are still what was pruned: the headers of what is kept, walked here or in processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from curate.apart import spread, work
from curate.errors import CurateError
from curate.manifest.lines import Line
from curate.manifest.stream import copy_kept

MODULE = "curate.manifest.walks"


def faults_of(
    lines: Sequence[Line], root: Path, progress: Callable[[int, int, str], None], *, processes: int = 0
) -> list[str]:
    """Returns what is wrong with each source, empty where it is what was pruned.

    Args:
        lines: of the sources.
        root: where they lie.
        progress: called with shards done, shards in all and a name.
        processes: that walk at once; 0 for what the work and the machine are worth.
    """
    faults = [""] * len(lines)
    progress(0, len(lines), "")
    with closing(
        spread(lines, lambda line: _walk(line, root), MODULE, lambda part: _told(part, root), processes=processes)
    ) as walked:
        for done, (place, fault) in enumerate(walked, 1):
            faults[place] = fault
            progress(done, len(lines), lines[place].name)
    return faults


def _walk(line: Line, root: Path) -> str:
    try:
        copy_kept(line, root / line.name, None)
    except CurateError as error:
        return error.message.removeprefix(line.name).removeprefix(":").strip()  # who asks says of which shard it is
    return ""


def _told(lines: Sequence[Line], root: Path) -> list[object]:
    return [str(root), [list(line) for line in lines]]


def _walk_told(job: list[Any]) -> Iterator[str]:
    root, lines = job
    return (_walk(Line(*fields), Path(root)) for fields in lines)


if __name__ == "__main__":
    work(_walk_told)
