"""`--keep auto`: which size of a measured curve is taken, and of which selections it may be."""

import json
from pathlib import Path
from typing import Any

import pytest

from curate.cli import run
from curate.errors import UsageError
from curate.workflows.keep_curve import keep_from


def curve(folder: Path, *points: tuple[str, str, int, float]) -> Path:
    """Rows as `evaluate` saves them: (target, keep, samples, accuracy lost or won)."""
    rows: list[dict[str, Any]] = [
        {
            "target": target, "arm": f"{target}{keep}", "kind": "manifest", "n": 1, "label": f"entropy {keep}",
            "samples": samples, "accuracy": 0.9 + loss, "loss": {"mean": loss, "n": 1},
        }
        for target, keep, samples, loss in points
    ]  # fmt: skip
    (folder / "table.json").write_text(json.dumps({"rows": rows}))
    return folder


def test_counts_and_fractions_are_ordered_by_what_they_keep(tmp_path: Path) -> None:
    found = curve(tmp_path, ("t", "0.7", 7000, 0.0), ("t", "2000", 2000, 0.0), ("t", "0.1", 1000, -0.2))
    assert keep_from(found, "entropy", 0.003)[0] == "2000"


def test_one_fraction_in_two_spellings_is_one_size(tmp_path: Path) -> None:
    points = [("a", "0.5", 5000, 0.0), ("b", "50%", 5000, -0.2), ("a", "0.9", 9000, 0.0), ("b", "0.9", 9000, 0.0)]
    assert keep_from(curve(tmp_path, *points), "entropy", 0.003)[0] == "0.9"


def test_a_size_counts_where_every_target_was_measured(tmp_path: Path) -> None:
    points = [("a", "0.3", 3000, 0.0), ("a", "0.9", 9000, 0.0), ("b", "0.9", 9000, 0.0)]
    assert keep_from(curve(tmp_path, *points), "entropy", 0.003)[0] == "0.9"
    with pytest.raises(UsageError, match="was measured on each of a, b"):
        keep_from(curve(tmp_path, points[0], points[2]), "entropy", 0.003)


@pytest.mark.parametrize("more", [["--order", "easiest"], ["--outliers", "0.1"], ["--per-class", "equal"]])
def test_another_choice_than_the_measured_one_is_refused(
    more: list[str], toy_scores: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = curve(tmp_path, ("t", "0.5", 24, 0.0))
    words = ["prune", "--scores", str(toy_scores), "--fn", "entropy", "--keep", "auto", "--curve", str(found)]
    assert run([*words, "--out", str(tmp_path / "m")]) == 0
    capsys.readouterr()
    assert run([*words, *more, "--out", str(tmp_path / "other")]) == 2
    assert f"{more[0]} makes another choice" in capsys.readouterr().err
