"""New shards: the kept samples, each once, every byte as in the source; never a half-written one."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import webdataset as wds
from conftest import PER_SHARD, toy_members, write_tar
from hypothesis import given, settings
from hypothesis import strategies as st
from tars import RandomTar, plain, prune_by, random_tars, samples_of
from test_stream import contents, kept_keys

from curate.cli import run
from curate.errors import ManifestError, RunError, UsageError
from curate.manifest.lines import find_line, manifest_digest, read_lines
from curate.manifest.materialize import materialize
from curate.manifest.sidecars import IndexEntry, dali_index
from curate.manifest.stream import copy_kept
from curate.pool.tar import BLOCK

OTHER_DISK = "/dev/shm" if os.path.ismount("/dev/shm") else None  # noqa: S108


def written(out: Path) -> dict[str, dict[str, bytes]]:
    return {path.name: contents(path) for path in sorted(out.glob("*.tar"))}


@settings(max_examples=20, deadline=None)
@given(tar=random_tars(), data=st.data())
def test_one_to_one_is_what_cat_streams(tar: RandomTar, data: st.DataObject) -> None:
    total = len(samples_of(plain(tar.data, tar.name)))
    keep = data.draw(st.integers(2, max(2, total)))
    if total < 2:
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "pool").mkdir()
        (folder / "pool" / tar.name).write_bytes(tar.data)
        prune_by(tar.scores, folder / "pool", tar.name, keep, folder)
        streamed = io.BytesIO()
        copy_kept(find_line(folder / "manifest", tar.name), folder / "pool" / tar.name, streamed.write)
        materialize(folder / "manifest", folder / "out", sync=data.draw(st.booleans()))
        (shard,) = (folder / "out").glob("*.tar")
        assert shard.read_bytes() == streamed.getvalue()
        _check_index(shard, keep)


@pytest.mark.parametrize("options", [{}, {"shards": 3}])
def test_long_and_short_runs_of_a_source_are_copied_in_their_order(tmp_path: Path, options: dict[str, int]) -> None:
    sizes = [10, (2 << 20) + 1, 700_000, 700_000, 3, 1, (1 << 20) - 2048, 900_000, 5, 1 << 20, 400_000, 7]
    random = np.random.default_rng(0)
    members = [(f"k{n:02d}.bin", random.bytes(size)) for n, size in enumerate(sizes)]
    write_tar(tmp_path / "pool" / "x.tar", members)
    dropped = {3, 8}
    scores = [float(n not in dropped) for n in range(len(sizes))]
    prune_by(scores, tmp_path / "pool", "x.tar", len(sizes) - len(dropped), tmp_path)
    kept = [member for n, member in enumerate(members) if n not in dropped]
    with tempfile.TemporaryDirectory(dir=OTHER_DISK) as other:  # to which nothing can be copied in the kernel
        for out in (tmp_path / "out", Path(other) / "out"):
            materialize(tmp_path / "manifest", out, **options)
            assert [item for path in sorted(out.glob("*.tar")) for item in contents(path).items()] == kept


def _check_index(shard: Path, samples: int) -> None:
    """Every range that the index names must hold that entry's data."""
    head, *lines = shard.with_suffix(".idx").read_text().splitlines()
    assert head == f"v1.2 {samples}"
    assert len(lines) == samples
    data, found = shard.read_bytes(), []
    for line in lines:
        words = line.split(" ")
        for extension, start, size in zip(words[::4], words[1::4], words[2::4], strict=True):
            assert int(start) % BLOCK == 0
            found.append((extension, data[int(start) : int(start) + int(size)]))
    expected = [(name, value) for entries in samples_of(data) for _, name, value in entries]
    assert sorted(found) == sorted((name.replace(" ", "%20"), value) for name, value in expected)


@pytest.mark.parametrize(("option", "number", "counts"), [
    ("--shards", 5, [5, 5, 5, 5, 4]), ("--shards", 24, [1] * 24), ("--samples-per-shard", 10, [8, 8, 8]),
    ("--samples-per-shard", 1000, [24]),
])  # fmt: skip
def test_repacked_shards_have_equal_counts(
    toy_manifest: Path, pool_folder: Path, tmp_path: Path, option: str, number: int, counts: list[int]
) -> None:
    out = tmp_path / "out"
    assert run(["materialize", str(toy_manifest), str(out), option, str(number)]) == 0
    shards = written(out)
    assert sorted((len(entries) // 2 for entries in shards.values()), reverse=True) == counts
    source: dict[str, bytes] = {}
    for path in pool_folder.glob("*.tar"):
        source |= contents(path)
    merged = {name: data for entries in shards.values() for name, data in entries.items()}
    assert merged == {
        name: data for name, data in source.items() if name.split(".")[0] in kept_keys(toy_manifest, pool_folder)
    }
    for path in out.glob("*.tar"):
        _check_index(path, len(shards[path.name]) // 2)


def test_webdataset_and_the_side_files_agree(toy_manifest: Path, pool_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run(["materialize", str(toy_manifest), str(out)]) == 0
    digest = manifest_digest(toy_manifest)[:8]
    names = (out / "urls.txt").read_text().split()
    assert names == [f"toy-{number:04d}-{digest}.tar" for number in range(3)]
    keys = [s["__key__"] for s in wds.WebDataset([f"pipe:cat {out / name}" for name in names], shardshuffle=False)]
    assert sorted(keys) == sorted(kept_keys(toy_manifest, pool_folder))
    counts = json.loads((out / "sizes.json").read_text())
    assert counts == {name: line.kept for name, line in zip(names, read_lines(toy_manifest), strict=True)}
    split = json.loads((out / "_info.json").read_text())["splits"]["train"]
    assert (split["num_samples"], split["filenames"], split["shard_lengths"]) == (24, names, list(counts.values()))
    assert [row["nsamples"] for row in json.loads((out / "wids.json").read_text())["shardlist"]] == list(
        counts.values()
    )
    assert sum(row["kept"] for row in json.loads((out / "class_map.json").read_text())["classes"]) == 24
    assert json.loads((out / "README.md").read_text().splitlines()[1].removeprefix("configs: "))


def test_a_source_that_keeps_nothing_becomes_no_shard(toy_scores: Path, pool_folder: Path, tmp_path: Path) -> None:
    never = tmp_path / "never.txt"
    never.write_text("".join(f"toy-0001.tar\ts1_{place:02d}\n" for place in range(PER_SHARD) if place != 7))
    words = ["prune", "--scores", str(toy_scores), "--keep", "20", "--fn", "entropy", "--never", str(never)]
    assert run([*words, "--out", str(tmp_path / "m")]) == 0
    assert run(["materialize", str(tmp_path / "m"), str(tmp_path / "out")]) == 0
    assert [name[:8] for name in written(tmp_path / "out")] == ["toy-0000", "toy-0002"]
    assert len(json.loads((tmp_path / "out" / "sizes.json").read_text())) == 2


def test_writing_again_writes_nothing_and_other_folders_are_left_alone(
    toy_manifest: Path, toy_scores: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run(["materialize", str(toy_manifest), str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["written"] == 3
    times = {path.name: path.stat().st_mtime_ns for path in out.glob("*.tar")}
    assert run(["materialize", str(toy_manifest), str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["written"] == 0
    assert {path.name: path.stat().st_mtime_ns for path in out.glob("*.tar")} == times
    assert run(["materialize", str(toy_manifest), str(out), "--shards", "2"]) == 1
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    assert run(["materialize", str(toy_manifest), str(tmp_path / "full")]) == 1
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("damage", ["cut", "empty", "no index", "a sample less"])
def test_a_damaged_shard_of_an_earlier_run_is_written_again(toy_manifest: Path, tmp_path: Path, damage: str) -> None:
    out = tmp_path / "out"
    materialize(toy_manifest, out)
    shard = min(out.glob("*.tar"))
    whole = shard.read_bytes()
    if damage == "no index":
        shard.with_suffix(".idx").unlink()
    elif damage == "a sample less":
        end = [at for at in range(0, len(whole), BLOCK) if whole[at : at + 3] == b"s0_"][2]
        shard.write_bytes(whole[end:])
    else:
        os.truncate(shard, 0 if damage == "empty" else len(whole) // 2 // BLOCK * BLOCK)
    assert materialize(toy_manifest, out).written == 1
    assert (shard.read_bytes(), shard.with_suffix(".idx").is_file()) == (whole, True)
    assert materialize(toy_manifest, out).written == 0


def test_a_resumed_run_shows_its_bar_on_a_terminal(toy_manifest: Path, tmp_path: Path) -> None:
    import pty

    materialize(toy_manifest, tmp_path / "out")
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "curate", "materialize", str(toy_manifest), str(tmp_path / "out")]
    done = subprocess.run(command, stdin=theirs, stderr=theirs, stdout=subprocess.PIPE, check=False)
    os.close(theirs)
    shown = os.read(ours, 1 << 16).decode()
    os.close(ours)
    assert (done.returncode, "3/3" in shown) == (0, True)


def test_an_index_for_dali_leaves_out_what_it_cannot_name() -> None:
    entries = [IndexEntry("png", 512, 3, "a b.png"), IndexEntry("", 1536, 1, "a b.")]
    assert dali_index([entries]) == "v1.2 1\npng 512 3 a%20b.png\n"


def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(toy_manifest: Path, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "curate",
        "materialize",
        str(toy_manifest),
        str(tmp_path / "killed"),
        "--shards",
        "24",
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not list((tmp_path / "killed").glob("*.tar")) and process.poll() is None:
        time.sleep(0.0005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed" / "materialized.json").exists()
    assert run(command[3:]) == 0
    materialize(toy_manifest, tmp_path / "whole", shards=24)
    assert written(tmp_path / "killed") == written(tmp_path / "whole")
    assert not list((tmp_path / "killed").rglob(".*.tmp"))


@pytest.mark.parametrize("damage", ["cut", "header", "missing", "longer"])
def test_a_changed_source_is_refused_and_leaves_no_shard(
    toy_manifest: Path, pool_folder: Path, tmp_path: Path, damage: str
) -> None:
    root = shutil.copytree(pool_folder, tmp_path / "root")
    data = bytearray((root / "toy-0001.tar").read_bytes())
    line = find_line(toy_manifest, "toy-0001.tar")
    if damage == "cut":
        del data[len(data) // 2 :]
    if damage == "longer":
        data += bytes(512)
    if damage == "header":
        at = (sum(line.ranges[:1]) + 0) * BLOCK
        block = bytearray(data[at : at + BLOCK])
        block[0:1] = b"z"
        block[148:156] = b" " * 8
        block[148:156] = f"{sum(block):06o}\0 ".encode()
        data[at : at + BLOCK] = block
    (root / "toy-0001.tar").write_bytes(data)
    if damage == "missing":
        (root / "toy-0001.tar").unlink()
    with pytest.raises(ManifestError, match=r"toy-0001\.tar"):
        materialize(toy_manifest, tmp_path / "out", root=root)
    assert not list((tmp_path / "out").glob("toy-0001*.tar"))
    assert not (tmp_path / "out" / "materialized.json").exists()


def test_keys_that_meet_in_one_shard_are_refused(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        write_tar(tmp_path / "pool" / folder / "x.tar", toy_members(0))
    assert run(["index", str(tmp_path / "pool"), "--out", str(tmp_path / "i")]) == 0
    scores = {"shard": ["a/x.tar"] * 16 + ["b/x.tar"] * 16, "ordinal": [*range(16)] * 2, "score": [1.0] * 32}
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table(scores), tmp_path / "s.parquet")
    words = ["prune", "--scores", str(tmp_path / "s.parquet"), "--index", str(tmp_path / "i"), "--fn", "score"]
    assert run([*words, "--keep", "1.0", "--out", str(tmp_path / "m")]) == 0
    with pytest.raises(RunError, match="comes from two sources"):
        materialize(tmp_path / "m", tmp_path / "out", shards=1)
    result = materialize(tmp_path / "m", tmp_path / "apart")
    assert (result.shards, result.samples) == (2, 32)
    assert {path.parent.name for path in (tmp_path / "apart").rglob("*.tar")} == {"a", "b"}


def test_more_shards_than_samples_are_refused(toy_manifest: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="25 shards for 24 samples"):
        materialize(toy_manifest, tmp_path / "out", shards=25)
    with pytest.raises(UsageError):
        dali_index([])


def test_tar_lists_what_was_written(toy_manifest: Path, tmp_path: Path) -> None:
    materialize(toy_manifest, tmp_path / "out", shards=2)
    for path in (tmp_path / "out").glob("*.tar"):
        done = subprocess.run(["tar", "tf", str(path)], capture_output=True, text=True, check=True)
        with tarfile.open(path) as tar:
            assert done.stdout.splitlines() == tar.getnames()
