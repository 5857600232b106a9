"""What `curate compare` found, drawn: rows in, SVG out.

Source: Coleman et al. 2020, figure 5 (proxies against a target, whose own runs are the dashed line) and figures 7 to
10 (epochs against the end); Chitta et al. 2021, figure 2 of the appendix (consensus of checkpoints).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from curate.report.lines import Chart, Line, picture
from curate.statistics import mean_and_spread
from curate.workflows.compare import RANDOM_ORDER

LABEL = "How alike rankings are"
MOST_TICKS, MOST_FUNCTIONS = 11, 4
Rows = Sequence[dict[str, Any]]


def agreement_svg(result: Mapping[str, Any]) -> str:
    """Returns the charts of single runs, epochs and votes, one below another; without these, of the agreement.

    Empty where no correlation is known, as of scores that are all alike.
    """
    votes = [{"run": one["run"], **row} for one in result.get("consensus", []) for row in one["checkpoints"]]
    charts = [*_of_runs(result.get("single_runs", [])), *_of_epochs(result.get("epochs", [])), *_of_votes(votes)]
    return picture(charts or _of_pairs(result.get("agreement", [])), LABEL)


def page(svg: str) -> str:
    """Returns an HTML page that holds the picture and needs nothing else."""
    head = f'<meta charset="utf-8"><meta name="color-scheme" content="light dark"><title>{escape(LABEL)}</title>'
    return f'<!doctype html>\n<html lang="en">\n<head>{head}</head>\n<body>\n{svg}</body>\n</html>\n'


def _of_runs(rows: Rows) -> list[Chart]:
    rows = [{**row, "name": row["run"], "kind": "random" if row["is_target"] else ""} for row in rows]
    return _by_function(rows, "Spearman with single runs of the target; dashed: its runs with each other")


def _of_pairs(rows: Rows) -> list[Chart]:
    rows = [
        {**row, "name": row["a"], "kind": "random" if row["a"] == RANDOM_ORDER else "", "spread": 0.0} for row in rows
    ]
    others = dict.fromkeys(row["b"] for row in rows)
    return [
        chart for b in others for chart in _by_function([row for row in rows if row["b"] == b], f"Spearman with {b}")
    ]


def _by_function(rows: Rows, title: str) -> list[Chart]:
    fns = list(dict.fromkeys(row["fn"] for row in rows if row["spearman"] == row["spearman"]))
    parts = [fns[at : at + MOST_FUNCTIONS] for at in range(0, len(fns), MOST_FUNCTIONS)]
    return [_of_functions([row for row in rows if row["fn"] in part], part, title) for part in parts]


def _of_functions(rows: Rows, fns: Sequence[str], title: str) -> Chart:
    lines = []
    for name, kind in dict.fromkeys((row["name"], row["kind"]) for row in rows):
        own = [row for row in rows if (row["name"], row["kind"]) == (name, kind) and row["spearman"] == row["spearman"]]
        points = tuple((float(fns.index(row["fn"])), row["spearman"], row["spread"] or 0.0) for row in own)
        if points:
            lines.append(Line(name, kind, points))
    edges = (-0.5, ""), (len(fns) - 0.5, "")
    ticks = [edges[0], *((float(number), fn.replace("_", " ")) for number, fn in enumerate(fns)), edges[1]]
    return Chart(title, lines, "", ticks, lambda number: fns[int(number)], factor=1)


def _of_epochs(rows: Rows) -> list[Chart]:
    charts = []
    for fn in dict.fromkeys(row["fn"] for row in rows):
        parts: dict[str, list[dict[str, Any]]] = {}
        for row in [row for row in rows if row["fn"] == fn]:
            parts.setdefault("the end of its run" if row["with"] == row["run"] else row["with"], []).append(row)
        for what, part in parts.items():
            if lines := _means(part, "epoch", {"spearman": "{}"}):
                charts.append(_chart(f"{fn}: Spearman of each epoch with {what}", lines, "epoch", factor=1))
    return charts


def _of_votes(rows: Rows) -> list[Chart]:
    charts = []
    for suffix, title in (("", "Samples"), ("_untrained", "Samples not trained on")):
        own = [row for row in rows if row["last" + suffix] is not None]
        if lines := _means(own, "n", {"last" + suffix: "{}: last n", "pair" + suffix: "{}: n, n-1"}):
            charts.append(_chart(f"{title} to which checkpoints give one class, %", lines, "n", factor=100))
    return charts


def _means(rows: Rows, x: str, values: Mapping[str, str]) -> list[Line]:
    """Returns a line for each run and value: means over seeds."""
    lines = []
    for run in dict.fromkeys(row["run"] for row in rows):
        for value, name in values.items():
            found: dict[float, list[float]] = {}
            for row in rows:
                if row["run"] == run and row[value] == row[value]:
                    found.setdefault(row[x], []).append(row[value])
            points = [(at, *mean_and_spread(found[at])) for at in sorted(found)]
            if points:
                lines.append(
                    Line(name.format(run), "", tuple((at, mean, spread or 0.0) for at, mean, spread in points))
                )
    return lines


def _chart(title: str, lines: Sequence[Line], label: str, *, factor: float) -> Chart:
    places = sorted({x for line in lines for x, _, _ in line.points})
    step = -(-len(places) // MOST_TICKS)
    ticks = [(x, f"{x:.0f}") for x in places if x == places[-1] or (x - places[0]) % step == 0]
    return Chart(f"{title}; bars: std over seeds", lines, label, ticks, (label + " {:.0f}").format, factor=factor)
