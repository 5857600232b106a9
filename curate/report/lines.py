"""Line charts as SVG without scripts: points in, text out. What they show is said in the titles of their points."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape

from curate.pool.tar import printable

WIDTH, HEIGHT = 640, 340
LEFT, RIGHT, TOP, BOTTOM = 56, 150, 34, 44
SERIES = 6  # colours
STEPS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
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
    """One line of a chart: points are (x, y, spread), rising, spread 0 of one value; `random` and `all` are dashed."""

    name: str
    kind: str
    points: tuple[tuple[float, float, float], ...]


@dataclass(frozen=True)
class Chart:
    """What is drawn.

    Attributes:
        title, x_label: plain text.
        lines: at least one, with at least one point.
        x_ticks: (x, text), rising, from one edge to the other.
        x_said: returns how a point's x is told, such as 50 % kept.
        factor: of what is told of y: 100 for per cent.
    """

    title: str
    lines: Sequence[Line]
    x_label: str
    x_ticks: Sequence[tuple[float, str]]
    x_said: Callable[[float], str]
    factor: float = 100

    def x(self, value: float) -> float:
        """Returns where a value of x lies."""
        first, last = self.x_ticks[0][0], self.x_ticks[-1][0]
        return round(LEFT + (WIDTH - LEFT - RIGHT) * (value - first) / ((last - first) or 1), 1)


def picture(charts: Sequence[Chart], label: str) -> str:
    """Returns an SVG that needs nothing else, one chart below another; empty without charts."""
    drawn = (f'<g transform="translate(0 {place * HEIGHT})">{elements(one)}</g>' for place, one in enumerate(charts))
    tall = HEIGHT * len(charts)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="curve alone" viewBox="0 0 {WIDTH} {tall}" width="{WIDTH}" '
        f'height="{tall}" role="img" aria-label="{escape(label)}">'
    )
    return f"{head}\n<style>{STYLE}</style>\n" + "\n".join(drawn) + "\n</svg>\n" if charts else ""


def element(chart: Chart, label: str) -> str:
    """Returns one chart for a page that has `STYLE`."""
    size = f'viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}"'
    return f'<svg class="curve" {size}>\n{elements(chart)}\n</svg>'


def elements(chart: Chart) -> str:
    """Returns the elements of a chart, WIDTH by HEIGHT; their classes are those of `STYLE`."""
    lines = chart.lines
    heights = [value for line in lines for _, y, spread in line.points for value in (y - spread, y + spread)]
    low, high = min(heights), max(heights)
    ticks = _ticks(low, high)
    bottom, top = min(low, ticks[0]), max(high, ticks[-1])

    def y(value: float) -> float:
        return round(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - bottom) / ((top - bottom) or 1), 1)

    left, right = chart.x(chart.x_ticks[0][0]), chart.x(chart.x_ticks[-1][0])
    parts = [f'<text x="{LEFT}" y="18">{escape(printable(chart.title))}</text>']
    for tick in ticks:
        text = f"{chart.factor * tick:.4g}"
        parts.append(f'<line class="grid" x1="{left}" x2="{right}" y1="{y(tick)}" y2="{y(tick)}"/>')
        parts.append(f'<text class="soft" x="{left - 8}" y="{y(tick) + 4}" text-anchor="end">{text}</text>')
    for value, text in chart.x_ticks:
        at = chart.x(value)
        parts.append(
            f'<text class="soft" x="{at}" y="{HEIGHT - 22}" text-anchor="middle">{escape(printable(text))}</text>'
        )
    middle, label = (left + right) / 2, escape(chart.x_label)
    parts.append(f'<text class="soft" x="{middle:.1f}" y="{HEIGHT - 4}" text-anchor="middle">{label}</text>')
    names = _names([(y(line.points[-1][1]), line) for line in lines])
    for number, line in enumerate(lines):
        places = [(chart.x(x), y(v), y(v - s) - y(v + s)) for x, v, s in line.points]
        parts += _drawn(chart, number, places, names[number], 3 * (number - len(lines) // 2))
    return "\n".join(parts)


def _drawn(
    chart: Chart, number: int, places: Sequence[tuple[float, float, float]], name_y: float, aside: int
) -> Iterator[str]:
    line, edge = chart.lines[number], chart.x(chart.x_ticks[-1][0])
    colour = {"random": "cr", "all": "ca"}.get(line.kind, f"c{number % SERIES}")
    if line.kind == "all":
        places = [(LEFT, places[0][1], 0), *places]
    path = " ".join(f"{x},{y}" for x, y, _ in places)
    yield f'<polyline class="line {colour}" points="{path}"/>'
    for (x, y, spread), (value, height, deviation) in zip(places[-len(line.points) :], line.points, strict=True):
        if spread:
            at, low, high = x + aside, y + spread / 2, y - spread / 2  # bars of one x stand beside each other
            yield f'<line class="bar {colour}" x1="{at:.1f}" x2="{at:.1f}" y1="{low:.1f}" y2="{high:.1f}"/>'
        digits = 2 if chart.factor == 100 else 3
        told = f"{chart.factor * height:.{digits}f}" + (
            f" ± {chart.factor * deviation:.{digits}f}" if deviation else ""
        )
        said = f"{line.name}, {chart.x_said(value)}: {told}"
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
    """Returns round values from below the lowest to above the highest, about five of them."""
    step = next((s for s in STEPS if (high - low) / s <= 6), 0.5)
    first, last = int(low // step), -int(-high // step)
    return [round(number * step, 6) for number in range(first, max(last, first + 1) + 1)]
