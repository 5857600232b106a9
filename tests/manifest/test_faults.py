"""A producer that dies between two entries: the real webdataset must raise, every single time."""

import io
import os
import shutil
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import webdataset as wds
import zstandard
from conftest import write_tar
from tars import prune_by

from curate.manifest.lines import find_line, write_lines
from curate.pool.tar import BLOCK

CAT = f"{sys.executable} -m curate cat"


def damaged_at_the_last_kept_entry(manifest: Path, pool: Path, root: Path) -> None:
    """Copies a shard and renames the last kept entry: the same size, the same first header."""
    shutil.copytree(pool, root)
    line = find_line(manifest, "toy-0000.tar")
    data = bytearray((root / "toy-0000.tar").read_bytes())
    end = sum(line.ranges) * BLOCK
    at = max(n for n in range(0, end, BLOCK) if data[n : n + 3] == b"s0_")
    assert at > line.ranges[0] * BLOCK
    block = bytearray(data[at : at + BLOCK])
    block[0:1] = b"z"
    block[148:156] = b" " * 8
    block[148:156] = f"{sum(block):06o}\0 ".encode()
    data[at : at + BLOCK] = block
    (root / "toy-0000.tar").write_bytes(data)


def raises(url: str) -> bool:
    samples = 0
    try:
        for _ in wds.WebDataset([url], shardshuffle=False):
            samples += 1
    except Exception:  # any error will do: what must not be is a normal end
        return True
    raise AssertionError(f"a normal end after {samples} samples")


@pytest.mark.parametrize("times", [10, pytest.param(100, marks=pytest.mark.slow)])
def test_webdataset_raises_every_time(toy_manifest: Path, pool_folder: Path, tmp_path: Path, times: int) -> None:
    damaged_at_the_last_kept_entry(toy_manifest, pool_folder, tmp_path / "root")
    url = f"pipe:{CAT} {toy_manifest} toy-0000.tar --root {tmp_path / 'root'}"
    assert sum(raises(url) for _ in range(times)) == times
    (tmp_path / "root" / "toy-0000.tar").unlink()
    assert raises(url)


@pytest.mark.parametrize("read", [BLOCK, 100_001, 2_000_000])
def test_a_terminated_cat_ends_in_an_error_for_its_reader(tmp_path: Path, read: int) -> None:
    """The reader takes its time: the producer stands in the middle of a write when it is told to end."""
    members = [(f"k{n}.{kind}", data) for n in range(8) for kind, data in (("png", bytes(2_000_000)), ("cls", b"0"))]
    write_tar(tmp_path / "pool" / "x.tar", members)
    prune_by([1.0] * 8, tmp_path / "pool", "x.tar", 8, tmp_path)
    command = [sys.executable, "-m", "curate", "cat", str(tmp_path / "manifest"), "x.tar"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
    )  # communicate() drops what was read ahead
    assert process.stdout is not None
    first = b""
    while len(first) < read:
        first += process.stdout.read(read - len(first))
    process.send_signal(signal.SIGTERM)
    rest, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert b"interrupted" in err
    with pytest.raises(tarfile.ReadError), tarfile.open(fileobj=io.BytesIO(first + rest), mode="r|*") as tar:
        list(tar)


def never_ends_normally(data: bytes) -> bool:
    with pytest.raises(tarfile.ReadError), tarfile.open(fileobj=io.BytesIO(data), mode="r|*") as tar:
        for member in tar:
            tar.extractfile(member).read()  # type: ignore[union-attr]
    return True


def test_wherever_a_compressed_source_breaks_its_reader_raises(tmp_path: Path) -> None:
    """Also behind the header of an entry of one block, which would swallow a single poisoned header."""
    members = [(f"k{n}.{kind}", data) for n in range(3) for kind, data in (("png", bytes(1100)), ("cls", b"0"))]
    write_tar(tmp_path / "x.tar", members)
    data = (tmp_path / "x.tar").read_bytes()
    compress = zstandard.ZstdCompressor(write_checksum=True).compress
    for place in range(1, 3 * 6):
        frames = compress(data[: place * BLOCK]), bytearray(compress(data[place * BLOCK :]))
        pool = tmp_path / str(place) / "pool"
        pool.mkdir(parents=True)
        (pool / "x.tar.zst").write_bytes(b"".join(frames))
        if place == 1:
            prune_by([1.0] * 3, pool, "x.tar.zst", 3, tmp_path)
            line = find_line(tmp_path / "manifest", "x.tar.zst")
        write_lines(tmp_path / "manifest", [line._replace(bytes=(pool / "x.tar.zst").stat().st_size)])
        frames[1][6] ^= 0xFF
        frames[1][-1] ^= 0xFF
        (pool / "x.tar.zst").write_bytes(b"".join(frames))
        command = [sys.executable, "-m", "curate", "cat", str(tmp_path / "manifest"), "x.tar.zst", "--root", str(pool)]
        done = subprocess.run(command, capture_output=True, check=False)
        assert done.returncode == 1
        assert never_ends_normally(done.stdout)


def test_a_source_that_is_cut_while_it_is_read_is_an_error_for_its_reader(tmp_path: Path) -> None:
    members = [(f"k{n}.{kind}", data) for n in range(8) for kind, data in (("png", bytes(2_000_000)), ("cls", b"0"))]
    write_tar(tmp_path / "pool" / "x.tar", members)
    prune_by([1.0] * 8, tmp_path / "pool", "x.tar", 8, tmp_path)
    with tarfile.open(tmp_path / "pool" / "x.tar") as tar:
        cut = tar.getmember("k5.cls").offset_data
    command = [sys.executable, "-m", "curate", "cat", str(tmp_path / "manifest"), "x.tar"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
    )  # communicate() drops what was read ahead
    assert process.stdout is not None
    first = process.stdout.read(BLOCK)
    os.truncate(tmp_path / "pool" / "x.tar", cut)
    rest, err = process.communicate(timeout=60)
    assert (process.returncode, b"cut short" in err) == (1, True)
    assert never_ends_normally(first + rest)


def test_a_closed_stdout_is_said() -> None:
    done = subprocess.run(["sh", "-c", f"{CAT} m x.tar >&-"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "curate cat: error: stdout is closed.\n")
