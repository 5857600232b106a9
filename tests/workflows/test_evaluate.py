"""`curate evaluate` on a toy pool: every run is a file, what is there is not run again, tables say what was not run."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from xml.etree import ElementTree

import pytest
from conftest import png, write_tar

from curate import durable
from curate.cli import run
from curate.manifest.lines import manifest_digest
from curate.manifest.schema import load_head
from curate.workflows.cost import cost_of
from curate.workflows.results import summarise, told_apart

TARGET = [
    "--target", "preact_resnet20", "--set", "train.epochs=1", "--set", "train.batch_size=16",
    "--set", "train.checkpoints=1", "--device", "cpu",
]  # fmt: skip
TWO_EPOCHS = ["--set", "train.epochs=2"]


@pytest.fixture(scope="session")
def test_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("test")
    colours = [(220, 30, 30), (30, 200, 40), (40, 60, 220)]
    members = []
    for n in range(12):
        members += [(f"t{n}.png", png(colours[n % 3], 900 + n)), (f"t{n}.cls", str(n % 3).encode())]
    write_tar(folder / "test-0000.tar", members)
    return folder


def evaluate(manifest: Path, test: Path, out: Path, *words: str) -> int:
    return run(["evaluate", str(manifest), "--test", str(test), "--out", str(out), *TARGET, *words])


def shown(capsys: pytest.CaptureFixture[str]) -> dict:  # type: ignore[type-arg]
    return dict(json.loads(capsys.readouterr().out))


def test_the_table_holds_kept_random_and_all(
    toy_manifest: Path, toy_scores: Path, test_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "evaluation"
    words = ["--seeds", "2", "--scores", str(toy_scores), "--json", *TWO_EPOCHS]
    capsys.readouterr()
    assert evaluate(toy_manifest, test_folder, out, *words) == 0
    kept, random, whole = shown(capsys)["rows"]
    assert [row["kind"] for row in (kept, random, whole)] == ["manifest", "random", "all"]
    assert (kept["samples"], random["samples"], whole["samples"]) == (24, 24, 47)
    assert all(row["n"] == 2 and 0 <= row["worst_class"] <= row["accuracy"] <= 1 for row in (kept, random, whole))
    runs = {path.parent.name: json.loads(path.read_bytes()) for path in out.glob("runs/*/*/001.json")}
    assert all(result["accuracy"] == sum(result["per_class"]) / 3 for result in runs.values())
    assert kept["gain"]["n"] == 2
    assert kept["gain"]["mean"] == pytest.approx(kept["accuracy"] - random["accuracy"])
    assert kept["loss"]["low"] <= kept["loss"]["mean"] <= kept["loss"]["high"]
    assert kept["selection"]["members"] == 4
    assert kept["speed_up"] == pytest.approx(whole["seconds"] / (kept["seconds"] + kept["selection"]["seconds"]))
    assert (kept["epochs"], kept["steps"], whole["steps"]) == (2, 4, 6)
    assert whole["flops"] / kept["flops"] == pytest.approx(47 / 24)
    assert not list((out / "work").rglob("*.safetensors"))
    text = (out / "table.md").read_text()
    assert "| random | 24 | 2 |" in text


def test_processes_share_the_runs_of_one_evaluation(
    toy_manifest: Path, test_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A lock is the file's, so that this process stands for another one, which trains on everything meanwhile."""
    out = tmp_path / "evaluation"
    capsys.readouterr()
    with durable.claim(out / "work" / "preact_resnet20" / "all" / "000.claim") as is_free:
        assert is_free
        assert evaluate(toy_manifest, test_folder, out, "--seeds", "1") == 0
        assert "1 more runs are trained by other processes" in capsys.readouterr().err
        assert "| all the data | 47 | 0 of 1 | not run |" in (out / "table.md").read_text()
        assert len(list(out.glob("runs/*/*/*.json"))) == 2
    assert evaluate(toy_manifest, test_folder, out, "--seeds", "1", "--json") == 0
    assert {row["kind"]: row["n"] for row in shown(capsys)["rows"]} == {"manifest": 1, "random": 1, "all": 1}
    assert not list((out / "work").rglob("*.claim"))


@pytest.mark.slow  # in the default tier: by claims in one process
def test_two_processes_started_at_once_train_each_target_once(
    toy_manifest: Path, test_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "evaluation"
    words = ["evaluate", str(toy_manifest), "--test", str(test_folder), "--out", str(out), *TARGET, "--seeds", "2"]
    both = [
        subprocess.Popen([sys.executable, "-m", "curate", *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        for _ in range(2)
    ]
    errors = [process.communicate(timeout=200)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], errors
    assert len(list(out.glob("runs/*/*/*.json"))) == 6
    assert not [path for path in (out / "work").rglob("*") if path.is_file()]
    assert len(json.loads((out / "table.json").read_bytes())["rows"]) == 3


def test_a_run_that_its_process_gave_up_is_taken_over(
    toy_manifest: Path, test_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is passed over while another process holds it; that one goes before the others are done."""
    from curate.workflows import evaluate as module

    out, held = tmp_path / "evaluation", ExitStack()
    assert held.enter_context(durable.claim(out / "work" / "preact_resnet20" / "all" / "000.claim"))
    run_cell, trained = module._run_cell, []

    def run_one(request: object, cell: module.Cell, *words: object) -> None:
        trained.append(cell.arm.name.partition("-")[0])
        if len(trained) == 2:
            held.close()
        run_cell(request, cell, *words)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "_run_cell", run_one)
    assert evaluate(toy_manifest, test_folder, out, "--seeds", "2") == 0
    assert trained.count("all") == 2
    assert len(list(out.glob("runs/*/*/*.json"))) == 6


def test_who_waits_for_another_process_ends_when_its_time_is_up(
    toy_manifest: Path, test_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "evaluation"
    capsys.readouterr()
    with durable.lock(out):
        assert evaluate(toy_manifest, test_folder, out, "--max-time", "1s") == 6
    assert f"wait for process {os.getpid()}" in capsys.readouterr().err


def test_of_a_folder_in_the_pool_and_undecodable_samples(
    pool_folder: Path, test_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The pool's folder is the manifest's, whichever shards it has; the one kept sample that has no pixels is not counted."""
    shutil.copytree(pool_folder, tmp_path / "pool" / "train")
    assert run(["index", str(tmp_path / "pool"), "--out", str(tmp_path / "index")]) == 0
    words = ["--index", str(tmp_path / "index"), "--fn", "random", "--keep", "20"]
    assert run(["prune", *words, "--out", str(tmp_path / "manifest")]) == 0
    capsys.readouterr()
    words = ["--seeds", "1", "--json", "--set", "pixels.store=stream"]
    assert evaluate(tmp_path / "manifest", test_folder, tmp_path / "evaluation", *words) == 0
    rows = shown(capsys)["rows"]
    assert {row["kind"]: row["samples"] for row in rows} == {"manifest": 19, "random": 19, "all": 47}


def test_undecodable_test_samples_are_no_wrong_answers(
    toy_manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    colours = [(220, 30, 30), (30, 200, 40), (40, 60, 220)]
    members = []
    for n in range(12):
        image = b"no image" if n in (0, 4) else png(colours[n % 3], 900 + n)
        members += [(f"t{n}.png", image), (f"t{n}.cls", str(n % 3).encode())]
    write_tar(tmp_path / "test" / "test-0000.tar", members)
    accuracies = []
    for store in ("memory", "stream"):
        out = tmp_path / store
        words = ["--seeds", "1", "--set", f"pixels.store={store}", "--set", "train.epochs=6"]
        assert evaluate(toy_manifest, tmp_path / "test", out, *words) == 0
        accuracies.append([json.loads(path.read_bytes())["per_class"] for path in sorted(out.glob("runs/*/*/*.json"))])
    assert accuracies[0] == accuracies[1]
    assert any(max(hits) > 0 for hits in accuracies[0])


def test_manifests_are_labelled_by_all_that_made_them(
    toy_scores: Path, test_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is no plain fraction of one score is no point of a curve; two that only lie apart are told apart by name."""
    scores = ["--scores", str(toy_scores)]
    other = ["--scores", str(shutil.copytree(toy_scores, tmp_path / "other"))]
    makers = {
        "plain": scores, "equal": [*scores, "--per-class", "equal"],
        "rank": [*scores, *other, "--combine", "rank"], "least": [*scores, "--min-per-class", "2"],
    }  # fmt: skip
    folders = [tmp_path / name for name in makers]
    for folder, words in zip(folders, makers.values(), strict=True):
        assert run(["prune", *words, "--fn", "entropy", "--keep", "0.5", "--out", str(folder)]) == 0
    out = tmp_path / "evaluation"
    words = ["--test", str(test_folder), "--out", str(out), *TARGET, "--seeds", "1", "--json"]
    capsys.readouterr()
    assert run(["evaluate", *map(str, folders), *words]) == 0
    labels = {row["arm"].partition("-")[0]: row["label"] for row in shown(capsys)["rows"] if row["kind"] == "manifest"}
    assert labels == {
        "plain": "entropy 0.5", "equal": "entropy 0.5, equal classes", "rank": "entropy 0.5, combined by rank",
        "least": "entropy 0.5, at least 2 a class",
    }  # fmt: skip
    auto = ["prune", *scores, "--fn", "entropy", "--keep", "auto", "--curve", str(out), "--tolerance", "0.99"]
    assert run([*auto, "--out", str(tmp_path / "auto")]) == 0
    points = json.loads((tmp_path / "auto" / "manifest.json").read_bytes())["selection"]["curve"]["points"]
    assert len(points) == 1
    row = {"target": "t", "label": "entropy 0.5", "kind": "manifest"}
    told = told_apart(
        [{**row, "arm": "a"}, {**row, "arm": "b"}, {**row, "kind": "random", "label": "random", "arm": "r"}]
    )
    assert [one["label"] for one in told] == ["entropy 0.5, a", "entropy 0.5, b", "random"]


def test_what_build_up_cost_is_the_cost_of_all_its_rounds(
    pool_folder: Path, test_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grown = tmp_path / "grown"
    words = ["--proxy", "preact_resnet20", "--device", "cpu"]
    for setting in ("seeds=1", "epochs=1", "checkpoints=1", "batch_size=16"):
        words += ["--set", f"train.{setting}"]
    words += ["--schedule", "0.2,0.4,0.6", "--fn", "entropy"]
    assert run(["build-up", str(pool_folder), "--out", str(grown), "--first-per-class", "equal", *words]) == 0
    manifests = [str(grown / f"iteration-{n}" / "manifest") for n in (1, 2)]
    runs = [grown / f"iteration-{n}" / "scores" for n in (1, 2)]
    one, two = (cost_of(folder)["flops"] for folder in runs)
    assert one < two
    out, given = tmp_path / "evaluation", [word for folder in reversed(runs) for word in ("--scores", str(folder))]
    more = ["--test", str(test_folder), *TARGET, "--seeds", "1", "--json"]
    capsys.readouterr()
    assert run(["evaluate", *manifests, *given, "--out", str(out), *more]) == 0
    rows = [row for row in shown(capsys)["rows"] if row["kind"] == "manifest"]
    found = {row["samples"]: row["selection"]["flops"] for row in rows}
    assert found == {19: one, 28: one + two}
    # What it took to choose is part of it: each manifest says its own beside what is hashed.
    took = [json.loads((Path(folder) / "source.json").read_bytes())["seconds"] for folder in manifests]
    trained = [cost_of(folder)["seconds"] for folder in runs]
    assert min(took) > 0
    for folder, seconds in zip(manifests, (100.0, 20.0), strict=True):
        source = json.loads((Path(folder) / "source.json").read_bytes())
        (Path(folder) / "source.json").write_text(json.dumps({**source, "seconds": seconds}))
    # The second alone says where the first is; a run that is not named leaves its cost unknown.
    out = tmp_path / "second"
    assert run(["evaluate", manifests[1], *given, "--out", str(out), *more]) == 0
    row = shown(capsys)["rows"][0]
    assert row["selection"]["flops"] == one + two
    assert row["selection"]["seconds"] == pytest.approx(sum(trained) + 120, abs=1)
    out = tmp_path / "less"
    assert run(["evaluate", manifests[1], *given[:2], "--out", str(out), *more]) == 0
    row = shown(capsys)["rows"][0]
    assert (row["selection"], row["total"], row["speed_up"]) == (None, None, None)


def test_what_has_run_is_not_run_again_and_new_runs_join(
    toy_manifest: Path, test_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "evaluation"
    assert evaluate(toy_manifest, test_folder, out, "--seeds", "1") == 0
    before = {path: path.stat().st_mtime_ns for path in out.glob("runs/*/*/*.json")}
    assert evaluate(toy_manifest, test_folder, out, "--seeds", "2", "--target", "convnet3") == 0
    after = {path: path.stat().st_mtime_ns for path in out.glob("runs/*/*/*.json")}
    assert (len(before), len(after)) == (3, 12)
    assert before.items() <= after.items()
    capsys.readouterr()
    assert evaluate(toy_manifest, test_folder, out, "--dry-run", "--md") == 0
    text = capsys.readouterr().out
    assert "Target convnet3" in text
    assert "Target preact_resnet20" in text
    capsys.readouterr()
    assert evaluate(toy_manifest, test_folder, out, "--target", "resnet10", "--dry-run", "--md") == 0
    assert "Target resnet10: not run." in capsys.readouterr().out
    # What a GPU has run is looked at where there is none.
    record = json.loads((out / "run.json").read_bytes())
    record["setting"]["device"] = "cuda"
    (out / "run.json").write_text(json.dumps(record))
    words = ["evaluate", str(toy_manifest), "--test", str(test_folder), "--out", str(out), *TARGET[:-2]]
    assert run([*words, "--dry-run", "--md"]) == 0
    assert "Target preact_resnet20" in capsys.readouterr().out


def test_what_selection_cost_is_put_right_without_training_again(
    toy_manifest: Path, toy_scores: Path, test_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Forgotten, then wrong, then right: what the files alone tell, as tables of documents are made, follows."""
    out, wrong = tmp_path / "evaluation", shutil.copytree(toy_scores, tmp_path / "wrong")
    record = json.loads((wrong / "run.json").read_bytes())
    (wrong / "run.json").write_text(json.dumps({**record, "recipe_digest": "0" * 32}))

    def kept(*words: str) -> dict:  # type: ignore[type-arg]
        capsys.readouterr()
        assert evaluate(toy_manifest, test_folder, out, "--seeds", "1", *words, "--json") == 0
        return dict(shown(capsys)["rows"][0])

    assert kept()["total"] is None
    before = {path: json.loads(path.read_bytes()) for path in out.glob("runs/*/*/*.json")}
    assert kept("--scores", str(wrong))["total"] is None
    assert evaluate(toy_manifest, test_folder, out, "--seeds", "1", "--scores", str(wrong)) == 0
    told = " ".join(capsys.readouterr().err.split())
    assert "--scores names none of the runs that scored it." in told
    assert f"manifest-{manifest_digest(toy_manifest)[:8]}" in told
    assert f"--scores{toy_scores}" in told.replace(" ", "")
    assert kept("--scores", str(toy_scores), "--dry-run")["selection"]["members"] == 4
    assert before == {path: json.loads(path.read_bytes()) for path in before}
    row = kept("--scores", str(wrong), "--scores", str(toy_scores))
    assert row["selection"]["flops"] == cost_of(toy_scores)["flops"]
    assert row["total"] == row["seconds"] + row["selection"]["seconds"]
    assert summarise(out / "runs")["rows"][0]["total"] == row["total"]
    after = {path: {**json.loads(path.read_bytes()), "selection": None} for path in before}
    assert after == before
    assert kept()["total"] == row["total"]  # what is known stays


def test_a_table_says_what_has_not_run_yet(
    toy_manifest: Path, pool_folder: Path, test_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, fresh = tmp_path / "evaluation", tmp_path / "fresh"
    assert evaluate(toy_manifest, test_folder, out, "--seeds", "2") == 0
    next(out.glob("runs/*/random-24/001.json")).unlink()
    assert run(["index", str(pool_folder), "--out", str(tmp_path / "index")]) == 0
    words = ["--index", str(tmp_path / "index"), "--fn", "random", "--keep", "12"]
    assert run(["prune", *words, "--out", str(fresh)]) == 0
    capsys.readouterr()
    words = ["evaluate", str(toy_manifest), str(fresh), "--test", str(test_folder), "--out", str(out), *TARGET]
    assert run([*words, "--dry-run", "--md"]) == 0
    found = capsys.readouterr()
    assert "5 of 15 runs are there." in found.err
    for said in (
        "| random 12 | 12 | 0 of 3 | not run |", "| random | 12 | 0 of 3 | not run |",
        "| variation_ratio 0.5 | 24 | 2 of 3 |", "| random | 24 | 1 of 3 |", "| all the data | 47 | 2 of 3 |",
    ):  # fmt: skip
        assert said in found.out


def test_equal_steps_train_the_subset_for_more_epochs(
    toy_manifest: Path, test_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "evaluation"
    capsys.readouterr()
    words = ["--seeds", "1", "--equal", "steps", "--target-members", "2", "--json", *TWO_EPOCHS]
    assert evaluate(toy_manifest, test_folder, out, *words) == 0
    kept, random, whole = shown(capsys)["rows"]
    assert (kept["epochs"], random["epochs"], whole["epochs"]) == (4, 4, 2)
    result = json.loads(next(out.glob("runs/*/all/000.json")).read_bytes())
    assert len(result["each"]) == 2


PRETRAIN = ["--scheme", "pretrain", "--seeds", "1", "--set", "train.epochs=10"]


def test_pretrained_targets_go_on_from_the_model_of_everything(
    toy_manifest: Path, test_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """At a rate that learns nothing, what is known comes from the start."""
    out = tmp_path / "evaluation"
    words = [*PRETRAIN, "--set", "train.finetune_rate=1e-9"]
    capsys.readouterr()
    assert evaluate(toy_manifest, test_folder, out, *words, "--json") == 0
    kept, random, whole = shown(capsys)["rows"]
    assert min(kept["accuracy"], random["accuracy"], whole["accuracy"]) > 0.9
    assert kept["flops"] / whole["flops"] == pytest.approx(1 + 24 / 47)
    assert kept["seconds"] > whole["seconds"]
    assert kept["scheme"] == "pretrain"
    assert "fine-tuned from the model of all the data" in (out / "table.md").read_text()
    assert "equal epochs (but for over all: the row of all the data is the model" in (out / "table.md").read_text()
    (start,) = out.glob("full/*/*.safetensors")
    before = start.read_bytes()
    path = next(out.glob("runs/*/random-24/000.json"))
    result = json.loads(path.read_bytes())
    path.unlink()
    assert evaluate(toy_manifest, test_folder, out, *words) == 0
    again = json.loads(path.read_bytes())
    assert {**again, "seconds": 0} == {**result, "seconds": 0}
    assert start.read_bytes() == before
    path.unlink()
    start.unlink()
    capsys.readouterr()
    assert evaluate(toy_manifest, test_folder, out, *words) == 1
    assert "which a target starts from, is missing" in capsys.readouterr().err
    assert evaluate(toy_manifest, test_folder, out, *words[2:]) == 1
    assert "another --scheme" in capsys.readouterr().err


@pytest.mark.parametrize("words", [[], pytest.param(PRETRAIN, marks=pytest.mark.slow)], ids=["scratch", "pretrain"])
def test_a_killed_evaluation_goes_on(toy_manifest: Path, test_folder: Path, tmp_path: Path, words: list[str]) -> None:
    """Its figures are those of one that was left alone; finished epochs do not run again."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    longer = [*words, "--set", "train.epochs=4", "--seeds", "1"]
    assert evaluate(toy_manifest, test_folder, whole, *longer) == 0
    command = ["evaluate", str(toy_manifest), "--test", str(test_folder), "--out", str(killed), *TARGET, *longer]
    process = subprocess.Popen([sys.executable, "-m", "curate", *command], stderr=subprocess.DEVNULL)
    while process.poll() is None:
        if any(path.stat().st_size for path in killed.glob("work/*/*/*/*/seconds.txt")):
            process.send_signal(signal.SIGKILL)
            process.wait()
        time.sleep(0.01)  # a walk through the folder each time, beside the process that is waited for
    assert process.returncode == -signal.SIGKILL
    for path in killed.glob("work/*/*/*/*/seconds.txt"):
        path.write_text(path.read_text() + "\n2 0")  # as if it was killed within a line
    assert evaluate(toy_manifest, test_folder, killed, *longer) == 0
    for path in whole.glob("runs/*/*/*.json"):
        ours, theirs = (json.loads((folder / path.relative_to(whole)).read_bytes()) for folder in (whole, killed))
        assert {**ours, "seconds": 0} == {**theirs, "seconds": 0}


def test_what_cannot_be_compared_is_refused(
    toy_manifest: Path, test_folder: Path, pool_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "evaluation"
    assert evaluate(toy_manifest, test_folder, out, "--seeds", "1") == 0
    for code, words, said in (
        (1, ["--equal", "steps"], "another --equal"),
        (1, ["--target-members", "2"], "other members"),
        (1, ["--set", "train.epochs=3"], "another recipe"),
        (2, ["--target", "preact_resnet2"], "Unknown network"),
        (2, ["--equal", "time"], "expected epochs or steps"),
    ):
        for dry in ([], ["--dry-run"]):
            capsys.readouterr()
            assert evaluate(toy_manifest, test_folder, out, "--seeds", "1", *words, *dry) == code
            assert said in capsys.readouterr().err
    assert evaluate(toy_manifest, pool_folder, out, "--seeds", "1", "--dry-run") == 2
    assert evaluate(toy_manifest, pool_folder, tmp_path / "own", "--seeds", "1") == 2
    assert "shards of the pool" in capsys.readouterr().err
    assert evaluate(toy_manifest, test_folder, tmp_path / "none", "--dry-run") == 1
    twice = ["evaluate", str(toy_manifest), str(toy_manifest), "--test", str(test_folder)]
    capsys.readouterr()
    assert run([*twice, "--out", str(tmp_path / "two"), *TARGET]) == 2
    told = capsys.readouterr().err
    assert "are the same manifest" in told
    assert "decode" not in told  # before the work, not after it
    assert run(["evaluate", str(toy_manifest), "--out", str(tmp_path / "n")]) == 2


def test_a_damaged_result_is_named(
    toy_manifest: Path, test_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "evaluation"
    assert evaluate(toy_manifest, test_folder, out, "--seeds", "1") == 0
    path = next(out.glob("runs/*/*/*.json"))
    path.write_text("{}")
    capsys.readouterr()
    assert evaluate(toy_manifest, test_folder, out, "--seeds", "1") == 1
    assert path.name in capsys.readouterr().err
    shutil.rmtree(path.parent)
    assert evaluate(toy_manifest, test_folder, out, "--seeds", "1") == 0


def test_keep_auto_takes_the_smallest_fraction_that_loses_little(
    toy_scores: Path, test_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The curve is measured; its accuracies are then set, so that the choice is known."""
    folders = [tmp_path / f"entropy-{keep}" for keep in ("0.3", "0.5", "0.7")]
    for folder in folders:
        words = ["--scores", str(toy_scores), "--fn", "entropy", "--keep", folder.name[-3:], "--out", str(folder)]
        assert run(["prune", *words]) == 0
    out = tmp_path / "evaluation"
    others = [word for folder in folders[1:] for word in (str(folder),)]
    words = ["evaluate", str(folders[0]), *others, "--test", str(test_folder), "--out", str(out), *TARGET]
    assert run([*words, "--seeds", "1"]) == 0
    wanted = {"entropy-0.3": 0.90, "entropy-0.5": 0.978, "entropy-0.7": 0.985, "all": 0.98}
    for path in out.glob("runs/*/*/*.json"):
        arm = path.parent.name if path.parent.name == "all" else path.parent.name[:11]
        if arm in wanted:
            path.write_text(json.dumps({**json.loads(path.read_bytes()), "accuracy": wanted[arm]}))
    assert run([*words, "--seeds", "1"]) == 0
    auto = ["prune", "--scores", str(toy_scores), "--fn", "entropy", "--keep", "auto", "--curve", str(out)]
    assert run([*auto, "--out", str(tmp_path / "auto")]) == 0
    record = json.loads((tmp_path / "auto" / "manifest.json").read_bytes())["selection"]
    assert (record["keep"], record["curve"]["tolerance"]) == ("0.5", 0.003)
    assert [(p["keep"], p["loss"], p["runs"]) for p in record["curve"]["points"]] == [
        ("0.3", -0.08, 1), ("0.5", -0.002, 1), ("0.7", 0.005, 1),
    ]  # fmt: skip
    assert run(["report", str(tmp_path / "auto"), "--out", str(tmp_path / "r.html")]) == 0
    said = "within 0.3 points: keep 0.3 of resnet10 -8.00 (n = 1), keep 0.5 of resnet10 -0.20 (n = 1),"
    assert said in (tmp_path / "r.html").read_text().replace(record["curve"]["points"][0]["target"], "resnet10")
    assert run([*auto, "--tolerance", "0", "--out", str(tmp_path / "none")]) == 0
    assert json.loads((tmp_path / "none" / "manifest.json").read_bytes())["selection"]["keep"] == "0.7"
    capsys.readouterr()
    assert run([*auto[:5], "--keep", "auto", "--curve", str(tmp_path)]) == 2
    assert "curate evaluate" in capsys.readouterr().err
    assert run(["prune", "--scores", str(toy_scores), "--fn", "margin", "--keep", "auto", "--curve", str(out)]) == 2
    assert "no curve of 'margin'" in capsys.readouterr().err


def test_targets_are_steered_too_and_hold_the_same_samples_out(
    toy_manifest: Path, test_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--seeds", "1", "--val", "0.3", "--json"]
    words += [
        "--set", "train.schedule=patience", "--set", "train.patience=1", "--set", "train.stop_after=2",
        "--set", "train.epochs=7", "--set", "train.member=best",
    ]  # fmt: skip
    capsys.readouterr()
    assert evaluate(toy_manifest, test_folder, tmp_path / "e", *words) == 0
    kept, random, whole = shown(capsys)["rows"]
    assert kept["samples"] == random["samples"] < 24
    assert whole["samples"] < 47
    assert all(3 <= row["epochs"] <= 7 for row in (kept, random, whole))
    # A last batch of one joins the one before.
    assert kept["steps"] == kept["epochs"] * (-(-kept["samples"] // 16) - (kept["samples"] % 16 == 1))


def test_a_curve_is_measured_drawn_and_taken_by_keep_auto(
    toy_scores: Path, test_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    words = ["evaluate", "--scores", str(toy_scores), "--test", str(test_folder), *TARGET, "--seeds", "1"]
    assert run([*words, "--curve", "0.8,0.4", "--fn", "entropy"]) == 0
    picture = ElementTree.parse("evaluation/curve.svg").getroot()  # noqa: S314  (written by this test)
    names = [text.text for text in picture.findall(".//{*}text") if "name" in text.get("class", "")]
    assert names == ["entropy", "random", "all the data"]
    said = [title.text for title in picture.findall(".//{*}title")]
    rows = json.loads(Path("evaluation/table.json").read_bytes())["rows"]
    assert len(said) == len(rows) == 5
    for row in rows:
        assert any(f"{row['samples'] / 47:.1%} kept: {100 * row['accuracy']:.2f}" in text for text in said)
    small, large = (f"evaluation/curve/entropy-{fraction}" for fraction in ("0.4", "0.8"))
    assert run(["manifest", "merge", small, large, "--out", "both"]) == 0
    assert load_head(Path("both")).totals.kept == load_head(Path(large)).totals.kept  # the larger holds the smaller
    auto = ["prune", "--scores", str(toy_scores), "--fn", "entropy", "--keep", "auto", "--tolerance", "1"]
    assert run([*auto, "--out", "auto"]) == 0
    assert load_head(Path("auto")).totals.kept == load_head(Path(small)).totals.kept
    capsys.readouterr()
    for wrong, expected in (
        (["--curve", "0.4", "--fn", "entropy"], "two or more"),
        (["--curve", "0.4,40%", "--fn", "entropy"], "two or more"),
        (["--curve", "0.4,0.5"], "at least one --fn"),
        (["both", "--curve", "0.4,0.5", "--fn", "entropy"], "takes no manifests"),
    ):
        assert run([*words, *wrong]) == 2
        assert expected in capsys.readouterr().err


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("inception_v4", "cannot take images of 8 px"),
        ("vit_tiny_patch16_224", "8 px"),
        ("resnet81", "Unknown network 'resnet81'"),
        ("fasttext", "'fasttext' is a network for texts, and the pool holds images"),
    ],
)
def test_a_target_that_does_not_fit_is_refused_before_anything_is_trained(
    toy_manifest: Path, test_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], target: str, said: str
) -> None:
    capsys.readouterr()
    assert evaluate(toy_manifest, test_folder, tmp_path / "e", "--target", target) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "e" / "pixels").exists()
    assert not (tmp_path / "e" / "work").exists()
    # What was refused settles nothing: another recipe may have the folder.
    assert evaluate(toy_manifest, test_folder, tmp_path / "e", "--seeds", "1", *TWO_EPOCHS) == 0


def test_an_evaluation_whose_time_is_up_goes_on(
    toy_manifest: Path, test_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--seeds", "1", "--max-time"]
    assert evaluate(toy_manifest, test_folder, tmp_path / "e", *words, "0.001s") == 6
    assert "Go on with: curate evaluate" in capsys.readouterr().err
    assert not (tmp_path / "e" / "table.json").exists()
    assert evaluate(toy_manifest, test_folder, tmp_path / "e", *words, "1h") == 0
    assert (tmp_path / "e" / "table.json").exists()
