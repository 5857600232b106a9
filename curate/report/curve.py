"""Accuracy against the fraction that is kept, random beside it, as SVG: rows of an evaluation in, text out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from curate.pool.tar import printable

Rows = Sequence[dict[str, Any]]
WIDTH, HEIGHT = 640, 340
LEFT, RIGHT, TOP, BOTTOM = 56, 150, 34, 44
SERIES = 6  # colours
STYLE = """
.curve { font: 13px system-ui, sans-serif; height: auto; min-width: 36rem; max-width: 46rem; }
.alone { color-scheme: light dark; background: #fbfbfa; }
.curve text { fill: #1b1d21; } .curve .soft { fill: #5a606b; } .curve .grid { stroke: #dcdfe4; }
.curve .c0 { --c: #2a6fd1; } .curve .c1 { --c: #c2410c; } .curve .c2 { --c: #15803d; } .curve .c3 { --c: #7c3aed; }
.curve .c4 { --c: #a16207; } .curve .c5 { --c: #be185d; } .curve .cr { --c: #6b7280; } .curve .ca { --c: #1b1d21; }
.curve .line { fill: none; stroke: var(--c); stroke-width: 2; } .curve .bar { stroke: var(--c); }
.curve .dot, .curve .name { fill: var(--c); } .curve .cr.line, .curve .ca.line { stroke-dasharray: 6 4; }
@media (prefers-color-scheme: dark) {
.alone { background: #14161a; } .curve text { fill: #e8eaee; } .curve .soft { fill: #a4abb8; }
.curve .grid { stroke: #363b45; } .curve .c0 { --c: #6ea8ff; } .curve .c1 { --c: #ff9a62; } .curve .c2 { --c: #6ee7a0; }
.curve .c3 { --c: #c4a5ff; } .curve .c4 { --c: #facc6b; } .curve .c5 { --c: #ff8fc0; } .curve .cr { --c: #a4abb8; }
.curve .ca { --c: #e8eaee; } .curve .name { fill: var(--c); }
}
"""


@dataclass(frozen=True)
class Line:
    """One line of a chart: points are (fraction, accuracy, spread), rising."""

    name: str
    kind: str
    points: tuple[tuple[float, float, float], ...]


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
    charts = (f'<g transform="translate(0 {place * HEIGHT})">{chart(rows, t)}</g>' for place, t in enumerate(targets))
    tall = HEIGHT * len(targets)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="curve alone" viewBox="0 0 {WIDTH} {tall}" width="{WIDTH}" '
        f'height="{tall}" role="img" aria-label="{label_of(targets)}">'
    )
    return f"{head}\n<style>{STYLE}</style>\n" + "\n".join(charts) + "\n</svg>\n" if targets else ""


def curve_element(rows: Rows, target: str) -> str:
    """Returns one target's chart for a page that has `STYLE`."""
    size = f'viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label_of([target])}"'
    return f'<svg class="curve" {size}>\n{chart(rows, target)}\n</svg>'


def label_of(targets: Sequence[str]) -> str:
    """Returns what a reader of the screen is told."""
    return escape(f"Accuracy against the fraction kept: {', '.join(map(printable, targets))}")


def chart(rows: Rows, target: str) -> str:
    """Returns the elements of one target's chart, WIDTH by HEIGHT; their classes are those of `STYLE`."""
    lines = lines_of(rows, target)
    heights = [value for line in lines for _, y, spread in line.points for value in (y - spread, y + spread)]
    low, high = min(heights), max(heights)
    ticks = _ticks(low, high)
    bottom, top = min(low, ticks[0]), max(high, ticks[-1])

    def x(fraction: float) -> float:
        return round(LEFT + (WIDTH - LEFT - RIGHT) * fraction, 1)

    def y(accuracy: float) -> float:
        return round(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (accuracy - bottom) / ((top - bottom) or 1), 1)

    parts = [
        f'<text x="{LEFT}" y="18">{escape(printable(target))}: accuracy on the test set, %; bars: std over seeds</text>'
    ]
    for tick in ticks:
        parts.append(f'<line class="grid" x1="{x(0)}" x2="{x(1)}" y1="{y(tick)}" y2="{y(tick)}"/>')
        parts.append(f'<text class="soft" x="{x(0) - 8}" y="{y(tick) + 4}" text-anchor="end">{100 * tick:.4g}</text>')
    for tenth in range(0, 11, 2):
        at = x(tenth / 10)
        parts.append(f'<text class="soft" x="{at}" y="{HEIGHT - 22}" text-anchor="middle">{tenth * 10}</text>')
    parts.append(f'<text class="soft" x="{x(0.5)}" y="{HEIGHT - 4}" text-anchor="middle">kept, % of all samples</text>')
    names = _names([(y(line.points[-1][1]), line) for line in lines])
    for number, line in enumerate(lines):
        colour = {"random": "cr", "all": "ca"}.get(line.kind, f"c{number % SERIES}")
        places = [(x(f), y(a), y(a - s) - y(a + s)) for f, a, s in line.points]
        parts += _drawn(line, colour, places, names[number], x(1), 3 * (number - len(lines) // 2))
    return "\n".join(parts)


def _drawn(
    line: Line, colour: str, places: Sequence[tuple[float, float, float]], name_y: float, edge: float, aside: int
) -> Iterator[str]:
    if line.kind == "all":
        places = [(LEFT, places[0][1], 0), *places]
    path = " ".join(f"{x},{y}" for x, y, _ in places)
    yield f'<polyline class="line {colour}" points="{path}"/>'
    for (x, y, spread), (fraction, accuracy, deviation) in zip(places[-len(line.points) :], line.points, strict=True):
        if spread:
            at, low, high = x + aside, y + spread / 2, y - spread / 2  # bars of one fraction stand beside each other
            yield f'<line class="bar {colour}" x1="{at:.1f}" x2="{at:.1f}" y1="{low:.1f}" y2="{high:.1f}"/>'
        said = f"{line.name}, {fraction:.1%} kept: {100 * accuracy:.2f} ± {100 * deviation:.2f}"
        yield f'<circle class="dot {colour}" cx="{x}" cy="{y}" r="4"><title>{escape(printable(said))}</title></circle>'
    yield f'<text class="name {colour}" x="{edge + 10}" y="{name_y + 4}">{escape(printable(line.name))}</text>'


def _names(wanted: Sequence[tuple[float, Line]]) -> list[float]:
    """Returns where each line's name is written: beside its end, none over another."""
    place, last = [0.0] * len(wanted), float("-inf")
    for number in sorted(range(len(wanted)), key=lambda number: wanted[number][0]):
        last = place[number] = max(wanted[number][0], last + 16)
    over = max(0.0, last - (HEIGHT - BOTTOM))
    return [y - over for y in place]


def _ticks(low: float, high: float) -> list[float]:
    """Returns round accuracies from below the lowest to above the highest, about five of them."""
    step = next((s for s in (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2) if (high - low) / s <= 6), 0.5)
    first, last = int(low // step), -int(-high // step)
    return [round(number * step, 6) for number in range(first, max(last, first + 1) + 1)]
