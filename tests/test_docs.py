"""Docs never drift: what is generated is compared, what the README types is typed."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import TOY
from tables import consensus_picture, results_page
from tars import contents, kept_keys

from benchmarks.page import page
from curate.acquisition import ACQUISITIONS
from curate.cli import run
from curate.cli.options import ORDER
from curate.cli.reference import reference
from curate.manifest.guide import guide

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def commands() -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line]


def test_the_command_reference_is_the_programs() -> None:
    assert (ROOT / "docs" / "cli.md").read_text() == reference()


def test_the_guide_of_consumers_is_the_tables() -> None:
    assert (ROOT / "docs" / "consumers.md").read_text() == guide()


def test_the_results_are_those_of_the_kept_files() -> None:
    assert (ROOT / "docs" / "results.md").read_text() == results_page()


def test_the_picture_of_the_consensus_is_that_of_the_kept_files() -> None:
    assert (ROOT / "docs" / "pictures" / "consensus-cifar100.svg").read_text() == consensus_picture()
    assert "](pictures/consensus-cifar100.svg)" in results_page()


def test_the_page_of_performance_is_that_of_the_kept_runs() -> None:
    assert (ROOT / "docs" / "performance.md").read_text() == page()


def test_the_readme_has_two_commands_for_the_set_up() -> None:
    assert [c for c in commands() if c.startswith("pip ")] == [
        "pip install . && curate demo",
        "pip install '.[test]' && pytest",
    ]


def test_the_users_two_commands_work_as_written(
    pool_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The proxy as written; the training is as short as can be with members that vote, nothing else is added."""
    shutil.copytree(pool_folder, tmp_path / "shards")
    monkeypatch.chdir(tmp_path)
    score, prune, *_ = (shlex.split(c)[1:] for c in commands() if c.startswith(("curate score", "curate prune")))
    assert score == ["score", "shards/", "--proxy", "resnet18"]
    assert prune == ["prune", "--keep", "0.8", "--fn", "variation_ratio"]
    assert run([*score, *TOY[2:], "--seeds", "1", "--epochs", "2"]) == 0
    assert run(prune) == 0
    assert run(["verify", "manifests/variation_ratio-0.8"]) == 0


def test_the_datasets_of_the_readme_work_as_written(
    toy_manifest: Path,
    pool_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(toy_manifest, tmp_path / "manifests" / "variation_ratio-0.8")
    monkeypatch.chdir(tmp_path)
    (block,) = (code for code in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "KeptStream" in code)
    seen: dict[str, object] = {}
    exec(block, seen)  # noqa: S102  (the README's own)
    assert seen["images"].shape == (24, 3, 8, 8)  # type: ignore[attr-defined]
    files = {name: data for path in pool_folder.glob("*.tar") for name, data in contents(path).items()}
    expected = sorted(int(files[f"{key}.cls"]) for key in kept_keys(toy_manifest, pool_folder))
    assert sorted(seen["labels"].tolist()) == expected  # type: ignore[attr-defined]
    assert capsys.readouterr().out.startswith("24 s0_")


def test_the_readme_names_every_acquisition_function() -> None:
    assert all(f"`{name}`" in README for name in ACQUISITIONS)


def test_the_installed_command_answers(tmp_path: Path) -> None:
    command = Path(sys.executable).parent / "curate"
    environment = {**os.environ, "NO_COLOR": "1", "COLUMNS": "80"}
    result = subprocess.run(
        [command, "--help"], capture_output=True, text=True, check=True, env=environment, cwd=tmp_path
    )
    assert "\x1b" not in result.stdout
    listed = re.findall(r"^  ([a-z-]+)  ", result.stdout.partition("Commands:")[2], re.MULTILINE)
    assert listed == list(ORDER)
    assert "..." not in result.stdout.partition("Commands:")[2]  # what a command does is said whole
    for words, code in (["--version"], 0), (["nonsense"], 2), (["prune"], 2), (["verify", "nowhere"], 1):
        result = subprocess.run([command, *words], capture_output=True, text=True, check=False, cwd=tmp_path)
        assert (result.returncode, "Traceback" in result.stderr) == (code, False)


def test_nothing_in_the_tree_names_a_machine() -> None:
    names = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    for name in names:
        if name != ".ci/run" and not name.startswith("tests/test_docs"):
            text = (ROOT / name).read_text(errors="replace")
            assert "/work/" not in text, name
            assert "../shared" not in text, name
