"""Signals, kills and full disks: what is finished is kept, nothing is half-written, the next try ends alike."""

import os
import resource
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from conftest import TOY
from test_score_and_prune import digests, events

from curate.cli import run
from curate.manifest.lines import manifest_digest

SECONDS = 120


def start(words: Sequence[str], *, before: Callable[[], object] = lambda: None) -> subprocess.Popen[str]:
    """Starts a command as a shell does in the foreground, where an interrupt is not ignored."""

    def prepare() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        before()

    command = [sys.executable, "-m", "curate", *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=prepare)


def wait_for(condition: Callable[[], object], process: subprocess.Popen[str]) -> bool:
    end = time.monotonic() + SECONDS
    while time.monotonic() < end and process.poll() is None:
        if condition():
            return True
        time.sleep(0.001)  # what is waited for runs on these cores too
    return False


def leftovers(folder: Path) -> list[Path]:
    return [path for path in folder.rglob(".*") if path.name.endswith(".tmp")]


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_an_interrupted_score_says_how_to_go_on(pool_folder: Path, tmp_path: Path, number: signal.Signals) -> None:
    words = ["score", str(pool_folder), "--out", str(tmp_path / "scores"), *TOY, "--seeds", "1", "--epochs", "8"]
    process = start(words)
    log = tmp_path / "scores" / "log.jsonl"
    assert wait_for(lambda: log.exists() and '"epoch"' in log.read_text(), process)
    process.send_signal(number)
    out, err = process.communicate(timeout=SECONDS)
    assert (process.returncode, out) == (130, "")
    assert f"Go on with: curate {shlex.join(words)}" in err
    assert "Traceback" not in err
    assert not leftovers(tmp_path)
    done = len(events(tmp_path / "scores", "epoch"))
    assert run(words) == 0
    # An epoch is logged before its state is renamed into place: the one that was cut off may run again.
    assert len(events(tmp_path / "scores", "epoch")) in (8, 9)
    assert done < 8


def test_a_killed_prune_leaves_no_manifest_and_the_next_one_is_the_same(toy_scores: Path, tmp_path: Path) -> None:
    words = ["prune", "--scores", str(toy_scores), "--keep", "0.5", "--fn", "variation_ratio", "--keep-list", "--out"]
    assert run([*words, str(tmp_path / "whole")]) == 0
    out = tmp_path / "killed" / "m"
    out.parent.mkdir()
    killed = 0
    for _ in range(20):
        process = start([*words, str(out)])
        if wait_for(lambda: leftovers(out.parent), process):
            process.kill()
        process.communicate(timeout=SECONDS)
        if leftovers(out.parent):
            killed += 1
            assert not out.exists()
        if killed == 2:
            break
    assert killed == 2, "the hidden folder was never seen"
    assert run([*words, str(out)]) == 0
    assert [path.name for path in out.parent.iterdir()] == ["m"]
    assert manifest_digest(out) == manifest_digest(tmp_path / "whole")


def small_files(size: int) -> Callable[[], object]:
    """A disk on which no file grows past a size: the system refuses the write, as a full one does."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@pytest.mark.parametrize("size", [pytest.param(size, marks=pytest.mark.slow) for size in (2_000, 100_000, 1_500_000)])
def test_a_score_that_finds_the_disk_full_goes_on_when_there_is_room(
    toy_scores: Path, pool_folder: Path, tmp_path: Path, size: int
) -> None:
    words = ["score", str(pool_folder), "--out", str(tmp_path / "scores"), *TOY]
    process = start(words, before=small_files(size))
    out, err = process.communicate(timeout=SECONDS)
    assert (process.returncode, out) == (1, "")
    assert "error: " in err
    assert f"error: {tmp_path}" in err
    assert "File too large" in err
    assert "Make room" in err
    assert "Traceback" not in err
    assert not leftovers(tmp_path)
    assert run(words) == 0
    assert digests(tmp_path / "scores") == digests(toy_scores)


def test_a_prune_that_finds_the_disk_full_leaves_nothing(toy_scores: Path, tmp_path: Path) -> None:
    words = ["prune", "--scores", str(toy_scores), "--keep", "0.5", "--fn", "entropy", "--out", str(tmp_path / "m")]
    process = start(words, before=small_files(100))
    out, err = process.communicate(timeout=SECONDS)
    assert (process.returncode, out) == (1, "")
    assert "File too large" in err
    assert list(tmp_path.iterdir()) == []


def test_a_pack_that_finds_the_disk_full_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "images" / "a").mkdir(parents=True)
    (tmp_path / "images" / "a" / "x.png").write_bytes(bytes(50_000))
    process = start(["pack", str(tmp_path / "images"), str(tmp_path / "shards")], before=small_files(20_000))
    out, err = process.communicate(timeout=SECONDS)
    assert (process.returncode, out) == (1, "")
    assert "File too large" in err
    assert [path.name for path in tmp_path.iterdir()] == ["images"]


def test_a_cat_that_cannot_write_fails(toy_manifest: Path) -> None:
    with Path(os.devnull).with_name("full").open("wb") as full:
        command = [sys.executable, "-m", "curate", "cat", str(toy_manifest), "toy-0000.tar"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert "No space left on device" in done.stderr


def test_a_score_whose_time_is_up_goes_on_to_the_same_bytes(
    toy_scores: Path, pool_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As in a job of limited length: every time it ends by itself with its own exit code, and says how to go on."""
    words = ["score", str(pool_folder), "--out", str(tmp_path / "scores"), *TOY, "--max-time"]
    codes = []
    for seconds in ("0.001s", "0.8s", "5m"):
        codes.append(run([*words, seconds]))
        said = capsys.readouterr().err
        assert not leftovers(tmp_path)
        if codes[-1] == 6:
            assert f"Go on with: curate score {pool_folder}" in said
            assert "error" not in said
    assert codes in ([6, 6, 0], [6, 0, 0])  # the second may be enough on a fast machine
    assert digests(tmp_path / "scores") == digests(toy_scores)


@pytest.mark.parametrize("time", ["0", "soon", "-5m", "5d"])
def test_a_time_that_is_none_is_refused(pool_folder: Path, tmp_path: Path, time: str) -> None:
    assert run(["score", str(pool_folder), "--out", str(tmp_path / "scores"), *TOY, "--max-time", time]) == 2


def test_an_interrupt_within_an_executed_string_ends_with_130(tmp_path: Path) -> None:
    """As they are while modules are imported that make dataclasses: `python -m` would die of SIGINT, caught or not."""
    (tmp_path / "struck.py").write_text(
        "import os, signal, sys\nfrom curate import console\nfrom curate.__main__ import main\n"
        "from curate.cli.options import app\nconsole.note('all that this takes is imported now')\n"
        "@app.command()\ndef strike() -> None:\n    exec('os.kill(os.getpid(), signal.SIGTERM)', globals())\n"
        "sys.argv = ['curate', 'strike']\nmain()"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-m", "struck"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert (done.returncode, done.stderr.count("Go on with: curate strike")) == (130, 1)
