"""The kept samples of a shard, as a tar: what `curate cat` writes and `curate verify` walks.

The source is checked before the first byte (size, first header) and on the way (every kept header).
A consumer is never handed a silently short shard: on any error a header is written that announces
data which does not follow, because readers take an end at an entry's border for a normal end.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import os
import signal
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from curate.errors import CurateError, ManifestError, UsageError
from curate.manifest.lines import Line, find_line, read_head, read_lines, read_root
from curate.pool.sources import DecompressedStream, PlainStream, open_source
from curate.pool.tar import BLOCK, Header, HeaderReader, Stream, split_key

END = bytes(2 * BLOCK)
CHUNK_BYTES = 1 << 20
OUT_BUFFER_BYTES = 1 << 20
INFO = "_info.json"
SPLITS = ("train", "val", "valid", "validation", "test")
POISON_NAME = "__curate_error__"
POISON_BYTES = 1 << 20
DIGEST_BYTES = 8
PIPE_BYTES = 1 << 18  # the usual 64 KiB make writer and reader wait for each other; a user has 64 MiB for all pipes
MOVED_BYTES = 1 << 14  # shorter entries are copied: two calls cost more than they save

Source = PlainStream | DecompressedStream
Write = Callable[[bytes], object]
Move = Callable[[PlainStream, int], int]
Visit = Callable[[Header, Source], object]


def copy_kept(
    line: Line,
    path: Path,
    write: Write | None,
    *,
    move: Move | None = None,
    broken: Callable[[int], object] = lambda missing: None,
) -> None:
    """Writes the kept entries of a shard as a complete tar, or with `write=None` only checks them.

    Args:
        line: what is kept.
        path: the source.
        write: takes the bytes.
        move: moves bytes of a plain source to the same place without copying them, returns how many it did;
            those that it leaves are written. Where it raises it has filled the last block of 512 bytes.
        broken: called when an entry cannot be finished, with the bytes that it lacks at most.

    Raises:
        ManifestError: the source is not the one that was pruned.
        ShardError: the source cannot be read.
    """

    def copy(header: Header, stream: Source) -> None:
        if write is None:
            return skip(line.name, stream, header.padded)
        try:
            write(header.blocks)
            moved = move(stream, header.padded) if move and isinstance(stream, PlainStream) else 0
            _copy(line, stream, header.padded - moved, write)
        except BaseException:
            broken(header.padded)
            raise

    walk_kept(line, path, copy, preamble=write, data=write is not None)
    if write:
        write(END)


def walk_kept(line: Line, path: Path, visit: Visit, *, preamble: Write | None = None, data: bool = False) -> None:
    """Calls `visit` with the header of every kept entry in order, the stream standing at its data.

    `visit` must take or skip exactly `header.padded` bytes. The source's size and first header are
    checked before the first call, the kept headers' digest after the last one.

    Args:
        line: what is kept.
        path: the source.
        visit: takes (header, stream).
        preamble: takes the bytes that go before the first entry.
        data: whether `visit` reads the entries, so that the system is to read them ahead.

    Raises:
        ManifestError: the source is not the one that was pruned.
        ShardError: the source cannot be read.
    """
    check_source(line, path)
    with open_source(path, line.name, buffering=0) as stream:
        if data and isinstance(stream, PlainStream):
            stream.expect(line.spans())
        for header in kept_headers(line, stream, preamble=preamble):
            visit(header, stream)


def kept_headers(line: Line, stream: Source, *, preamble: Write | None = None) -> Iterator[Header]:
    """Yields the header of every kept entry of an open source, the stream then standing at its data.

    Who asks for the next one must have taken or skipped exactly `header.padded` bytes. The kept
    headers' digest is checked after the last one.

    Raises:
        ManifestError: the source is not the one that was pruned.
        ShardError: a damaged header.
    """
    digest = hashlib.blake2b(digest_size=16)
    if preamble:
        preamble(stream.read(line.preamble))
    else:
        stream.skip(line.preamble)
    at = line.preamble
    for start, end in line.spans():
        stream.skip(start - at)
        for header in headers_between(line.name, stream, start, end):
            digest.update(hashlib.blake2b(header.blocks, digest_size=DIGEST_BYTES).digest())
            yield header
        at = end
    if digest.hexdigest() != line.headers:
        raise changed(line.name, "its kept entries have other names, sizes or owners")


def headers_between(name: str, stream: Stream, start: int, end: int) -> Iterator[Header]:
    """Yields the headers of a shard's samples from byte `start` to `end`, links and the like left out."""
    headers = HeaderReader(stream, name, at=start)
    while headers.at < end:
        header = headers.next()
        if header is None or headers.at + header.padded > end:
            raise changed(name, f"the entries between bytes {start:,} and {end:,} do not end there")
        if header.is_file and split_key(header.name) is not None:
            yield header
        else:
            skip(name, stream, header.padded)
        headers.at += header.padded


def skip(name: str, stream: Stream, size: int) -> None:
    """Goes forward in a shard; raises ManifestError where it ends before."""
    if stream.skip(size) != size:
        raise changed(name, "it is cut short")


def _copy(line: Line, stream: Source, size: int, write: Write) -> None:
    while size:
        chunk = stream.read(min(size, CHUNK_BYTES))
        if not chunk:
            raise changed(line.name, "it is cut short")
        write(chunk)
        size -= len(chunk)


def check_source(line: Line, path: Path) -> None:
    """Raises ManifestError where a source's size or first header are not those of the shard that was pruned."""
    _check_size(line, path)
    with open_source(path, line.name, buffering=0) as stream:
        _check_first_header(line, stream)


def _check_size(line: Line, path: Path) -> None:
    try:
        size = path.stat().st_size
    except OSError as error:
        raise ManifestError(
            f"{line.name}: cannot be read ({error.strerror}).",
            hint=f"Looked at {path}. If the pool moved, give its folder with --root.",
        ) from error
    if size != line.bytes:
        raise changed(line.name, f"it has {size:,} bytes and had {line.bytes:,}")


def _check_first_header(line: Line, stream: Source) -> None:
    if hashlib.blake2b(stream.read(BLOCK), digest_size=16).hexdigest() != line.first_header:
        raise changed(line.name, "its first tar header is another")


def changed(name: str, how: str) -> ManifestError:
    """Returns the error that says how a shard differs from the one that was pruned."""
    return ManifestError(f"{name} is not the shard that was pruned: {how}.", hint="Score and prune the new shards.")


def source_path(folder: Path, line: Line, shard: str, root: Path | None) -> Path:
    """Returns where a shard lies: below the root, else where the caller's own path points."""
    path = (root or read_root(folder)) / line.name
    return Path(shard) if not path.exists() and "/" in shard and Path(shard).is_file() else path


def main(arguments: Sequence[str]) -> int:
    """Runs `curate cat MANIFEST SHARD [--root DIR]`; returns the exit code."""
    if sys.stdout is None:  # closed by the caller
        print("curate cat: error: stdout is closed.", file=sys.stderr)  # noqa: T201  (as in _poison)
        return UsageError.exit_code
    out: BinaryIO = io.BufferedWriter(io.FileIO(sys.stdout.fileno(), "w", closefd=False), OUT_BUFFER_BYTES)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    try:
        folder, shard, root = _parse(arguments)
        if os.isatty(sys.stdout.fileno()):
            raise UsageError("A tar is not for a terminal.", hint="Pipe it: curate cat MANIFEST SHARD | tar t")
        _cat(folder, shard, root, out)
    except BrokenPipeError:
        return _hushed()
    except BaseException as error:  # whatever happened, the reader must not take this for a whole shard
        return _poison(out, error)
    return 0


def _cat(folder: Path, shard: str, root: Path | None, out: BinaryIO) -> None:
    read_head(folder)
    if shard.rpartition("/")[2] == INFO:
        out.write(info(folder).encode())
        out.flush()
        return
    line = find_line(folder, shard)
    path = source_path(folder, line, shard, root)
    copy_kept(line, path, out.write, move=_mover(out), broken=lambda missing: _fill(out, missing))
    out.flush()


def _mover(out: BinaryIO) -> Move | None:
    """Returns what moves bytes of a file into the pipe that `out` is, page by page in the kernel; None for no pipe."""
    if not hasattr(os, "splice") or not stat.S_ISFIFO(os.fstat(out.fileno()).st_mode):
        return None
    with suppress(OSError):  # a user may have too many pipes for large ones
        fcntl.fcntl(out, fcntl.F_SETPIPE_SZ, PIPE_BYTES)

    def move(stream: PlainStream, size: int) -> int:
        if size < MOVED_BYTES:
            return 0
        out.flush()
        start = stream.tell()
        try:
            return stream.splice(out.fileno(), size)
        except BaseException:  # whatever is written next, the poison for one, begins at a block
            out.write(bytes((start - stream.tell()) % BLOCK))
            raise

    return move


def info(folder: Path) -> str:
    """Returns timm's `_info.json` for the shards as `cat` streams them; those that keep nothing are left out.

    timm joins a name to the `pipe:` command that it was given, and a shell runs that: names are quoted.

    The split is the part of a file's name before its first `-`, `_` or digit where that is one of
    `SPLITS`, else `train`.
    """
    import shlex

    from curate.manifest.sidecars import ShardCount, timm_info

    splits: dict[str, list[ShardCount]] = {}
    for line in read_lines(folder):
        if line.kept:
            splits.setdefault(split_of(line.name), []).append(ShardCount(shlex.quote(line.name), line.kept))
    if not splits:
        raise ManifestError(f"{folder} keeps no sample.", hint="A trainer cannot read that.")
    return timm_info("kept", splits)


def split_of(name: str) -> str:
    """Returns the split that a shard's name says it belongs to."""
    word = name.rpartition("/")[2].lower()
    stop = next((at for at, c in enumerate(word) if not c.isalpha()), len(word))
    return word[:stop] if word[:stop] in SPLITS else "train"


def _parse(arguments: Sequence[str]) -> tuple[Path, str, Path | None]:
    places, root = list[str](), None
    for word in arguments:
        places += ["--root", word.removeprefix("--root=")] if word.startswith("--root=") else [word]
    if "--" in places:
        places.remove("--")
    if "--root" in places[:-1]:
        at = places.index("--root")
        root = Path(places[at + 1])
        del places[at : at + 2]
    if len(places) != 2:
        raise UsageError("Expected: curate cat MANIFEST SHARD [--root DIR].", hint="See `curate cat --help`.")
    return Path(places[0]), places[1], root


def _interrupt(number: int, _frame: object) -> None:
    raise KeyboardInterrupt(number)


def _poison_header(announced: int) -> bytes:
    import tarfile  # only for who fails

    header = tarfile.TarInfo(POISON_NAME)
    header.size = announced
    return header.tobuf(tarfile.USTAR_FORMAT)


def _fill(out: BinaryIO, missing: int) -> None:
    """Writes as many blocks as an unfinished entry may lack, each of them poison where it is read as a header.

    One poison alone could be just what the entry lacks: its reader would take it for the data, and
    the end after it for a normal one. How much it lacks is not known when a write was interrupted.
    """
    header = _poison_header(POISON_BYTES + missing)
    for _ in range(missing // BLOCK):
        out.write(header)


def _poison(out: BinaryIO, error: BaseException) -> int:
    """Ends the stream in an entry whose data never comes, says why on stderr, returns the exit code."""
    try:
        if not os.isatty(sys.stdout.fileno()):
            out.write(_poison_header(POISON_BYTES))
            out.flush()
    except OSError:
        _hushed()
    text = str(error) if isinstance(error, CurateError) else f"{type(error).__name__}: {error}"
    if isinstance(error, KeyboardInterrupt):
        text = "interrupted"
    print(f"curate cat: error: {text}", file=sys.stderr)  # noqa: T201  (the console room is not imported here)
    if isinstance(error, KeyboardInterrupt):
        return 128 + (error.args[0] if error.args else signal.SIGINT)
    return error.exit_code if isinstance(error, CurateError) else 1


def _hushed() -> int:
    """The reader closed its end: nothing more can be said to it. Returns the shell's code for that."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 128 + signal.SIGPIPE
