"""The suite: what cannot be measured is said and holds no number, what is kept becomes the page."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.arms import PEERS, Absent, Arm, measure, peer
from benchmarks.page import missed, table
from benchmarks.suite import LIMIT, OURS, Case, Target, case_of, compared

SAYS = "import json; print(json.dumps({'value': %s, 'seen': 1}))"


def says(value: float) -> Arm:
    return Arm([sys.executable, "-c", SAYS % value])


def test_a_case_compares_medians_both_ways() -> None:
    arms = {OURS: says(8.0), "stock": says(2.0), LIMIT: says(10.0)}
    targets = [Target("stock", 4), Target(LIMIT, 0.9), Target(OURS, memory=500), Target(OURS, value=7)]
    rate = compared("images", "images/s", arms, repeats=1, targets=targets)
    assert [(reached, is_met) for _, reached, is_met in rate.verdicts()[:2]] == [(4.0, True), (0.8, False)]
    assert rate.verdicts()[2][2] is True
    assert rate.verdicts()[3][1:] == (8.0, False)
    assert Case("", "s", rate.measured).speed("stock") == 0.25
    assert case_of(json.loads(json.dumps(rate.record()))) == rate
    assert missed({"benchmarks": {"b": {"cases": [rate.record()]}}}) == [
        "b, images: ≥ 0.9 of limit: reached 0.8.",
        "b, images: ≤ 7 of curate: reached 8.",
    ]


def test_what_is_not_there_is_said_and_holds_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(PEERS, raising=False)
    assert peer("no_such_package", "scan") == Absent(f"no_such_package is not installed here and there is no {PEERS}")
    fails = Arm([sys.executable, "-c", "raise SystemExit('out of luck')"])
    case = compared(
        "c", "s", {OURS: says(1.0), "gone": Absent("no GPU"), "fails": fails}, repeats=2, targets=[Target("gone", 2)]
    )
    assert case.absent == {"gone": "no GPU", "fails": "failed with 1: out of luck"}
    lines = table([case]).splitlines()[2:]
    assert "| gone | not measured: no GPU | | | ≥ 2 | not measured |" in lines[0]
    assert "not measured: failed with 1: out of luck" in lines[1]


def test_peak_memory_is_the_arms_own() -> None:
    ballast = bytearray(300 << 20)
    measured, _ = measure({"small": says(1.0)}, repeats=1)
    assert len(ballast) >> 20 > measured["small"].peak_mib > 5


@pytest.mark.slow
def test_the_suite_runs(tmp_path: Path) -> None:
    root = Path(__file__).parent.parent
    command = [sys.executable, "-m", "benchmarks", "--quick", "--json", tmp_path / "results.json"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "results.json").read_text())
    found = {name: benchmark for name, benchmark in results["benchmarks"].items() if name != "gpu" or is_gpu_here()}
    assert all(any(OURS in case["measured"] for case in benchmark["cases"]) for benchmark in found.values())


def is_gpu_here() -> bool:
    import torch

    return torch.cuda.is_available()
