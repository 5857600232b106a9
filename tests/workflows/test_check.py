"""Gates: each one green at its limit and red beyond it, in every output, through the command line."""

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tars import make_manifest

from curate.cli import run
from curate.manifest.lines import manifest_digest
from curate.workflows.gates import GATES

POOL = {"a.tar": [f"k{number}" for number in range(12)]}
# Of class 0 three of four are kept, of class 1 two, of class 2 one.
KEPT = ["k0", "k3", "k6", "k1", "k4", "k2"]


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_manifest(tmp_path_factory.mktemp("check"), POOL, KEPT, classes=3)


def gates(folder: Path, **limits: float) -> str:
    path = folder / "gates.toml"
    path.write_text("[gates]\n" + "".join(f"{name} = {limit}\n" for name, limit in limits.items()))
    return str(path)


def evaluation(folder: Path, manifest: Path, kept: float, random: float) -> str:
    """Rows as `curate demo --json` prints them; those of `evaluate` are called rows instead of table."""
    arm = f"m-{manifest_digest(manifest)[:8]}"
    gain = {"mean": kept - random, "low": None, "high": None, "n": 1}
    table = [{"target": "t", "arm": arm, "kind": "manifest", "n": 1, "gain": gain}]
    (folder / "evaluation.json").write_text(json.dumps({"table": table}))
    return str(folder / "evaluation.json")


@pytest.mark.parametrize(
    ("gate", "passes", "fails", "value"),
    [
        ("max_drop", 0.5, 0.49, 0.5),
        ("max_class_drop", 0.75, 0.74, 0.75),
        ("min_per_class", 1, 2, 1),
        ("max_share_shift", 0.16666666666666669, 0.16, 1 / 6),
        ("max_churn", 0.75, 0.7, 0.75),
        ("max_bad", 0, None, 0),
        ("min_rank_agreement", 0.66, 0.67, 2 / 3),  # six ones of twelve in either, five in common
        ("min_margin_over_random", 0.02, 0.03, 0.02),
    ],
)
def test_a_gate_is_green_at_its_limit_and_red_beyond(
    manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], gate: str, passes: float, fails: float | None,
    value: float,
) -> None:  # fmt: skip
    base = make_manifest(tmp_path / "base", POOL, ["k0", "k3", "k7", "k8"], classes=3)
    now = pq.read_table(manifest.parent / "s.parquet")
    later = [1.0 if score == 1 and place else float(place == 5) for place, score in enumerate(now["s"].to_pylist())]
    pq.write_table(pa.table({**now.to_pydict(), "s": later}), tmp_path / "earlier.parquet")
    given = [
        "--base", str(base), "--earlier", str(tmp_path / "earlier.parquet"),
        "--evaluation", evaluation(tmp_path, manifest, 0.92, 0.90),
    ]  # fmt: skip
    capsys.readouterr()
    words = ["check", str(manifest), *given, "--json", "--gates"]
    assert run([*words, gates(tmp_path, **{gate: passes})]) == 0
    (outcome,) = json.loads(capsys.readouterr().out)["gates"]
    assert (outcome["gate"], outcome["status"]) == (gate, "passed")
    assert outcome["value"] == pytest.approx(value)
    if fails is not None:
        assert run([*words, gates(tmp_path, **{gate: fails})]) == 3
        assert json.loads(capsys.readouterr().out)["ok"] is False
        assert run([*words, gates(tmp_path, **{gate: fails}), "--soft"]) == 0
        assert "1 gates failed" in capsys.readouterr().err


def test_bad_samples_and_the_proxys_accuracy(toy_manifest: Path, tmp_path: Path) -> None:
    assert run(["check", str(toy_manifest), "--gates", gates(tmp_path, max_bad=0.03)]) == 0
    assert run(["check", str(toy_manifest), "--gates", gates(tmp_path, max_bad=0.02)]) == 3


def test_the_ranks_of_a_run_agree_with_themselves(
    toy_manifest: Path, toy_scores: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["check", str(toy_manifest), "--gates", gates(tmp_path, min_rank_agreement=1), "--json", "--earlier"]
    capsys.readouterr()
    assert run([*words, str(toy_scores)]) == 0
    assert "47 samples scored both times" in json.loads(capsys.readouterr().out)["gates"][0]["where"]


def test_what_cannot_be_measured_fails_unless_it_is_skipped_by_name(
    manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    limits = gates(tmp_path, max_drop=0.9, min_proxy_accuracy=0.1)
    words = ["check", str(manifest), "--gates", limits]
    capsys.readouterr()
    assert run([*words, "--json"]) == 3
    assert [(o["status"], o["value"]) for o in json.loads(capsys.readouterr().out)["gates"]] == [
        ("passed", 0.5),
        ("failed", None),
    ]
    assert run([*words, "--skip", "min_proxy_accuracy"]) == 0
    assert run([*words, "--skip", "max_churn"]) == 2
    assert run(["check", str(manifest), "--gates", gates(tmp_path, max_churn=0.5)]) == 2
    assert "needs --base" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[gates]\nmax_drops = 0.5", "Did you mean 'max_drop'?"),
        ("[gates]\nmax_drop = 50", "Expected a number from 0 to 1"),
        ("[gates]\nmax_drop = true", "Expected a number from 0 to 1"),
        ("[gates]\nmax_drop = nan", "Expected a number from 0 to 1"),
        ("[gates]\nmin_per_class = 1.5", "Expected a whole number"),
        ("[gates]\nmin_rank_agreement = -2", "Expected a number from -1 to 1"),
        ("[gates]", "no gates"),
        ("[limits]\nmax_drop = 0.5", "unknown table 'limits'"),
        ("max_drop", "cannot be read as TOML"),
    ],
)
def test_a_file_of_limits_that_says_something_else_is_refused(
    manifest: Path, tmp_path: Path, text: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "g.toml").write_text(text)
    assert run(["check", str(manifest), "--gates", str(tmp_path / "g.toml")]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("text", ["{}", "[]", '{"table": [{"trained_on": "kept"}]}', "no"])
def test_an_evaluation_that_is_none_or_anothers_is_refused(manifest: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "e.json").write_text(text)
    words = ["check", str(manifest), "--gates", gates(tmp_path, min_margin_over_random=0), "--evaluation"]
    assert run([*words, str(tmp_path / "e.json")]) == 2
    other = make_manifest(tmp_path / "other", POOL, ["k0", "k1"], classes=3)
    assert run([*words, evaluation(tmp_path, other, 0.9, 0.9)]) == 2
    assert run([*words, evaluation(tmp_path, manifest, 0.9, 0.9)]) == 0


def test_the_margin_of_the_worst_target_of_an_evaluation_counts(
    manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rows as `curate evaluate` writes them, those of other arms among them."""

    def rows(*gains: float | None) -> None:
        arm = f"m-{manifest_digest(manifest)[:8]}"
        ours = [
            {"target": f"t{n}", "arm": arm, "kind": "manifest", "gain": None if g is None else {"mean": g, "n": 3}}
            for n, g in enumerate(gains)
        ]
        others = [
            {"target": "t0", "arm": "all", "kind": "all", "gain": None},
            {"target": "t0", "arm": "m-00000000", "kind": "manifest", "gain": {"mean": -0.5, "n": 3}},
        ]
        (tmp_path / "table.json").write_text(json.dumps({"rows": [*others, *ours], "runs": 9}))

    limits = gates(tmp_path, min_margin_over_random=0.01)
    words = ["check", str(manifest), "--gates", limits, "--json", "--evaluation", str(tmp_path / "table.json")]
    for gains, code, value in (((0.03, 0.02), 0, 0.02), ((0.03, -0.02), 3, -0.02), ((0.03, None), 3, None)):
        rows(*gains)
        capsys.readouterr()
        assert run(words) == code
        assert json.loads(capsys.readouterr().out)["gates"][0]["value"] == value
    rows()
    assert run(words) == 2


def test_every_output_says_the_same(manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    limits = gates(tmp_path, max_drop=0.4, min_per_class=1, max_bad=0)
    files = {name: tmp_path / name for name in ("c.md", "c.xml", "c.prom")}
    outputs = ["--md", str(files["c.md"]), "--junit", str(files["c.xml"]), "--openmetrics", str(files["c.prom"])]
    words = ["check", str(manifest), "--gates", limits, "--skip", "max_bad", *outputs, "--annotate"]
    capsys.readouterr()
    assert run(words) == 3
    said = capsys.readouterr()
    assert "::error title=curate check max_drop::max_drop failed: 50.00%25, expected ≤ 40.00%25" in said.err
    assert [re.split(r"\s*│\s*", line)[1:3] for line in said.out.splitlines() if "│" in line] == [
        ["max_drop", "failed"], ["min_per_class", "passed"], ["max_bad", "skipped"],
    ]  # fmt: skip
    suite = ElementTree.parse(files["c.xml"]).getroot()[0]  # noqa: S314  (written by this test)
    assert {name: suite.get(name) for name in ("tests", "failures", "skipped", "errors")} == {
        "tests": "3", "failures": "1", "skipped": "1", "errors": "0",
    }  # fmt: skip
    cases = {case.get("name"): [child.tag for child in case] for case in suite.iter("testcase")}
    assert cases == {"max_drop": ["failure"], "min_per_class": ["system-out"], "max_bad": ["skipped"]}
    metrics = dict(line.rsplit(" ", 1) for line in files["c.prom"].read_text().splitlines() if line[0] != "#")
    assert metrics['curate_gate_passed{gate="max_drop"}'] == "0"
    assert metrics['curate_gate_passed{gate="min_per_class"}'] == "1"
    assert 'curate_gate_passed{gate="max_bad"}' not in metrics
    assert metrics['curate_samples{state="kept"}'] == "6"
    assert f'curate_manifest_info{{digest="{manifest_digest(manifest)}",fn="s"}}' in metrics
    assert files["c.prom"].read_text().endswith("# EOF\n")
    markdown = files["c.md"].read_text()
    assert "1 of 3 gates failed" in markdown
    assert "| `max_drop` | **failed** | 50.00% | ≤ 40.00% |" in markdown
    before = {path: path.read_bytes() for path in files.values()}
    run(words)
    assert {path: path.read_bytes() for path in files.values()} == before


def test_the_guide_and_the_example_name_every_gate() -> None:
    root = Path(__file__).parents[2]
    assert all(f"`{name}`" in (root / "docs" / "ci.md").read_text() for name in GATES)
    assert all(f"{name} = " in (root / "ci" / "gates.toml").read_text() for name in GATES)
