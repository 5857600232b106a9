"""`--keep auto`: the smallest fraction that lost little, taken from what `curate evaluate` measured."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from curate.errors import UsageError
from curate.manifest.schema import Curve, CurvePoint
from curate.workflows.results import JSON, saved_rows

AUTO = "auto"


def keep_from(evaluation: Path, fn: str, tolerance: float) -> tuple[str, Curve]:
    """Returns the smallest keep whose mean accuracy is at most `tolerance` under all the data's, and the evidence.

    Several targets count by the worst of them, and a size counts only where all of them were measured. Only
    manifests of plain `fn` and keep are points: none with outliers or in another order.

    Args:
        evaluation: a folder of `curate evaluate`.
        fn: the acquisition function.
        tolerance: in [0, 1), of accuracy.

    Raises:
        UsageError: no curve is there, or no point of it is within the tolerance.
    """
    rows = _rows(evaluation)
    points = [
        CurvePoint(
            target=row["target"], keep=row["label"].split(" ")[1], samples=row["samples"], runs=row["loss"]["n"],
            accuracy=round(row["accuracy"], 6), loss=round(row["loss"]["mean"], 6),
        )
        for row in rows
        if row["n"] and row["kind"] == "manifest" and row["label"].split(" ")[0] == fn
        and len(row["label"].split(" ")) == 2 and row["loss"]
    ]  # fmt: skip
    if not points:
        raise UsageError(
            f"{evaluation} has no curve of '{fn}' beside all the data.", hint=_how(fn),
        )  # fmt: skip
    targets = {point.target for point in points}
    sizes: dict[int, list[CurvePoint]] = {}  # by samples: a fraction can be written in several ways
    for point in points:
        sizes.setdefault(point.samples, []).append(point)
    worst = {
        samples: min(point.loss for point in found)
        for samples, found in sizes.items()
        if {point.target for point in found} == targets
    }
    if not worst:
        raise UsageError(
            f"No fraction of '{fn}' in {evaluation} was measured on each of {', '.join(sorted(targets))}.",
            hint="Evaluate the same manifests on all targets.",
        )
    good = [samples for samples, loss in worst.items() if loss >= -tolerance]
    if not good:
        best = max(worst, key=lambda samples: worst[samples])
        raise UsageError(
            f"No fraction of '{fn}' in {evaluation} is within {tolerance:.2%}: {sizes[best][0].keep} is the best, "
            f"{worst[best]:+.2%}.",
            hint="Evaluate larger fractions, or allow a larger --tolerance.",
        )
    return sizes[min(good)][0].keep, Curve(tolerance=tolerance, points=tuple(points))


def check_plain(fn: str, other: Mapping[str, object]) -> None:
    """Refuses options, by name, that make another choice than plain `fn`, of which a curve is."""
    given = [name for name, is_given in other.items() if is_given]
    if given:
        raise UsageError(
            f"--keep auto takes what was measured of plain --fn {fn}, and {given[0]} makes another choice.",
            hint=f"Leave out {', '.join(given)}, or give --keep a fraction.",
        )


def _rows(evaluation: Path) -> list[dict[str, Any]]:
    path = evaluation / JSON
    if not path.exists():
        raise UsageError(f"--keep auto needs a measured curve, and {path} is not there.", hint=_how("FN"))
    return saved_rows(path)


def _how(fn: str) -> str:
    return (
        f"Make one: curate evaluate --curve 0.3,0.5,0.7,0.9 --fn {fn} --test SHARDS, and name its folder with --curve."
    )
