"""An index by several processes: the same bytes, the same errors."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from conftest import everything, workers_of, write_tar

from curate import apart
from curate.cli import run
from curate.errors import CurateError
from curate.pool.index import build_index
from curate.pool.labels import LabelSource, read_label_table
from curate.pool.scanning import MODULE
from curate.pool.writer import write_shards

SHARDS, SAMPLES = 7, 5


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    """Shards in folders, with names that no writer of mine would give them."""
    for shard in range(SHARDS):
        members = [
            entry
            for n in range(SAMPLES)
            for entry in ((f"ü/{shard}-{n}.jpg", bytes([n]) * 700), (f"ü/{shard}-{n}.cls", str(n).encode()))
        ]
        write_tar(tmp_path / "pool" / f"part {shard % 2}" / f"b-{shard}.tar", members)
    return tmp_path / "pool"


# How shards are dealt out does not depend on their labels: every number of processes for one kind is enough.
@pytest.mark.parametrize(("kind", "numbers"), [("cls", (1, 2, 3, 40)), ("folder", (1, 3)), ("csv", (1, 3))])
def test_processes_index_what_one_indexes(pool: Path, tmp_path: Path, kind: str, numbers: tuple[int, ...]) -> None:
    labels = LabelSource(kind)
    if kind == "csv":
        path = tmp_path / "labels.csv"
        path.write_text("shard,key,label\npart 0/b-2.tar,ü/2-1,ä\n,ü/3-0,b\n,ü/2-1,c\n")
        labels = LabelSource("csv", str(path), read_label_table(path))
    found = [build_index([str(pool)], tmp_path / str(number), labels, processes=number) for number in numbers]
    assert len({one.fingerprint for one in found}) == 1
    first, *others = (everything(tmp_path / one.folder.name) for one in found)
    assert len(first) == SHARDS + 1
    assert all(other == first for other in others)


def test_what_is_indexed_is_not_scanned_again(pool: Path, tmp_path: Path) -> None:
    build_index([str(pool)], tmp_path / "index", LabelSource(), processes=3)
    tables = sorted((tmp_path / "index").rglob("*.parquet"))
    before = [path.stat().st_mtime_ns for path in tables]
    tables[2].unlink()
    (tmp_path / "index" / "pool.json").unlink()
    build_index([str(pool)], tmp_path / "index", LabelSource(), processes=3)
    after = [path.stat().st_mtime_ns for path in tables]
    assert [n for n, pair in enumerate(zip(before, after, strict=True)) if pair[0] != pair[1]] == [2]


@pytest.mark.parametrize("damage", ["cut short", "no tar", "gone"])
def test_an_error_of_a_process_is_that_of_the_scan(pool: Path, tmp_path: Path, damage: str) -> None:
    shard = pool / "part 1" / "b-5.tar"
    if damage == "gone":
        shutil.rmtree(tmp_path / "index", ignore_errors=True)
        build_index([str(pool)], tmp_path / "index", LabelSource())
        shard.write_bytes(shard.read_bytes() + bytes(512))
    else:
        shard.write_bytes(shard.read_bytes()[:3000] if damage == "cut short" else b"no tar" * 1000)
    said = []
    for processes in (1, 3):
        out = tmp_path / ("index" if damage == "gone" else str(processes))
        with pytest.raises(CurateError, match="b-5") as caught:
            build_index([str(pool)], out, LabelSource(), processes=processes)
        said.append((type(caught.value), caught.value.message, caught.value.hint))
        assert not list(out.rglob("*.tmp"))
    assert said[0] == said[1]


def test_damaged_shards_are_skipped_by_processes_too(pool: Path, tmp_path: Path) -> None:
    shard = pool / "part 1" / "b-5.tar"
    shard.write_bytes(shard.read_bytes()[:5000])
    found = [build_index([str(pool)], tmp_path / str(n), LabelSource(), skip_faults=True, processes=n) for n in (1, 3)]
    assert found[0].bad == found[1].bad > 0
    assert everything(tmp_path / "1") == everything(tmp_path / "3")


def test_processes_take_over_where_they_are_worth_it(
    pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["index", str(pool), "--out", str(tmp_path / "one"), "--json"]) == 0
    one = json.loads(capsys.readouterr().out)
    monkeypatch.setattr(apart, "WORTH_SECONDS", 0.0)
    monkeypatch.setattr(apart, "most_processes", lambda: 2)
    assert run(["index", str(pool), "--out", str(tmp_path / "two"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == one
    assert everything(tmp_path / "two") == everything(tmp_path / "one")


def test_a_process_imports_nothing_from_where_it_is_started(
    pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("json", "select", "zstandard", "curate"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported')\n")
    monkeypatch.chdir(tmp_path)
    assert build_index([str(pool)], tmp_path / "index", LabelSource(), processes=2).total == SHARDS * SAMPLES


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """So many samples that scanning them takes some seconds."""
    folder = tmp_path_factory.mktemp("large")
    keyed = ((f"{n:08d}", {"jpg": b"x", "cls": b"0"}) for n in range(100_000))
    write_shards(folder, "train", keyed, total=100_000, samples_per_shard=10_000)
    return folder


@pytest.mark.faults
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_whoever_ends_an_index_ends_its_processes(large: Path, tmp_path: Path, number: signal.Signals) -> None:
    out = tmp_path / "index"
    process = subprocess.Popen(
        [sys.executable, "-m", "curate", "index", str(large), "--out", str(out)],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # as a shell does in the foreground
    )  # fmt: skip
    workers: list[psutil.Process] = []
    while not workers and process.poll() is None:
        workers = workers_of(process.pid, MODULE)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    _, alive = psutil.wait_procs(workers, timeout=20)
    assert (alive, process.returncode) == ([], -9 if number == signal.SIGKILL else 130)
    assert not (out / "pool.json").exists()
    if number != signal.SIGKILL:
        assert "Go on with: curate index" in said
        assert not list(out.rglob(".*.tmp"))
    assert run(["index", str(large), "--out", str(out)]) == 0
    build_index([str(large)], tmp_path / "whole", LabelSource(), processes=1)
    assert everything(out) == everything(tmp_path / "whole")
