"""Files of runs, manifests and results that were damaged: every command that reads them says so, or is as it was."""

import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import TOY, toy_members, write_tar
from figures import record

from curate.cli import run

KEY = "s0_03"
SHORT = [*TOY[:4], "--epochs", "2", *TOY[6:]]
NETWORK = ["--device", "cpu", "--set", "train.epochs=1", "--set", "train.checkpoints=1", "--set", "train.batch_size=16"]
UNREAD = {".lock", "log.jsonl"}
DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "emptied": lambda data: b"",
    "cut in half": lambda data: data[: len(data) // 2],
    "noise": lambda data: random.Random(0).randbytes(max(len(data), 64)),
    "another document": lambda data: b"[]\n",
    "an empty document": lambda data: b"{}\n",
    "zeros at its end": lambda data: data[: len(data) * 2 // 3] + bytes(len(data) - len(data) * 2 // 3),
}


@pytest.fixture
def scene(pool_folder: Path, tmp_path: Path) -> Path:
    """Two runs with all that they can keep, two manifests, and kept shards."""
    for name, seed in (("one", 0), ("two", 7)):
        words = ["--out", str(tmp_path / name), *SHORT, "--set", f"train.seed={seed}"]
        assert run(["score", str(pool_folder), *words, "--per-seed", "--trace", "--embeddings"]) == 0
    for name, keep in (("m", "0.5"), ("n", "0.4")):
        words = ["--scores", str(tmp_path / "one"), "--keep", keep, "--fn", "entropy", "--out", str(tmp_path / name)]
        assert run(["prune", *words]) == 0
    assert run(["materialize", str(tmp_path / "m"), str(tmp_path / "kept")]) == 0
    (tmp_path / "limits.toml").write_text("[gates]\nmax_drop = 0.7\nmax_bad = 0.5\n")
    return tmp_path


def readers(at: Path) -> dict[str, list[str]]:
    """Commands that train nothing, and what each is given."""
    one, two, m, n, out = (str(at / name) for name in ("one", "two", "m", "n", "out"))
    return {
        "prune": ["prune", "--scores", one, "--keep", "0.5", "--fn", "entropy", "--out", out],
        "prune by k_centers": ["prune", "--scores", one, "--keep", "0.5", "--fn", "k_centers", "--out", out],
        "compare": ["compare", one, two, "--epochs", "--consensus", "--cost"],
        "compare seeds": ["compare", one],
        "compare with a target": ["compare", one, "--target", two],
        "explain a score": ["explain", KEY, "--scores", one],
        "explain a decision": ["explain", KEY, "--manifest", m],
        "verify": ["verify", m],
        "diff": ["diff", n, m],
        "report": ["report", m, "--scores", one, "--out", f"{out}/report.html"],
        "check": ["check", m, "--gates", str(at / "limits.toml")],
        "materialize": ["materialize", m, str(at / "kept")],
        "export": ["export", m, "--to", "keys", "--out", out],
        "intersect": ["manifest", "intersect", m, n, "--out", out],
    }


def damaged(files: list[Path], *, step: int) -> Iterator[tuple[Path, str]]:
    """Yields files that are damaged, every `step`-th of all ways; makes them whole again."""
    ways = [(path, name) for path in files for name in DAMAGES]
    for path, name in ways[::step]:
        whole = path.read_bytes()
        changed = DAMAGES[name](whole)
        if changed != whole:
            path.write_bytes(changed)
            yield path, name
            path.write_bytes(whole)


def files_below(*folders: Path) -> list[Path]:
    found = (path for folder in folders for path in sorted(folder.rglob("*")))
    return [path for path in found if path.is_file() and path.name not in UNREAD]


def outcome(words: list[str], at: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Returns the code and what was said; whatever is raised is raised."""
    capsys.readouterr()
    code = run(words)
    shutil.rmtree(at / "out", ignore_errors=True)
    said = capsys.readouterr()
    return code, said.out + said.err if code else said.out


@pytest.mark.faults
@pytest.mark.timeout(1800)
def test_damaged_files_are_named_or_not_read(scene: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every thirteenth of all ways to damage a file of a run or a manifest, and every command that could read it."""
    whole = {name: outcome(words, scene, capsys) for name, words in readers(scene).items()}
    assert {code for code, _ in whole.values()} == {0}, whole
    outcomes = Counter[str]()
    for path, how in damaged(files_below(scene / "one", scene / "m", scene / "kept"), step=13):
        for name, words in readers(scene).items():
            code, said = outcome(words, scene, capsys)
            what = (name, str(path.relative_to(scene)), how, code, said)
            if code:
                assert "error: " in said or code in (3, 5) or (name == "verify" and said), what
            else:
                assert said == whole[name][1], what
            outcomes["named" if code else "as it was"] += 1
    record("damaged files", dict(outcomes))
    assert min(outcomes.values()) >= 50


@pytest.mark.faults
@pytest.mark.timeout(1800)
def test_commands_that_go_on_with_damaged_files_say_so(
    pool_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every seventeenth way to damage a file of a finished work; then the command that made it, again."""
    at = tmp_path / "done"
    pool, proxy = str(pool_folder), ["--proxy", "preact_resnet20", *NETWORK]
    write_tar(tmp_path / "test" / "t.tar", toy_members(3))
    rounds = ["--fn", "random", "--initial", "0.3", "--schedule", "0.5", "--oracle"]
    commands = {
        "scores": ["score", pool, "--out", str(at / "scores"), *SHORT],
        "prune": ["prune", "--scores", str(at / "scores"), "--keep", "0.5", "--fn", "entropy", "--out", str(at / "prune")],
        "grown": ["build-up", pool, "--schedule", "0.5,0.8", "--fn", "entropy", *proxy, "--set", "train.seeds=1", "--out", str(at / "grown")],
        "acquired": ["acquire", pool, "--out", str(at / "acquired"), *rounds, *proxy, "--set", "train.seeds=1"],
        "evaluated": ["evaluate", str(at / "prune"), "--test", str(tmp_path / "test"), "--target", "preact_resnet20", *NETWORK, "--seeds", "1", "--scores", str(at / "scores"), "--out", str(at / "evaluated")],
    }  # fmt: skip
    for words in commands.values():
        assert run(words) == 0
    outcomes = Counter[str]()
    whole = shutil.copytree(at, tmp_path / "whole")
    for name, words in commands.items():
        for path, how in damaged(files_below(at / name), step=17):
            code, said = outcome(words, at, capsys)
            assert code in (0, 1, 2), (name, str(path), how)
            assert not code or said.count("error: ") == 1, (name, str(path), how, said)
            outcomes["refused" if code else "went on"] += 1
            shutil.rmtree(at / name)
            shutil.copytree(whole / name, at / name)
    record("damaged files", dict(outcomes))
    assert min(outcomes.values()) >= 5


@pytest.mark.parametrize("name", ["explain", "compare"])
def test_a_table_that_is_noise_is_named(
    toy_scores: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    shutil.copytree(toy_scores, tmp_path / "one")
    path = tmp_path / "one" / "tables" / "toy-0000.tar.parquet"
    path.write_bytes(DAMAGES["noise"](path.read_bytes()))
    words = {"explain": [KEY, "--scores", str(tmp_path / "one")], "compare": [str(tmp_path / "one"), str(toy_scores)]}
    assert run([name, *words[name]]) == 1
    assert f"error: {path}: cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize("how", ["noise", "another document", "an empty document"])
def test_a_record_that_is_damaged_is_named(
    toy_manifest: Path, pool_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], how: str
) -> None:
    """Of kept shards and of a build-up."""
    words = ["--schedule", "0.5,0.8", "--fn", "entropy", "--proxy", "preact_resnet20", "--device", "cpu"]
    for record_, command in (
        (tmp_path / "kept" / "materialized.json", ["materialize", str(toy_manifest), str(tmp_path / "kept")]),
        (tmp_path / "grown" / "build_up.json", ["build-up", str(pool_folder), *words, "--out", str(tmp_path / "grown")]),
    ):  # fmt: skip
        record_.parent.mkdir()
        record_.write_bytes(DAMAGES[how](b""))
        assert run(command) == 1
        said = capsys.readouterr().err
        assert f"error: {record_}: damaged" in said or f"error: {record_.parent} holds other shards" in said
