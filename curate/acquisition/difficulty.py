"""Scores from training dynamics: how hard was each sample to learn?

Every function takes the `Dynamics` of one seed and returns N scores, larger meaning harder and
therefore kept first; `over_seeds` joins those of several. A sample that was never presented (held out
of training, or without a label) has NaN throughout: tables hold it as null.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from curate.acquisition.dynamics import NEVER, Dynamics
from curate.acquisition.ensemble import FloatArray
from curate.errors import ScoreError

NeverLearned = Literal["first", "last"]


def forgetting(dynamics: Dynamics) -> FloatArray:
    """Returns how often each sample was forgotten, and T where it was never learned.

    A forgetting event is a presentation that is classified wrongly right after one that was correct.
    T is the number of epochs: no sample is forgotten more than T/2 times, so what was never learned
    comes before everything else. `never_learned_last` turns that round.

    Returns:
        Shape (N,), float64, whole numbers; higher is kept first. Ties are the normal case. A sample
        that is right in the last epoch alone has 0, like one that always was: see `first_learned`.

    Source: Toneva et al. 2019, arXiv 1812.05159, definitions 1 to 3, who count T for what was never
        learned. Coleman et al. 2020, arXiv 1906.11829, count +∞: the same order, but no sum over
        seeds and no number in JSON.
    """
    events_N = dynamics.rows["forgetting_events"] / _once_presented(dynamics)
    return events_N + dynamics.epochs * never_learned(dynamics)


def never_learned_last(forgetting_N: FloatArray, never_learned_N: FloatArray, epochs: int) -> FloatArray:
    """Returns forgetting scores under which a sample goes behind all others where it was never learned.

    Each seed that never learned it counts −T instead of T; of one that stopped early, after t epochs, t − 2T.

    Args:
        forgetting_N: of `forgetting`, of one seed or summed over several.
        never_learned_N: how many of these seeds never learned the sample.
        epochs: T, the most of any seed.
    """
    return forgetting_N - 2.0 * epochs * never_learned_N


def never_learned(dynamics: Dynamics) -> FloatArray:
    """Returns 1 for a sample that was never classified correctly, else 0, shape (N,)."""
    never_N: FloatArray = (dynamics.rows["first_learned"] == NEVER) / _once_presented(dynamics)
    return never_N


def first_learned(dynamics: Dynamics) -> FloatArray:
    """Returns the epoch, from 0, of the first correct classification, shape (N,); NaN where there is none."""
    first_N = dynamics.rows["first_learned"]
    return np.where(first_N == NEVER, np.nan, first_N)


def correctness(dynamics: Dynamics) -> FloatArray:
    """Returns the fraction of presentations that were wrong: one minus the paper's correctness.

    Returns:
        Shape (N,), float64, in [0, 1]; higher is kept first.

    Source: Swayamdipta et al. 2020, arXiv 2009.10795, section 2, there as what is correct.
    """
    return 1.0 - dynamics.rows["correct"] / _presentations(dynamics)


def confidence(dynamics: Dynamics) -> FloatArray:
    """Returns one minus the mean probability of the label: the hard-to-learn end of the data map.

    Returns:
        Shape (N,), float64, in [0, 1]; higher is kept first.

    Source: Swayamdipta et al. 2020, arXiv 2009.10795, equation 1, there as the mean itself.
    """
    return 1.0 - dynamics.rows["probability_mean"] / _once_presented(dynamics)


def variability(dynamics: Dynamics) -> FloatArray:
    """Returns the standard deviation of the label's probability: the ambiguous end of the data map.

    Returns:
        Shape (N,), float64, of the population (divided by T), in [0, 0.5]; higher is kept first.

    Source: Swayamdipta et al. 2020, arXiv 2009.10795, equation 2.
    """
    return np.sqrt(dynamics.rows["probability_squares"] / _presentations(dynamics))


def aum(dynamics: Dynamics) -> FloatArray:
    """Returns minus the area under the margin: what training had least success with comes first.

    Returns:
        Shape (N,), float64, in units of logits, unbounded; higher is kept first. Its top holds the
        mislabelled samples.

    Source: Pleiss et al. 2020, arXiv 2001.10528, definition 1, there as a quantity that is low for
        mislabelled samples.
    """
    return 0.0 - dynamics.rows["margin_sum"] / _presentations(dynamics)


def el2n(dynamics: Dynamics) -> FloatArray:
    """Returns the mean Euclidean norm of softmax less one-hot label over the early epochs.

    Returns:
        Shape (N,), float64, in [0, √2]; higher is kept first.

    Source: Paul, Ganguli and Dziugaite 2021, arXiv 2107.07075, definition 2.2. Deviation: a mean over
        epochs, measured on the batches as they are trained on, with their augmentation.
    """
    return dynamics.rows["el2n_sum"] / _presentations(dynamics, "early_presentations")


def grand(dynamics: Dynamics) -> FloatArray:
    """Returns the mean norm of the loss's gradient in the last layer over the early epochs.

    Returns:
        Shape (N,), float64, ≥ 0; higher is kept first. NaN where the proxy's last layer is not known.

    Source: Paul, Ganguli and Dziugaite 2021, arXiv 2107.07075, definition 2.1. Deviations: those of
        `el2n`, and the last layer alone, whose gradient needs no backward pass.
    """
    return dynamics.rows["grand_sum"] / _presentations(dynamics, "early_presentations")


def mean_loss(dynamics: Dynamics) -> FloatArray:
    """Returns the mean cross-entropy over the presentations, in nats.

    Returns:
        Shape (N,), float64, ≥ 0; higher is kept first.

    Source: the cross-entropy of Shannon 1948, averaged over training.
    """
    return dynamics.rows["loss_sum"] / _presentations(dynamics)


SUMMED = frozenset({forgetting, never_learned})


def over_seeds(function: Callable[[Dynamics], FloatArray], seeds: Sequence[Dynamics]) -> FloatArray:
    """Returns what a function of this module says of several seeds together, shape (N,).

    Forgetting and never-learned seeds are summed, all the rest is averaged. A sample that one seed
    never saw has NaN; `first_learned` is the mean over the seeds that did learn it.

    Raises:
        ScoreError: there are no seeds, or they differ in the number of samples.
    """
    sizes = sorted({seed.size for seed in seeds})
    if len(sizes) != 1:
        raise ScoreError(f"the dynamics of {len(seeds)} seeds over {sizes} samples cannot be joined")
    value_SN = np.stack([function(seed) for seed in seeds])
    counted_SN = ~np.isnan(value_SN) if function is first_learned else np.ones_like(value_SN, dtype=np.bool_)
    sum_N: FloatArray = value_SN.sum(axis=0, where=counted_SN)
    if function in SUMMED:
        return sum_N
    count_N = counted_SN.sum(axis=0)
    mean_N: FloatArray = np.divide(sum_N, count_N, out=np.full(len(sum_N), np.nan), where=count_N > 0)
    return mean_N


def _presentations(dynamics: Dynamics, name: str = "presentations") -> FloatArray:
    count_N = dynamics.rows[name]
    return np.where(count_N == 0, np.nan, count_N)


def _once_presented(dynamics: Dynamics) -> FloatArray:
    """Returns 1 for a sample that was presented, NaN for one that was not."""
    return np.where(dynamics.rows["presentations"] == 0, np.nan, 1.0)
