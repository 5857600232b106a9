"""`curate build-up`: nested, exact in size, trained on the manifest before; the same by hand; killed, it resumes."""

import hashlib
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import TOY, png, write_tar

from curate.cli import run
from curate.manifest.algebra import kept_mask
from curate.manifest.lines import manifest_digest, read_lines
from curate.manifest.schema import load_head

SIZES = [12, 24, 35]  # a quarter, a half and three quarters of 47, rounded half up
RECIPE = [
    "--proxy", "preact_resnet20", "--device", "cpu", "--set", "train.seeds=2", "--set", "train.epochs=3",
    "--set", "train.checkpoints=2", "--set", "train.batch_size=16", "--set", "augment.translate_px=1",
]  # fmt: skip
GROW = ["--schedule", "0.25,0.5,0.75", "--fn", "variation_ratio", "--first-per-class", "equal", *RECIPE]


@pytest.fixture(scope="session")
def grown(pool_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("grown") / "build-up"
    assert run(["build-up", str(pool_folder), "--out", str(out), *GROW]) == 0
    return out


def kept(folder: Path) -> np.ndarray:  # type: ignore[type-arg]
    return np.concatenate([kept_mask(line) for line in read_lines(folder)])


def members(folder: Path) -> set[str]:
    found = sorted(folder.glob("scores/members/*/epoch-*.safetensors"))
    return {hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def test_subsets_are_nested_exact_and_know_who_added_what(grown: Path) -> None:
    masks = [kept(grown / f"iteration-{n}" / "manifest") for n in range(3)]
    assert [int(mask.sum()) for mask in masks] == SIZES
    assert not (masks[0] & ~masks[1]).any()
    assert not (masks[1] & ~masks[2]).any()
    heads = [load_head(grown / f"iteration-{n}" / "manifest") for n in range(3)]
    assert [head.selection.iteration for head in heads] == [0, 1, 2]
    assert [head.selection.scheme for head in heads] == ["compress", "build_up", "build_up"]
    assert heads[1].selection.base == manifest_digest(grown / "iteration-0" / "manifest")
    assert heads[0].classes.after == (4, 4, 4)
    lines = (grown / "iteration-2" / "manifest" / "iterations.jsonl").read_text().splitlines()
    added = [np.zeros(16, dtype=np.int64) - 1 for _ in range(3)]
    for record in map(json.loads, lines):
        edges = np.cumsum(record["runs"]).tolist()
        for begin, end in zip(edges[::2], edges[1::2], strict=True):
            added[int(record["name"][4:8])][begin:end] = record["iteration"]
    expected = np.where(masks[0], 0, np.where(masks[1], 1, np.where(masks[2], 2, -1)))
    assert np.array_equal(np.concatenate(added), expected)
    assert run(["verify", str(grown / "iteration-2" / "manifest")]) == 0


def test_members_may_be_said_by_options_and_time_may_be_short(
    grown: Path, pool_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "same"
    shutil.copytree(grown, out)
    words = ["build-up", str(pool_folder), *GROW[:6], *RECIPE[:4], *RECIPE[-4:], "--checkpoints", "2", "--epochs", "3"]
    capsys.readouterr()
    assert run([*words, "--seeds", "2", "--out", str(out)]) == 0  # the same recipe: nothing is trained
    assert "train seed" not in capsys.readouterr().err
    assert run([*words, "--seeds", "3", "--out", str(out)]) == 1
    assert run([*words, "--seeds", "0", "--out", str(tmp_path / "none")]) == 2
    assert "train.seeds" in capsys.readouterr().err
    for command in (words, ["acquire", str(pool_folder), "--oracle", "--initial", "0.2", *words[2:6], *words[8:]]):
        ended = [*command, "--seeds", "2", "--out", str(tmp_path / command[0]), "--max-time", "0.001s"]
        assert run(ended) == 6
        assert f"Go on with: curate {command[0]}" in capsys.readouterr().err


def test_members_differ_and_were_trained_on_the_manifest_before(grown: Path) -> None:
    one, two = (members(grown / f"iteration-{n}") for n in (1, 2))
    assert (len(one), len(two), one & two) == (4, 4, set())
    for number in (1, 2):
        folder = grown / f"iteration-{number}" / "scores"
        record = json.loads((folder / "run.json").read_bytes())
        assert record["within"] == manifest_digest(grown / f"iteration-{number - 1}" / "manifest")
        events = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
        assert {event["rows"] for event in events if event["event"] == "epoch"} == {SIZES[number - 1]}
        assert json.loads((folder / "summary.json").read_bytes())["trained"] == SIZES[number - 1]
        # What training alone reveals is known of exactly the samples that the manifest before keeps.
        tables = [pq.read_table(path) for path in sorted((folder / "tables").glob("*.parquet"))]
        learned = {
            (shard, ordinal)
            for shard, table in enumerate(tables)
            for ordinal, loss in zip(table["ordinal"].to_pylist(), table["mean_loss"].to_pylist(), strict=True)
            if loss is not None
        }
        lines = list(read_lines(grown / f"iteration-{number - 1}" / "manifest"))
        assert learned == {(n, o) for n, line in enumerate(lines) for o in np.flatnonzero(kept_mask(line)).tolist()}


def test_the_same_can_be_done_by_hand(grown: Path, pool_folder: Path, tmp_path: Path) -> None:
    first = grown / "iteration-0" / "manifest"
    score = ["score", str(pool_folder), "--within", str(first), "--out", str(tmp_path / "s"), *RECIPE]
    assert run(score) == 0
    grow = ["prune", "--scores", str(tmp_path / "s"), "--base", str(first), "--fn", "variation_ratio", "--keep", "0.5"]
    assert run([*grow, "--out", str(tmp_path / "m")]) == 0
    assert manifest_digest(tmp_path / "m") == manifest_digest(grown / "iteration-1" / "manifest")


def test_a_killed_build_up_ends_with_the_same_manifests(grown: Path, pool_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "build-up"
    command = [sys.executable, "-m", "curate", "build-up", str(pool_folder), "--out", str(out), *GROW]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    while process.poll() is None:
        if (out / "iteration-1" / "scores" / "members" / "seed-000" / "state.safetensors").exists():
            process.send_signal(signal.SIGKILL)
            process.wait()
        time.sleep(0.002)
    assert process.returncode == -signal.SIGKILL
    assert not (out / "iteration-2").exists()
    assert run(["build-up", str(pool_folder), "--out", str(out), *GROW]) == 0
    for number in range(3):
        ours, theirs = (manifest_digest(folder / f"iteration-{number}" / "manifest") for folder in (out, grown))
        assert ours == theirs


def test_a_schedule_may_go_on_and_nothing_else_may_change(
    grown: Path, pool_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    out = tmp_path / "build-up"
    shutil.copytree(grown, out)
    before = (out / "iteration-2" / "scores" / "summary.json").stat().st_mtime_ns
    longer = ["0.25,0.5,0.75,0.9" if word == "0.25,0.5,0.75" else word for word in GROW]
    assert run(["build-up", str(pool_folder), "--out", str(out), *longer]) == 0
    assert int(kept(out / "iteration-3" / "manifest").sum()) == 42
    assert before <= (out / "iteration-2" / "scores" / "summary.json").stat().st_mtime_ns
    capsys.readouterr()
    other = ["entropy" if word == "variation_ratio" else word for word in GROW]
    assert run(["build-up", str(pool_folder), "--out", str(out), *other]) == 1
    assert "another fn" in capsys.readouterr().err


def test_who_cannot_be_decoded_is_never_drawn_where_pixels_are_streamed(tmp_path: Path) -> None:
    members: list[tuple[str, bytes]] = []
    for n in range(40):
        image = b"no image" if n % 5 == 0 else png([(220, 30, 30), (30, 200, 40)][n % 2], n)
        members += [(f"s{n:02d}.png", image), (f"s{n:02d}.cls", str(n % 2).encode())]
    write_tar(tmp_path / "pool.tar", members)
    out = tmp_path / "build-up"
    words = ["--schedule", "0.5,0.75", "--fn", "entropy", "--max-bad", "0.5", "--set", "pixels.store=stream"]
    assert run(["build-up", str(tmp_path / "pool.tar"), "--out", str(out), *RECIPE, *words]) == 0
    first, last = (kept(out / f"iteration-{n}" / "manifest") for n in range(2))
    assert (first.sum(), last.sum()) == (16, 24)
    assert not last[::5].any()
    assert not (first & ~last).any()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--schedule", "0.5,0.2"], "does not rise"),
        (["--schedule", "0.5,1.2"], "--schedule '1.2' is out of range"),
        (["--schedule", "0.5"], "at least two"),
        (["--schedule", "0.5,20"], "mixes"),
        (["--schedule", "0.2,0.9", "--outliers", "0.2"], "more than all"),
        (["--schedule", "12,48"], "'48': 48 samples were asked for, but there are 47"),
        (["--schedule", "12,90"], "'90': 90 samples were asked for, but there are 48"),
        (["--schedule", "0.001,0.5"], "'0.001' of 48 samples is 0.048, rounded to 0"),
        (["--schedule", "12,40", "--outliers", "8"], "40 + 8 = 48, which is 1 too many"),
        (["--schedule", "0.2,0.4", "--proxy", "inception_v4"], "'inception_v4' cannot take images of 8 px"),
        (["--schedule", "0.2,0.4", "--fn", "variation_ration"], "Did you mean"),
        (["--schedule", "0.2,0.4", "--fn", "k_centers"], "then prune --fn k_centers --start MANIFEST"),
        (["--schedule", "0.2,0.4", "--fn", "forgetting"], "is known of samples that were trained on alone"),
        (["--schedule", "0.2,0.4", "--first-per-class", "same"], "expected equal or proportional"),
        (["--schedule", "0.2,0.4", "--set", "train.seeds=1", "--set", "train.checkpoints=1"], "needs 2 members"),
    ],
)
def test_what_could_only_fail_after_hours_is_refused_first(
    words: list[str], said: str, pool_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["build-up", str(pool_folder), "--out", str(tmp_path / "b"), "--fn", "variation_ratio", *RECIPE, *words]
    assert run(given) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "b" / "iteration-1").exists()


def test_a_function_of_labels_needs_all_of_them(
    pool_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = "".join(f"s0_{n:02d},{n % 3}\n" for n in range(16))
    (tmp_path / "labels.csv").write_text(f"key,label\n{rows}")
    words = ["--labels", str(tmp_path / "labels.csv"), "--fn", "loss", "--schedule", "0.2,0.4", *RECIPE]
    assert run(["build-up", str(pool_folder), "--out", str(tmp_path / "b"), *words]) == 2
    assert "'loss' needs labels, and 31 samples have none" in capsys.readouterr().err
    assert not (tmp_path / "b" / "build_up.json").exists()
    assert not (tmp_path / "b" / "run.json").exists()
    assert not (tmp_path / "b" / "iteration-0").exists()


def test_a_class_that_is_missing_from_the_first_subset_is_named(
    pool_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [
        "build-up",
        str(pool_folder),
        "--out",
        str(tmp_path / "b"),
        "--fn",
        "entropy",
        "--schedule",
        "2,20",
        *RECIPE,
    ]
    assert run(given) == 2
    assert "keeps no labelled sample of class" in capsys.readouterr().err
    # It settles nothing: the same folder takes another schedule.
    assert not (tmp_path / "b" / "iteration-0").exists()
    # Nor does a first subset that was drawn before a kill.
    assert run(["prune", "--index", str(tmp_path / "b" / "index"), "--fn", "random", "--keep", "2",
                "--out", str(tmp_path / "b" / "iteration-0" / "manifest")]) == 0  # fmt: skip
    words = [word if word != "2,20" else "0.5,0.6" for word in given]
    assert run([*words, "--first-per-class", "equal", "--epochs", "1", "--checkpoints", "1"]) == 0


def test_a_class_that_the_held_out_samples_take_away_is_named(
    grown: Path, pool_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "--within",
        str(grown / "iteration-0" / "manifest"),
        "--val",
        "0.65",
        "--out",
        str(tmp_path / "s"),
        *RECIPE,
    ]
    assert run(["score", str(pool_folder), *words]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "without what --val holds out keeps no labelled sample of class" in said


def test_a_base_of_another_pool_is_refused(
    grown: Path, toy_scores: Path, pool_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tar(
        tmp_path / "p" / "a.tar",
        [(f"{n}.{e}", d) for n in range(4) for e, d in (("png", png((9, 9, 9), n)), ("cls", b"0"))],
    )
    assert run(["index", str(tmp_path / "p"), "--out", str(tmp_path / "i")]) == 0
    assert (
        run(["prune", "--index", str(tmp_path / "i"), "--fn", "random", "--keep", "0.5", "--out", str(tmp_path / "m")])
        == 0
    )
    capsys.readouterr()
    words = ["--fn", "entropy", "--keep", "0.5", "--scores", str(toy_scores), "--out", str(tmp_path / "n")]
    assert run(["prune", *words, "--base", str(tmp_path / "m")]) == 1
    assert "fingerprint" in capsys.readouterr().err
    assert run(["prune", *words, "--base", str(grown / "iteration-2" / "manifest")]) == 2
    assert "35" in capsys.readouterr().err
    assert run(["score", str(pool_folder), "--within", str(tmp_path / "m"), "--out", str(tmp_path / "s"), *TOY]) == 1
    said = capsys.readouterr().err
    assert "m is of another pool: 4 samples of 1 classes" in said
    assert "is of 48 samples of 3 classes" in said
    assert "decode" not in said
    assert not (tmp_path / "s" / "run.json").exists()


def test_a_dry_run_says_what_all_iterations_take_and_touches_nothing(
    pool_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "b"
    given = ["build-up", str(pool_folder), "--out", str(out), "--fn", "variation_ratio", *RECIPE, "--dry-run"]
    assert (
        run([*given, "--schedule", "0.25,0.5,0.75", "--seeds", "2", "--epochs", "3", "--checkpoints", "2", "--json"])
        == 0
    )
    result = json.loads(capsys.readouterr().out)
    assert (result["samples"], result["kept"]) == (48, [12, 24, 36])
    assert (result["epochs"], result["members"]) == (2 * 6, 2 * 4)
    assert run([*given, "--schedule", "0.25,0.5"]) == 0
    assert "kept: 12, 24" in capsys.readouterr().out
    for schedule, said in (("0.5,0.25", "does not rise"), ("12,90", "90 samples were asked for")):
        assert run([*given, "--schedule", schedule]) == 2
        assert said in capsys.readouterr().err
    assert not out.exists()
