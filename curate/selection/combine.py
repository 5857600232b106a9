"""One score out of several: those of single seeds, or of several proxies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from curate.errors import ScoreError, UsageError
from curate.statistics import average_ranks

Combine = Literal["mean", "rank"]

COMBINES: tuple[Combine, ...] = ("mean", "rank")


def combined(scores: Sequence[NDArray[np.floating[Any]]], how: Combine) -> NDArray[np.float64]:
    """Returns the mean of several scores of the same N samples, or the mean of their ranks.

    Args:
        scores: at least one, each of shape (N,), higher = keep first.
        how: "mean" of the scores as they are, which leaves the say to the one of the widest range; or
            "rank": of ascending ranks from 1 to N, equal scores sharing the mean of theirs.

    Returns:
        Shape (N,), float64; higher is kept first.

    Raises:
        UsageError: `how` is neither "mean" nor "rank".
        ScoreError: there is no score, the shapes differ, or a score is not finite.

    Cost: O(N) for each score, O(N log N) for ranks.

    Source: the mean rank of an ensemble of proxies; the order is that of mean descending ranks.
    """
    if how not in COMBINES:
        raise UsageError(f"unknown way '{how}' to combine scores", hint=f"Known: {', '.join(COMBINES)}.")
    sizes = sorted({len(score_N) for score_N in scores})
    if len(sizes) != 1:
        raise ScoreError(f"{len(scores)} scores of {sizes} samples cannot be combined")
    total_N = np.zeros(sizes[0])
    for place, score_N in enumerate(scores):
        if not np.isfinite(score_N).all():
            row = int(np.argmin(np.isfinite(score_N)))
            raise ScoreError(f"score {place} of sample {row} is {score_N[row]}, and cannot be combined with others")
        total_N += average_ranks(score_N) if how == "rank" else score_N
    return total_N / len(scores)
