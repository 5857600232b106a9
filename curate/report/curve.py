"""Accuracy against the fraction that is kept, random beside it, as SVG: rows of an evaluation in, text out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from curate.pool.tar import printable
from curate.report.lines import STYLE, Chart, Line, element, picture

__all__ = ["STYLE", "curve_element", "curve_svg", "lines_of", "targets_of"]

Rows = Sequence[dict[str, Any]]
TENTHS = tuple((tenth / 10, str(tenth * 10)) for tenth in range(0, 11, 2))


def lines_of(rows: Rows, target: str) -> list[Line]:
    """Returns a target's lines: one a function, random, all the data; empty where no two fractions were measured."""
    own = [row for row in rows if row["target"] == target and row["n"]]
    whole = next((row["samples"] for row in own if row["kind"] == "all"), 0)
    points: dict[tuple[str, str], list[tuple[float, float, float]]] = {}
    for row in own if whole else []:
        fn, _, rest = row["label"].partition(" ")
        name = fn + rest[len(rest.split(",")[0]) :] if row["kind"] == "manifest" else row["label"]
        point = (row["samples"] / whole, row["accuracy"], row["spread"] or 0.0)
        points.setdefault((row["kind"], name), []).append(point)
    lines = [Line(name, kind, tuple(sorted(points[kind, name]))) for kind, name in sorted(points)]
    has_curve = any(line.kind == "manifest" and len(line.points) > 1 for line in lines)
    return sorted(lines, key=lambda line: ("manifest", "random", "all").index(line.kind)) if has_curve else []


def targets_of(rows: Rows) -> list[str]:
    """Returns the targets that have a curve."""
    return [target for target in dict.fromkeys(row["target"] for row in rows) if lines_of(rows, target)]


def curve_svg(rows: Rows) -> str:
    """Returns a picture that needs nothing else, one chart a target; empty where there is no curve."""
    targets = targets_of(rows)
    return picture([_chart(rows, target) for target in targets], _label(targets))


def curve_element(rows: Rows, target: str) -> str:
    """Returns one target's chart for a page that has `STYLE`."""
    return element(_chart(rows, target), _label([target]))


def _label(targets: Sequence[str]) -> str:
    return f"Accuracy against the fraction kept: {', '.join(map(printable, targets))}"


def _chart(rows: Rows, target: str) -> Chart:
    title = f"{target}: accuracy on the test set, %; bars: std over seeds"
    return Chart(title, lines_of(rows, target), "kept, % of all samples", TENTHS, "{:.1%} kept".format)
