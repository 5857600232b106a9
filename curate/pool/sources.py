"""Shards as streams of tar bytes, whatever their codec. Standard library and zstandard alone.

A source is opened by path, read forward, and skipped in. Plain tars seek; compressed ones
decompress and throw away. Nothing here looks inside the tar.
"""

from __future__ import annotations

import errno
import io
import os
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import zstandard

from curate.errors import ShardError

SUFFIXES = {".tar": "tar", ".tar.gz": "tar.gz", ".tgz": "tar.gz", ".tar.zst": "tar.zst"}
BUFFER_BYTES = 1 << 18
SKIP_BYTES = 1 << 20
FLAKY = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN)  # what a network file system says in passing
PAUSE_SECONDS = 2e-4  # in which a reader takes some 100 KiB
WAITS_SECONDS = (0.05, 0.25, 1.0)  # before a read is tried again
ASKED_BYTES = 1 << 17  # in one request for bytes ahead, which Linux cuts there
AHEAD_BYTES = 1 << 24  # from where a reader is to what is asked for
MAX_WINDOW_BYTES = 1 << 27  # zstd --long=27; a frame that asks for more memory is refused


def codec_of(name: str) -> str | None:
    """Returns `tar`, `tar.gz`, `tar.zst`, or None where the name is not a shard's."""
    lower = name.lower()
    return next((codec for suffix, codec in SUFFIXES.items() if lower.endswith(suffix)), None)


class PatientFile(io.FileIO):
    """A file whose failed reads are tried again some times. A read that failed has moved nothing."""

    def read(self, size: int | None = -1, /) -> Any:
        return _patiently(super().read, size)

    def readinto(self, buffer: Any, /) -> Any:
        return _patiently(super().readinto, buffer)

    def read_at(self, size: int, at: int, /) -> bytes:
        """Reads from byte `at`, whatever was read before; returns fewer bytes only where the file ends."""
        parts, end = list[bytes](), at + size
        while at < end and (part := _patiently(lambda span: os.pread(self.fileno(), *span), (end - at, at))):
            parts.append(part)  # one call gives 2 GiB at most
            at += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def readinto_at(self, buffer: Any, at: int, /) -> int:
        """Reads from byte `at`, whatever was read before; returns how many bytes there were."""
        return int(_patiently(lambda room: os.preadv(self.fileno(), [room], at), buffer))


def _patiently(read: Callable[[Any], Any], what: Any) -> Any:
    for wait in WAITS_SECONDS:
        try:
            return read(what)
        except OSError as error:
            if error.errno not in FLAKY:
                raise
        time.sleep(wait)
    return read(what)


class ReadAhead:
    """Asks the system for parts of an open file before they are read, where it lets itself be asked.

    Small reads far apart wait for the storage one by one otherwise.

    Args:
        file: which.
        spans: (start, end) in bytes, in their order.
    """

    def __init__(self, file: BinaryIO, spans: Iterable[tuple[int, int]]) -> None:
        self._file = file
        self._spans = iter(spans) if hasattr(os, "posix_fadvise") else iter(())
        self._span = next(self._spans, None)

    def reached(self, at: int) -> None:
        """Asks for the parts that begin not far behind byte `at`."""
        while self._span and self._span[0] < at + AHEAD_BYTES:
            start, end = self._span
            stop = min(end, start + ASKED_BYTES)
            with suppress(OSError):  # a wish, no more
                os.posix_fadvise(self._file.fileno(), start, stop - start, os.POSIX_FADV_WILLNEED)
            self._span = (stop, end) if stop < end else next(self._spans, None)


class PlainStream:
    """An uncompressed tar: `skip` goes on from another place, and the file's size is the bound."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._size = os.fstat(file.fileno()).st_size
        self._at = 0
        self._asked = ReadAhead(file, ())

    def expect(self, spans: Iterable[tuple[int, int]]) -> None:
        """Has the system read parts ahead, (start, end) in their order, and nothing between them; `skip` goes there."""
        self._asked = ReadAhead(self._file, spans)

    def read(self, size: int, /) -> bytes:
        try:
            chunk = self._file.read(size)
        except OSError as error:
            raise _ReadError(error) from error
        self._at += len(chunk)
        return chunk

    def skip(self, size: int, /) -> int:
        step = max(0, min(size, self._size - self._at))
        if step:
            self._at = self._file.seek(self._at + step)
        self._asked.reached(self._at)
        return step

    def tell(self) -> int:
        """Returns the byte that is read next, also after a read that was interrupted."""
        return self._file.tell()

    def splice(self, pipe: int, size: int) -> int:
        """Moves bytes into a pipe inside the kernel, without copying them; for a stream without a buffer.

        Returns how many: fewer where the file ends or the kernel cannot. Who reads the rest learns why.

        Raises:
            BrokenPipeError: nobody reads the pipe.
        """
        start = self._at
        try:
            while (left := start + size - self._at) and (moved := _splice(self._file.fileno(), pipe, left)):
                self._at += moved
        except BrokenPipeError:
            raise
        except OSError:
            pass
        return self._at - start


def _splice(source: int, pipe: int, size: int) -> int:
    """Moves some bytes; lets the reader of a full pipe have a part of it first, where each page would wake us."""
    try:
        return os.splice(source, pipe, size, flags=os.SPLICE_F_NONBLOCK)
    except BlockingIOError:
        time.sleep(PAUSE_SECONDS)
        return os.splice(source, pipe, size)


class _ReadError(Exception):
    """The system could not read a source; an OSError of whoever takes its bytes is something else."""


class _Reader(Protocol):
    def read(self, size: int, /) -> bytes: ...


class DecompressedStream:
    """A compressed tar: reads are completed, `skip` reads and throws away."""

    def __init__(self, reader: _Reader) -> None:
        self._reader = reader

    def read(self, size: int, /) -> bytes:
        chunk = self._some(size)
        if len(chunk) == size or not chunk:
            return chunk
        parts = [chunk]
        missing = size - len(chunk)
        while missing and (chunk := self._some(missing)):
            parts.append(chunk)
            missing -= len(chunk)
        return b"".join(parts)

    def skip(self, size: int, /) -> int:
        left = size
        while left and (chunk := self._some(min(left, SKIP_BYTES))):
            left -= len(chunk)
        return size - left

    def _some(self, size: int) -> bytes:
        try:
            return self._reader.read(size)
        except (OSError, EOFError, zlib.error, zstandard.ZstdError) as error:
            raise _ReadError(error) from error


@contextmanager
def open_source(path: Path, shard: str, *, buffering: int = BUFFER_BYTES) -> Iterator[PlainStream | DecompressedStream]:
    """Opens a shard as a forward stream of tar bytes.

    Args:
        path: where it lies.
        shard: its name, for messages.
        buffering: bytes that the system is asked for at once; 0 where a plain tar's data is skipped.

    Raises:
        ShardError: it cannot be opened, or its compressed stream is damaged or cut short; also when
            that shows only later, inside the `with` block.
    """
    codec = codec_of(path.name) or "tar"
    try:
        with _opened(path, shard, buffering) as file:
            yield from _decoded(file, codec)
    except _ReadError as wrapper:
        error = wrapper.args[0]
        if isinstance(error, OSError) and error.errno is not None:
            raise unreadable(path, shard, error) from error
        raise ShardError(f"{shard}: damaged {codec} stream ({error}).", hint="Copy or pack it again.") from error


def _opened(path: Path, shard: str, buffering: int) -> BinaryIO:
    raw = open_file(path, shard)
    return io.BufferedReader(raw, buffering) if buffering else raw


def open_file(path: Path, shard: str) -> PatientFile:
    """Opens a shard's file as it is; raises ShardError where that cannot be."""
    try:
        return PatientFile(path)
    except OSError as error:
        raise unreadable(path, shard, error) from error


def unreadable(path: Path, shard: str, error: OSError) -> ShardError:
    """Returns the error that says why the system cannot read a shard."""
    return ShardError(f"{shard}: cannot be read ({error.strerror or error}).", hint=f"Looked at {path}.")


def _decoded(file: BinaryIO, codec: str) -> Iterator[PlainStream | DecompressedStream]:
    if codec == "tar":
        yield PlainStream(file)
    elif codec == "tar.gz":
        import gzip  # most pools have none, and `cat` starts once a shard

        with gzip.GzipFile(fileobj=file) as reader:
            yield DecompressedStream(reader)
    else:
        # A frame that is cut short just ends here; the tar inside then lacks its end marker.
        decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES)
        with decompressor.stream_reader(file, BUFFER_BYTES, read_across_frames=True) as reader:
            yield DecompressedStream(reader)
