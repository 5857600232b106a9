"""What pipelines read of curate, by what others wrote: parsers of JUnit and OpenMetrics, published schemas, shellcheck."""

import json
import subprocess
from pathlib import Path

import pytest
from reading import READERS, environment_of

from curate.cli import run

pytestmark = pytest.mark.consumers
ROOT = Path(__file__).parent.parent.parent
GATES = {"max_drop": 0.4, "max_class_drop": 0.1, "min_per_class": 0, "max_churn": 0.5}
SCHEMAS = {
    "action.yml": ["vendor.github-actions"],
    "ci/gitlab.yml": ["vendor.gitlab-ci", "--data-transform", "gitlab-ci"],
    "workflow.yml": ["vendor.github-workflows"],
}


def ran(program: str, *words: object) -> subprocess.CompletedProcess[str]:
    command = [environment_of("pipelines") / "bin" / program, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_gates_are_read_as_they_were_judged(
    toy_manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gates, junit, metrics = tmp_path / "gates.toml", tmp_path / "junit.xml", tmp_path / "metrics.prom"
    gates.write_text("[gates]\n" + "".join(f"{name} = {limit}\n" for name, limit in GATES.items()))
    words = ["check", str(toy_manifest), "--gates", str(gates), "--skip", "max_churn", "--json"]
    assert run([*words, "--junit", str(junit), "--openmetrics", str(metrics)]) == 3
    judged = json.loads(capsys.readouterr().out)["gates"]
    result = ran("python", READERS / "read_outcomes.py", junit, metrics)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["statuses"] == {one["gate"]: one["status"] for one in judged}
    assert sorted(set(found["statuses"].values())) == ["failed", "passed", "skipped"]
    assert [gate for gate, said in found["said"].items() if "expected ≤" in "".join(filter(None, said))] == [
        one["gate"] for one in judged if one["status"] == "failed"
    ]
    values = {labels["gate"]: value for name, labels, value in found["samples"] if name == "curate_gate_value"}
    assert values == {one["gate"]: one["value"] for one in judged if one["value"] is not None}


def documents(folder: Path) -> dict[str, Path]:
    """Returns the files that pipelines load; the workflow is the one in docs/ci.md."""
    text = (ROOT / "docs" / "ci.md").read_text()
    jobs = text[text.index("    jobs:\n") : text.index("Give both jobs")]
    (folder / "workflow.yml").write_text("on: push\n" + "".join(line[4:] + "\n" for line in jobs.splitlines()))
    return {name: folder / name if name == "workflow.yml" else ROOT / name for name in SCHEMAS}


@pytest.mark.parametrize("name", list(SCHEMAS))
def test_what_pipelines_load_fits_its_published_schema(name: str, tmp_path: Path) -> None:
    path = documents(tmp_path)[name]
    words = ["--builtin-schema", *SCHEMAS[name]]
    assert ran("check-jsonschema", *words, path).returncode == 0
    broken = tmp_path / "broken.yml"
    broken.write_text(
        path.read_text().replace("  steps:", "  stepz:").replace("    exit_codes: 6", "    exit_codes: x")
    )
    assert broken.read_text() != path.read_text()
    assert ran("check-jsonschema", *words, broken).returncode == 1


@pytest.mark.parametrize("name", ["ci/prune.sh", "docker/lock.sh"])
def test_shellcheck_finds_nothing(name: str) -> None:
    result = ran("shellcheck", "--severity", "style", ROOT / name)
    assert result.returncode == 0, result.stdout
