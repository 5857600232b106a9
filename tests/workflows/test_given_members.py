"""`score --members`: what was trained before scores a pool, and what does not fit is refused before it begins."""

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from conftest import COLOURS, png, write_tar
from test_score_and_prune import digests

from curate.cli import run
from curate.proxy.models import ModelSpec, build_model

HERE = ["--device", "cpu"]


def score(pool: Path, out: Path, members: Path, *words: str) -> int:
    return run(["score", str(pool), "--out", str(out), "--members", str(members), *HERE, *words])


def column(scores: Path, name: str, shard: int = 0) -> list[float]:
    values: list[float] = pq.read_table(scores / "tables" / f"toy-{shard:04d}.tar.parquet")[name].to_pylist()
    return values


def weights(folder: Path, *, name: str = "preact_resnet20", classes: int = 3) -> Path:
    """Writes weights as somebody else's training leaves them."""
    folder.mkdir(exist_ok=True)
    for seed in range(2):
        model = build_model(ModelSpec(name, classes, 3, 8, "small"), seed=seed)
        torch.save({"state_dict": model.state_dict()}, folder / f"{name}-{seed}.pth")
    return folder


def test_members_of_a_run_score_as_they_did_and_train_nothing(
    toy_scores: Path, pool_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "again"
    assert score(pool_folder, out, toy_scores, "--per-seed") == 0
    assert not (out / "members").exists()
    for name in ("variation_ratio", "mutual_information", "loss", "prediction"):
        assert column(out, name) == column(toy_scores, name)
    votes = ["votes/tables/toy-0000.tar.parquet"]
    assert all(pq.read_table(out / v).equals(pq.read_table(toy_scores / v)) for v in votes)
    summary = json.loads((out / "summary.json").read_bytes())
    assert (summary["trained"], summary["epochs"], len(summary["members"])) == (0, 0, 4)
    before = digests(out)
    assert score(pool_folder, out, toy_scores, "--per-seed") == 0
    assert digests(out) == before
    prune = ["prune", "--scores", str(out), "--keep", "0.5", "--out", str(tmp_path / "m")]
    assert run([*prune, "--fn", "variation_ratio"]) == 0
    capsys.readouterr()
    assert run([*prune, "--fn", "forgetting"]) == 1
    assert "no column 'forgetting'" in capsys.readouterr().err
    assert run(["compare", str(out), "--fn", "entropy"]) == 0
    capsys.readouterr()
    assert run(["compare", str(out), "--consensus", "--json"]) == 0
    [votes_of] = json.loads(capsys.readouterr().out)["consensus"]
    # What members were trained on elsewhere is not known here.
    assert all(row["trained"] is row["untrained"] is None and row["all"] > 0 for row in votes_of["ensembles"])
    assert run(["compare", str(out), "--fn", "entropy", "--cost"]) == 0


def test_members_are_chosen_from_a_run_by_kind_number_and_distance(
    toy_scores: Path, pool_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def taken(*words: str) -> list[tuple[int, int]]:
        out = tmp_path / "-".join(["s", *words])
        assert score(pool_folder, out, toy_scores, *words) == 0
        assert score(pool_folder, out, toy_scores, *words) == 0
        summary = json.loads((out / "summary.json").read_bytes())
        return [(member["seed"], member["epoch"]) for member in summary["members"]]

    assert taken() == taken("--ensemble", "combined") == [(0, 2), (0, 3), (1, 2), (1, 3)]
    assert taken("--ensemble", "seeds") == taken("--checkpoints", "1") == [(0, 3), (1, 3)]
    assert taken("--ensemble", "checkpoints") == taken("--seeds", "1") == [(0, 2), (0, 3)]
    assert taken("--checkpoint-every", "2") == [(0, 3), (1, 3)]
    capsys.readouterr()
    for words, said in (
        (["--seeds", "3"], "has members of 2 seeds, and 3 are asked for"),
        (["--checkpoints", "3"], "seed 0 has no checkpoint of epoch 1"),
        (["--checkpoints", "2", "--checkpoint-every", "2"], "It has those of 2, 3"),
        (["--ensemble", "seeds", "--checkpoints", "2"], "contradicts 2 seeds x 2 checkpoints"),
        (["--ensemble", "both"], "expected seeds, checkpoints, combined"),
        (["--seeds", "0"], "--seeds 0: expected 1 or more"),
        (["--epochs", "3"], "nothing is trained"),
    ):
        assert score(pool_folder, tmp_path / "never", toy_scores, *words) == 2
        assert said in capsys.readouterr().err
    shutil.copytree(toy_scores, tmp_path / "single")
    path = tmp_path / "single" / "summary.json"
    summary = json.loads(path.read_bytes())
    path.write_text(json.dumps({**summary, "members": [m for m in summary["members"] if m["seed"] == 0]}))
    for kind in ("seeds", "combined"):  # of a run that has one seed
        assert score(pool_folder, tmp_path / "never", tmp_path / "single", "--ensemble", kind) == 2
        assert f"--ensemble {kind} contradicts 1 seeds x" in capsys.readouterr().err
    assert score(pool_folder, tmp_path / "never", weights(tmp_path / "theirs"), "--ensemble", "seeds") == 2
    assert "is no run" in capsys.readouterr().err
    assert not (tmp_path / "never" / "run.json").exists()


def test_a_pool_without_labels_is_scored(toy_scores: Path, pool_folder: Path, tmp_path: Path) -> None:
    assert score(pool_folder, tmp_path / "s", toy_scores, "--label-from", "none") == 0
    assert column(tmp_path / "s", "entropy") == column(toy_scores, "entropy")


def test_weights_from_elsewhere_vote(pool_folder: Path, tmp_path: Path) -> None:
    folder = weights(tmp_path / "theirs")
    assert score(pool_folder, tmp_path / "s", folder, "--proxy", "preact_resnet20") == 0
    summary = json.loads((tmp_path / "s" / "summary.json").read_bytes())
    assert [member["seed"] for member in summary["members"]] == [0, 1]
    assert len(set(column(tmp_path / "s", "mutual_information"))) > 8


def test_other_members_than_the_first_time_are_refused(
    toy_scores: Path, pool_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "members"
    folder.mkdir()
    shutil.copy(toy_scores / "members/seed-000/epoch-002.safetensors", folder / "a.safetensors")
    assert score(pool_folder, tmp_path / "s", folder) == 0
    shutil.copy(toy_scores / "members/seed-001/epoch-002.safetensors", folder / "b.safetensors")
    assert score(pool_folder, tmp_path / "s", folder) == 1
    assert "another members" in capsys.readouterr().err


def test_what_is_no_member_of_this_ensemble_is_refused_before_anything_is_decoded(
    toy_scores: Path, pool_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(folder: Path, code: int, said: str, *words: str) -> None:
        capsys.readouterr()
        assert score(pool_folder, tmp_path / "s", folder, *words) == code
        assert said in capsys.readouterr().err
        assert not (tmp_path / "s" / "pixels").exists()
        assert not (tmp_path / "s" / "tables").exists()

    cut = tmp_path / "cut"
    shutil.copytree(toy_scores, cut)
    member = cut / "members" / "seed-001" / "epoch-002.safetensors"
    member.write_bytes(member.read_bytes()[:-100])
    refused(cut, 1, "seed-001/epoch-002.safetensors: cannot be read as a member")
    whole = (toy_scores / "members" / "seed-001" / "epoch-002.safetensors").read_bytes()
    member.write_bytes(whole[:-100] + bytes(100))
    refused(cut, 1, "its tensors are not those that were written")
    member.unlink()
    refused(cut, 1, "seed-001/epoch-002.safetensors: cannot be read")
    refused(toy_scores, 2, "holds preact_resnet20, and convnet3 is asked for", "--proxy", "convnet3")
    refused(toy_scores, 2, "nothing is trained", "--val", "0.1")
    refused(toy_scores, 2, "nothing is trained", "--epochs", "3")
    refused(tmp_path / "none", 2, "no members here")
    theirs = weights(tmp_path / "theirs")
    refused(theirs, 2, "holds another network than convnet3 for 3 classes", "--proxy", "convnet3")
    weights(theirs, name="preact_resnet32")
    refused(theirs, 2, "preact_resnet32-0.pth: holds another network", "--proxy", "preact_resnet20")
    (theirs / "aaa.pth").write_bytes(b"no weights")
    refused(theirs, 1, "aaa.pth: cannot be read as a member: no weights", "--proxy", "preact_resnet20")
    refused(weights(tmp_path / "five", classes=5), 2, "'head.fc.weight' is (5, 64, 1, 1)", "--proxy", "preact_resnet20")


def test_members_of_several_networks_are_named(
    toy_scores: Path, pool_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--proxy", "convnet3", "--seeds", "1", "--epochs", "1", "--checkpoints", "1", *HERE]
    assert run(["score", str(pool_folder), "--out", str(tmp_path / "other"), *words]) == 0
    folder = tmp_path / "mixed"
    folder.mkdir()
    shutil.copy(toy_scores / "members/seed-000/epoch-002.safetensors", folder / "a.safetensors")
    shutil.copy(tmp_path / "other/members/seed-000/epoch-001.safetensors", folder / "b.safetensors")
    assert score(pool_folder, tmp_path / "s", folder) == 2
    assert "b.safetensors: holds another network than others there: name convnet3" in capsys.readouterr().err


def test_a_pool_of_other_classes_is_refused(
    toy_scores: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def pool(name: str, labels: list[str]) -> Path:
        samples = [(f"k{n}", png(COLOURS[n % 3], n), label) for n, label in enumerate(labels)]
        write_tar(
            tmp_path / name / "p-0.tar", [e for k, i, c in samples for e in ((f"{k}.png", i), (f"{k}.cls", c.encode()))]
        )
        return tmp_path / name

    for name, labels, said in (
        ("more", ["0", "1", "2", "7"], "trained on 3 classes by id; the pool has 8 classes"),
        ("named", ["cat", "dog", "owl"], "the pool has 3 classes by name (cat, dog, owl"),
    ):
        assert score(pool(name, labels), tmp_path / f"s-{name}", toy_scores) == 2
        assert said in capsys.readouterr().err
