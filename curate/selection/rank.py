"""The one place that sorts.

The order of a pool is total: by score, then by the score that breaks ties, then by the hash of the
sample's identity. It never depends on position, on the order of shards, or on a sort's stability.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.errors import ScoreError
from curate.samples import IdentityArray
from curate.selection.radix import Column, Order, Parts, check_order, take_first_of

BoolArray = NDArray[np.bool_]
RealArray = NDArray[np.floating[Any]]


def order_keys(
    score_N: RealArray, *, tie_N: RealArray | None, identity_N: IdentityArray, order: Order
) -> tuple[NDArray[Any], ...]:
    """Returns the keys of the total order, the most significant first; smaller comes first.

    Scores and ties are negated for "hardest" and keep their float type; −0.0 becomes +0.0. The
    identity ascends in either order. `np.lexsort(keys[::-1])` is the whole order.

    Raises:
        UsageError: the order is neither "hardest" nor "easiest".
    """
    check_order(order)
    floats = (score_N,) if tie_N is None else (score_N, tie_N)
    if order == "hardest":
        return (*(0 - key_N for key_N in floats), identity_N)
    return (*(key_N + 0 for key_N in floats), identity_N)


def take_first(
    score_N: RealArray,
    *,
    tie_N: RealArray | None = None,
    identity_N: IdentityArray,
    count: int,
    order: Order = "hardest",
    eligible_N: BoolArray | None = None,
) -> BoolArray:
    """Returns a mask of the first `count` samples in the total order, shape (N,), bool.

    Args:
        score_N: shape (N,), higher = harder; −0.0 equals +0.0.
        tie_N: shape (N,), decides between equal scores, in the same direction.
        identity_N: shape (N,), uint64, decides what is left, ascending. Only samples whose scores,
            ties and 64-bit identities are all equal are told apart by position.
        count: from 0 to the number of eligible samples.
        order: "hardest" takes the highest scores, "easiest" the lowest.
        eligible_N: mask of the samples to take from; None for all. The others may have any score.

    Raises:
        ScoreError: the shapes differ, or the score or tie of an eligible sample is not finite; the
            first is named.
        UsageError: fewer than `count` samples are eligible.

    Cost: O(N) time and N / 4 bytes beside the arrays; nothing is sorted in full. See `radix.take_first_of`.
    """
    check_scores(score_N, tie_N=tie_N, identity_N=identity_N, eligible_N=eligible_N)
    eligible = None if eligible_N is None else [np.packbits(eligible_N)]
    tie = None if tie_N is None else _whole(tie_N)
    parts = Parts((len(score_N),), _whole(score_N), tie, _whole(identity_N))
    (first,) = take_first_of(parts, count=count, order=order, eligible=eligible)
    return np.unpackbits(first, count=len(score_N)).view(np.bool_)


def _whole(array_N: NDArray[Any]) -> Column:
    return lambda part: array_N


def rank_of(row: int, keys: Sequence[NDArray[Any]]) -> int:
    """Returns the rank of one sample under `order_keys`, 1 for the first. Samples without a score are no rivals.

    Cost: O(N) time and memory.
    """
    before, level_N = 0, np.ones(len(keys[0]), dtype=np.bool_)
    for key_N in keys:
        before += int(np.count_nonzero(level_N & (key_N < key_N[row])))
        level_N &= key_N == key_N[row]
    return before + 1


def ranks_of(row_K: NDArray[np.int64], keys: Sequence[NDArray[Any]]) -> NDArray[np.int64]:
    """Returns the ranks of K samples, each that of `rank_of`, shape (K,).

    Args:
        row_K: rows with a score.
        keys: of `order_keys`.

    Cost: O(N log N) for the first key; a pass over N for each value of it that is tied.
    """
    first_N, value_K = keys[0], keys[0][row_K]
    ordered_N = np.sort(first_N)
    before_K, upto_K = (np.searchsorted(ordered_N, value_K, side=side) for side in ("left", "right"))
    rank_K = before_K.astype(np.int64) + 1
    for value in np.unique(value_K[upto_K - before_K > 1]) if len(keys) > 1 else ():
        tied_N, mine_K = np.flatnonzero(first_N == value), value_K == value
        place_K = np.searchsorted(tied_N, row_K[mine_K])
        rank_K[mine_K] += ranks_of(place_K, [key_N[tied_N] for key_N in keys[1:]]) - 1
    return rank_K


def last_of(row_K: NDArray[np.int64], keys: Sequence[NDArray[Any]]) -> int:
    """Returns which of some samples comes last under `order_keys`. Cost: O(K)."""
    for key_N in keys:
        row_K = row_K[key_N[row_K] == key_N[row_K].max()]
    return int(row_K[-1])


def check_scores(
    score_N: RealArray,
    *,
    tie_N: RealArray | None,
    identity_N: IdentityArray,
    eligible_N: BoolArray | None,
) -> None:
    """Accepts scores that can be ordered.

    Raises:
        ScoreError: an array is not of shape (N,), a score is not floating point, or the score or tie
            of an eligible sample is not finite; the first is named.
    """
    arrays = {"tie": tie_N, "identity": identity_N, "eligible": eligible_N}
    for name, array in arrays.items():
        if array is not None and array.shape != (len(score_N),):
            raise ScoreError(f"{name} has shape {array.shape}, but there are {len(score_N):,} scores")
    for name, value_N in {"score": score_N, "tie score": tie_N}.items():
        if value_N is None:
            continue
        if value_N.dtype.kind != "f":  # unsigned integers wrap around when they are negated
            raise ScoreError(f"the {name} has type {value_N.dtype}, expected floating point")
        bad_N = ~np.isfinite(value_N)
        if eligible_N is not None:
            bad_N &= eligible_N
        if bad_N.any():
            row = int(np.argmax(bad_N))
            raise ScoreError(
                f"the {name} of sample {row} is {value_N[row]}; {int(bad_N.sum()):,} are not finite",
                hint="Scores must be finite numbers: what is not a number has no rank.",
            )
