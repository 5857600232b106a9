"""A damaged pool through the command line: what, where, what was expected, what to do; nothing half-written."""

import io
import json
import tarfile
from pathlib import Path

import pytest
from conftest import TOY, toy_members, write_tar

from curate.cli import run


def tar_bytes(folder: Path) -> bytes:
    write_tar(folder / "whole.tar", toy_members(0))
    return (folder / "whole.tar").read_bytes()


def damaged(kind: str, folder: Path) -> bytes:
    whole = tar_bytes(folder)
    empty = io.BytesIO()
    tarfile.open(fileobj=empty, mode="w").close()
    return {
        "empty file": b"",
        "no samples": empty.getvalue(),
        "cut in data": whole[: len(whole) // 2 + 100],
        "cut between entries": whole[: 512 * (len(whole) // 1024)],
        "no tar": b"<html>404 Not Found</html>" * 100,
        "text in the middle": whole[:2048] + b"x" * 512 + whole[2560:],
    }[kind]


@pytest.mark.parametrize("command", ["index", "score"])
@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("empty file", "bad.tar"),
        ("no samples", "holds no samples"),
        ("cut in data", "cut short"),
        ("cut between entries", "bad.tar"),
        ("no tar", "is not a tar archive"),
        ("text in the middle", "damaged header at byte 2048"),
    ],
)
def test_a_damaged_shard_fails_and_says_where(
    tmp_path: Path, command: str, kind: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pool").mkdir()
    write_tar(tmp_path / "pool" / "good.tar", toy_members(1))
    (tmp_path / "pool" / "bad.tar").write_bytes(damaged(kind, tmp_path))
    out = tmp_path / "out"
    more = TOY if command == "score" else []
    assert run([command, str(tmp_path / "pool"), "--out", str(out), *more]) == 1
    error = capsys.readouterr().err
    assert said in error
    assert "bad.tar" in error
    assert "Traceback" not in error
    assert not [path for path in out.rglob("*") if path.name.endswith(".tmp") or path.name.startswith("bad.tar")]


def test_a_missing_path_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("index", "score"):
        assert run([command, str(tmp_path / "nowhere"), "--out", str(tmp_path / "out")]) == 2
        assert "no such file or folder" in capsys.readouterr().err
    assert not [path for path in (tmp_path / "out").rglob("*") if path.name != ".lock"]


def test_a_sample_without_a_label_is_scored_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    members = [member for member in toy_members(0) if member[0] != "s0_03.cls"]
    write_tar(tmp_path / "pool" / "x.tar", members)
    out = tmp_path / "out"
    words = ["score", str(tmp_path / "pool"), "--out", str(out), *TOY, "--epochs", "2", "--checkpoints", "1"]
    assert run(words) == 0
    assert "16 of 16 samples scored" in capsys.readouterr().out
    prune = ["prune", "--scores", str(out), "--keep", "0.5", "--out", str(tmp_path / "m"), "--fn"]
    assert run([*prune, "error_count"]) == 1
    assert "1 of 16 samples have no 'error_count'" in capsys.readouterr().err
    assert not (tmp_path / "m").exists()
    assert run([*prune, "entropy"]) == 0


def test_a_name_among_class_ids_is_a_bad_sample(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    members = [(name, b"a cat" if name == "s0_03.cls" else data) for name, data in toy_members(0)]
    write_tar(tmp_path / "pool" / "x.tar", members)
    for _ in range(2):
        assert run(["index", str(tmp_path / "pool"), "--out", str(tmp_path / "i"), "--json"]) == 0
        report = json.loads(capsys.readouterr().out)
        assert (report["samples"], report["bad"], report["num_classes"]) == (16, 1, 3)
        assert report["bad_samples"][0]["reason"] == "the label 'a cat' is no class id"


def test_names_mean_the_same_class_in_the_pool_and_in_the_test_shards(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The test shards lack the first class: numbered alone, their names would shift by one."""
    words = ["ant", "bee", "cat"]
    named = [(name, words[int(data)].encode() if name.endswith("cls") else data) for name, data in toy_members(0)]
    write_tar(tmp_path / "pool" / "x.tar", named)
    keys = {name.split(".")[0] for name, data in named if name.endswith("cls") and data != b"ant"}
    write_tar(tmp_path / "test" / "t.tar", [member for member in named if member[0].split(".")[0] in keys])
    run_words = ["score", str(tmp_path / "pool"), "--test", str(tmp_path / "test"), *TOY, "--epochs", "12", "--out"]
    assert run([*run_words, str(tmp_path / "out")]) == 0
    assert json.loads((tmp_path / "out" / "summary.json").read_bytes())["ensemble"]["test"] > 0.8
    write_tar(tmp_path / "other" / "t.tar", [("k.png", named[0][1]), ("k.cls", b"dog")])
    capsys.readouterr()
    assert run([*run_words[:3], str(tmp_path / "other"), *run_words[4:], str(tmp_path / "out2")]) == 2
    assert "the class 'dog'" in capsys.readouterr().err
