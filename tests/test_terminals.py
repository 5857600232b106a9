"""Terminals that lack something: width, colour, Unicode."""

import io
import re
import sys
from pathlib import Path

import pytest

from curate.cli import run

CONTROL = re.compile(r"\x1b\[([0-9;?]*)[a-zA-Z]")


class Terminal(io.StringIO):
    """What a terminal would be sent."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def judged(toy_manifest: Path, tmp_path: Path) -> list[str]:
    gates = tmp_path / "gates.toml"
    gates.write_text("[gates]\nmax_drop = 0.4\nmin_per_class = 1\n")
    return ["check", str(toy_manifest), "--gates", str(gates)]


def shown(words: list[str], monkeypatch: pytest.MonkeyPatch, **environment: str) -> str:
    terminal = Terminal()
    for name, value in {"TERM": "xterm-256color", **environment}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "stdout", terminal)
    run(words)
    return terminal.getvalue()


def test_a_table_that_does_not_fit_becomes_lines(judged: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Forty columns: no word is broken, and nothing is wider than the terminal but what has no blank to break at."""
    text = CONTROL.sub("", shown(judged, monkeypatch, COLUMNS="40"))
    assert "max_drop\n  failed\n" in text
    assert "  limit: ≤ 40.00%\n" in text
    assert all(len(line) <= 40 for line in text.splitlines())


def test_a_table_that_fits_stays_one(judged: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    text = CONTROL.sub("", shown(judged, monkeypatch, COLUMNS="100"))
    assert any(re.match(r"│ max_drop +│ failed │", line) for line in text.splitlines())


def test_without_colour_nothing_is_coloured(judged: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    text = shown(judged, monkeypatch, COLUMNS="100", NO_COLOR="1")
    codes = {code for found in CONTROL.findall(text) for code in found.split(";")}
    assert not codes & {str(code) for code in [*range(30, 50), *range(90, 108)]}


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_what_an_encoding_lacks_is_said_in_other_words(
    judged: list[str], toy_manifest: Path, monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding=encoding))
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(io.BytesIO(), encoding=encoding))
    assert run(judged) == 3
    assert run(["diff", str(toy_manifest), str(toy_manifest), "--md"]) == 0
    assert run(["explain", "s0_01 → 猫", "--manifest", str(toy_manifest)]) == 2
    sys.stdout.flush()
    sign, arrow = ("≤", "→") if encoding == "utf-8" else ("<=", "->")
    text = written.getvalue().decode(encoding)
    assert f"{sign} 40.00%" in text
    assert f"` {arrow} `" in text
