"""Scores from the mean prediction: how unsure is the ensemble as a whole?

Every function takes an `Ensemble` of B samples and returns B scores, larger meaning less sure and
therefore kept first. One member is an ensemble too. Nothing here reads files, holds state, or knows
which proxy made the probabilities. To add one: write the function below, add a row to the table in
`acquisition/__init__.py`, run the tests.
"""

from __future__ import annotations

import numpy as np

from curate.acquisition.ensemble import Ensemble, FloatArray, row_entropy


def least_confidence(ensemble: Ensemble) -> FloatArray:
    """Returns one minus the probability of the most likely class.

    s(x) = 1 − p₁, with p the mean of the members' probabilities in descending order.

    Args:
        ensemble: B samples, C ≥ 1 classes, M ≥ 1 members.

    Returns:
        Shape (B,), float64, in [0, 1 − 1/C]; 0 for certainty; higher is kept first.

    Source: Culotta and McCallum 2005; Settles 2009, section 3.1, there as the argmax of 1 − p₁.
    """
    return np.maximum(1.0 - _most_likely(ensemble)[0], 0.0)


def margin(ensemble: Ensemble) -> FloatArray:
    """Returns one minus the gap between the two most likely classes.

    s(x) = 1 − (p₁ − p₂), with p the mean of the members' probabilities in descending order. With
    one class p₂ = 0.

    Args:
        ensemble: B samples, C ≥ 1 classes, M ≥ 1 members.

    Returns:
        Shape (B,), float64, in [0, 1]; 1 for a tie, 0 for certainty; higher is kept first.

    Source: Scheffer, Decomain and Wrobel 2001; Settles 2009, section 3.1, there as a quantity to
        minimise: we return one minus it, so that all scores point the same way.
    """
    first_B, second_B = _most_likely(ensemble)
    return np.maximum(1.0 - (first_B - second_B), 0.0)


def entropy(ensemble: Ensemble) -> FloatArray:
    """Returns the entropy of the mean prediction, in nats.

    s(x) = −∑ p ln p, with p the mean of the members' probabilities and 0 ln 0 = 0.

    Args:
        ensemble: B samples, C ≥ 1 classes, M ≥ 1 members.

    Returns:
        Shape (B,), float64, in [0, ln C]; 0 for certainty; higher is kept first.

    Source: Shannon 1948; Lewis and Gale 1994; Chitta et al., "Training Data Distribution Search with
        Ensemble Active Learning", equation 3.
    """
    return row_entropy(ensemble.mean_probs_BC)


def _most_likely(ensemble: Ensemble) -> tuple[FloatArray, FloatArray]:
    probs_BC = np.ascontiguousarray(ensemble.mean_probs_BC, dtype=np.float64)
    classes = probs_BC.shape[1]
    if classes == 1:
        return probs_BC[:, 0], np.zeros(len(probs_BC))
    top_BC = np.partition(probs_BC, classes - 2, axis=1)
    return top_BC[:, -1], top_BC[:, -2]
