"""The acquisition functions: one literal table, name → what it is and what it needs.

Command-line choices, help, validation, the table in the guide and the contract tests are all read
from here. To add one: write a pure function in the file of its family, add a row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from curate.acquisition.baseline import loss, random
from curate.acquisition.difficulty import (
    aum,
    confidence,
    correctness,
    el2n,
    forgetting,
    grand,
    mean_loss,
    variability,
)
from curate.acquisition.disagreement import error_count, mutual_information, variation_ratio
from curate.acquisition.ensemble import Ensemble, EnsembleSums, FloatArray, ensemble_of
from curate.acquisition.uncertainty import entropy, least_confidence, margin
from curate.errors import UsageError, did_you_mean

__all__ = ["ACQUISITIONS", "Acquisition", "Ensemble", "EnsembleSums", "acquisition", "ensemble_of"]

IDENTITY = frozenset({"identity"})
ENSEMBLE = frozenset({"ensemble"})
LABELS = frozenset({"ensemble", "labels"})
DYNAMICS = frozenset({"dynamics"})


@dataclass(frozen=True)
class Acquisition:
    """One row of the table.

    Attributes:
        function: B samples of an `Ensemble` → B scores, float64, higher = keep first; with "dynamics",
            the `Dynamics` of B samples.
        needs: a subset of "identity", "ensemble", "labels", or "dynamics" alone.
        members: the fewest members it makes sense for; 0 where it looks at none.
        tie: the acquisition function that decides between equal scores, before the identity does.
        unit_range: the unit and the range of the score, in words.
        source: who defined it, and where.
        line: one line of description.
    """

    function: Callable[[Any], FloatArray]
    needs: frozenset[str]
    members: int
    tie: str | None
    unit_range: str
    source: str
    line: str


ACQUISITIONS: dict[str, Acquisition] = {
    "random": Acquisition(
        function=random,
        needs=IDENTITY,
        members=0,
        tie=None,
        unit_range="[0, 1)",
        source="SplitMix64 of the identity hash",
        line="a uniform number from identity and seed: what every other function has to beat",
    ),
    "least_confidence": Acquisition(
        function=least_confidence,
        needs=ENSEMBLE,
        members=1,
        tie=None,
        unit_range="[0, 1 - 1/C]",
        source="Culotta and McCallum 2005",
        line="one minus the probability of the most likely class",
    ),
    "margin": Acquisition(
        function=margin,
        needs=ENSEMBLE,
        members=1,
        tie=None,
        unit_range="[0, 1]",
        source="Scheffer, Decomain and Wrobel 2001",
        line="one minus the gap between the two most likely classes",
    ),
    "entropy": Acquisition(
        function=entropy,
        needs=ENSEMBLE,
        members=1,
        tie=None,
        unit_range="nats, [0, ln C]",
        source="Shannon 1948; Lewis and Gale 1994; Chitta et al., equation 3",
        line="the entropy of the mean prediction",
    ),
    "mutual_information": Acquisition(
        function=mutual_information,
        needs=ENSEMBLE,
        members=2,
        tie=None,
        unit_range="nats, [0, ln min(C, M)]",
        source="Houlsby et al. 2011; Chitta et al., equation 4",
        line="the entropy of the mean less the mean entropy: what members do not agree on (BALD)",
    ),
    "variation_ratio": Acquisition(
        function=variation_ratio,
        needs=ENSEMBLE,
        members=2,
        tie="mutual_information",
        unit_range="multiples of 1/M, [0, 1 - ⌈M/C⌉/M]",
        source="Freeman 1965; Chitta et al., equation 5",
        line="the fraction of members that do not vote with the majority",
    ),
    "error_count": Acquisition(
        function=error_count,
        needs=LABELS,
        members=1,
        tie="loss",
        unit_range="multiples of 1/M, [0, 1]",
        source="Chitta et al., equation 6",
        line="the fraction of members that do not vote for the label",
    ),
    "loss": Acquisition(
        function=loss,
        needs=LABELS,
        members=1,
        tie=None,
        unit_range="nats, [0, 103.28]",
        source="Shannon 1948",
        line="the cross-entropy of the mean prediction against the label",
    ),
    "forgetting": Acquisition(
        function=forgetting,
        needs=DYNAMICS,
        members=0,
        tie="mean_loss",
        unit_range="events, summed over seeds; never learned counts T, the number of epochs",
        source="Toneva et al. 2019; Coleman et al. 2020",
        line="how often training unlearned the label",
    ),
    "correctness": Acquisition(
        function=correctness,
        needs=DYNAMICS,
        members=0,
        tie="mean_loss",
        unit_range="[0, 1]",
        source="Swayamdipta et al. 2020",
        line="the fraction of epochs in which the label was missed",
    ),
    "confidence": Acquisition(
        function=confidence,
        needs=DYNAMICS,
        members=0,
        tie=None,
        unit_range="[0, 1]",
        source="Swayamdipta et al. 2020",
        line="one minus the label's mean probability over training: the hard end of the data map",
    ),
    "variability": Acquisition(
        function=variability,
        needs=DYNAMICS,
        members=0,
        tie=None,
        unit_range="[0, 0.5]",
        source="Swayamdipta et al. 2020",
        line="the spread of the label's probability over training: the ambiguous end of the data map",
    ),
    "aum": Acquisition(
        function=aum,
        needs=DYNAMICS,
        members=0,
        tie=None,
        unit_range="logits, unbounded",
        source="Pleiss et al. 2020",
        line="minus the mean margin of the label's logit over training",
    ),
    "el2n": Acquisition(
        function=el2n,
        needs=DYNAMICS,
        members=0,
        tie=None,
        unit_range="[0, √2]",
        source="Paul, Ganguli and Dziugaite 2021",
        line="the mean norm of the error in the early epochs",
    ),
    "grand": Acquisition(
        function=grand,
        needs=DYNAMICS,
        members=0,
        tie=None,
        unit_range="[0, ∞)",
        source="Paul, Ganguli and Dziugaite 2021",
        line="the mean norm of the last layer's gradient in the early epochs",
    ),
    "mean_loss": Acquisition(
        function=mean_loss,
        needs=DYNAMICS,
        members=0,
        tie=None,
        unit_range="nats, [0, ∞)",
        source="Shannon 1948",
        line="the mean cross-entropy over training",
    ),
}


def acquisition(name: str, others: Iterable[str] = ()) -> Acquisition:
    """Returns the row of a name.

    Args:
        name: of a function.
        others: what else may be asked for where the name comes from.

    Raises:
        UsageError: there is no such row.
    """
    if name not in ACQUISITIONS:
        raise UsageError(f"unknown acquisition function '{name}'", hint=did_you_mean(name, [*ACQUISITIONS, *others]))
    return ACQUISITIONS[name]
