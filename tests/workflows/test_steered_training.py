"""`--val` steers: best epoch, patience and early stopping in score; `--test` never does."""

import json
from pathlib import Path

import pytest
from conftest import TOY
from test_score_and_prune import digests, events

from curate.cli import run

PATIENT = [
    "--set", "train.schedule=patience", "--set", "train.patience=1", "--set", "train.stop_after=2",
    "--set", "train.epochs=7",
]  # fmt: skip
BEST = [*PATIENT, "--set", "train.member=best"]


def first_best(values: list[float]) -> int:
    return values.index(max(values)) + 1


def test_the_member_is_the_epoch_that_was_best_on_val(pool_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "scores"
    words = ["score", str(pool_folder), "--out", str(out), *TOY[:2], "--seeds", "2", "--checkpoints", "1", *TOY[8:]]
    words += ["--val", "0.3", *BEST]
    assert run(words) == 0
    summary = json.loads((out / "summary.json").read_bytes())
    for seed, epochs, member in zip((0, 1), summary["seed_epochs"], summary["members"], strict=True):
        val = [event["val"] for event in events(out, "epoch") if event["seed"] == seed]
        assert len(val) == epochs == min(7, first_best(val) + 2)  # type: ignore[arg-type]
        assert (member["seed"], member["epoch"]) == (seed, first_best(val))  # type: ignore[arg-type]
        assert member["val"] == max(val)  # type: ignore[type-var]
        assert len(list((out / "members" / f"seed-{seed:03d}").glob("epoch-*"))) == 1
        # The log says what patience has done: a tenth of the rate after each epoch that brought nothing.
        rates = [event["rate"] for event in events(out, "epoch") if event["seed"] == seed]
        train = json.loads((out / "run.json").read_bytes())["recipe"]["train"]
        lowered = [sum(val[n] <= max(val[:n]) for n in range(1, epoch)) for epoch in range(1, epochs)]  # type: ignore[operator, type-var]
        assert rates[1:] == pytest.approx([train["rate"] * train["step_factor"] ** count for count in lowered])
    before = digests(out)
    assert run(words) == 0
    assert digests(out) == before
    assert len(events(out, "epoch")) == sum(summary["seed_epochs"])
    assert run(["compare", str(out), "--consensus"]) == 0
    assert run(["compare", str(out), "--cost"]) == 0


@pytest.mark.parametrize("setting", ["train.member=best", "train.schedule=patience"])
def test_what_needs_val_is_refused_without_it(
    pool_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], setting: str
) -> None:
    words = [*TOY, "--checkpoints", "1", "--set", setting]
    assert run(["score", str(pool_folder), "--out", str(tmp_path / "s"), *words]) == 2
    assert "Give --val" in capsys.readouterr().err
    assert not (tmp_path / "s" / "index").exists()
