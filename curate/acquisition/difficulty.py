"""Scores from training dynamics: how hard was each sample to learn?

`Difficulty` holds what the runs of one or several seeds found, in the units and directions of the
papers. The functions below turn it into scores, larger meaning harder and therefore kept first, and
`DIFFICULTIES` names them. A sample that was never presented has NaN throughout: tables hold it as
null.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Literal

import numpy as np

from curate.acquisition.dynamics import NEVER, Dynamics
from curate.acquisition.ensemble import FloatArray
from curate.errors import ScoreError, UsageError

NeverLearned = Literal["first", "last"]

NEVER_LEARNED: tuple[NeverLearned, ...] = ("first", "last")


@dataclass(frozen=True, eq=False)
class Difficulty:
    """What training revealed about N samples, all of shape (N,), float64.

    Attributes:
        longest: the most presentations that a sample had, summed over the seeds.
        forgetting_events: how often a correct presentation was followed by a wrong one, summed over
            the seeds; 0 also for a sample that was never learned.
        never_learned: how many seeds never classified the sample correctly.
        never_longest: `longest` of those seeds, summed: how many presentations were in vain, at most.
        first_learned: the epoch of the first correct presentation, mean over the seeds that have one;
            NaN where none has.
        correctness: the fraction of presentations that were correct, in [0, 1].
        confidence: mean probability of the label, in [0, 1].
        variability: standard deviation of that probability (of the population), in [0, 0.5].
        aum: mean over presentations of the logit of the label less the largest other logit.
        el2n: mean norm of softmax less one-hot label, in [0, √2].
        grand: mean norm of the last layer's gradient; NaN where feature norms were not given.
        loss: mean cross-entropy, in nats.
    """

    longest: int
    forgetting_events: FloatArray
    never_learned: FloatArray
    never_longest: FloatArray
    first_learned: FloatArray
    correctness: FloatArray
    confidence: FloatArray
    variability: FloatArray
    aum: FloatArray
    el2n: FloatArray
    grand: FloatArray
    loss: FloatArray


def difficulty_of(dynamics: Dynamics) -> Difficulty:
    """Returns what the run of one seed revealed so far; the dynamics stay as they are.

    Source: forgetting: Toneva et al. 2019, arXiv 1812.05159, definitions 1 to 3. Confidence,
        variability, correctness: Swayamdipta et al. 2020, arXiv 2009.10795, section 2. AUM: Pleiss et
        al. 2020, arXiv 2001.10528, definition 1. EL2N, GraNd: Paul et al. 2021, arXiv 2107.07075.
    """
    rows = dynamics.rows
    shown_N = np.where(rows["presentations"] == 0, np.nan, rows["presentations"])
    early_N = np.where(rows["early_presentations"] == 0, np.nan, rows["early_presentations"])
    never_N = np.where(np.isnan(shown_N), np.nan, rows["first_learned"] == NEVER)
    longest = int(rows["presentations"].max(initial=0))
    return Difficulty(
        longest=longest,
        forgetting_events=np.where(np.isnan(shown_N), np.nan, rows["forgetting_events"]),
        never_learned=never_N,
        never_longest=never_N * longest,
        first_learned=np.where(rows["first_learned"] == NEVER, np.nan, rows["first_learned"]),
        correctness=rows["correct"] / shown_N,
        confidence=np.where(np.isnan(shown_N), np.nan, rows["probability_mean"]),
        variability=np.sqrt(rows["probability_squares"] / shown_N),
        aum=rows["margin_sum"] / shown_N,
        el2n=rows["el2n_sum"] / early_N,
        grand=rows["grand_sum"] / early_N,
        loss=rows["loss_sum"] / shown_N,
    )


def combine(seeds: Sequence[Difficulty]) -> Difficulty:
    """Returns what several seeds revealed together.

    Forgetting events, never-learned counts and the presentations in vain are summed, all the rest is
    averaged. A sample that one seed never saw has NaN, but for `first_learned`, which is the mean of
    the seeds that learned it. The order of the seeds does not matter beyond the last bits of a mean.

    Raises:
        ScoreError: there are no seeds, or they differ in the number of samples.
    """
    sizes = {len(seed.loss) for seed in seeds}
    if len(sizes) != 1:
        raise ScoreError(f"dynamics of {len(seeds)} seeds over pools of {sorted(sizes)} samples cannot be combined")
    summed = {"longest", "forgetting_events", "never_learned", "never_longest"}
    combined = {}
    for field in fields(Difficulty):
        total = sum(getattr(seed, field.name) for seed in seeds)
        combined[field.name] = total if field.name in summed else total / len(seeds)
    learned_SN = np.stack([seed.first_learned for seed in seeds])
    count_N = np.isfinite(learned_SN).sum(axis=0)
    sum_N = np.where(np.isfinite(learned_SN), learned_SN, 0.0).sum(axis=0)
    combined["first_learned"] = np.divide(sum_N, count_N, out=np.full(len(sum_N), np.nan), where=count_N > 0)
    return Difficulty(**combined)


def forgetting(difficulty: Difficulty, *, never: NeverLearned = "first") -> FloatArray:
    """Returns how often each sample was forgotten, summed over the seeds.

    A seed that never learned a sample counts T for it when never-learned samples come first, −T when
    they come last, T being the most presentations of a sample in that seed. No sample is forgotten
    more than T/2 times, so that what no seed ever learned is ahead of, or behind, everything else.

    Args:
        difficulty: of one or several seeds.
        never: "first" or "last": where never-learned samples go.

    Returns:
        Shape (N,), float64, whole numbers; higher is kept first. Ties are the normal case.

    Raises:
        UsageError: `never` is neither "first" nor "last".

    Source: Toneva et al. 2019, arXiv 1812.05159, who count T; Coleman et al. 2020, arXiv 1906.11829,
        count +∞, which gives the same order for one seed and cannot be summed or written to JSON.
    """
    if never not in NEVER_LEARNED:
        raise UsageError(f"unknown place '{never}' of never-learned samples", hint="Known: first, last.")
    sign = 1.0 if never == "first" else -1.0
    score_N: FloatArray = difficulty.forgetting_events + sign * difficulty.never_longest
    return score_N


def correctness(difficulty: Difficulty) -> FloatArray:
    """Returns the fraction of presentations that were wrong: one minus the paper's correctness.

    Returns:
        Shape (N,), float64, in [0, 1]; higher is kept first.

    Source: Swayamdipta et al. 2020, arXiv 2009.10795, section 2, there as what is correct.
    """
    return 1.0 - difficulty.correctness


def confidence(difficulty: Difficulty) -> FloatArray:
    """Returns one minus the mean probability of the label: the hard-to-learn end of the data map.

    Returns:
        Shape (N,), float64, in [0, 1]; higher is kept first.

    Source: Swayamdipta et al. 2020, arXiv 2009.10795, equation 1, there as the mean itself.
    """
    return 1.0 - difficulty.confidence


def variability(difficulty: Difficulty) -> FloatArray:
    """Returns the standard deviation of the label's probability: the ambiguous end of the data map.

    Returns:
        Shape (N,), float64, in [0, 0.5]; higher is kept first.

    Source: Swayamdipta et al. 2020, arXiv 2009.10795, equation 2.
    """
    return difficulty.variability


def aum(difficulty: Difficulty) -> FloatArray:
    """Returns minus the area under the margin: what training had least success with comes first.

    Returns:
        Shape (N,), float64, unbounded; higher is kept first. Its top holds the mislabelled samples.

    Source: Pleiss et al. 2020, arXiv 2001.10528, definition 1, there as a quantity that is low for
        mislabelled samples.
    """
    return 0.0 - difficulty.aum


def el2n(difficulty: Difficulty) -> FloatArray:
    """Returns the mean norm of softmax less one-hot label.

    Returns:
        Shape (N,), float64, in [0, √2]; higher is kept first.

    Source: Paul, Ganguli and Dziugaite 2021, arXiv 2107.07075, definition 2.2. Deviation: measured on
        the batches as they are trained on, with their augmentation.
    """
    return difficulty.el2n


def grand(difficulty: Difficulty) -> FloatArray:
    """Returns the mean norm of the loss's gradient in the last layer.

    Returns:
        Shape (N,), float64, ≥ 0; higher is kept first. NaN where feature norms were not given.

    Source: Paul, Ganguli and Dziugaite 2021, arXiv 2107.07075, definition 2.1. Deviation: the last layer
        alone, whose gradient needs no backward pass.
    """
    return difficulty.grand


def mean_loss(difficulty: Difficulty) -> FloatArray:
    """Returns the mean cross-entropy over the presentations, in nats.

    Returns:
        Shape (N,), float64, ≥ 0; higher is kept first.

    Source: the cross-entropy of Shannon 1948, averaged over training.
    """
    return difficulty.loss


DIFFICULTIES: dict[str, Callable[[Difficulty], FloatArray]] = {
    "forgetting": forgetting,
    "correctness": correctness,
    "confidence": confidence,
    "variability": variability,
    "aum": aum,
    "el2n": el2n,
    "grand": grand,
    "mean_loss": mean_loss,
}
