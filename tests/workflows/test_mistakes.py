"""What people do by mistake: said at once, in their words, and nothing is spoiled for the next try."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import TOY, png, write_tar

from curate.cli import run
from curate.proxy.models import ModelSpec, build_model

ERROR = 2


def said(words: list[str], capsys: pytest.CaptureFixture[str], code: int = ERROR) -> str:
    capsys.readouterr()
    assert run(words) == code
    return capsys.readouterr().err


@pytest.mark.parametrize("device", ["gpu", "cuda", "cuda:0"])
def test_a_device_that_is_not_there_spoils_no_run(
    pool_folder: Path, tmp_path: Path, device: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if device == "cuda" and torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    out = tmp_path / "scores"
    expected = "torch finds no GPU here" if device == "cuda" else f"--device {device}: expected auto, cpu or cuda"
    assert expected in said(["score", str(pool_folder), "--out", str(out), *TOY, "--device", device], capsys)
    assert not (out / "run.json").exists()


def test_a_run_goes_on_where_it_began(toy_scores: Path, pool_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On another device the scores would be others."""
    record = toy_scores / "run.json"
    before = record.read_bytes()
    try:
        elsewhere = json.loads(before)
        elsewhere["setting"]["device"] = "cuda"
        record.write_text(json.dumps(elsewhere))
        words = ["score", str(pool_folder), "--out", str(toy_scores), *TOY]
        assert "holds a run on cuda, not on cpu" in said(words, capsys, 1)
    finally:
        record.write_bytes(before)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--test", "nosuch"], "nosuch: no such file or folder"),
        (["--test", "{other}"], "has not"),
        (["--val", "2"], "expected one fraction between 0 and 1"),
        (["--val", "nosuch"], "nosuch: no such file or folder"),
    ],
)
def test_what_accuracy_is_measured_on_is_looked_at_before_anything_is_trained(
    pool_folder: Path, tmp_path: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tar(tmp_path / "other.tar", [("a.png", png((1, 2, 3), 1)), ("a.cls", b"7")])
    words = [word.format(other=tmp_path / "other.tar") for word in words]
    error = said(["score", str(pool_folder), "--out", str(tmp_path / "s"), *TOY, *words], capsys)
    assert message in error
    assert "decode" not in error
    assert not (tmp_path / "s" / "members").exists()


def test_narrowed_networks_train_on_odd_batches(request: pytest.FixtureRequest) -> None:
    """Strided 1x1 convolutions of few channels write beyond their memory in torch: whoever runs this crashes."""
    threads = torch.get_num_threads()
    request.addfinalizer(lambda: torch.set_num_threads(threads))
    torch.set_num_threads(2)
    spec = ModelSpec("preact_resnet20", 5, 3, 32, "small", width=0.5)
    model, exact = build_model(spec, seed=0), build_model(spec, seed=0).double()
    for batch in (29, 31, 3, 29, 31):
        x = torch.randn(batch, 3, 32, 32).to(memory_format=torch.channels_last)
        for network, images in ((model, x), (exact, x.double())):
            network.zero_grad()
            network(images).square().sum().backward()
        for ours, theirs in zip(model.parameters(), exact.parameters(), strict=True):
            assert ours.grad is not None
            assert theirs.grad is not None
            assert (ours.grad - theirs.grad).norm() <= 0.05 * theirs.grad.norm(), (batch, ours.shape)
    wide = build_model(ModelSpec("preact_resnet20", 5, 3, 32, "small"), seed=0)
    assert list(wide.state_dict()) == list(model.state_dict())


def test_keys_that_are_always_and_never_kept_are_named(
    toy_scores: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "always.txt").write_bytes(b"\xef\xbb\xbfs0_01\r\ns1_02\r\n")  # as an editor on Windows saves it
    (tmp_path / "never.txt").write_text("s1_02\n")
    words = ["prune", "--scores", str(toy_scores), "--keep", "0.5", "--fn", "entropy", "--out", str(tmp_path / "m")]
    words += ["--always", str(tmp_path / "always.txt")]
    assert "both list 's1_02'" in said([*words, "--never", str(tmp_path / "never.txt")], capsys)
    assert run(words) == 0


def test_options_are_not_blamed_on_the_recipe(
    pool_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("[train]\nepochs = 2\n")
    words = ["score", str(pool_folder), "--recipe", str(recipe), "--out", str(tmp_path / "s")]
    assert "The command line: pixels.store = 'ram'" in said([*words, "--pixels", "ram"], capsys)
    assert "The command line: unknown key 'train.epoch'" in said([*words, "--set", "train.epoch=3"], capsys)
    assert f"{recipe} and the command line: 9 checkpoints" in said([*words, "--checkpoints", "9"], capsys)
    recipe.write_text("[train]\nepoch = 2\n")
    assert f"{recipe}: unknown key 'train.epoch'" in said(words, capsys)


def test_what_cannot_be_written_is_named_as_it_was_asked_for(
    toy_manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    error = said(["report", str(toy_manifest), "--out", str(folder)], capsys, 1)
    assert f"{folder}: Is a directory" in error
    assert ".tmp" not in error


def test_manifests_of_two_pools_are_refused_by_name(
    toy_manifest: Path, pool_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pool").mkdir()
    shutil.copy(pool_folder / "toy-0000.tar", tmp_path / "pool")
    assert run(["index", str(tmp_path / "pool"), "--out", str(tmp_path / "index")]) == 0
    other = ["prune", "--index", str(tmp_path / "index"), "--fn", "random", "--keep", "0.5"]
    assert run([*other, "--out", str(tmp_path / "other")]) == 0
    words = ["evaluate", str(toy_manifest), str(tmp_path / "other"), "--test", str(pool_folder)]
    assert "are of different pools" in said([*words, "--out", str(tmp_path / "e")], capsys)


def test_dali_is_told_the_extensions_that_there_are(
    toy_manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert run(["export", str(toy_manifest), "--to", "dali", "--out", str(tmp_path / "view")]) == 0
    assert 'ext=["png", "cls"]' in capsys.readouterr().out


def test_new_shards_know_their_classes(pool_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(pool_folder, tmp_path / "pool")
    (tmp_path / "pool" / "classes.txt").write_text("red\ngreen\nblue\n")
    assert run(["index", str(tmp_path / "pool"), "--out", str(tmp_path / "index")]) == 0
    words = ["prune", "--index", str(tmp_path / "index"), "--fn", "random", "--keep", "0.5"]
    assert run([*words, "--out", str(tmp_path / "manifest")]) == 0
    assert run(["materialize", str(tmp_path / "manifest"), str(tmp_path / "kept")]) == 0
    capsys.readouterr()
    assert run(["index", str(tmp_path / "kept"), "--json"]) == 0
    assert [row["name"] for row in json.loads(capsys.readouterr().out)["classes"]] == ["red", "green", "blue"]


@pytest.mark.parametrize("sign", [",", ";", "\t"])
def test_tables_may_be_separated_as_spreadsheets_do(tmp_path: Path, sign: str) -> None:
    members = [(f"{n}.png", png((200, 30, 30), n)) for n in range(6)]
    write_tar(tmp_path / "pool.tar", members)
    rows = [sign.join(row) for row in [("key", "label"), *((str(n), "ab"[n % 2]) for n in range(6))]]
    (tmp_path / "labels.csv").write_text("\ufeff" + "\r\n".join(rows) + "\r\n", encoding="utf-8")
    words = ["index", str(tmp_path / "pool.tar"), "--labels", str(tmp_path / "labels.csv"), "--json"]
    assert run(words) == 0
    (tmp_path / "images").mkdir()
    for name, data in members:
        (tmp_path / "images" / name).write_bytes(data)
    rows = [sign.join(row) for row in [("path", "label"), *((f"images/{n}.png", "ab"[n % 2]) for n in range(6))]]
    (tmp_path / "files.csv").write_text("\n".join(rows) + "\n")
    assert run(["pack", str(tmp_path / "files.csv"), str(tmp_path / "packed")]) == 0


def test_votes_and_costs_come_beside_the_agreement(
    pool_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "scores"
    words = ["score", str(pool_folder), "--out", str(out), *TOY, "--per-seed", "--set", "score.votes=true"]
    assert run(words) == 0
    capsys.readouterr()
    assert run(["compare", str(out), "--fn", "entropy", "--consensus", "--cost", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert len(result["agreement"]) == len(result["consensus"]) == len(result["cost"]) == 1
