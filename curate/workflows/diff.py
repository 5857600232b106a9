"""`curate diff`: what a second manifest keeps that the first does not. From the manifests alone, no torch.

Two shards are the same where name, size, first header and number of samples agree, as `cat` has it;
there ordinals are compared. Samples of other shards are told by their keys, where an index is left.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from curate import durable
from curate.manifest.algebra import kept_mask
from curate.manifest.lines import Line, manifest_digest, read_lines
from curate.manifest.origin import find_pool
from curate.manifest.schema import Head
from curate.manifest.verify import load_whole
from curate.pool.index import Pool

ADDED, REMOVED, MOVED = "added", "removed", "moved"
Ordinals = dict[str, NDArray[np.int64]]  # by shard


class Place(NamedTuple):
    """Where a kept sample lies: its shard and its ordinal there."""

    shard: str
    ordinal: int


@dataclass(frozen=True)
class Side:
    """One of the two manifests, as far as it was read."""

    folder: Path
    head: Head
    lines: dict[str, Line]


@dataclass(frozen=True)
class ClassChange:
    """One class: samples that each manifest keeps, and its share of all that are kept with a label."""

    name: str
    before: int
    after: int
    share_before: float
    share_after: float


@dataclass(frozen=True, eq=False)
class Diff:
    """What changed from A to B.

    Attributes:
        digest_a, digest_b: of the manifests.
        kept_a, kept_b: samples that each keeps.
        same_pool: their pools have one fingerprint.
        both: kept by both, in the same place or another.
        added, removed: by shard, the ordinals of samples that only B, only A keeps.
        moved: (place in A, place in B) of samples kept by both in different places.
        moves_known: False where samples of different shards could not be told by their keys.
        classes: by id, or by name where labels are names.
    """

    digest_a: str
    digest_b: str
    kept_a: int
    kept_b: int
    same_pool: bool
    both: int
    added: Ordinals
    removed: Ordinals
    moved: tuple[tuple[Place, Place], ...]
    moves_known: bool
    classes: tuple[ClassChange, ...]

    @property
    def counts(self) -> dict[str, int]:
        """Samples added, removed and moved."""
        return {ADDED: _count(self.added), REMOVED: _count(self.removed), MOVED: len(self.moved)}

    @property
    def churn(self) -> float:
        """1 − |A ∩ B| / |A ∪ B| (Jaccard): 0 for the same samples, 1 for none in common."""
        gone = _count(self.added) + _count(self.removed)
        return gone / (self.both + gone) if gone else 0.0


def diff(a: Path, b: Path) -> Diff:
    """Returns what changed from manifest A to manifest B.

    Raises:
        ManifestError: one of them is damaged.

    Cost: O(samples) for shards that are the same; the keys of those that are not, in dicts.
    """
    side_a, side_b = _side(a), _side(b)
    both, only_a, only_b, changed = _compare_shards(side_a, side_b)
    pairs, known = _follow(side_a, side_b, only_a, only_b, changed)
    return Diff(
        digest_a=manifest_digest(a),
        digest_b=manifest_digest(b),
        kept_a=side_a.head.totals.kept,
        kept_b=side_b.head.totals.kept,
        same_pool=side_a.head.pool.fingerprint == side_b.head.pool.fingerprint,
        both=both + len(pairs),
        added=_without(only_b, [other for _, other in pairs]),
        removed=_without(only_a, [one for one, _ in pairs]),
        moved=tuple(pair for pair in pairs if pair[0] != pair[1]),
        moves_known=known,
        classes=tuple(_classes(side_a.head, side_b.head)),
    )


def write_samples(path: Path, result: Diff, a: Path, b: Path) -> None:
    """Writes every sample that changed: `added|removed|moved TAB shard TAB ordinal TAB key`, one a line.

    A moved sample has its place in B. The key is empty where no index of the pool is left.
    """
    durable.check_page(path)
    pool_a, pool_b = (find_pool(folder, load_whole(folder)) for folder in (a, b))
    moved = _by_shard([place for _, place in result.moved])
    path.parent.mkdir(parents=True, exist_ok=True)
    with durable.replace(path) as file:
        for what, ordinals, pool in (
            (ADDED, result.added, pool_b), (REMOVED, result.removed, pool_a), (MOVED, moved, pool_b),
        ):  # fmt: skip
            for shard, rows in ordinals.items():
                keys = _keys(pool, shard, rows) if pool else [""] * len(rows)
                lines = (f"{what}\t{shard}\t{row}\t{key}\n" for row, key in zip(rows.tolist(), keys, strict=True))
                file.write("".join(lines).encode("utf-8", "surrogateescape"))


def _side(folder: Path) -> Side:
    head = load_whole(folder)
    return Side(folder, head, {line.name: line for line in read_lines(folder)})


def _compare_shards(a: Side, b: Side) -> tuple[int, Ordinals, Ordinals, list[str]]:
    """Returns how many samples both keep in shards that are the same, what only A and only B keeps, and
    the shards that are not the same.
    """
    both, changed = 0, list[str]()
    only_a: Ordinals = {}
    only_b: Ordinals = {}
    for name in sorted({*a.lines, *b.lines}):
        a_N, b_N = (kept_mask(side.lines[name]) if name in side.lines else None for side in (a, b))
        if a_N is not None and b_N is not None and _source(a.lines[name]) == _source(b.lines[name]):
            both += int((a_N & b_N).sum())
            a_N, b_N = a_N & ~b_N, b_N & ~a_N
        else:
            changed.append(name)
        for only, mask_N in ((only_a, a_N), (only_b, b_N)):
            if mask_N is not None and mask_N.any():
                only[name] = np.flatnonzero(mask_N)
    return both, only_a, only_b, changed


def _source(line: Line) -> tuple[int, str, int]:
    return line.bytes, line.first_header, line.samples


def _follow(
    a: Side, b: Side, only_a: Ordinals, only_b: Ordinals, changed: Sequence[str]
) -> tuple[list[tuple[Place, Place]], bool]:
    """Returns (place in A, place in B) of samples that shards of different content share, found by key.

    The same shard name and key come first, then a key that is left once on either side.

    Returns:
        The pairs, and whether the keys could be read.
    """
    rows_a, rows_b = ({name: only[name] for name in changed if name in only} for only in (only_a, only_b))
    if not (rows_a and rows_b):
        return [], True
    pool_a, pool_b = find_pool(a.folder, a.head), find_pool(b.folder, b.head)
    if pool_a is None or pool_b is None:
        return [], False
    key_a, key_b = _keyed(pool_a, rows_a), _keyed(pool_b, rows_b)
    place_of = {(place.shard, key): place for place, key in key_b.items()}
    pairs = [(place, place_of[place.shard, key]) for place, key in key_a.items() if (place.shard, key) in place_of]
    for one, other in pairs:
        del key_a[one], key_b[other]
    once_a, once_b = _once(key_a), _once(key_b)
    return [*pairs, *((place, once_b[key]) for key, place in once_a.items() if key in once_b)], True


def _keyed(pool: Pool, ordinals: Ordinals) -> dict[Place, str]:
    return {
        Place(shard, row): key
        for shard, rows in ordinals.items()
        for row, key in zip(rows.tolist(), _keys(pool, shard, rows), strict=True)
    }


def _once(key_of: dict[Place, str]) -> dict[str, Place]:
    """Returns the place of every key that is there once."""
    counts = Counter(key_of.values())
    return {key: place for place, key in key_of.items() if counts[key] == 1}


def _keys(pool: Pool, shard: str, rows: NDArray[np.int64]) -> list[str]:
    # The scans are in the order of their names.
    number = bisect_left(pool.scans, shard, key=lambda scan: scan.name)
    keys: list[str] = pool.read(number, ["key"])["key"].take(rows).to_pylist()
    return keys


def _by_shard(places: Sequence[Place]) -> Ordinals:
    rows: dict[str, list[int]] = {}
    for shard, ordinal in places:
        rows.setdefault(shard, []).append(ordinal)
    return {shard: np.array(sorted(ordinals)) for shard, ordinals in rows.items()}


def _without(ordinals: Ordinals, places: Sequence[Place]) -> Ordinals:
    gone = _by_shard(places)
    left = {shard: np.setdiff1d(rows, gone[shard]) if shard in gone else rows for shard, rows in ordinals.items()}
    return {shard: rows for shard, rows in left.items() if len(rows)}


def _count(ordinals: Ordinals) -> int:
    return sum(len(rows) for rows in ordinals.values())


def _classes(a: Head, b: Head) -> Iterator[ClassChange]:
    counts_a, counts_b = _by_class(a), _by_class(b)
    total_a, total_b = sum(counts_a.values()), sum(counts_b.values())
    for name in dict.fromkeys([*counts_a, *counts_b]):
        before, after = counts_a.get(name, 0), counts_b.get(name, 0)
        yield ClassChange(name, before, after, before / max(1, total_a), after / max(1, total_b))


def _by_class(head: Head) -> dict[str, int]:
    """Returns kept samples by class: `3`, `3 cat` where ids have names, `cat` where labels are names."""
    return dict(zip(class_names(head), head.classes.after, strict=True))


def class_names(head: Head) -> list[str]:
    """Returns what each class of a manifest is called, by id."""
    names = head.classes.names
    if head.classes.kind == "name":
        return list(names)
    return [
        f"{place} {names[place]}" if place < len(names) and names[place] else str(place)
        for place in range(len(head.classes.after))
    ]
