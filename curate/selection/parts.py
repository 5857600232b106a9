"""Greedy k-centers over parts of a pool: its classes, or partitions of a pool too large to be held at once.

Embeddings come from a function that reads some rows, so that one part at a time is in memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.errors import UsageError
from curate.selection.distances import RowArray
from curate.selection.k_centers import Centers, IntArray, k_centers

Read = Callable[[RowArray], NDArray[np.floating[Any]]]


def k_centers_per_class(
    read: Read, class_N: IntArray, quota_C: IntArray, *, start_S: RowArray, rank_N: IntArray
) -> Centers:
    """Returns the centers of each class, chosen among and for its own samples, farthest first.

    Args:
        read: rows → embeddings, shape (B, D).
        class_N: class ids from 0, shape (N,).
        quota_C: how many centers each class gets beside those of its start.
        start_S: rows that are centers already, each of its class.
        rank_N: shape (N,), decides ties.

    Returns:
        The centers of all classes by falling radius; the cover radius and its lower bound are the
        largest of any class, for centers that are divided among classes in the same way.

    Raises:
        ScoreError, UsageError: as `k_centers` does.
    """
    chosen = []
    for label, quota in enumerate(quota_C.tolist()):
        own_S = start_S[class_N[start_S] == label]
        free_P = np.setdiff1d(np.flatnonzero(class_N == label), own_S)
        if len(own_S) + len(free_P):
            chosen.append(_beside(read, own_S, free_P, quota, rank_N))
    return _merged(chosen, rank_N)


def k_centers_in_two_rounds(
    read: Read, budget: int, *, partitions: int, start_S: RowArray, rank_N: IntArray
) -> Centers:
    """Returns centers chosen among those of every partition, where a pool is too large for one round.

    Round one chooses `budget` centers in each partition beside the start, round two as many among all
    of these. A sample's partition is its rank modulo `partitions`: with hashes of identities as ranks
    it does not depend on shards or their order.

    Args:
        read: rows → embeddings, shape (B, D).
        budget: how many, beside the start.
        partitions: how many, at least 1.
        start_S: rows that are centers already.
        rank_N: shape (N,), not negative; decides partitions and ties.

    Returns:
        Centers whose cover radius is measured over the whole pool and is at most four times the
        smallest that as many centers beside the same start reach: a sample is within two optimal radii
        of a center of its partition, and that one within two of a center of round two. The lower bound
        is half the largest radius left in any partition or in round two. `radius_K` are those of
        round two.

    Raises:
        ScoreError, UsageError: as `k_centers` does; and less than one partition.

    Cost: the time of about N·budget·D + partitions·budget²·D multiplications; memory of the largest
        partition, or of min(N, partitions × budget) embeddings, which gains nothing where budget is
        near N / partitions.

    Source: Malkomes et al. 2015, theorem 1; the start, whose centers serve every partition, is ours.
    """
    if partitions < 1:
        raise UsageError(f"{partitions} partitions: expected at least 1")
    free_F = np.setdiff1d(np.arange(len(rank_N)), start_S)
    part_F = rank_N[free_F] % partitions
    parts = [part for part in (free_F[part_F == number] for number in range(partitions)) if len(part)]
    firsts = [_beside(read, start_S, part, min(budget, len(part)), rank_N) for part in parts]
    union = np.concatenate([np.zeros(0, dtype=np.int64), *(first.order_K for first in firsts)])
    last = _beside(read, start_S, union, budget, rank_N)
    centers = np.concatenate([start_S, last.order_K])
    covers = [_beside(read, centers, np.setdiff1d(part, centers), 0, rank_N) for part in parts]
    return Centers(
        last.order_K,
        last.radius_K,
        cover_radius=max((cover.cover_radius for cover in covers), default=0.0),
        lower_bound=max(found.lower_bound for found in (*firsts, last)),
    )


def part_samples(samples: int, budget: int, partitions: int) -> int:
    """Returns how many embeddings `k_centers_in_two_rounds` holds at a time, the start left out."""
    return max(-(-samples // partitions), min(samples, partitions * budget))


def _beside(read: Read, start_S: RowArray, row_P: RowArray, budget: int, rank_N: IntArray) -> Centers:
    """Returns centers chosen among some rows beside a start, as rows of the pool."""
    row_B = np.concatenate([start_S, row_P])
    found = k_centers(read(row_B), budget, start=np.arange(len(start_S)), rank_N=rank_N[row_B])
    return replace(found, order_K=row_B[found.order_K])


def _merged(chosen: list[Centers], rank_N: IntArray) -> Centers:
    order = np.concatenate([np.zeros(0, dtype=np.int64), *(centers.order_K for centers in chosen)])
    radius = np.concatenate([np.zeros(0), *(centers.radius_K for centers in chosen)])
    place = np.lexsort((rank_N[order], -radius))
    return Centers(
        order[place],
        radius[place],
        cover_radius=max((centers.cover_radius for centers in chosen), default=0.0),
        lower_bound=max((centers.lower_bound for centers in chosen), default=0.0),
    )
