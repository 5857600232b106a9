"""What is bad in the data or becomes bad in training: named, counted, left out, never averaged in."""

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from conftest import BAD_KEY, TOY, made_not_finite
from safetensors.torch import load_file

from curate.cli import run
from curate.proxy.sealed import load_sealed, save_sealed
from curate.workflows.cost import seconds_spent

BRIEF = [*TOY, "--epochs", "2", "--checkpoints", "1"]


@pytest.fixture(scope="module")
def both(pool_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("both") / "scores"
    assert run(["score", str(pool_folder), "--out", str(out), *BRIEF]) == 0
    return out


@pytest.fixture(scope="module")
def first_alone(pool_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("alone") / "scores"
    assert run(["score", str(pool_folder), "--out", str(out), *BRIEF, "--seeds", "1"]) == 0
    return out


@pytest.mark.parametrize("where", [pytest.param("in training", marks=pytest.mark.faults), "in its predictions"])
def test_a_member_that_diverged_is_reported_and_never_averaged_in(
    both: Path, first_alone: Path, pool_folder: Path, tmp_path: Path, where: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """What remains are the scores of the first seed alone, to the byte."""
    out = tmp_path / "scores"
    shutil.copytree(both, out)
    folder = out / "members" / "seed-001"
    if where == "in training":  # killed after its first epoch, and what it saved there is not finite
        for name in ("tables", "votes", "summary.json"):
            shutil.rmtree(out / name) if (out / name).is_dir() else (out / name).unlink()
        tensors, metadata = load_sealed(folder / "state.safetensors")
        history = json.loads(metadata["history"])[:1]
        save_sealed(folder / "state.safetensors", tensors, {**metadata, "history": json.dumps(history)})
        made_not_finite(folder / "state.safetensors")
        said = "The loss of seed 1 is not finite in epoch 2, in the batch that begins with sample"
    else:  # after the first shard was scored with it
        (out / "summary.json").unlink()
        (out / "tables" / "toy-0002.tar.parquet").unlink()
        made_not_finite(folder / "epoch-002.safetensors")
        said = "of seed 1, predicts values that are not finite for sample 0 of toy-0002.tar"
    capsys.readouterr()
    for _ in range(2):  # and the next time it is left out without a new try
        assert run(["score", str(pool_folder), "--out", str(out), *BRIEF]) == 0
        said_then = capsys.readouterr().out
        assert "seed 1 is left out: " in said_then
        assert said in said_then
    summary = json.loads((out / "summary.json").read_bytes())
    assert [member["seed"] for member in summary["members"]] == [0]
    assert [one["seed"] for one in summary["diverged"]] == [1]
    assert said in summary["diverged"][0]["reason"]
    for path in sorted((first_alone / "tables").iterdir()):
        assert pq.read_table(out / "tables" / path.name).equals(pq.read_table(path)), path.name


@pytest.mark.faults
def test_where_every_member_diverges_the_batch_is_named(
    pool_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["score", str(pool_folder), "--out", str(tmp_path / "scores"), *BRIEF, "--set", "train.rate=1e30"]
    assert run([*words, "--set", "train.warmup_epochs=0"]) == 1
    error = capsys.readouterr().err
    assert "is not finite in epoch 1, in the batch that begins with sample" in error
    assert "Lower train.rate" in error
    assert not (tmp_path / "scores" / "summary.json").exists()


@pytest.mark.parametrize("store", ["memory", pytest.param("stream", marks=pytest.mark.faults)])
def test_more_bad_samples_than_allowed_end_with_4_and_the_run_goes_on(
    pool_folder: Path, both: Path, tmp_path: Path, store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """One of 48 is no image: 0.02 is too little, 0.03 is enough."""
    out = tmp_path / "scores"
    words = ["score", str(pool_folder), "--out", str(out), *BRIEF, "--set", f"pixels.store={store}", "--max-bad"]
    assert run([*words, "0.02"]) == 4
    error = capsys.readouterr().err
    assert "1 of 48 samples are bad, more than --max-bad 0.02 allows" in error
    assert "`curate index --decode` lists them" in error
    assert not (out / "summary.json").exists()
    assert run([*words, "0.03"]) == 0
    (bad,) = pq.read_table(out / "bad.parquet").to_pylist()
    assert (bad["shard"], bad["ordinal"], bad["key"]) == ("toy-0001.tar", 7, BAD_KEY)
    assert bad["reason"]
    if store == "memory":
        for path in (both / "tables").iterdir():
            assert (out / "tables" / path.name).read_bytes() == path.read_bytes()


def test_one_flipped_bit_in_a_checkpoint_is_found(
    both: Path, pool_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "scores"
    shutil.copytree(both, out)
    path = out / "members" / "seed-000" / "epoch-002.safetensors"
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    load_file(path)  # its format alone does not tell
    (out / "tables" / "toy-0002.tar.parquet").unlink()
    assert run(["score", str(pool_folder), "--out", str(out), *BRIEF]) == 1
    assert (
        f"{path}: cannot be read as a member: damaged (its tensors are not those that were written)"
        in capsys.readouterr().err
    )


def test_scored_and_failed_are_counted_on_the_disk(
    both: Path, pool_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A table that lost a row since it was written ends the command, and no summary says otherwise."""
    out = tmp_path / "scores"
    shutil.copytree(both, out)
    (out / "summary.json").unlink()
    path = out / "tables" / "toy-0000.tar.parquet"
    pq.write_table(pq.read_table(path)[:-1], path)
    assert run(["score", str(pool_folder), "--out", str(out), *BRIEF]) == 1
    assert "toy-0000.tar: 15 scored and 0 failed of 16 samples" in capsys.readouterr().err
    assert not (out / "summary.json").exists()


@pytest.mark.faults
def test_a_line_that_a_kill_cut_off_is_no_harm_to_the_log(both: Path, pool_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "scores"
    shutil.copytree(both, out)
    with (out / "log.jsonl").open("a") as log:
        log.write('{"time": 17')
    assert run(["score", str(pool_folder), "--out", str(out), *BRIEF]) == 0
    assert seconds_spent(out / "log.jsonl") > 0
    lines = (out / "log.jsonl").read_text().splitlines()
    assert sum(line.startswith('{"time": 17') and not line.endswith("}") for line in lines) == 1
    assert json.loads(lines[-1])["event"] == "done"


def test_a_pause_costs_nothing_when_a_process_number_comes_again(tmp_path: Path) -> None:
    """As in a container, where it often is 1."""
    events = [("start", 0.0), ("epoch", 60.0), ("start", 86_400.0), ("done", 86_460.0)]
    lines = [json.dumps({"time": time, "process": 1, "event": event}) for event, time in events]
    (tmp_path / "log.jsonl").write_text("\n".join(lines) + "\n")
    assert seconds_spent(tmp_path / "log.jsonl") == 120.0


def test_a_clock_that_goes_back_makes_no_time_negative(tmp_path: Path) -> None:
    events = [(1, 100.0), (1, 90.0), (2, 50.0), (2, 53.0)]
    lines = [json.dumps({"time": time, "process": process, "event": "x"}) for process, time in events]
    (tmp_path / "log.jsonl").write_text("\n".join(lines) + "\n")
    assert seconds_spent(tmp_path / "log.jsonl") == 3.0


def test_equal_tensors_give_equal_bytes(tmp_path: Path) -> None:
    """Also of metadata with several keys, which safetensors orders anew each time."""
    about = {f"key-{n}": "x" for n in range(8)}
    written = set()
    for n in range(6):
        save_sealed(tmp_path / str(n), {"a": torch.arange(5), "b": torch.ones(2, 3)}, about)
        written.add((tmp_path / str(n)).read_bytes())
        assert load_sealed(tmp_path / str(n))[1] == about
    assert len(written) == 1
