"""Scores from the differences between members: where would another training run decide otherwise?

Every function takes an `Ensemble` of B samples and returns B scores, larger meaning more
disagreement and therefore kept first. One member cannot disagree with itself: the table in
`acquisition/__init__.py` says how many each function needs. Nothing here reads files, holds state,
or knows where the members came from. To add one: write the function below, add a row to the table,
run the tests.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from curate.acquisition.ensemble import UNLABELLED, Ensemble, FloatArray, IntArray, row_entropy
from curate.errors import ScoreError, UsageError


def mutual_information(ensemble: Ensemble) -> FloatArray:
    """Returns the mutual information of prediction and member, in nats (BALD).

    s(x) = H(p̄) − (1/M) ∑ₘ H(pₘ): the entropy of the mean less the mean entropy, which leaves what the
    members do not agree on.

    Args:
        ensemble: B samples, C ≥ 1 classes, M ≥ 2 members (M = 1 gives 0 throughout).

    Returns:
        Shape (B,), float64, in [0, ln min(C, M)]; 0 when all members predict the same; rounding
        that leaves the range is cut off at its ends; higher is kept first.

    Source: Houlsby et al. 2011, arXiv 1112.5745, equation 2; Chitta et al., "Training Data
        Distribution Search with Ensemble Active Learning", equation 4.
    """
    ceiling = math.log(min(ensemble.mean_probs_BC.shape[1], ensemble.members))
    difference_B: FloatArray = row_entropy(ensemble.mean_probs_BC) - ensemble.mean_entropy_B.astype(np.float64)
    information_B: FloatArray = np.clip(difference_B, 0.0, ceiling) + 0.0  # −0.0 becomes 0.0
    return information_B


def variation_ratio(ensemble: Ensemble) -> FloatArray:
    """Returns the fraction of members that do not vote with the majority.

    s(x) = 1 − v₁ / M, with v₁ the votes of the class that has most.

    Args:
        ensemble: B samples, C ≥ 1 classes, M ≥ 2 members (M = 1 gives 0 throughout).

    Returns:
        Shape (B,), float64, a multiple of 1/M in [0, 1 − ⌈M/C⌉/M]; higher is kept first. Ties are the
        normal case and fall to mutual information.

    Source: Freeman 1965; Chitta et al., "Training Data Distribution Search with Ensemble Active
        Learning", equation 5.
    """
    minority_B: IntArray = ensemble.members - ensemble.votes_BC.max(axis=1)
    return minority_B / float(ensemble.members)


def error_count(ensemble: Ensemble) -> FloatArray:
    """Returns the fraction of members that do not vote for the label.

    s(x) = errors / M.

    Args:
        ensemble: B samples with labels, C ≥ 1 classes, M ≥ 1 members.

    Returns:
        Shape (B,), float64, a multiple of 1/M in [0, 1]; higher is kept first. NaN where a sample has
        no label: tables hold it as null. Ties are the normal case and fall to the loss.

    Raises:
        UsageError: the ensemble has no labels.

    Source: Chitta et al., "Training Data Distribution Search with Ensemble Active Learning",
        equation 6; their Table 1 shows it below random on small budgets.
    """
    if ensemble.errors_B is None or ensemble.labels_B is None:
        raise UsageError("error_count needs labels, and this pool has none")
    fraction_B = ensemble.errors_B / float(ensemble.members)
    return np.where(ensemble.labels_B == UNLABELLED, np.nan, fraction_B)


def checkpoint_agreement(votes: Sequence[IntArray]) -> tuple[FloatArray, FloatArray]:
    """Returns how far the checkpoints of a run agree, for n = 2, …, M counted from the last one.

    Args:
        votes: the class that each checkpoint puts first, M ≥ 1 of shape (B,), B ≥ 1, the last one last.

    Returns:
        The fractions of samples to which the last n checkpoints all give one class, and on which checkpoint n agrees
        with the one after it; both of shape (M − 1,), float64, in [0, 1].

    Raises:
        ScoreError: there is no sample, or no checkpoint.

    Cost: O(M · B), one mask of memory.

    Source: Chitta et al., "Training Data Distribution Search with Ensemble Active Learning", Figure 2.
    """
    if not votes or not len(votes[0]):
        raise ScoreError(f"the agreement of {len(votes)} checkpoints on no sample is not defined")
    last, pair = np.ones(len(votes) - 1), np.ones(len(votes) - 1)
    agree_B = np.ones(len(votes[-1]), dtype=np.bool_)
    for n in range(2, len(votes) + 1):
        agree_B &= votes[-n] == votes[-1]
        last[n - 2], pair[n - 2] = agree_B.mean(), (votes[-n] == votes[-n + 1]).mean()
    return last, pair
