"""A zstd file that is cut short in a frame after a whole tar: an error, never fewer samples."""

import io
import tarfile
from pathlib import Path

import pytest
import zstandard
from conftest import toy_members

from curate.errors import ShardError
from curate.pool.frames import check_frames
from curate.pool.index import build_index
from curate.pool.labels import LabelSource


def tar(number: int) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in toy_members(number):
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return out.getvalue()


def frame(data: bytes, **how: bool) -> bytes:
    return zstandard.ZstdCompressor(level=1, **how).compress(data)


def streamed(data: bytes) -> bytes:
    """A frame that does not say how much is in it, of many blocks."""
    out = io.BytesIO()
    with zstandard.ZstdCompressor(level=1, write_checksum=True).stream_writer(out, closefd=False) as writer:
        for at in range(0, len(data), 1000):
            writer.write(data[at : at + 1000])
            writer.flush()
    return out.getvalue()


SKIPPED = (0x184D2A53).to_bytes(4, "little") + (5).to_bytes(4, "little") + b"hello"
WHOLE = {
    "one": frame(tar(0)),
    "checksum": frame(tar(0), write_checksum=True),
    "of many blocks": streamed(tar(0)),
    "several": frame(tar(0)[:7000]) + SKIPPED + streamed(tar(0)[7000:]),
    "empty ones": frame(tar(0)) + frame(b"") + SKIPPED,
    "one byte many times": frame(tar(0)) + frame(bytes(1 << 20)),
}


@pytest.mark.parametrize("name", WHOLE)
def test_a_whole_file_ends_with_a_frame_and_no_part_of_it_does(name: str, tmp_path: Path) -> None:
    path, data = tmp_path / "x.tar.zst", WHOLE[name]
    path.write_bytes(data)
    check_frames(path, path.name)
    ends = {0, len(WHOLE["one"])} if name in ("empty ones", "one byte many times") else {0}
    ends |= {len(frame(tar(0)[:7000])), len(frame(tar(0)[:7000]) + SKIPPED)} if name == "several" else set()
    ends |= {len(frame(tar(0)) + frame(b""))} if name == "empty ones" else set()
    for size in {*range(1, 40), *range(len(data) - 40, len(data)), *range(1, len(data), 97)} - ends:
        path.write_bytes(data[:size])
        with pytest.raises(ShardError, match="does not end where a zstd frame does"):
            check_frames(path, path.name)
    path.write_bytes(data + b"more")
    with pytest.raises(ShardError, match="does not end"):
        check_frames(path, path.name)


def test_a_second_tar_that_is_cut_short_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "pool").mkdir()
    (tmp_path / "pool" / "a.tar.zst").write_bytes(frame(tar(0)) + frame(tar(1))[:-504])
    with pytest.raises(ShardError, match=r"a.tar.zst: the file of .* does not end where a zstd frame does"):
        build_index([str(tmp_path / "pool")], tmp_path / "index", LabelSource())
