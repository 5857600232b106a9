"""What `--val` and `--test` name: fractions, shards of the pool, shards beside it."""

import json
from pathlib import Path

import pytest
from conftest import PER_SHARD, TOY, toy_members, write_tar

from curate.cli import run

SHORT = [*TOY, "--epochs", "1", "--checkpoints", "1", "--seeds", "1"]


def shards(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.glob("*.tar"))


@pytest.fixture
def beside(pool_folder: Path, tmp_path: Path) -> Path:
    for shard in range(3):
        write_tar(tmp_path / "beside" / f"toy-{shard:04d}.tar", toy_members(7 + shard))
    return tmp_path / "beside"


def trained_on(out: Path) -> int:
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return next(line["rows"] for line in lines if line["event"] == "epoch")


def summary(out: Path) -> dict[str, object]:
    return dict(json.loads((out / "summary.json").read_bytes()))


def test_shards_of_the_pool_are_held_out_and_scored(pool_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "scores"
    words = ["score", *shards(pool_folder), "--out", str(out), *SHORT]
    assert run([*words, "--val", shards(pool_folder)[0]]) == 0
    assert summary(out)["held_out"] == PER_SHARD
    assert summary(out)["scored"] == 3 * PER_SHARD - 1
    assert trained_on(out) == 2 * PER_SHARD - 1
    assert list(summary(out)["ensemble"]) == ["val"]  # type: ignore[call-overload]
    assert run([*words, "--val", shards(pool_folder)[1]]) == 1  # another held-out set in the same folder


def test_every_word_after_the_option_is_a_shard_of_it(pool_folder: Path, beside: Path, tmp_path: Path) -> None:
    """As a shell writes `--test test-*.tar`: none of them may become a shard of the pool."""
    out = tmp_path / "scores"
    tests, validation = shards(beside)[:2], shards(beside)[2:]
    words = ["score", *shards(pool_folder), "--val", *validation, f"--test={tests[0]}", *tests[1:]]
    words += ["--out", str(out), *SHORT]
    assert run(words) == 0
    assert summary(out)["samples"] == 3 * PER_SHARD
    assert summary(out)["held_out"] == PER_SHARD
    assert trained_on(out) == 3 * PER_SHARD - 1
    assert json.loads((out / "test" / "index" / "pool.json").read_bytes())["shards"][1]["name"] == "toy-0001.tar"
    assert set(summary(out)["ensemble"]) == {"test", "val"}  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("option", "words", "said"),
    [
        ("--val", ["1.5"], "between 0 and 1"),
        ("--val", ["0.1", "0.2"], "one fraction"),
        ("--val", ["missing.tar"], "no such file"),
        ("--val", ["POOL", "BESIDE"], "1 of the 2 shards"),
        ("--val", ["ALL"], "no sample to train on"),
        ("--test", ["POOL"], "what was trained on"),
    ],
)
def test_what_cannot_be_held_out_is_refused(
    option: str,
    words: list[str],
    said: str,
    pool_folder: Path,
    beside: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    places = {"POOL": shards(pool_folder)[:1], "BESIDE": shards(beside)[1:2], "ALL": shards(pool_folder)}
    given = [path for word in words for path in places.get(word, [word])]
    command = ["score", *shards(pool_folder), option, *given, "--out", str(tmp_path / "scores"), *SHORT]
    assert run(command) == 2
    assert said in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "scores" / "run.json").exists()
    assert not (tmp_path / "scores" / option.removeprefix("--")).exists()
