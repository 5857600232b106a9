"""`curate acquire --oracle`: nested rounds, the same by hand; random asks nobody; killed, it resumes."""

import json
import shutil
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from conftest import toy_members, write_tar

from curate.cli import run
from curate.manifest.algebra import kept_mask
from curate.manifest.lines import manifest_digest, read_lines
from curate.manifest.schema import load_head

RECIPE = [
    "--proxy", "preact_resnet20", "--device", "cpu", "--set", "train.seeds=2", "--set", "train.epochs=2",
    "--set", "train.checkpoints=1", "--set", "train.batch_size=16", "--set", "augment.translate_px=1",
]  # fmt: skip
SIZES = [12, 19, 28]  # 0.25, 0.4 and 0.6 of 47, rounded half up
ROUNDS = ["--initial", "0.25", "--schedule", "0.4,0.6", "--oracle", *RECIPE]


@pytest.fixture(scope="session")
def test_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("test")
    write_tar(folder / "test.tar", toy_members(3))
    return folder


@pytest.fixture(scope="session")
def acquired(pool_folder: Path, test_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("acquired") / "acquire"
    words = ["acquire", str(pool_folder), "--out", str(out), "--fn", "mutual_information", *ROUNDS]
    assert run([*words, "--test", str(test_folder)]) == 0
    return out


def manifest(out: Path, number: int) -> Path:
    return out / f"round-{number}" / "manifest"


def kept(folder: Path) -> np.ndarray:  # type: ignore[type-arg]
    return np.concatenate([kept_mask(line) for line in read_lines(folder)])


def digests(out: Path, rounds: int) -> list[str]:
    return [manifest_digest(manifest(out, number)) for number in range(rounds)]


def test_rounds_are_nested_and_exact_and_members_know_their_labels_alone(acquired: Path) -> None:
    masks = [kept(manifest(acquired, n)) for n in range(3)]
    assert [int(mask.sum()) for mask in masks] == SIZES
    assert not any((earlier & ~later).any() for earlier, later in pairwise(masks))
    for number, size in enumerate(SIZES):
        record, summary = (
            json.loads((acquired / f"round-{number}" / "scores" / f"{name}.json").read_bytes())
            for name in ("run", "summary")
        )
        assert record["within"] == manifest_digest(manifest(acquired, number))
        assert summary["trained"] == size
    assert load_head(manifest(acquired, 0)).selection.fn == "random"
    assert load_head(manifest(acquired, 2)).selection.base == manifest_digest(manifest(acquired, 1))
    assert run(["verify", str(manifest(acquired, 2))]) == 0


def test_the_rounds_are_written_as_json_and_as_a_table(acquired: Path) -> None:
    rounds = json.loads((acquired / "rounds.json").read_bytes())["rounds"]
    assert [record["labelled"] for record in rounds] == SIZES
    assert [record["added"] for record in rounds] == [12, 7, 9]
    for number, record in enumerate(rounds):
        summary = json.loads((acquired / f"round-{number}" / "scores" / "summary.json").read_bytes())
        assert record["accuracy"] == summary["ensemble"]["test"]
        assert record["digest"] == manifest_digest(manifest(acquired, number))
    assert rounds[0]["scoring_seconds"] == 0 < rounds[1]["scoring_seconds"]
    spent = [record["scoring_seconds"] + record["choosing_seconds"] for record in rounds]
    assert [record["selection_seconds"] for record in rounds] == pytest.approx(np.cumsum(spent), abs=0.01)
    lines = (acquired / "rounds.md").read_text().splitlines()
    assert len(lines) == 2 + 3
    assert lines[3].startswith(f"| 1 | 19 | 39.6% | {100 * rounds[1]['accuracy']:.2f} |")


def test_a_round_can_be_done_by_hand(acquired: Path, pool_folder: Path, tmp_path: Path) -> None:
    first = manifest(acquired, 0)
    # The accuracy on the test set is part of a manifest, and was measured there: it is copied, not measured again.
    score = ["score", str(pool_folder), "--within", str(first), "--out", str(tmp_path / "s"), *RECIPE]
    assert run(score) == 0
    words = ["--scores", str(tmp_path / "s"), "--base", str(first), "--fn", "mutual_information", "--keep", "0.4"]
    assert run(["prune", *words, "--out", str(tmp_path / "m")]) == 0
    assert np.array_equal(kept(tmp_path / "m"), kept(manifest(acquired, 1)))


def test_chance_trains_nobody_and_continues_its_own_draw(pool_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "a"
    assert run(["acquire", str(pool_folder), "--out", str(out), "--fn", "random", *ROUNDS, "--seed", "3"]) == 0
    assert not list(out.glob("round-*/scores"))
    words = ["prune", "--index", str(out / "index"), "--fn", "random", "--seed", "3", "--keep", "29"]
    assert run([*words, "--out", str(tmp_path / "m")]) == 0
    both = kept(manifest(out, 2)), kept(tmp_path / "m")
    # The index alone does not know what cannot be decoded, and may draw it.
    assert (int(both[0].sum()), int((both[0] & ~both[1]).sum())) == (28, 0)
    records = json.loads((out / "rounds.json").read_bytes())["rounds"]
    assert [record["accuracy"] for record in records] == [None] * 3
    assert [record["scoring_seconds"] for record in records] == [0] * 3


def test_k_centers_start_from_what_is_labelled(pool_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "a"
    assert run(["acquire", str(pool_folder), "--out", str(out), "--fn", "k_centers", *ROUNDS]) == 0
    first, second = (kept(manifest(out, n)) for n in (0, 1))
    assert not (first & ~second).any()
    cover = load_head(manifest(out, 1)).selection.cover
    assert cover is not None
    assert (cover.start, cover.start_size) == ("manifest", 12)
    assert int(second.sum()) == 19


@pytest.mark.slow
def test_killed_anywhere_it_ends_with_the_same_manifests(
    acquired: Path, pool_folder: Path, test_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "acquire"
    words = ["acquire", str(pool_folder), "--out", str(out), "--fn", "mutual_information", *ROUNDS]
    words += ["--test", str(test_folder)]
    moment = out / "round-0" / "scores" / "members" / "seed-001" / "state.safetensors"
    process = subprocess.Popen([sys.executable, "-m", "curate", *words], stderr=subprocess.DEVNULL)
    while process.poll() is None:
        if moment.exists():
            process.send_signal(signal.SIGKILL)
            process.wait()
        time.sleep(0.002)
    assert process.returncode == -signal.SIGKILL
    assert not (out / "round-1").exists()
    assert run(words) == 0
    assert digests(out, 3) == digests(acquired, 3)
    # Killed between a manifest and the note that it is there: it is made again, and is the same.
    (out / "round-1" / "selected.json").unlink()
    (out / "rounds.json").unlink()
    assert run(words) == 0
    assert digests(out, 3) == digests(acquired, 3)
    assert len(json.loads((out / "rounds.json").read_bytes())["rounds"]) == 3
    assert not list(out.rglob("*.tmp"))


def test_a_schedule_may_go_on_and_nothing_else_may_change(
    pool_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a"
    words = ["acquire", str(pool_folder), "--out", str(out), "--oracle", "--initial", "0.25", *RECIPE]
    assert run([*words, "--fn", "random", "--schedule", "0.4"]) == 0
    before = digests(out, 2)
    assert run([*words, "--fn", "random", "--schedule", "0.4,30"]) == 0
    assert digests(out, 2) == before
    assert int(kept(manifest(out, 2)).sum()) == 30
    capsys.readouterr()
    for more, said in (
        (["--fn", "entropy", "--schedule", "0.4"], "another fn"),
        (["--fn", "random", "--schedule", "0.5,30"], "another --initial or --schedule"),
        (["--fn", "random", "--schedule", "0.4", "--seed", "1"], "another seed"),
        (["--fn", "random", "--schedule", "0.4", "--set", "train.epochs=5"], "another recipe"),
    ):
        assert run([*words, *more]) == 1
        assert said in capsys.readouterr().err


def test_all_rounds_are_measured_on_one_test_set(
    pool_folder: Path, test_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    write_tar(other / "other.tar", toy_members(7))
    words = ["acquire", str(pool_folder), "--out", str(tmp_path / "a"), "--fn", "random", "--oracle", *RECIPE]
    assert run([*words, "--initial", "0.25", "--schedule", "0.4"]) == 0
    assert run([*words, "--initial", "0.25", "--schedule", "0.4", "--test", str(test_folder)]) == 0
    capsys.readouterr()
    assert run([*words, "--initial", "0.25", "--schedule", "0.4,0.6", "--test", str(other)]) == 1
    assert "indexes another pool" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "a" / "test" / "index")
    assert run([*words, "--initial", "0.25", "--schedule", "0.4,0.6", "--test", str(other)]) == 1
    assert "another test" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--initial", "0.5", "--schedule", "0.2"], "do not rise"),
        (["--initial", "0.2", "--schedule", "0.4,0.4"], "do not rise"),
        (["--initial", "30", "--schedule", "0.5"], "no more than the 30 before it"),
        (["--initial", "0.2", "--schedule", "48"], "--schedule '48': 48 samples were asked for, but there are 47"),
        (["--initial", "100", "--schedule", "200"], "--initial '100': 100 samples were asked for, but there are 48"),
        (["--initial", "0.2", "--schedule", "0.4", "--fn", "entropi"], "Did you mean 'entropy'"),
        (["--initial", "0.2", "--schedule", "0.4", "--fn", "loss"], "needs the labels that are asked for"),
        (["--initial", "0.2", "--schedule", "0.4", "--set", "train.seeds=1"], "needs 2 members"),
        (["--initial", "0.2", "--schedule", "0.4", "--set", "train.schedule=patience"], "Give --val"),
        (["--initial", "2", "--schedule", "0.4"], "keeps no labelled sample of class"),
        (["--initial", "0.2", "--schedule", "0.4", "--label-from", "none"], "48 of 48 samples have no label"),
    ],
)
def test_what_could_only_fail_after_hours_is_refused_before_anything_is_trained(
    words: list[str], said: str, pool_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["acquire", str(pool_folder), "--out", str(tmp_path / "a"), "--oracle", "--fn", "mutual_information"]
    assert run([*given, *RECIPE, *words]) == 2
    assert said in capsys.readouterr().err
    assert not list((tmp_path / "a").rglob("*.safetensors"))
