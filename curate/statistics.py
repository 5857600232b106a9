"""Ranks, correlations, means and counts: the few statistics that reports are made of.

Plain numpy over plain arrays; nothing here knows what the numbers mean.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from curate.errors import ScoreError

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
    a_N, b_N = _vector(a), _vector(b)
    if len(a_N) != len(b_N):
        raise ScoreError(f"cannot correlate {len(a_N)} values with {len(b_N)}")
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


def histogram_of_distinct(values: ArrayLike) -> list[tuple[float, int]]:
    """Returns each distinct value with its count, ascending; −0.0 counts as 0.0.

    Raises:
        ScoreError: a value is NaN.
    """
    distinct, counts = np.unique(_vector(values), return_counts=True)
    return list(zip(distinct.tolist(), counts.tolist(), strict=True))


def _vector(values: ArrayLike) -> FloatArray:
    values_N = np.asarray(values, dtype=np.float64)
    if values_N.ndim != 1:
        raise ScoreError(f"expected an array of shape (N,), got {values_N.shape}")
    if np.isnan(values_N).any():
        raise ScoreError(f"value {int(np.argmax(np.isnan(values_N)))} is NaN")
    return values_N + 0.0  # −0.0 becomes 0.0


def _direction(values_N: FloatArray) -> FloatArray:
    """Returns the values about their mean, of length 1; scaled first, so that no square overflows."""
    about_mean = values_N - values_N.mean()
    about_mean = about_mean / np.abs(about_mean).max()
    unit: FloatArray = about_mean / np.linalg.norm(about_mean)
    return unit
