"""Scores to compare with: no opinion at all, and the label's loss.

`random` stands beside every claim of quality. Like all other functions these take an `Ensemble` of
B samples and return B scores, higher being kept first.
"""

from __future__ import annotations

import numpy as np

from curate.acquisition.ensemble import UNLABELLED, Ensemble, FloatArray
from curate.errors import UsageError
from curate.samples import shuffled, uniform

# ln of it is −103.28: float32 can tell no smaller probability from 0, and no loss is infinite.
SMALLEST_PROBABILITY = 2.0**-149


def random(ensemble: Ensemble, *, seed: int = 0) -> FloatArray:
    """Returns a uniform number for each sample that depends on its identity and the seed alone.

    Args:
        ensemble: B samples with identities; predictions are not looked at.
        seed: another seed, another order.

    Returns:
        Shape (B,), float64, in [0, 1); higher is kept first, which means nothing.

    Raises:
        UsageError: the ensemble has no identities.

    Source: SplitMix64 (Steele, Lea and Flood 2014) of the identity hash, see `samples.shuffled`.
    """
    if ensemble.identity_B is None:
        raise UsageError("random needs the identity of each sample, and this ensemble has none")
    return uniform(shuffled(ensemble.identity_B, seed=seed))


def loss(ensemble: Ensemble) -> FloatArray:
    """Returns the cross-entropy of the mean prediction against the label, in nats.

    s(x) = −ln p_y, with p the mean of the members' probabilities and y the label.

    Args:
        ensemble: B samples with labels, C ≥ 1 classes, M ≥ 1 members.

    Returns:
        Shape (B,), float64, in [0, 103.28]; 0 when the label is certain; higher is kept first. NaN
        where a sample has no label: tables hold it as null.

    Raises:
        UsageError: the ensemble has no labels.

    Source: the cross-entropy of Shannon 1948. Deviation: p is raised to 2⁻¹⁴⁹, the smallest positive
        float32, so that a label of probability 0 has a finite loss.
    """
    if ensemble.labels_B is None:
        raise UsageError("loss needs labels, and this pool has none")
    unlabelled_B = ensemble.labels_B == UNLABELLED
    column_B1 = np.where(unlabelled_B, 0, ensemble.labels_B)[:, None]
    probability_B = np.take_along_axis(ensemble.mean_probs_BC, column_B1, axis=1)[:, 0].astype(np.float64)
    loss_B = 0.0 - np.log(np.clip(probability_B, SMALLEST_PROBABILITY, 1.0))
    return np.where(unlabelled_B, np.nan, loss_B)
