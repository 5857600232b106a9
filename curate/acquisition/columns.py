"""The columns of a score table: every row of `ACQUISITIONS` that what is at hand suffices for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from curate.acquisition import ACQUISITIONS
from curate.acquisition.baseline import random
from curate.acquisition.difficulty import first_learned, never_learned, over_seeds
from curate.acquisition.dynamics import Dynamics
from curate.acquisition.ensemble import Ensemble, FloatArray
from curate.samples import IdentityArray


def ensemble_columns(
    ensemble: Ensemble, identity_B: IdentityArray | None = None, *, seed: int = 0
) -> dict[str, FloatArray]:
    """Returns the scores of B samples by an ensemble; a random order only where identities are given."""
    columns: dict[str, FloatArray] = {}
    for name, row in ACQUISITIONS.items():
        if "identity" in row.needs:
            if identity_B is not None:
                columns[name] = random(replace(ensemble, identity_B=identity_B), seed=seed)
        elif "ensemble" in row.needs and row.members <= ensemble.members:
            columns[name] = row.function(ensemble)
    return columns


def dynamics_columns(seeds: Sequence[Dynamics]) -> dict[str, FloatArray]:
    """Returns the scores of N samples by their training dynamics under some seeds, and what was learned when.

    Raises:
        ScoreError: there are no seeds, or they differ in the number of samples.
    """
    functions = {name: row.function for name, row in ACQUISITIONS.items() if "dynamics" in row.needs}
    functions |= {"never_learned": never_learned, "first_learned": first_learned}
    return {name: over_seeds(function, seeds) for name, function in functions.items()}
