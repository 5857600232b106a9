"""Members of a run: however many there are, one is in memory; whatever the blocks, the scores are the same."""

import json
import shutil
from pathlib import Path

import pytest
from conftest import TOY
from test_score_and_prune import digests

from curate.cli import run
from curate.proxy import predict


@pytest.mark.parametrize("size", [1, 10_000])
def test_blocks_of_any_size_give_the_same_bytes(
    toy_scores: Path, pool_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    out = tmp_path / "scores"
    shutil.copytree(toy_scores, out)
    before = digests(out)
    for path in out.glob("tables/*0[12].tar.parquet"):
        path.unlink()
    monkeypatch.setattr(predict, "BLOCK_BYTES", {"cpu": size, "cuda": size})
    assert run(["score", str(pool_folder), "--out", str(out), *TOY]) == 0
    assert digests(out) == before


def test_a_member_that_does_not_load_is_named(
    toy_scores: Path, pool_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "scores"
    shutil.copytree(toy_scores, out)
    (out / "tables" / "toy-0002.tar.parquet").unlink()
    member = out / "members" / "seed-001" / "epoch-002.safetensors"
    member.write_bytes(member.read_bytes()[:1000])
    assert run(["score", str(pool_folder), "--out", str(out), *TOY]) == 1
    assert "seed-001/epoch-002.safetensors: cannot be read as a member" in (said := capsys.readouterr().err)
    assert f"delete {member.parent}" in " ".join(said.split())
    shutil.rmtree(member.parent)  # as it says
    assert run(["score", str(pool_folder), "--out", str(out), *TOY]) == 0
    for path in (toy_scores / "tables").iterdir():
        assert (out / "tables" / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("words", "members"),
    [
        (["seeds", "--seeds", "5"], 5),
        (["checkpoints", "--checkpoints", "3"], 3),
        (["combined", "--seeds", "3", "--checkpoints", "20", "--checkpoint-every", "5", "--epochs", "150"], 60),
    ],
)
def test_an_ensemble_is_of_seeds_of_checkpoints_or_of_both(
    pool_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], members: int
) -> None:
    given = ["score", str(pool_folder), "--out", str(tmp_path / "s"), "--proxy", "preact_resnet20", "--device", "cpu"]
    capsys.readouterr()
    assert run([*given, "--dry-run", "--json", "--ensemble", *words]) == 0
    assert json.loads(capsys.readouterr().out)["members"] == members


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["seeds", *TOY], "contradicts 2 seeds x 2 checkpoints"),
        (["checkpoints", *TOY], "contradicts 2 seeds x 2 checkpoints"),
        (["combined", *TOY, "--seeds", "1"], "contradicts 1 seeds x 2 checkpoints"),
        (["seeds", "--seeds", "1"], "contradicts 1 seeds x 1 checkpoints"),
        (["all", *TOY], "expected seeds, checkpoints, combined"),
    ],
)
def test_an_ensemble_that_contradicts_its_numbers_is_refused(
    pool_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    assert run(["score", str(pool_folder), "--out", str(tmp_path / "s"), "--ensemble", *words]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "s").exists()
