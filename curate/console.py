"""What people see: results on stdout, everything else on stderr.

The only room that knows rich, and it imports it only to draw: `--help`, `prune` and pipes do without.
"""

from __future__ import annotations

import base64
import codecs
import io
import json
import math
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curate.errors import CurateError, SampleError
from curate.pool.tar import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bar

SCHEMA_VERSION = 1
PLAIN_SECONDS = 30.0
IMAGE_PX, KITTY_CHUNK = 256, 4096
WIDE = 200
MANY_ROWS = 1000
IN_ASCII = "curate.ascii"
ASCII = {"≤": "<=", "≥": ">=", "±": "+-", "→": "->", "…": "...", "\N{MINUS SIGN}": "-"}


def _in_ascii(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    text = error.object[error.start : error.end]
    return "".join(ASCII.get(c) or c.encode("ascii", "backslashreplace").decode() for c in text), error.end


codecs.register_error(IN_ASCII, _in_ascii)


def speak_any_encoding() -> None:
    """Makes stdout and stderr write what their encoding lacks in other words, instead of failing.

    Where one is closed, what is said there goes nowhere, and no file that is opened takes its number.
    """
    sys.stdout, sys.stderr = (stream or Path(os.devnull).open("w") for stream in (sys.stdout, sys.stderr))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=IN_ASCII)


def say(text: str) -> None:
    """Prints a line of the result."""
    sys.stdout.write(_safe(text) + "\n")


def note(text: str) -> None:
    """Prints a line beside the result."""
    _print_beside(text, style="dim")


def _print_beside(text: str, *, style: str = "") -> None:
    if not sys.stderr.isatty():
        sys.stderr.write(_safe(text) + "\n")
        return
    _terminal().print(_safe(text), markup=False, style=style)


@cache
def _terminal() -> Console:
    from rich.console import Console

    return Console(stderr=True, highlight=False, soft_wrap=True)


def show_json(command: str, value: dict[str, Any]) -> None:
    """Prints the one document that `--json` promises."""
    document = {"schema_version": SCHEMA_VERSION, "command": command, **_finite(value)}
    sys.stdout.write(json.dumps(document, indent=1, sort_keys=True, default=str, allow_nan=False) + "\n")


def _finite(value: Any) -> Any:
    """Returns a document with null for figures that are not finite, which JSON does not know."""
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def show_error(error: CurateError) -> None:
    """Prints what happened and where, then what was expected and what to do."""
    _print_beside(f"error: {error.message}", style="bold red")
    if error.hint:
        _print_beside(f"  {error.hint}")


def show_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Prints a table; the first column is text, the others are figures.

    A terminal too narrow for the words in it is given a few lines a row instead, and thousands of rows plain ones.
    """
    cells = [[_safe(cell) for cell in row] for row in rows]
    if len(cells) > MANY_ROWS:  # rich would take a second for each thousand
        return _show_lines(title, [columns, *cells])
    from rich.console import Console
    from rich.table import Table

    is_terminal = sys.stdout.isatty()
    console = Console(highlight=False, soft_wrap=True, width=None if is_terminal else WIDE)  # a file has no edge
    if is_terminal and _narrowest([columns, *cells]) > console.width:
        return _show_records(title, columns, cells)
    table = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", overflow="fold")
    for row in cells:
        table.add_row(*row)
    return console.print(table)


def _show_lines(title: str, rows: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(c.rjust(width) if n else c.ljust(width) for n, (c, width) in enumerate(zip(row, widths, strict=True)))
        for row in rows
    )
    say("\n".join([title, *lines]))


def _narrowest(rows: Sequence[Sequence[str]]) -> int:
    """Returns the width below which a table would break words."""
    from rich.cells import cell_len

    longest = [
        max(cell_len(word) for cell in column for word in cell.split() or [""]) for column in zip(*rows, strict=True)
    ]
    return sum(longest) + 3 * len(longest) + 1


def _show_records(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    say(title)
    for first, *others in rows:
        say(first)
        for column, cell in zip(columns[1:], others, strict=True):
            if cell:
                say(f"  {column}: {cell}" if column else f"  {cell}")


def image_protocol(environment: Mapping[str, str]) -> str:
    """Returns how the terminal on stdout shows images: kitty, iterm, or nothing."""
    if not sys.stdout.isatty():
        return ""
    if "kitty" in environment.get("TERM", "") or environment.get("TERM_PROGRAM") == "ghostty":
        return "kitty"
    return "iterm" if environment.get("TERM_PROGRAM") in ("iTerm.app", "WezTerm") else ""


def show_image(data: bytes, protocol: str) -> None:
    """Draws the middle of an image, 256 px square; one that cannot be decoded is left out.

    It is decoded and encoded again here: a terminal is never handed bytes of a shard.
    """
    from PIL import Image

    from curate.pool.images import decode

    try:
        small = Image.fromarray(decode(data, size_px=IMAGE_PX, channels=3))
    except SampleError:
        return
    out = io.BytesIO()
    small.save(out, "PNG")
    text = base64.standard_b64encode(out.getvalue()).decode()
    if protocol == "iterm":
        sys.stdout.write(f"\x1b]1337;File=inline=1;size={len(out.getvalue())}:{text}\a\n")
        return
    parts = [text[at : at + KITTY_CHUNK] for at in range(0, len(text), KITTY_CHUNK)]
    for number, part in enumerate(parts):
        control = "a=T,f=100," if number == 0 else ""
        sys.stdout.write(f"\x1b_G{control}m={int(number < len(parts) - 1)};{part}\x1b\\")
    sys.stdout.write("\n")


def _safe(text: str) -> str:
    return "\n".join(printable(line) for line in text.splitlines())


@contextmanager
def progress(*, quiet: bool = False) -> Iterator[PlainProgress | BarProgress]:
    """Yields a listener: a bar on a terminal, a plain line now and then elsewhere."""
    if quiet or not sys.stderr.isatty():
        yield PlainProgress(quiet=quiet)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bar(*columns, TextColumn("{task.fields[detail]}"), console=_terminal()) as bar:
        yield BarProgress(bar)


class PlainProgress:
    """A line when a stage begins and every 30 seconds; no control codes."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._name, self._total, self._unit = "", 0, ""
        self._started = self._said = 0.0

    def stage(self, name: str, total: int, unit: str) -> None:
        self._name, self._total, self._unit = name, total, unit
        self._started = self._said = time.monotonic()
        self._say(f"{name}: {total:,} {unit}")

    def at(self, done: int, detail: str = "") -> None:
        now = time.monotonic()
        if now - self._said < PLAIN_SECONDS:
            return
        self._said = now
        rate = done / max(1e-9, now - self._started)
        left = (self._total - done) / max(1e-9, rate)
        self._say(
            f"{self._name}: {done:,}/{self._total:,} {self._unit}, {rate:,.0f}/s, {left:,.0f} s left {_safe(detail)}"
        )

    def note(self, text: str) -> None:
        self._say(text)

    def _say(self, text: str) -> None:
        if not self._quiet:
            sys.stderr.write(text.rstrip() + "\n")
            sys.stderr.flush()


class BarProgress:
    """One bar a stage, with rate and time left."""

    def __init__(self, bar: Bar) -> None:
        self._bar = bar
        self._task: Any = None

    def stage(self, name: str, total: int, unit: str) -> None:
        self._task = self._bar.add_task(f"{name} ({unit})", total=total, detail="")

    def at(self, done: int, detail: str = "") -> None:
        self._bar.update(self._task, completed=done, detail=_safe(detail))

    def note(self, text: str) -> None:
        self._bar.console.print(text, markup=False, style="dim")
