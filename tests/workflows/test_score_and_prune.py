"""The main job through the command line: score, kill, resume, prune, refuse."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import BAD_KEY, SHARDS, TOY, png, toy_members, write_tar

from curate.cli import run
from curate.manifest.schema import load_head

COLUMNS = [
    "random",
    "least_confidence",
    "margin",
    "entropy",
    "mutual_information",
    "variation_ratio",
    "error_count",
    "loss",
    "forgetting",
    "correctness",
    "confidence",
    "variability",
    "aum",
    "el2n",
    "grand",
    "mean_loss",
    "never_learned",
]


def digests(folder: Path) -> dict[str, str]:
    names = [*folder.glob("tables/**/*.parquet"), folder / "summary.json", folder / "bad.parquet"]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in names}


def events(folder: Path, name: str) -> list[dict[str, object]]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if line["event"] == name]


def test_every_score_of_every_good_sample_is_in_the_tables(toy_scores: Path) -> None:
    rows = 0
    for path in sorted(toy_scores.glob("tables/*.parquet")):
        table = pq.read_table(path)
        assert set(COLUMNS) <= set(table.column_names)
        for name in COLUMNS:
            assert np.isfinite(table[name].to_numpy()).all()
        rows += table.num_rows
    assert rows == 47
    assert pq.read_table(toy_scores / "bad.parquet")["key"].to_pylist() == [BAD_KEY]
    summary = json.loads((toy_scores / "summary.json").read_bytes())
    assert (summary["scored"], summary["failed"], summary["samples"], len(summary["members"])) == (47, 1, 48, 4)


def test_a_second_run_trains_and_scores_nothing(toy_scores: Path, pool_folder: Path) -> None:
    before, epochs = digests(toy_scores), len(events(toy_scores, "epoch"))
    assert run(["score", str(pool_folder), "--out", str(toy_scores), *TOY]) == 0
    assert (digests(toy_scores), len(events(toy_scores, "epoch"))) == (before, epochs)


@pytest.mark.parametrize(
    "marker",
    [
        pytest.param('"event": "epoch", "seed": 0', marks=pytest.mark.slow),  # in the default tier: an interrupt there
        pytest.param('"event": "epoch", "seed": 1', marks=pytest.mark.slow),
        '"event": "shard"',
    ],
)
def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(
    toy_scores: Path, pool_folder: Path, tmp_path: Path, marker: str
) -> None:
    out = tmp_path / "scores"
    command = [sys.executable, "-m", "curate", "score", str(pool_folder), "--out", str(out), *TOY]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not ((out / "log.jsonl").exists() and marker in (out / "log.jsonl").read_text()):
        assert time.monotonic() < deadline
        if process.poll() is not None:
            break
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert run(command[3:]) == 0
    assert digests(out) == digests(toy_scores)
    done = [(event["seed"], event["epoch"]) for event in events(out, "epoch")]
    # An epoch is logged before its state is renamed into place: the one that was cut off may run again.
    assert len(done) - len(set(done)) <= 1
    assert len(set(done)) == 6


def test_a_run_of_another_recipe_or_pool_is_refused(
    toy_scores: Path, pool_folder: Path, tmp_path: Path, capsys
) -> None:  # type: ignore[no-untyped-def]
    assert run(["score", str(pool_folder), "--out", str(toy_scores), *TOY, "--epochs", "4"]) == 1
    assert "train.epochs is 3 there and 4 here" in capsys.readouterr().err
    write_tar(tmp_path / "p" / "x.tar", [("a.png", png((1, 2, 3), 0)), ("a.cls", b"0")])
    assert run(["score", str(tmp_path / "p"), "--out", str(toy_scores), *TOY]) == 1
    assert "another pool" in capsys.readouterr().err


def test_a_second_run_beside_the_first_is_refused(
    toy_scores: Path, pool_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from curate import durable

    with durable.lock(toy_scores):
        assert run(["score", str(pool_folder), "--out", str(toy_scores), *TOY]) == 1
    assert f"in use by process {os.getpid()}" in capsys.readouterr().err


@pytest.mark.parametrize("way", ["stream", "disk"])
def test_the_other_ways_of_the_pixels_score_every_sample(pool_folder: Path, tmp_path: Path, way: str) -> None:
    out = tmp_path / "scores"
    test = tmp_path / "test"
    for shard in range(SHARDS):
        write_tar(test / f"test-{shard}.tar", toy_members(7 + shard))
    more = ["--pixels", way, "--per-seed", "--trace", "--val", "0.2", "--test", str(test)]
    assert run(["score", str(pool_folder), "--out", str(out), *TOY, *more]) == 0
    summary = json.loads((out / "summary.json").read_bytes())
    assert (summary["scored"], summary["failed"]) == (47, 1)
    assert set(summary["ensemble"]) == {"val", "test"}
    table = pq.read_table(out / "tables" / "toy-0000.tar.parquet")
    assert {"entropy@0", "mutual_information@1"} <= set(table.column_names)
    one, two, both = (table[name].to_numpy(zero_copy_only=False) for name in ("aum@0", "aum@1", "aum"))
    assert np.allclose((one + two) / 2, both, equal_nan=True)
    events = [table[name].to_numpy(zero_copy_only=False) for name in ("forgetting@0", "forgetting@1", "forgetting")]
    assert np.array_equal(events[0] + events[1], events[2], equal_nan=True)
    traces = sorted(
        str(path.parent.parent.relative_to(out / "trace")) for path in out.glob("trace/*/*/tables/toy-0000*")
    )
    assert traces == [f"seed-{seed:03d}/epoch-{epoch:03d}" for seed in (0, 1) for epoch in (1, 2, 3)]
    last = pq.read_table(out / "trace" / "seed-001" / "epoch-003" / "tables" / "toy-0000.tar.parquet")
    assert last["forgetting"].equals(table["forgetting@1"])
    assert last["never_learned"].equals(table["never_learned@1"])


def test_what_was_held_out_of_training_has_no_dynamics(pool_folder: Path, tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    out = tmp_path / "scores"
    held = str(pool_folder / "toy-0001.tar")
    assert run(["score", str(pool_folder), "--out", str(out), *TOY, "--seeds", "1", "--val", held]) == 0
    nulls = {}
    for shard in range(3):
        table = pq.read_table(out / "tables" / f"toy-000{shard}.tar.parquet")
        nulls[shard] = {table[name].null_count for name in COLUMNS[COLUMNS.index("forgetting") :]}
        assert table["entropy"].null_count == 0
    assert nulls == {0: {0}, 1: {15}, 2: {0}}
    assert prune(out, tmp_path / "m", "--keep", "0.5", "--fn", "forgetting") == 1
    assert "15 of 47 samples have no 'forgetting'" in capsys.readouterr().err


def test_dynamics_are_the_samples_own_whatever_shards_they_lie_in(pool_folder: Path, tmp_path: Path) -> None:
    """The same samples in one shard, trained in one batch an epoch at a rate that learns nothing."""
    still = ["--seeds", "1", "--set", "train.rate=1e-9", "--set", "train.batch_size=64", "--set", "augment.flip=false"]
    still += ["--set", "augment.translate_px=0", "--set", "train.precision=float32"]
    members = [entry for shard in range(3) for entry in toy_members(shard)]
    write_tar(tmp_path / "one" / "one.tar", members[::-1])
    found = []
    for name, pool in (("three", pool_folder), ("joined", tmp_path / "one")):
        assert run(["score", str(pool), "--out", str(tmp_path / name), *TOY, *still]) == 0
        tables = [pq.read_table(path) for path in sorted((tmp_path / name).glob("tables/*.parquet"))]
        found.append(
            {
                key: loss
                for t in tables
                for key, loss in zip(*t.select(["key", "mean_loss"]).to_pydict().values(), strict=True)
            }
        )
    assert len(set(found[0].values())) > 40
    assert found[0] == pytest.approx(found[1], rel=1e-3)


def prune(scores: Path, out: Path, *words: str) -> int:
    return run(["prune", "--scores", str(scores), "--out", str(out), *words])


@pytest.mark.parametrize(("keep", "count"), [("0.5", 24), ("10%", 5), ("7", 7), ("1.0", 47)])
def test_keep_is_exact(toy_scores: Path, tmp_path: Path, keep: str, count: int) -> None:
    assert prune(toy_scores, tmp_path / "m", "--keep", keep, "--fn", "entropy") == 0
    totals = load_head(tmp_path / "m").totals
    assert (totals.kept, totals.kept + sum(totals.dropped.values()) + sum(totals.failed.values())) == (count, 48)


def test_pruning_again_is_a_no_op_and_a_different_manifest_is_refused(toy_scores: Path, tmp_path: Path) -> None:
    words = ("--keep", "0.5", "--fn", "entropy")
    assert prune(toy_scores, tmp_path / "m", *words) == 0
    first = {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in (tmp_path / "m").iterdir()}
    assert prune(toy_scores, tmp_path / "m", *words) == 0
    assert {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in (tmp_path / "m").iterdir()} == first
    assert prune(toy_scores, tmp_path / "m", "--keep", "0.4", "--fn", "entropy") == 1
    assert prune(toy_scores, tmp_path / "m", "--keep", "0.4", "--fn", "entropy", "--force") == 0


def test_lists_outliers_and_classes_are_kept_to(toy_scores: Path, tmp_path: Path) -> None:
    (tmp_path / "always").write_text("s0_00\ntoy-0002.tar\ts2_03\n")
    (tmp_path / "never").write_text("s0_01\n")
    words = ["--keep", "21", "--outliers", "3", "--fn", "mutual_information", "--per-class", "equal", "--keep-list"]
    lists = ["--always", str(tmp_path / "always"), "--never", str(tmp_path / "never")]
    assert prune(toy_scores, tmp_path / "m", *words, *lists) == 0
    head = load_head(tmp_path / "m")
    assert head.totals.dropped == {"outlier": 3, "never": 1, "rank": 22}
    assert head.classes.after == (7, 7, 7)
    kept = (tmp_path / "m" / "keep.txt").read_text().splitlines()
    assert len(kept) == 21
    assert {"toy-0000.tar\ts0_00", "toy-0002.tar\ts2_03"} <= set(kept)
    assert "toy-0000.tar\ts0_01" not in kept


def test_the_two_ends_and_the_seeds_of_random_differ(toy_scores: Path, tmp_path: Path) -> None:
    chosen = {}
    for name, words in {
        "hard": ["--fn", "entropy"],
        "easy": ["--fn", "entropy", "--order", "easiest"],
        "r0": ["--fn", "random"],
        "r1": ["--fn", "random", "--seed", "1"],
    }.items():
        assert prune(toy_scores, tmp_path / name, "--keep", "20", "--keep-list", *words) == 0
        chosen[name] = set((tmp_path / name / "keep.txt").read_text().splitlines())
    assert not chosen["hard"] & chosen["easy"]
    assert chosen["r0"] != chosen["r1"]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--keep", "0", "--fn", "entropy"], 2, "0"),
        (["--keep", "1", "--fn", "entropy"], 2, "1"),
        (["--keep", "1.5", "--fn", "entropy"], 2, "1.5"),
        (["--keep", "99", "--fn", "entropy"], 2, "99"),
        (["--keep", "0.5", "--fn", "entropi"], 2, "Did you mean 'entropy'"),
        (["--keep", "0.9", "--outliers", "0.2", "--fn", "entropy"], 2, "0.2"),
        (["--keep", "0.5"], 2, "--fn"),
        (["--keep", "0.5", "--fn", "entropy", "--order", "middle"], 2, "middle"),
        (["--keep", "0.5", "--fn", "entropy", "--never", "nowhere"], 2, "nowhere"),
    ],
)
def test_what_cannot_be_pruned_is_said(toy_scores: Path, tmp_path: Path, capsys, words, code, said) -> None:  # type: ignore[no-untyped-def]
    assert prune(toy_scores, tmp_path / "m", *words) == code
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_missing_table_is_an_error_and_not_fewer_samples(toy_scores: Path, tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    shutil.copytree(toy_scores, tmp_path / "s")
    (tmp_path / "s" / "tables" / "toy-0001.tar.parquet").unlink()
    assert prune(tmp_path / "s", tmp_path / "m", "--keep", "0.5", "--fn", "entropy") == 1
    assert "toy-0001.tar" in capsys.readouterr().err
    assert not (tmp_path / "m").exists()


def test_disagreement_needs_two_members(pool_folder: Path, tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    one = ["--proxy", "preact_resnet20", "--seeds", "1", "--epochs", "1", "--checkpoints", "1", "--device", "cpu"]
    assert run(["score", str(pool_folder), "--out", str(tmp_path / "s"), *one]) == 0
    assert "--keep 0.8 --fn entropy" in capsys.readouterr().err  # what one member can be asked
    assert prune(tmp_path / "s", tmp_path / "m", "--keep", "0.5", "--fn", "variation_ratio") == 2
    assert "at least 2 members" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("members", "words", "code", "said"),
    [
        ([("a.png", png((1, 1, 1), 1)), ("a.cls", b"0"), ("b.png", png((1, 1, 1), 2)), ("b.cls", b"0")], [], 2, "one class only"),
        ([("a.png", png((1, 1, 1), 1)), ("b.png", png((1, 1, 1), 2))], [], 2, "no labels"),
        ([("a.png", png((1, 1, 1), 1)), ("a.cls", b"0"), ("b.png", b"x"), ("b.cls", b"1")], [], 4, "bad"),
        ([("a.png", png((1, 1, 1), 1)), ("a.cls", b"0"), ("b.png", png((1, 1, 1), 2)), ("b.cls", b"1")], ["--proxy", "resnet81"], 2, "Did you mean 'resnet18'"),
    ],
)  # fmt: skip
def test_what_cannot_be_scored_is_said(tmp_path: Path, capsys, members, words, code, said) -> None:  # type: ignore[no-untyped-def]
    write_tar(tmp_path / "p" / "x.tar", members)
    assert run(["score", str(tmp_path / "p"), "--out", str(tmp_path / "s"), *TOY, *words]) == code
    assert said in capsys.readouterr().err


def test_a_dry_run_touches_nothing(pool_folder: Path, tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    assert run(["score", str(pool_folder), "--out", str(tmp_path / "s"), *TOY, "--dry-run", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["samples"], document["members"], document["seconds"] >= 0) == (48, 4, True)
    assert list(tmp_path.iterdir()) == []
