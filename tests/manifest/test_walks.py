"""Sources walked by several processes: the same faults, in the order of the shards."""

import shutil
from pathlib import Path

import pytest

from curate import apart
from curate.cli import run
from curate.manifest.verify import verify


@pytest.fixture
def damaged(pool_folder: Path, tmp_path: Path) -> Path:
    root = shutil.copytree(pool_folder, tmp_path / "root")
    for name, change in (("toy-0000.tar", lambda data: data[:-512]), ("toy-0002.tar", lambda data: b"x" + data[1:])):
        (root / name).write_bytes(change((root / name).read_bytes()))
    return root


def test_processes_find_what_one_finds(toy_manifest: Path, damaged: Path) -> None:
    seen = []
    for processes in (1, 2, 9):
        names: list[tuple[int, int]] = []
        verdict = verify(
            toy_manifest,
            root=damaged,
            processes=processes,
            progress=lambda done, total, _, names=names: names.append((done, total)),
        )
        seen.append(verdict.findings)
        assert names == [(done, 3) for done in range(4)]
    assert seen[0] == seen[1] == seen[2]
    assert [finding.where for finding in seen[0]] == ["toy-0000.tar", "toy-0002.tar"]


def test_many_sources_are_walked_by_processes(
    toy_manifest: Path, damaged: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["verify", str(toy_manifest), "--root", str(damaged)]) == 1
    said = capsys.readouterr().out
    monkeypatch.setattr(apart, "WORTH_SECONDS", 0.0)
    monkeypatch.setattr(apart, "most_processes", lambda: 2)
    assert run(["verify", str(toy_manifest), "--root", str(damaged)]) == 1
    assert capsys.readouterr().out == said
    (damaged / "toy-0001.tar").unlink()
    assert run(["verify", str(toy_manifest), "--root", str(damaged)]) == 1
    said = capsys.readouterr().out
    assert "\ntoy-0001.tar: cannot be read (No such file or directory)." in said
    assert "toy-0000.tar: is not the shard that was pruned: it has " in said
