"""Which kept samples go into which new shard, decided from the manifest's counts alone."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from curate.errors import UsageError
from curate.manifest.lines import Line
from curate.pool.sources import SUFFIXES
from curate.pool.tar import printable

DIGEST_CHARACTERS = 8


@dataclass(frozen=True)
class Piece:
    """Kept samples of one source, from the `first` to before the `end`, counted over the kept ones."""

    line: int
    first: int
    end: int


@dataclass(frozen=True)
class NewShard:
    """A shard to write: its name and the pieces that make it up, in order."""

    name: str
    pieces: tuple[Piece, ...]

    @property
    def samples(self) -> int:
        return sum(piece.end - piece.first for piece in self.pieces)


def one_to_one(lines: Sequence[Line], digest: str) -> list[NewShard]:
    """Returns one shard for each source that keeps anything, under its name and the manifest's digest.

    The digest keeps caches that go by file name from handing out the source for it.

    Raises:
        UsageError: two sources would get the same name.
    """
    kept = [(place, line) for place, line in enumerate(lines) if line.kept]
    names = plain_names([line.name for _, line in kept], f"-{digest[:DIGEST_CHARACTERS]}.tar")
    return [NewShard(name, (Piece(place, 0, line.kept),)) for name, (place, line) in zip(names, kept, strict=True)]


def plain_names(names: Sequence[str], ending: str = ".tar") -> list[str]:
    """Returns the names of shards with `ending` in place of `.tar`, `.tar.gz` or `.tar.zst`.

    Raises:
        UsageError: two become the same: one would hide the other.
    """
    source_of: dict[str, str] = {}
    for name in names:
        other = source_of.setdefault(_stem(name), name)
        if other != name:
            raise UsageError(
                f"{printable(other)} and {printable(name)} would both be called {printable(_stem(name) + ending)}.",
                hint="Rename one of them and index again, or leave it out if it holds the same samples.",
            )
    return [stem + ending for stem in source_of]


def repacked(
    lines: Sequence[Line], digest: str, *, shards: int | None = None, samples_per_shard: int | None = None
) -> list[NewShard]:
    """Returns shards of equal counts, in the order of the sources; counts differ by one at most.

    Args:
        lines: the manifest's.
        digest: of the manifest.
        shards: how many.
        samples_per_shard: or else how many samples each holds at most.

    Raises:
        UsageError: more shards than samples.
    """
    total = sum(line.kept for line in lines)
    count = shards or -(-total // (samples_per_shard or total))
    if count > total:
        raise UsageError(f"{count:,} shards for {total:,} samples.", hint="A shard without samples breaks readers.")
    word = hashlib.blake2b(f"{digest}/{count}".encode(), digest_size=4).hexdigest()
    prefix, pieces = (
        _prefix([line.name for line in lines]),
        _pieces(lines, [total * n // count for n in range(count + 1)]),
    )
    return [NewShard(f"{prefix}-{number:06d}-{word}.tar", tuple(part)) for number, part in enumerate(pieces)]


def _pieces(lines: Sequence[Line], edges: Sequence[int]) -> list[list[Piece]]:
    """Returns the pieces between each pair of neighbouring edges, counted over all kept samples."""
    parts: list[list[Piece]] = [[] for _ in edges[1:]]
    at, number = 0, 0
    for place, line in enumerate(lines):
        first = 0
        while first < line.kept:
            end = min(line.kept, edges[number + 1] - at)
            parts[number].append(Piece(place, first, end))
            first = end
            if at + end == edges[number + 1]:
                number += 1
        at += line.kept
    return parts


def _stem(name: str) -> str:
    suffix = next(s for s in sorted(SUFFIXES, key=len, reverse=True) if name.lower().endswith(s))
    return name[: -len(suffix)]


def _prefix(names: Sequence[str]) -> str:
    """Returns the word that all the sources' file names begin with, if there is one."""
    words = {re.split(r"[^A-Za-z]", PurePosixPath(name).name, maxsplit=1)[0] for name in names}
    return (words.pop() if len(words) == 1 else "") or "shard"
