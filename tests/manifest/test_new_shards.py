"""New shards by several processes: the same bytes, the same errors, and none that outlives who began it."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from conftest import everything, workers_of
from tars import prune_by

from curate.cli import run
from curate.errors import CurateError, ManifestError, RunError
from curate.manifest.lines import find_line
from curate.manifest.materialize import SAMPLES_EACH, materialize
from curate.manifest.new_shards import MODULE
from curate.pool.writer import write_shards

ENOUGH = 4 * SAMPLES_EACH + 40


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest that keeps half of so many samples that processes are worth their start."""
    folder = tmp_path_factory.mktemp("many")
    keyed = ((f"{n:08d}", {"bin": n.to_bytes(8, "big") * (1 + n % 40)}) for n in range(ENOUGH))
    write_shards(folder / "pool", "train", keyed, total=ENOUGH, samples_per_shard=ENOUGH)
    scores = np.random.default_rng(0).random(ENOUGH).tolist()
    prune_by(scores, folder / "pool", "train-000000.tar", ENOUGH // 2, folder)
    return folder


@pytest.mark.parametrize("options", [{}, {"shards": 5}, {"samples_per_shard": 7}])
def test_processes_write_what_one_writes(toy_manifest: Path, tmp_path: Path, options: dict[str, int]) -> None:
    for processes in (1, 2, 3):
        materialize(toy_manifest, tmp_path / str(processes), sync=False, processes=processes, **options)
    assert everything(tmp_path / "1") == everything(tmp_path / "2") == everything(tmp_path / "3")
    assert materialize(toy_manifest, tmp_path / "3", processes=2, **options).written == 0


def test_a_run_that_lacks_some_shards_writes_those(toy_manifest: Path, tmp_path: Path) -> None:
    materialize(toy_manifest, tmp_path / "out", processes=2, shards=6)
    whole = everything(tmp_path / "out")
    for path in sorted((tmp_path / "out").glob("*.tar"))[1::2]:
        path.unlink()
    assert materialize(toy_manifest, tmp_path / "out", processes=2, shards=6).written == 3
    assert everything(tmp_path / "out") == whole


@pytest.mark.parametrize("damage", ["missing", "longer", "unreadable"])
def test_an_error_of_a_process_is_that_of_the_work(
    toy_manifest: Path, pool_folder: Path, tmp_path: Path, damage: str
) -> None:
    root = shutil.copytree(pool_folder, tmp_path / "root")
    source = root / "toy-0001.tar"
    data = source.read_bytes()
    source.unlink()
    if damage == "longer":
        source.write_bytes(data + bytes(512))
    elif damage == "unreadable":
        source.mkdir()
    errors = []
    for processes in (1, 3):
        with pytest.raises(CurateError, match=r"toy-0001\.tar") as caught:
            materialize(toy_manifest, tmp_path / str(processes), root=root, processes=processes)
        errors.append((type(caught.value), caught.value.message, caught.value.hint))
        assert not (tmp_path / str(processes) / "materialized.json").exists()
        assert not list((tmp_path / str(processes)).rglob("*.tmp"))
    assert errors[0] == errors[1]
    assert errors[0][0] is ManifestError


def test_an_error_too_long_for_a_line_is_said_in_short(toy_manifest: Path, tmp_path: Path) -> None:
    nowhere = tmp_path.joinpath(*["ü" * 100] * 15)
    with pytest.raises(ManifestError, match=r"toy-000\d\.tar: cannot be read") as caught:
        materialize(toy_manifest, tmp_path / "out", root=nowhere, processes=2)
    assert caught.value.hint.startswith(f"Looked at {tmp_path}")


def test_a_folder_that_cannot_be_written_is_said(toy_manifest: Path, tmp_path: Path) -> None:
    materialize(toy_manifest, tmp_path / "out", shards=4)
    first, *_, last = sorted((tmp_path / "out").glob("*.tar"))
    first.unlink()  # so that there is work for two processes
    last.unlink()
    last.mkdir()
    with pytest.raises(OSError, match=last.name):
        materialize(toy_manifest, tmp_path / "out", shards=4, processes=2)


def strike_one() -> None:
    while not (found := workers_of(os.getpid(), MODULE)):
        time.sleep(0.001)
    found[0].kill()


def test_a_process_that_is_killed_is_said(toy_manifest: Path, tmp_path: Path) -> None:
    striker = threading.Thread(target=strike_one)
    striker.start()
    with pytest.raises(RunError, match="ended with code -9"):
        materialize(toy_manifest, tmp_path / "out", shards=24, processes=2)
    striker.join()
    materialize(toy_manifest, tmp_path / "out", shards=24, processes=2)
    materialize(toy_manifest, tmp_path / "whole", shards=24)
    assert everything(tmp_path / "out") == everything(tmp_path / "whole")


def begun(many: Path, out: Path) -> subprocess.Popen[str]:
    """Starts the command; returns it when its processes write."""
    command = [sys.executable, "-m", "curate", "materialize", str(many / "manifest"), str(out), "--shards", "4000"]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # as a shell does in the foreground
    )  # fmt: skip
    while not list(out.glob("*.tar")) and process.poll() is None:
        time.sleep(0.002)
    return process


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_whoever_ends_the_command_ends_its_processes(many: Path, tmp_path: Path, number: signal.Signals) -> None:
    process = begun(many, tmp_path / "out")
    workers = workers_of(process.pid, MODULE)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    _, alive = psutil.wait_procs(workers, timeout=20)
    assert alive == []
    assert workers or len(os.sched_getaffinity(0)) == 1
    assert process.returncode == (-9 if number == signal.SIGKILL else 130)
    assert not (tmp_path / "out" / "materialized.json").exists()
    assert len(list((tmp_path / "out").glob("*.tar"))) < 4000
    if number != signal.SIGKILL:
        assert "Go on with: curate materialize" in said
        assert not list((tmp_path / "out").glob(".*.tmp"))


def test_many_samples_are_written_by_processes(many: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["materialize", str(many / "manifest"), "--no-sync", "--samples-per-shard", "2100", "--json"]
    assert run([*words[:2], str(tmp_path / "out"), *words[2:]]) == 0
    assert json.loads(capsys.readouterr().out)["samples"] == ENOUGH // 2
    materialize(many / "manifest", tmp_path / "one", samples_per_shard=2100, sync=False, processes=1)
    assert everything(tmp_path / "out") == everything(tmp_path / "one")
    line = find_line(many / "manifest", "train-000000.tar")
    assert sum(path.stat().st_size for path in (tmp_path / "out").glob("*.tar")) == line.kept_bytes + 4 * 1024
