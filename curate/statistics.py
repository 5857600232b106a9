"""Ranks, correlations, means and counts: the few statistics that reports are made of.

Plain numpy over plain arrays; nothing here knows what the numbers mean.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from curate.errors import ScoreError, UsageError
from curate.samples import IdentityArray
from curate.selection.rank import take_first

FloatArray = NDArray[np.float64]


def average_ranks(values: ArrayLike) -> FloatArray:
    """Returns ascending ranks from 1, equal values sharing the mean of theirs.

    Args:
        values: shape (N,), without NaN; −0.0 equals +0.0. Negate them for descending ranks.

    Returns:
        Shape (N,), float64, in [1, N].

    Raises:
        ScoreError: a value is NaN.

    Cost: O(N log N).
    """
    _, place_N, counts = np.unique(_vector(values), return_inverse=True, return_counts=True)
    ranks: FloatArray = (np.cumsum(counts) - (counts - 1) / 2)[place_N]
    return ranks


def pearson(a: ArrayLike, b: ArrayLike) -> float:
    """Returns Pearson's correlation of two arrays of shape (N,), in [−1, 1].

    NaN when it is not defined: fewer than two samples, or one array is constant.

    Raises:
        ScoreError: the lengths differ, or a value is not finite.
    """
    a_N, b_N = _pair(a, b)
    if not (np.isfinite(a_N).all() and np.isfinite(b_N).all()):
        raise ScoreError("cannot correlate values that are not finite")
    # Asked before the mean is subtracted: rounding makes [0.1, 0.1, 0.1] less its mean differ from 0.
    if len(a_N) < 2 or a_N.min() == a_N.max() or b_N.min() == b_N.max():
        return float("nan")
    return float(np.clip(_direction(a_N) @ _direction(b_N), -1.0, 1.0))


def spearman(a: ArrayLike, b: ArrayLike) -> float:
    """Returns Spearman's rank correlation of two arrays of shape (N,), in [−1, 1].

    Pearson's correlation of the average ranks, which stays right under ties. NaN when it is not
    defined: fewer than two samples, or one array is constant.

    Raises:
        ScoreError: the lengths differ, or a value is NaN.

    Source: Spearman 1904; with ties as in Kendall 1945.
    """
    return pearson(average_ranks(a), average_ranks(b))


def kendall(a: ArrayLike, b: ArrayLike) -> float:
    """Returns Kendall's rank correlation τ_b of two arrays of shape (N,), in [−1, 1].

    (P − Q) / √((P + Q + A)(P + Q + B)), with P and Q the pairs in the same and in opposite order, A and B
    those that are tied in `a` alone and in `b` alone. NaN when it is not defined: fewer than two samples,
    or one array is constant.

    Raises:
        ScoreError: the lengths differ, or a value is NaN.

    Cost: O(N log² N) time, O(N) memory.

    Source: Kendall 1945; counted by sorting as in Knight 1966.
    """
    a_N, b_N = (np.unique(values, return_inverse=True)[1].astype(np.int64) for values in _pair(a, b))
    size = len(a_N)
    order_N = np.lexsort((b_N, a_N))
    opposite = _inversions(b_N[order_N])
    tied_a, tied_b = _tied_pairs(a_N), _tied_pairs(b_N)
    tied_both = _tied_pairs(a_N * (b_N.max(initial=0) + 1) + b_N)
    pairs = size * (size - 1) // 2
    if pairs in (tied_a, tied_b):
        return float("nan")
    excess = pairs - tied_a - tied_b + tied_both - 2 * opposite
    return float(np.clip(excess / np.sqrt(pairs - tied_a) / np.sqrt(pairs - tied_b), -1.0, 1.0))


def top_overlap(
    a: ArrayLike,
    b: ArrayLike,
    count: int,
    identity_N: IdentityArray,
    *,
    ties: tuple[NDArray[Any] | None, NDArray[Any] | None] = (None, None),
) -> float:
    """Returns how much of the `count` highest of `a` is among the `count` highest of `b`, in [0, 1].

    It is the overlap of what a selection by either would keep: where scores are equal, `ties` decide, then the
    identity hash. Of unrelated scores it is count / N where few are equal, and more where the hash decides much.

    Args:
        a, b: finite, of shape (N,).
        count: from 1 to N.
        identity_N: of the samples.
        ties: what decides between equal values of `a` and of `b`, shape (N,); None for the identity alone.

    Raises:
        ScoreError: the lengths differ, or a value is not finite.
        UsageError: there are not so many samples.

    Cost: O(N).
    """
    if count < 1:
        raise UsageError(f"the overlap of the highest {count} samples is not defined", hint="Expected 1 or more.")
    first, second = (
        take_first(values, tie_N=tie_N, identity_N=identity_N, count=count)
        for values, tie_N in zip(_pair(a, b), ties, strict=True)
    )
    return float(np.count_nonzero(first & second) / count)


def kolmogorov_smirnov(a: ArrayLike, b: ArrayLike) -> float:
    """Returns the largest difference of two samples' distribution functions, in [0, 1]; 0 if they are the same.

    D = max over x of |F_a(x) − F_b(x)|. What chance alone gives is `kolmogorov_smirnov_by_chance`.

    Args:
        a, b: shapes (N,) and (M,), both at least 1.

    Raises:
        ScoreError: one is empty, or holds NaN.

    Cost: O((N + M) log(N + M)).

    Source: Smirnov 1948.
    """
    a_N, b_M = np.sort(_some(a)), np.sort(_some(b))
    both = np.concatenate([a_N, b_M])
    below_a, below_b = (np.searchsorted(values, both, side="right") / len(values) for values in (a_N, b_M))
    return float(np.abs(below_a - below_b).max())


def kolmogorov_smirnov_by_chance(n: int, m: int) -> float:
    """Returns what D of two samples of n and m from one distribution exceeds in one case of twenty (asymptotic)."""
    return float(1.3581 * np.sqrt((n + m) / (n * m)))


def dominance(a: ArrayLike, b: ArrayLike) -> float:
    """Returns P(a > b) − P(a < b) of a value of each, in [−1, 1]; 0 if neither tends to be higher.

    Raises:
        ScoreError: one is empty, or holds NaN.

    Cost: O((N + M) log(N + M)).

    Source: Cliff 1993 (delta), counted by Mann and Whitney's U from average ranks.
    """
    a_N, b_M = _some(a), _some(b)
    size, other = len(a_N), len(b_M)
    above = average_ranks(np.concatenate([a_N, b_M]))[:size].sum() - size * (size + 1) / 2
    return float(2 * above / (size * other) - 1)


def mean_and_spread(values: ArrayLike) -> tuple[float, float | None]:
    """Returns the mean and the standard deviation (n − 1) of runs; None for the latter at n = 1.

    Raises:
        ScoreError: there is no value, or one is NaN.
    """
    values_N = _vector(values)
    if len(values_N) == 0:
        raise ScoreError("the mean of 0 values is not defined")
    spread = float(values_N.std(ddof=1)) if len(values_N) > 1 else None
    return float(values_N.mean()), spread


def paired_interval(differences: ArrayLike) -> tuple[float, float | None, float | None]:
    """Returns the mean of paired differences and the ends of its 95 % interval; None for the ends at n = 1.

    Student's t with n − 1 degrees of freedom: wide at the three runs that are usual.

    Raises:
        ScoreError: there is no value, or one is NaN.
    """
    mean, spread = mean_and_spread(differences)
    if spread is None:
        return mean, None, None
    from scipy.special import stdtrit  # only for who compares runs

    size = len(_vector(differences))
    half = float(stdtrit(size - 1, 0.975)) * spread / size**0.5
    return mean, mean - half, mean + half


def bin_edges(values: NDArray[np.float64], bins: int) -> NDArray[np.float64]:
    """Returns the edges of equal bins, shape (bins + 1,).

    Of one bin where float64 cannot tell so many apart, or their span is too large for it.

    Args:
        values: finite, shape (N,).
        bins: how many, at least 1.
    """
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    with np.errstate(over="ignore", invalid="ignore"):
        edges = np.linspace(low, high, bins + 1)
        wide = max(0.5, float(np.spacing(max(abs(low), abs(high)))))
        if low == high:
            return np.array([low - wide, high + wide])
    return edges if np.isfinite(edges).all() and (np.diff(edges) > 0).all() else np.array([low, high])


def _vector(values: ArrayLike) -> FloatArray:
    values_N = np.asarray(values, dtype=np.float64)
    if values_N.ndim != 1:
        raise ScoreError(f"expected an array of shape (N,), got {values_N.shape}")
    if np.isnan(values_N).any():
        raise ScoreError(f"value {int(np.argmax(np.isnan(values_N)))} is NaN")
    return values_N + 0.0  # −0.0 becomes 0.0


def _some(values: ArrayLike) -> FloatArray:
    values_N = _vector(values)
    if not len(values_N):
        raise ScoreError("cannot compare the distribution of 0 values")
    return values_N


def _pair(a: ArrayLike, b: ArrayLike) -> tuple[FloatArray, FloatArray]:
    a_N, b_N = _vector(a), _vector(b)
    if len(a_N) != len(b_N):
        raise ScoreError(f"cannot correlate {len(a_N)} values with {len(b_N)}")
    return a_N, b_N


def _tied_pairs(values_N: NDArray[np.int64]) -> int:
    counts = np.unique(values_N, return_counts=True)[1]
    return int((counts * (counts - 1) // 2).sum())


def _inversions(values_N: NDArray[np.int64]) -> int:
    """Returns how many pairs stand in falling order; values from 0 to N − 1.

    Merge sort from the bottom up, all blocks of one width at once: a block's number in front of each value
    makes one sorted array of all left halves, in which every value of a right half finds its place.
    """
    size = len(values_N)
    place_N, count, width = np.arange(size), 0, 1
    while width < size:
        block_N = place_N // (2 * width)
        is_left_N = place_N // width % 2 == 0
        key_N = block_N * size + values_N
        left = key_N[is_left_N]
        ends = np.searchsorted(block_N[is_left_N], block_N[~is_left_N], side="right")
        count += int((ends - np.searchsorted(left, key_N[~is_left_N], side="right")).sum())
        values_N = np.sort(key_N) - block_N * size
        width *= 2
    return count


def _direction(values_N: FloatArray) -> FloatArray:
    """Returns the values about their mean, of length 1; scaled first, so that no square overflows."""
    about_mean = values_N - values_N.mean()
    about_mean = about_mean / np.abs(about_mean).max()
    unit: FloatArray = about_mean / np.linalg.norm(about_mean)
    return unit
