"""The report as one HTML page that needs nothing else: no network, no files beside it.

Whatever comes from a pool is text to the page: the templates escape it, and the page's own policy lets no
script run but the one whose hash it names.
"""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from curate.pool.tar import printable
from curate.report.curve import STYLE, curve_element, targets_of
from curate.workflows.report import Histogram, Report, Shown
from curate.workflows.results import COLUMNS, cells_of

TEMPLATES = Path(__file__).parent / "templates"
WIDTH, HEIGHT = 640, 180
CLASSES_SHOWN, NAME_CHARACTERS = 2000, 640
Bar = tuple[str, float, float, float, float]


def page(found: Report) -> str:
    """Returns the whole page; equal reports give equal pages."""
    style, script = ((TEMPLATES / name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    style += STYLE
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {
        "count": "{:,}".format, "percent": "{:.1%}".format, "figure": "{:.6g}".format, "size": _size,
        "plain": _plain, "uri": _uri,
    }  # fmt: skip
    classes = _classes(found)
    # Elements whose texts are escaped where they are drawn.
    curves = [Markup(curve_element(found.evaluation, target)) for target in targets_of(found.evaluation)]  # noqa: S704
    return environment.get_template("report.html.j2").render(
        found=found, totals=found.head.totals, selection=found.head.selection, classes=classes[:CLASSES_SHOWN],
        all_classes=len(classes), options=_options(found), style=style, script=script, policy=_policy(style, script),
        width=WIDTH, height=HEIGHT,
        shown=[*_named(found)], plurality=_plurality, beside_cut=partial(_beside_cut, found), curves=curves,
        bars=bars, at=_at, tallest=tallest, evaluation=[COLUMNS, *map(cells_of, found.evaluation)],
    )  # fmt: skip


def tallest(histogram: Histogram) -> int:
    """Returns how many samples the highest bar stands for."""
    return max(map(sum, zip(histogram.kept, histogram.dropped, histogram.outliers, strict=True)), default=0)


def bars(histogram: Histogram) -> Iterator[Bar]:
    """Yields a chart's bars as (kind, x, y, width, height), kept ones at the bottom of each stack."""
    stacks = list(zip(histogram.kept, histogram.dropped, histogram.outliers, strict=True))
    scale = HEIGHT / (tallest(histogram) or 1)
    step = WIDTH / max(1, len(stacks))
    for place, stack in enumerate(stacks):
        top = float(HEIGHT)
        for kind, count in zip(("kept", "dropped", "outlier"), stack, strict=True):
            if count:
                # A single sample among thousands must still be seen.
                tall = max(count * scale, 1.0)
                top -= tall
                yield kind, round(place * step, 1), round(top, 1), round(step - 1, 1), round(tall, 1)


def _at(histogram: Histogram, value: float) -> float:
    """Returns where a score lies across a chart."""
    low, high = histogram.edges[0], histogram.edges[-1]
    return round(WIDTH * (value / 2 - low / 2) / (high / 2 - low / 2), 1)  # halves: a span may be larger than a float


def _plurality(sample: Shown) -> str:
    """Returns the class that most members vote for, where votes are saved; else what was predicted."""
    votes = Counter(vote for _, vote in sample.votes)
    return votes.most_common(1)[0][0] if votes else sample.prediction


def _beside_cut(found: Report, sample: Shown) -> str:
    """Returns how many places before or after the cut a sample stands, empty where there is no cut."""
    cut = found.histograms[0].cut_rank if found.histograms else None
    fn = found.head.selection.fn
    rank = next((rank for name, _, rank in sample.scores if name == fn), None)
    if cut is None or rank is None or sample.reason:
        return ""
    if rank == cut:
        return f", the last one kept by {fn}"
    return f", {abs(rank - cut):,} places {'before' if rank < cut else 'after'} the cut by {fn}"


def _named(found: Report) -> Iterator[tuple[str, Shown]]:
    """Yields every sample of the page with the name of its place there."""
    yield from ((f"s{row}", sample) for row, sample in found.samples.items())
    yield from ((f"b{place}", sample) for place, sample in enumerate(found.bad))


def _classes(found: Report) -> list[tuple[int, str, int, int, float]]:
    """Returns (id, name, before, after, share kept) of every class that has samples, the most pruned first."""
    table = found.head.classes
    names = [table.names[number] if number < len(table.names) else "" for number in range(len(table.before))]
    rows = [
        (number, f"{number} {name}".strip(), before, after, after / before)
        for number, (name, before, after) in enumerate(zip(names, table.before, table.after, strict=True))
        if before
    ]
    return sorted(rows, key=lambda row: (row[4], -row[2], row[0]))


def _options(found: Report) -> list[tuple[int, str]]:
    """Returns the classes that a sample of the page has."""
    return sorted({(sample.label, sample.label_name) for sample in found.samples.values() if sample.label >= 0})


def _policy(style: str, script: str) -> str:
    style_hash, script_hash = (
        base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script)
    )
    return (
        f"default-src 'none'; img-src data:; style-src 'sha256-{style_hash}'; script-src 'sha256-{script_hash}'; "
        "base-uri 'none'; form-action 'none'"
    )


def _size(count: float) -> str:
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:,.0f} {unit}" if unit == "bytes" else f"{count:,.1f} {unit}"
        count /= 1024
    return f"{count:,.1f} TiB"


def _plain(text: str) -> str:
    shown = printable(text)
    return shown if len(shown) <= NAME_CHARACTERS else f"{shown[:NAME_CHARACTERS]}…"


def _uri(picture: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.standard_b64encode(picture).decode()}"
