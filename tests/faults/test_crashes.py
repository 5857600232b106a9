"""Struck down at any change it makes to files or at any moment, a command that is run again ends with the same bytes."""

import errno
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import TOY
from crashing import FULLY_LOADED, LIGHT, Nursery, Trial, nursery
from figures import record

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler to build dying.c with")
SIGNALS = (signal.SIGKILL, signal.SIGINT, signal.SIGTERM)
SHORT = [*TOY, "--epochs", "2", "--checkpoints", "1", "--set", "pixels.store=disk"]


@pytest.fixture(scope="module")
def light(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    with nursery(tmp_path_factory.mktemp("light"), LIGHT) as one:
        yield one


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    with nursery(tmp_path_factory.mktemp("loaded"), FULLY_LOADED) as one:
        yield one


def indexing(one: Nursery, pool: Path, out: Path) -> Trial:
    return Trial("index", one, ["index", str(pool), "--out", str(out / "index")], out).undisturbed()


def pruning(one: Nursery, scores: Path, out: Path) -> Trial:
    words = ["prune", "--scores", str(scores), "--keep", "0.5", "--fn", "variation_ratio", "--keep-list"]
    return Trial("prune", one, [*words, "--out", str(out / "m")], out).undisturbed()


def materializing(one: Nursery, manifest: Path, out: Path) -> Trial:
    return Trial("materialize", one, ["materialize", str(manifest), str(out / "kept")], out).undisturbed()


def scoring(one: Nursery, pool: Path, out: Path) -> Trial:
    return Trial("score", one, ["score", str(pool), "--out", str(out / "scores"), *SHORT], out).undisturbed()


def test_some_kills_of_index_prune_and_materialize(
    light: Nursery, pool_folder: Path, toy_scores: Path, toy_manifest: Path, tmp_path: Path
) -> None:
    outs = [tmp_path / name for name in ("index", "prune", "materialize")]
    trials = [
        make(light, source, out)
        for make, source, out in zip(
            (indexing, pruning, materializing), (pool_folder, toy_scores, toy_manifest), outs, strict=True
        )
    ]
    draw = random.Random(0)
    for trial in trials:
        assert trial.strike(at=draw.randrange(trial.changes), when="amid")
        assert trial.strike(signal.SIGINT, at=trial.changes // 2, when="before")


def test_reads_that_fail_in_passing_are_tried_again(light: Nursery, pool_folder: Path, tmp_path: Path) -> None:
    whole = indexing(light, pool_folder, tmp_path / "out")
    words, out = whole.words, tmp_path / "out"
    for times, code in ((3, 0), (60, 1)):
        shutil.rmtree(out)
        out.mkdir()
        answer = light.run(words, out, flaky=[times, errno.EIO, str(pool_folder)])
        assert answer["code"] == code, answer
        if code:
            assert "error: toy-0000.tar: cannot be read (Input/output error)" in answer["err"]


def test_a_write_that_fails_ends_with_its_reason_and_can_be_repeated(
    light: Nursery, pool_folder: Path, toy_scores: Path, toy_manifest: Path, tmp_path: Path
) -> None:
    for make, source in ((indexing, pool_folder), (pruning, toy_scores), (materializing, toy_manifest)):
        trial = make(light, source, tmp_path / make.__name__)
        assert trial.fail(errno.ENOSPC, at=trial.changes // 2)


def at_changes(trial: Trial, *, step: int = 1) -> int:
    """Strikes at every `step`-th change, the moments and the signals in turn; returns how often."""
    ways = [(number, when) for number in SIGNALS for when in ("before", "amid", "after")]
    changes = range(0, trial.changes, step)
    return sum(
        trial.strike(ways[turn % len(ways)][0], at=at, when=ways[turn % len(ways)][1])
        for turn, at in enumerate(changes)
    )


def at_random(trial: Trial, times: int, seed: int) -> int:
    draw = random.Random(seed)
    return sum(trial.strike(draw.choice(SIGNALS), after_seconds=draw.uniform(0, trial.seconds)) for _ in range(times))


@pytest.mark.faults
@pytest.mark.timeout(1800)
def test_index_prune_and_materialize_struck_at_every_change(
    light: Nursery, pool_folder: Path, toy_scores: Path, toy_manifest: Path, tmp_path: Path
) -> None:
    for make, source in ((indexing, pool_folder), (pruning, toy_scores), (materializing, toy_manifest)):
        trial = make(light, source, tmp_path / make.__name__)
        at_changes(trial)
        at_random(trial, 20, seed=1)
    record("kills", light.struck)
    assert sum(light.struck.values()) >= 100


@pytest.mark.faults
@pytest.mark.timeout(1800)
def test_score_struck_at_every_second_change_and_at_random(loaded: Nursery, pool_folder: Path, tmp_path: Path) -> None:
    trial = scoring(loaded, pool_folder, tmp_path / "score")
    at_changes(trial, step=2)
    at_random(trial, 30, seed=2)
    record("kills", {"score": loaded.struck["score"]})
    assert loaded.struck["score"] >= 100


@pytest.mark.faults
@pytest.mark.timeout(1800)
def test_build_up_struck_now_and_then(loaded: Nursery, pool_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "build-up"
    growth = ["--schedule", "0.5,0.8", "--fn", "entropy", "--first-per-class", "equal"]
    settings = [f"--set={word}" for word in ("train.epochs=2", "train.checkpoints=1", "train.seeds=1", "train.batch_size=16", "augment.translate_px=1")]  # fmt: skip
    words = ["build-up", str(pool_folder), *growth, "--proxy", "preact_resnet20", "--device", "cpu", *settings]
    trial = Trial("build-up", loaded, [*words, "--out", str(out / "grown")], out).undisturbed()
    at_changes(trial, step=6)
    at_random(trial, 15, seed=3)
    record("kills", {"build-up": loaded.struck["build-up"]})
    assert loaded.struck["build-up"] >= 30


@pytest.mark.faults
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_while_it_is_still_importing(pool_folder: Path, tmp_path: Path, number: signal.Signals) -> None:
    words = ["score", str(pool_folder), "--out", str(tmp_path / "scores"), *TOY, "--epochs", "50"]
    for place in range(12):
        command = [sys.executable, "-m", "curate", *words]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=_in_the_foreground
        )
        time.sleep(0.3 + 0.25 * place)
        process.send_signal(number)
        _, err = process.communicate(timeout=120)
        assert (process.returncode, "Traceback" in err) == (130, False), (place, err)
        assert "Go on with: curate score" in err


def _in_the_foreground() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
