"""The pipeline's step as pipelines run it: the script, and the steps of the action, in processes of their own."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import yaml
from conftest import png, write_tar

from curate.cli import run
from curate.manifest.lines import manifest_digest
from curate.manifest.schema import load_head
from curate.workflows.gates import GATES

ROOT = Path(__file__).parent.parent
GREEN = {"max_drop": 0.6, "max_class_drop": 1.0, "min_per_class": 0, "max_share_shift": 1.0, "max_bad": 0.1}
RED = {"max_drop": 0.4, "max_class_drop": 0.1, "min_per_class": 40, "max_share_shift": 0.0, "max_bad": 0.01}
COMPARED = {"max_churn": 0.0, "min_rank_agreement": 0.99}


def write_gates(path: Path, limits: dict[str, float]) -> str:
    path.write_text("[gates]\n" + "".join(f"{name} = {limit}\n" for name, limit in limits.items()))
    return str(path)


def environment(**settings: str) -> dict[str, str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), **settings}


def step(folder: Path, phase: str, **settings: str) -> subprocess.CompletedProcess[str]:
    words = ["sh", str(ROOT / "ci" / "prune.sh"), phase]
    return subprocess.run(words, cwd=folder, env=environment(**settings), capture_output=True, text=True, check=False)


@pytest.fixture
def scored(toy_scores: Path, tmp_path: Path) -> Path:
    """A job's folder, scores out of the cache in it."""
    shutil.copytree(toy_scores, tmp_path / "scores")
    return tmp_path


def test_the_step_is_green_then_red(scored: Path, pool_folder: Path) -> None:
    """The second time, against the first: what cannot be compared yet is skipped, and said to be."""
    given = {"CURATE_SHARDS": str(pool_folder), "CURATE_KEEP": "0.5"}
    (scored / "scores" / "key.txt").write_text(step(scored, "key", **given).stdout)
    gates = write_gates(scored / "green.toml", {**GREEN, **COMPARED})
    summary = scored / "step.md"
    result = step(scored, "all", **given, CURATE_GATES=gates, GITHUB_STEP_SUMMARY=str(summary))
    assert (result.returncode, "Scores are in scores already." in result.stderr) == (0, True), result.stderr
    assert load_head(scored / "curate-out" / "manifest").totals.kept == 24
    assert "<!doctype html>" in (scored / "curate-out" / "report.html").read_text()
    found = json.loads((scored / "curate-out" / "check.json").read_text())
    assert {o["gate"]: o["status"] for o in found["gates"]} == dict.fromkeys(GREEN, "passed") | dict.fromkeys(
        COMPARED, "skipped"
    )
    assert "7 gates, none failed" in summary.read_text()

    (scored / "curate-out" / "manifest").rename(scored / "before")
    gates = write_gates(scored / "red.toml", {**RED, **COMPARED})
    more = {"CURATE_BASE": "before", "CURATE_EARLIER": "scores", "CURATE_FN": "entropy", "GITHUB_ACTIONS": "true"}
    result = step(scored, "prune", **given, **more, CURATE_GATES=gates)
    assert result.returncode == 3
    found = json.loads((scored / "curate-out" / "check.json").read_text())
    failed = [o["gate"] for o in found["gates"] if o["status"] == "failed"]
    assert sorted(failed) == sorted({*RED, "max_churn"})
    assert re.findall(r"^::error title=curate check (\w+)::", result.stderr, re.MULTILINE) == failed
    suite = ElementTree.parse(scored / "curate-out" / "junit.xml").getroot()[0]  # noqa: S314  (written by this test)
    assert suite.get("failures") == "6"
    changed = (scored / "curate-out" / "changed.tsv").read_text().splitlines()
    counts = json.loads((scored / "curate-out" / "diff.json").read_text())
    assert len(changed) == counts["added"] + counts["removed"] > 0
    text = (scored / "curate-out" / "summary.md").read_text()
    assert text == result.stdout
    assert "6 of 7 gates failed" in text
    assert "### curate diff" in text
    assert len(text.encode()) < 2**20
    assert step(scored, "prune", **given, CURATE_GATES=gates, CURATE_SOFT="1").returncode == 0
    found = json.loads((scored / "curate-out" / "check.json").read_text())
    assert {o["gate"] for o in found["gates"] if o["status"] == "failed"} == set(RED)


ALL_RED = RED | COMPARED | {
    "min_rank_agreement": 0.5, "max_drift": 0.1, "min_proxy_accuracy": 0.9, "min_margin_over_random": 0.02,
}  # fmt: skip
ALL_GREEN = GREEN | {
    "max_churn": 1.0, "min_rank_agreement": -1.0, "max_drift": 1.0, "min_proxy_accuracy": 0.5,
    "min_margin_over_random": 0.01,
}  # fmt: skip


@pytest.fixture(scope="module")
def grown(toy_scores: Path, pool_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A job's folder with evidence for every gate: grown scores, others of before, a manifest of before, accuracies."""
    folder = tmp_path_factory.mktemp("grown")
    pool = shutil.copytree(pool_folder, folder / "pool")
    yellow = [
        (f"y{n}.{kind}", data) for n in range(9) for kind, data in (("png", png((240, 240, 9), n)), ("cls", b"0"))
    ]
    write_tar(pool / "toy-0009.tar", yellow)
    assert run(["score", str(pool), "--base", str(toy_scores), "--out", str(folder / "scores")]) == 0
    summary = json.loads((folder / "scores" / "summary.json").read_text())
    summary["ensemble"] = {"test": 0.75}
    (folder / "scores" / "summary.json").write_text(json.dumps(summary))
    shutil.copytree(folder / "scores", folder / "earlier")
    for path in (folder / "earlier" / "tables").iterdir():
        table = pq.read_table(path)
        place = table.schema.get_field_index("entropy")
        pq.write_table(table.set_column(place, "entropy", pc.negate(table["entropy"])), path)
    for name, fn in (("before", "random"), ("now", "entropy")):
        words = ["--scores", str(folder / "scores"), "--fn", fn, "--keep", "0.5", "--out", str(folder / name)]
        assert run(["prune", *words]) == 0
    row = {
        "target": "t", "arm": f"now-{manifest_digest(folder / 'now')[:8]}", "kind": "manifest", "label": "entropy 0.5",
        "samples": 28, "n": 2, "accuracy": 0.8, "spread": None, "worst_class": 0.5, "loss": None, "selection": None,
        "gain": {"mean": 0.015, "low": None, "high": None, "n": 2}, "seconds": 1.0, "speed_up": None,
    }  # fmt: skip
    (folder / "table.json").write_text(json.dumps({"rows": [row], "runs": 2}))
    return folder


def judged(folder: Path, limits: dict[str, float]) -> tuple[int, dict[str, str]]:
    """Returns the step's exit code, and what came of each gate."""
    gates = write_gates(folder / "gates.toml", limits)
    result = step(
        folder, "prune", CURATE_SHARDS="pool", CURATE_KEEP="0.5", CURATE_FN="entropy", CURATE_GATES=gates,
        CURATE_BASE="before", CURATE_EARLIER="earlier", CURATE_EVALUATION="table.json",
    )  # fmt: skip
    assert result.returncode in (0, 3), result.stderr
    found = json.loads((folder / "curate-out" / "check.json").read_text())
    assert "80.00 %" in (folder / "curate-out" / "report.html").read_text()
    assert len((folder / "curate-out" / "summary.md").read_bytes()) < 2**20
    return result.returncode, {outcome["gate"]: outcome["status"] for outcome in found["gates"]}


def test_every_gate_is_in_the_test_of_the_step() -> None:
    assert set(ALL_RED) == set(ALL_GREEN) == set(GATES)


@pytest.mark.slow
def test_the_step_is_green_with_every_gate(grown: Path) -> None:
    assert judged(grown, ALL_GREEN) == (0, dict.fromkeys(ALL_GREEN, "passed"))


@pytest.mark.slow
@pytest.mark.parametrize("gate", list(ALL_RED))
def test_the_step_is_red_through_each_gate_alone(grown: Path, gate: str) -> None:
    assert judged(grown, {**ALL_GREEN, gate: ALL_RED[gate]}) == (
        3, {**dict.fromkeys(ALL_GREEN, "passed"), gate: "failed"},
    )  # fmt: skip


@pytest.mark.slow
def test_a_step_whose_time_is_up_goes_on_in_another_checkout(pool_folder: Path, tmp_path: Path) -> None:
    """Copies of the shards have other times, and the scores come out of a cache."""
    flags = "--proxy preact_resnet20 --seeds 2 --epochs 3 --checkpoints 1 --device cpu --set train.batch_size=16"
    given = {"CURATE_SHARDS": "pool", "CURATE_SCORE_ARGS": flags, "CURATE_FN": "entropy", "GITHUB_ACTIONS": "true"}
    codes = []
    for seconds in ("0.01s", "1.5s", "5m"):
        shutil.rmtree(tmp_path / "pool", ignore_errors=True)
        shutil.copytree(pool_folder, tmp_path / "pool", copy_function=shutil.copyfile)
        result = step(tmp_path, "score", **given, CURATE_MAX_TIME=seconds)
        codes.append(result.returncode)
        assert ("::warning title=curate score::" in result.stderr) == (result.returncode == 6), result.stderr
    assert codes in ([6, 6, 0], [6, 0, 0])


@pytest.mark.slow
def test_the_step_scores_where_nothing_is_cached(pool_folder: Path, tmp_path: Path) -> None:
    flags = "--proxy preact_resnet20 --seeds 1 --epochs 1 --checkpoints 1 --device cpu --set train.batch_size=16"
    given = {"CURATE_SHARDS": str(pool_folder), "CURATE_SCORE_ARGS": flags, "CURATE_FN": "entropy"}
    result = step(tmp_path, "all", **given)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "scores" / "summary.json").exists()
    assert "38 kept" in result.stdout


@pytest.mark.parametrize(
    ("phase", "settings", "code", "said"),
    [
        ("key", {"CURATE_SHARDS": "nowhere"}, 2, "nowhere: no such file"),
        ("prune", {"CURATE_SHARDS": "x"}, 1, "no finished scores here"),
        ("all", {}, 2, "CURATE_SHARDS"),
        ("nonsense", {"CURATE_SHARDS": "x"}, 2, "ci/prune.sh key|score|prune|all"),
    ],
)
def test_the_step_fails_as_curate_does(
    tmp_path: Path, phase: str, settings: dict[str, str], code: int, said: str
) -> None:
    result = step(tmp_path, phase, **settings)
    assert (result.returncode, said in result.stderr) == (code, True), result.stderr


def test_the_action_runs_its_steps(scored: Path, pool_folder: Path) -> None:
    """Every `run` of the action, as a runner would: conditions, inputs and outputs by hand, the rest for real."""
    action = yaml.safe_load((ROOT / "action.yml").read_text())
    inputs = {name: spec.get("default", "") for name, spec in action["inputs"].items()}
    inputs |= {
        "shards": str(pool_folder),
        "keep": "0.5",
        "gates": write_gates(scored / "g.toml", GREEN),
        "install": "no",
    }
    outputs = scored / "outputs"
    runner = {
        "GITHUB_ACTION_PATH": str(ROOT),
        "GITHUB_OUTPUT": str(outputs),
        "GITHUB_STEP_SUMMARY": str(scored / "s.md"),
    }
    ran = []
    for part in action["runs"]["steps"]:
        if "run" not in part or part["name"] == "Install":
            continue
        assert "${{" not in part["run"]  # inputs are data, never code
        given = {
            name: re.sub(r"\$\{\{ inputs\.([\w-]+) \}\}", lambda m: inputs[m[1]], text)
            for name, text in part["env"].items()
        }
        words = [part["shell"], "-eo", "pipefail", "-c", part["run"]]
        result = subprocess.run(
            words, cwd=scored, env=environment(**runner, **given), capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, result.stderr
        ran.append(part["id"])
        if ran == ["key"]:  # as the cache gives the scores of this key
            key = outputs.read_text().partition("key=")[2].partition("\n")[0]
            (scored / "scores" / "key.txt").write_text(f"{key}\n")
    assert ran == ["key", "score", "prune"]
    found = dict(line.split("=", 1) for line in outputs.read_text().splitlines())
    assert re.fullmatch("[0-9a-f]{32}", found["key"])
    assert (scored / found["manifest"] / "manifest.json").exists()
    assert "5 gates, none failed" in (scored / "s.md").read_text()


@pytest.mark.slow
def test_the_template_runs_its_jobs(scored: Path, pool_folder: Path) -> None:
    """The scripts of both jobs, as a runner's shell has them: variables, dotenv and artifacts by hand, the rest for real."""
    template = yaml.safe_load((ROOT / "ci" / "gitlab.yml").read_text())
    shutil.copytree(ROOT / "ci", scored / "ci")
    gates = write_gates(scored / "g.toml", GREEN)
    variables = template["variables"] | {"CURATE_SHARDS": str(pool_folder), "CURATE_KEEP": "0.5", "CURATE_GATES": gates}
    key = step(scored, "key", **variables).stdout.strip()
    (scored / "scores").rename(scored / "cached")
    (scored / "scores").mkdir()
    (scored / "cached" / "key.txt").write_text(f"{key}\n")
    (scored / "cached").rename(scored / "scores" / key)  # the cache of an earlier pipeline
    for name in ("curate-score", "curate-prune"):
        job = template[name]
        words = ["bash", "-eo", "pipefail", "-c", "\n".join(job["script"])]
        result = subprocess.run(
            words, cwd=scored, env=environment(**variables), capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, result.stderr
        reports = job["artifacts"]["reports"]
        places = [*job["artifacts"]["paths"], *reports.values()]
        assert all((scored / place).exists() for place in _expanded(places, variables)), places
        if "dotenv" in reports:
            variables |= dict(line.split("=", 1) for line in (scored / reports["dotenv"]).read_text().splitlines())
    assert variables["CURATE_SCORES"] == f"scores/{key}"
    assert template["curate-prune"]["needs"] == ["curate-score"]
    assert "5 gates, none failed" in (scored / "curate-out" / "summary.md").read_text()


def _expanded(places: list[str], variables: dict[str, str]) -> list[str]:
    return [re.sub(r"\$(\w+)", lambda name: variables[name[1]], place) for place in places]


def test_action_and_template_name_only_what_the_script_reads() -> None:
    script = (ROOT / "ci" / "prune.sh").read_text()
    known = set(re.findall(r': "\$\{(CURATE_\w+)', script))
    for name in ("action.yml", "ci/gitlab.yml"):
        text = (ROOT / name).read_text()
        assert set(re.findall(r"CURATE_\w+", text)) - known <= {"CURATE_CACHE"}, name
    action = yaml.safe_load((ROOT / "action.yml").read_text())
    used = set(re.findall(r"inputs\.([\w-]+)", (ROOT / "action.yml").read_text()))
    assert used == set(action["inputs"])


def key(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    capsys.readouterr()
    assert run(["fingerprint", *words]) == 0
    return capsys.readouterr().out.strip()


@pytest.mark.slow
@pytest.mark.parametrize("flag", ["--labels", "--base", "--members"])
def test_the_steps_key_follows_what_its_flags_name(flag: str, pool_folder: Path, tmp_path: Path) -> None:
    """A CSV of labels, a run, a folder of weights: other content, other scores, another key."""
    named = {"--labels": "labels.csv", "--base": "run/summary.json", "--members": "weights/a.pth"}[flag]
    word = named.split("/")[0]
    (tmp_path / named).parent.mkdir(exist_ok=True)
    given = {"CURATE_SHARDS": str(pool_folder), "CURATE_SCORE_ARGS": f"--seeds 2 {flag} {word}"}
    keys = []
    for content in ("a", "b"):
        (tmp_path / named).write_text(content)
        result = step(tmp_path, "key", **given)
        assert result.returncode == 0, result.stderr
        keys.append(result.stdout)
    (tmp_path / named).parent.joinpath("log.jsonl").write_text("other times")
    keys.append(step(tmp_path, "key", **given).stdout)
    assert len(set(keys)) == (3 if flag == "--members" else 2)


def test_the_fingerprint_follows_what_scores_depend_on(
    pool_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pool = shutil.copytree(pool_folder, tmp_path / "pool")
    first = key(capsys, str(pool_folder))
    assert key(capsys, str(pool)) == first  # another place, another time
    assert key(capsys, *(str(path) for path in sorted(pool.iterdir(), reverse=True))) == first
    labels = tmp_path / "labels.csv"
    labels.write_text("key,label\n")
    keys = [
        first, key(capsys, str(pool), "--set", "train.epochs=5"), key(capsys, str(pool), "--with", "x"),
        key(capsys, str(pool), "--test", str(pool_folder / "toy-0000.tar")), key(capsys, str(pool), "--with", str(labels)),
    ]  # fmt: skip
    labels.write_text("key,label\na,1\n")
    keys.append(key(capsys, str(pool), "--with", str(labels)))
    with (pool / "toy-0001.tar").open("r+b") as file:
        file.write(b"S")
    keys.append(key(capsys, str(pool)))
    write_tar(pool / "toy-0009.tar", [("x.cls", b"0")])
    keys.append(key(capsys, str(pool)))
    (pool / "toy-0009.tar").rename(pool / "toy-0010.tar")
    keys.append(key(capsys, str(pool)))
    assert len(set(keys)) == len(keys)
    assert run(["fingerprint", str(tmp_path / "nowhere")]) == 2
