"""`--keep auto`: the smallest fraction that lost little, taken from what `curate evaluate` measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from curate.errors import UsageError
from curate.manifest.schema import Curve, CurvePoint
from curate.selection.budget import parse_keep
from curate.workflows.results import JSON, saved_rows

AUTO = "auto"


def keep_from(evaluation: Path, fn: str, tolerance: float) -> tuple[str, Curve]:
    """Returns the smallest keep whose mean accuracy is at most `tolerance` under all the data's, and the evidence.

    Several targets count by the worst of them. Only manifests of plain `fn` and keep are points: none with
    outliers or in another order.

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
    worst: dict[str, float] = {}
    for point in points:
        worst[point.keep] = min(worst.get(point.keep, 1.0), point.loss)
    good = sorted((parse_keep(keep).value, keep) for keep, loss in worst.items() if loss >= -tolerance)
    if not good:
        best = max(worst, key=lambda keep: worst[keep])
        raise UsageError(
            f"No fraction of '{fn}' in {evaluation} is within {tolerance:.2%}: {best} is the best, {worst[best]:+.2%}.",
            hint="Evaluate larger fractions, or allow a larger --tolerance.",
        )
    return good[0][1], Curve(tolerance=tolerance, points=tuple(points))


def _rows(evaluation: Path) -> list[dict[str, Any]]:
    path = evaluation / JSON
    if not path.exists():
        raise UsageError(f"--keep auto needs a measured curve, and {path} is not there.", hint=_how("FN"))
    return saved_rows(path)


def _how(fn: str) -> str:
    return (
        f"Make one: curate evaluate --curve 0.3,0.5,0.7,0.9 --fn {fn} --test SHARDS, and name its folder with --curve."
    )
