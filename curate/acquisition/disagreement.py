"""Scores from the differences between members: where would another training run decide otherwise?

Every function takes an `Ensemble` of B samples and returns B scores, larger meaning more
disagreement and therefore kept first. One member cannot disagree with itself: the table in
`acquisition/__init__.py` says how many each function needs. Nothing here reads files, holds state,
or knows where the members came from. To add one: write the function below, add a row to the table,
run the tests.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

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


def consensus(vote_MB: IntArray) -> NDArray[np.bool_]:
    """Says for each sample whether all members vote for one class.

    Args:
        vote_MB: the class that each member puts first, shape (M, B), M ≥ 1. The last n rows of a run's
            checkpoints give the consensus of its last n checkpoints.

    Returns:
        Shape (B,), bool.

    Raises:
        ScoreError: there is no member.

    Source: Chitta et al., "Training Data Distribution Search with Ensemble Active Learning", Figure 2.
    """
    if len(vote_MB) == 0:
        raise ScoreError("the consensus of 0 members is not defined")
    unanimous_B: NDArray[np.bool_] = (vote_MB == vote_MB[0]).all(axis=0)
    return unanimous_B


def pair_agreement(vote_MB: IntArray) -> FloatArray:
    """Returns the fraction of samples on which each member agrees with the one before it.

    Args:
        vote_MB: the class that each member puts first, shape (M, B), M ≥ 1, B ≥ 1.

    Returns:
        Shape (M − 1,), float64, in [0, 1].

    Raises:
        ScoreError: there is no sample.

    Source: Chitta et al., "Training Data Distribution Search with Ensemble Active Learning", Figure 2.
    """
    if vote_MB.shape[1] == 0:
        raise ScoreError("the agreement on 0 samples is not defined")
    agreement_M: FloatArray = (vote_MB[1:] == vote_MB[:-1]).mean(axis=1)
    return agreement_M
