"""What is like a sample, and how its members voted: from saved embeddings and votes. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from curate.embeddings import FOLDER, RECORD, Embeddings
from curate.manifest.origin import Origin
from curate.scores import VOTE, VOTES, Columns, read_columns
from curate.workflows.consensus import vote_names
from curate.workflows.decision import class_name

NEAREST = 5
Votes = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Neighbour:
    """A kept sample beside another one; `distance` is Euclidean, between the proxy's embeddings."""

    shard: str
    ordinal: int
    key: str
    label: str
    distance: float


def nearest_kept(
    origin: Origin, columns: Columns, kept_N: NDArray[np.bool_], row: int, *, count: int = NEAREST
) -> tuple[Neighbour, ...] | None:
    """Returns the kept samples nearest to a row, other than itself; None where the run holds no embeddings.

    Args:
        origin, columns: a run and its scored samples.
        kept_N: which of them a manifest keeps.
        row: of the sample.

    Raises:
        RunError: the embeddings are damaged.

    Cost: O(kept x D); one shard's embeddings in memory at a time.
    """
    if origin.index or not (origin.scores / FOLDER / RECORD).exists():
        return None
    embeddings = Embeddings(origin.scores, origin.pool, columns.ordinals)
    own_D = embeddings.read(np.array([row]))[0]
    best: list[tuple[float, int, int]] = []
    first = 0
    for number, ordinal_K in enumerate(columns.ordinals):
        near_K = first + np.flatnonzero(kept_N[first : first + len(ordinal_K)])
        near_K = near_K[near_K != row]
        if len(near_K):
            distance_K = np.linalg.norm(embeddings.read(near_K) - own_D, axis=1)
            places = np.argsort(distance_K, kind="stable")[:count]
            best += [(float(distance_K[k]), number, int(ordinal_K[near_K[k] - first])) for k in places]
        first += len(ordinal_K)
    return tuple(_neighbour(origin, *one) for one in sorted(best)[:count])


def _neighbour(origin: Origin, distance: float, number: int, ordinal: int) -> Neighbour:
    pool = origin.pool
    key = pool.read(number, ["key"])["key"][ordinal].as_py()
    return Neighbour(
        pool.scans[number].name, ordinal, key, class_name(pool, int(pool.labels(number)[ordinal])), distance
    )


def votes_of(origin: Origin, rows: Sequence[int]) -> dict[int, Votes]:
    """Returns (member, class) of every member for some rows; empty ones where votes were not saved.

    Cost: every vote is read, one member in memory at a time.
    """
    votes: dict[int, list[tuple[str, str]]] = {row: [] for row in rows}
    for name in [] if origin.index else vote_names(origin.scores):
        class_N = read_columns(origin.scores / VOTES, origin.pool, [name], bad=origin.bad).values[name]
        seed, _, epoch = name.removeprefix(VOTE).partition("/")
        for row in rows:
            votes[row].append((f"seed {seed}, epoch {epoch}", class_name(origin.pool, int(class_N[row]))))
    return {row: tuple(own) for row, own in votes.items()}
