"""Disks and files that fail: every change refused in turn, full disks, reads that fail, files that are replaced."""

import errno
import json
import os
import random
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from conftest import TOY, toy_members, write_tar
from crashing import Nursery, Trial
from figures import record
from test_crashes import indexing, light, loaded, materializing, pruning, scoring  # noqa: F401  (two are fixtures)

from curate import durable
from curate.cli import run
from curate.errors import CurateError, RunError, ShardError
from curate.pool.index import build_index
from curate.pool.labels import LabelSource
from curate.proxy.pixels import read_images, rows_of

needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler to build dying.c with")
ERRORS = (errno.ENOSPC, errno.EIO, errno.ESTALE, errno.EDQUOT, errno.EACCES, errno.EROFS)


@pytest.fixture
def trials(light: Nursery, pool_folder: Path, toy_scores: Path, toy_manifest: Path, tmp_path: Path) -> list[Trial]:  # noqa: F811
    """The commands that start fast, each beside what it makes when it is left alone."""
    made = ((indexing, pool_folder), (pruning, toy_scores), (materializing, toy_manifest))
    return [make(light, source, tmp_path / make.__name__) for make, source in made]


@needs_compiler
@pytest.mark.faults
@pytest.mark.timeout(1800)
def test_every_change_refused_in_turn(
    light: Nursery,  # noqa: F811
    trials: list[Trial],
) -> None:
    """A full disk, a failing one, a network file system that lost its handle, a quota: at every write, rename, fsync."""
    for trial in trials:
        failed = sum(trial.fail(ERRORS[at % len(ERRORS)], at=at) for at in range(trial.changes))
        assert failed >= trial.changes // 2
    record("refused changes", light.struck)


@needs_compiler
@pytest.mark.faults
@pytest.mark.timeout(1800)
def test_every_second_change_happens_and_is_said_to_have_failed(
    light: Nursery,  # noqa: F811
    trials: list[Trial],
) -> None:
    """A network file system whose answer is lost: the rename is done, and the client says ESTALE."""
    before = sum(light.struck.values())
    for trial in trials:
        for at in range(0, trial.changes, 2):
            trial.fail(errno.ESTALE, at=at, when="lies")
    failed = sum(light.struck.values()) - before
    record("refused changes", {"done and said to have failed": failed})
    assert failed >= 30


@needs_compiler
@pytest.mark.faults
@pytest.mark.timeout(1800)
def test_changes_of_score_refused_now_and_then(loaded: Nursery, pool_folder: Path, tmp_path: Path) -> None:  # noqa: F811
    trial = scoring(loaded, pool_folder, tmp_path / "score")
    failed = sum(trial.fail(ERRORS[at // 9 % len(ERRORS)], at=at) for at in range(0, trial.changes, 9))
    record("refused changes", {"score, failing": failed})
    assert failed >= 10


def can_mount() -> bool:
    test = ["unshare", "-rm", "sh", "-c", "mount -t tmpfs -o size=64k none /mnt"]
    return (
        shutil.which("unshare") is not None and subprocess.run(test, capture_output=True, check=False).returncode == 0
    )


@pytest.mark.parametrize("size", [40, pytest.param(400, marks=pytest.mark.faults)])
def test_a_full_disk_leaves_nothing_half_written(toy_manifest: Path, tmp_path: Path, size: int) -> None:
    """A file system of so many KiB, in a namespace of its own."""
    if not can_mount():
        pytest.skip("no user namespaces to mount a small file system in")
    disk = tmp_path / "disk"
    disk.mkdir()
    curate = f"{sys.executable} -m curate materialize {toy_manifest} {disk}/kept"
    script = f"mount -t tmpfs -o size={size}k none {disk}; {curate}; echo code $?; find {disk} -name '.*.tmp'"
    done = subprocess.run(["unshare", "-rm", "sh", "-c", script], capture_output=True, text=True, check=True)
    assert "Traceback" not in done.stderr
    if size == 40:
        assert done.stdout == "code 1\n"
        assert "No space left on device" in done.stderr
        assert "Make room and run the same command again." in done.stderr
    else:
        assert done.stdout.endswith("code 0\n")


def test_a_disk_that_cannot_be_read_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The kernel itself answers EIO here; permissions are refused to anybody there."""
    for where, said in (("/proc/self/mem", "Input/output error"), ("/proc/sys/vm/compact_memory", "Permission denied")):
        pool = tmp_path / said.split()[0].lower().replace("/", "-")
        pool.mkdir()
        write_tar(pool / "a.tar", toy_members(0))
        (pool / "b.tar").symlink_to(where)
        assert run(["index", str(pool), "--out", str(tmp_path / f"index-{pool.name}")]) == 1
        assert f"error: b.tar: cannot be read ({said})" in capsys.readouterr().err


def test_a_shard_that_is_replaced_after_it_was_indexed_is_never_scored(tmp_path: Path) -> None:
    """Of the same size, in place of the old one: only its time tells."""
    write_tar(tmp_path / "pool" / "a.tar", toy_members(0))
    pool = build_index([str(tmp_path / "pool")], tmp_path / "index", LabelSource())
    rows = rows_of(pool)
    images = read_images(rows, 0, rows.of_shard(0))
    next(images)
    write_tar(tmp_path / "other.tar", toy_members(1))
    (tmp_path / "other.tar").rename(tmp_path / "pool" / "a.tar")
    with pytest.raises(ShardError, match=r"a\.tar changed while it was read"):
        list(images)
    with pytest.raises(ShardError, match=r"a\.tar changed"):
        next(read_images(rows, 0, rows.of_shard(0)))


def test_a_shard_that_grows_while_it_is_scanned_is_refused(tmp_path: Path) -> None:
    """By a writer that is not done."""
    big = [(f"k{n}.png", bytes(40_000)) for n in range(30)]
    write_tar(tmp_path / "pool" / "a.tar", big)
    path = tmp_path / "pool" / "a.tar"

    class Growing(LabelSource):
        """Asked when the file is open: then it grows."""

        @property
        def extension(self) -> str | None:
            with path.open("ab") as file:
                file.write(bytes(1_000_000))
            return "cls"

    with pytest.raises(ShardError, match=r"a\.tar changed while it was read"):
        build_index([str(tmp_path / "pool")], tmp_path / "index", Growing())
    assert not list((tmp_path / "index").glob("*.parquet"))


@pytest.mark.parametrize("change", ["grown", "shrunk"])
def test_a_shard_that_changed_between_score_and_cat_gives_nothing(
    toy_manifest: Path, pool_folder: Path, tmp_path: Path, change: str
) -> None:
    shutil.copytree(pool_folder, tmp_path / "root")
    path = tmp_path / "root" / "toy-0000.tar"
    size = path.stat().st_size
    os.truncate(path, size + 512 if change == "grown" else size - 512)
    command = [sys.executable, "-m", "curate", "cat", str(toy_manifest), "toy-0000.tar", "--root", str(path.parent)]
    done = subprocess.run(command, capture_output=True, check=False)
    assert (done.returncode, b"is not the shard that was pruned" in done.stderr) == (1, True)
    (tmp_path / "out.tar").write_bytes(done.stdout)
    with pytest.raises(tarfile.ReadError), tarfile.open(tmp_path / "out.tar", "r|") as tar:
        list(tar)


def test_a_clock_that_goes_back_changes_no_result(pool_folder: Path, tmp_path: Path) -> None:
    """Files of the future and of 1970 are indexed alike; the index is found again."""
    prints = set[str]()
    for moment in (0, 4_000_000_000):
        shutil.copytree(pool_folder, tmp_path / str(moment))
        for path in (tmp_path / str(moment)).iterdir():
            os.utime(path, (moment, moment))
        source, index = tmp_path / str(moment), tmp_path / f"index-{moment}"
        prints |= {build_index([str(source)], index, LabelSource()).fingerprint for _ in range(2)}
    assert len(prints) == 1


def test_two_processes_in_one_folder_and_folders_of_others(
    pool_folder: Path, toy_scores: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "scores"
    shutil.copytree(toy_scores, folder)
    words = ["score", str(pool_folder), "--out", str(folder), *TOY]
    with durable.lock(folder):  # the lock is the file's, so that this process stands for another one
        assert run(words) == 1
        assert "is in use by process" in capsys.readouterr().err
    record_ = json.loads((folder / "run.json").read_bytes())
    (folder / "run.json").write_text(json.dumps({**record_, "format": 99}))
    assert run(words) == 1
    assert "written by another version of curate" in capsys.readouterr().err
    (folder / "run.json").write_text(json.dumps(record_))
    write_tar(tmp_path / "pool" / "toy-0000.tar", toy_members(5))
    assert run(["score", str(tmp_path / "pool"), *words[2:]]) == 1
    assert "indexes another pool" in capsys.readouterr().err


def test_who_lives_keeps_what_it_writes_and_who_died_does_not(tmp_path: Path) -> None:
    """By locks: the number of this very process is in both names, as in containers that all begin at 1."""
    dead = tmp_path / f".m.{os.getpid()}-{0:08x}.tmp"
    dead.mkdir()
    (dead / "half").write_bytes(b"x")
    others = [tmp_path / name for name in (".dump.2026-11-26.tmp", ".work.cafe.tmp", ".m.1-0.tmp")]
    for other in others:  # another program's
        other.write_bytes(b"x")
    with durable.building(tmp_path / "m") as build, durable.replace(tmp_path / "file") as file:
        durable.remove_leftovers(tmp_path)
        assert build.exists()
        assert not dead.exists()
        file.write(b"whole")
    assert sorted(tmp_path.iterdir()) == sorted([*others, tmp_path / "file"])


BESIDE_OTHERS = """
import sys
from pathlib import Path
from curate import durable
folder, number = Path(sys.argv[1]), sys.argv[2]
for turn in range(40):
    durable.remove_leftovers(folder)
    durable.write_bytes(folder / f"file-{number}", b"x", sync=False)
    with durable.building(folder / f"folder-{number}-{turn}") as build:
        (build / "one").write_bytes(b"y")
        durable.place_folder(build, folder / f"folder-{number}-{turn}")
"""


def test_who_clears_a_folder_takes_nothing_from_those_who_write_there(tmp_path: Path) -> None:
    """As commands do that are started at once and write side by side; a file is not held before it is there."""
    command = [sys.executable, "-c", BESIDE_OTHERS, str(tmp_path)]
    processes = [subprocess.Popen([*command, str(number)]) for number in range(4)]
    assert [process.wait() for process in processes] == [0] * 4
    assert len(list(tmp_path.iterdir())) == 4 + 4 * 40


def test_of_two_prunes_into_one_folder_the_later_is_refused(toy_scores: Path, tmp_path: Path) -> None:
    """Both see nothing there; the other one is done first."""
    from curate.workflows.prune import Request, prune

    built = tmp_path / "other"
    prune(Request(toy_scores, "entropy", "0.4", out=built))
    with durable.building(tmp_path / "m") as build:
        (build / "mine").write_text("x")
        shutil.copytree(built, tmp_path / "m")
        with pytest.raises(OSError, match="not empty"):
            durable.place_folder(build, tmp_path / "m")
    with pytest.raises(RunError, match="a different manifest"):
        prune(Request(toy_scores, "entropy", "0.5", out=tmp_path / "m"))


def test_random_bytes_are_never_a_manifest_or_a_run(tmp_path: Path) -> None:
    from curate.manifest.verify import verify
    from curate.workflows.prune import Request, prune

    for name in ("manifest.json", "summary.json", "index/pool.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(random.Random(name).randbytes(300))
    with pytest.raises(CurateError):
        verify(tmp_path)
    with pytest.raises(CurateError):
        prune(Request(tmp_path, "entropy", "0.5", out=tmp_path / "m"))
