"""New shards of kept samples, written one after the other, or blocks of them each in a process of its own.

Plain sources are copied by byte range, long ones inside the kernel where the file system can; compressed
ones are decompressed once for each new shard that they go into. A worker imports what `curate cat` does and
no more, because it starts for every block. It is told its block on stdin, says each shard that is whole on
stdout, and ends when its stdin does: it never outlives who began it.
"""

from __future__ import annotations

import gc
import json
import os
import select
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import Thread
from typing import IO, Any

from curate import durable, errors
from curate.errors import CurateError, ManifestError, RunError
from curate.manifest.extents import Extent, byte_runs, kept_extents
from curate.manifest.layout import NewShard, Piece
from curate.manifest.lines import Line
from curate.manifest.sidecars import IndexEntry, dali_index
from curate.manifest.stream import END, Source, walk_kept
from curate.pool.sources import PatientFile, open_file, unreadable
from curate.pool.tar import Header, printable, split_key

CHUNK_BYTES = 1 << 20
WALKED_SHARDS = 4  # neighbours among the new shards come from the same sources
MODULE = "curate.manifest.new_shards"


@dataclass(frozen=True)
class Block:
    """Neighbouring new shards.

    Attributes:
        shards: what to write.
        lines: of the sources, by the numbers that the pieces have.
        root: the sources' folder.
        out: where the shards go.
        sync: wait until they would outlast a power cut.
        with_preamble: a source's PAX global headers go before its samples.
    """

    shards: Sequence[NewShard]
    lines: Mapping[int, Line]
    root: Path
    out: Path
    sync: bool
    with_preamble: bool


def write_block(block: Block) -> Iterator[str]:
    """Writes the shards of a block; yields the name of each when it is whole.

    Raises:
        ManifestError: a source is not what was pruned.
        ShardError: a source cannot be read.
        RunError: two samples of one new shard have the same key.
    """
    lines, root = block.lines, block.root
    walk = lru_cache(WALKED_SHARDS)(lambda place: kept_extents(lines[place], root / lines[place].name))
    for shard in block.shards:
        _write_shard(block, shard, walk)
        yield shard.name


def write_apart(blocks: Sequence[Block]) -> Iterator[str]:
    """Writes every block in a process of its own; yields the names of their shards as they become whole.

    Raises:
        CurateError, OSError: as `write_block`, from the first worker that fails; the others are ended.
        RunError: a worker was killed.
    """
    ours, theirs = os.pipe()
    with ExitStack() as stack:
        said = stack.enter_context(os.fdopen(ours, "rb"))
        with os.fdopen(theirs, "wb") as end:
            workers = [stack.enter_context(_worker(end)) for _ in blocks]
        stack.callback(_end, workers, blocks[0].out)
        for place, (worker, block) in enumerate(zip(workers, blocks, strict=True)):
            _tell(worker, place, block)
        for line in said:  # until all have ended
            yield _shard_name(blocks, json.loads(line))
        for worker in workers:
            if worker.wait():
                raise RunError(
                    f"A process that wrote shards ended with code {worker.returncode}.",
                    hint="Run the same command again: what is whole is kept.",
                )


def _worker(said: IO[bytes]) -> subprocess.Popen[bytes]:
    package = str(Path(errors.__file__).parents[1])  # however it was found here
    path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
    words = [sys.executable, "-m", MODULE]
    return subprocess.Popen(  # noqa: S603  (our own words); in a session of its own no terminal interrupts it
        words, stdin=subprocess.PIPE, stdout=said, env={**os.environ, "PYTHONPATH": path}, start_new_session=True
    )


def _tell(worker: subprocess.Popen[bytes], place: int, block: Block) -> None:
    shards = [[shard.name, [[p.line, p.first, p.end] for p in shard.pieces]] for shard in block.shards]
    lines = [[number, list(line)] for number, line in block.lines.items()]
    words = [place, shards, lines, str(block.root), str(block.out), block.sync, block.with_preamble]
    assert worker.stdin is not None
    try:
        worker.stdin.write(json.dumps(words).encode() + b"\n")
        worker.stdin.flush()
    except BrokenPipeError:  # it has died, which its code says later
        with suppress(BrokenPipeError):
            worker.stdin.close()  # which tries to write what is left


def _heard(line: bytes) -> tuple[int, Block]:
    place, shards, lines, root, out, sync, with_preamble = json.loads(line)
    wanted = [NewShard(name, tuple(Piece(*piece) for piece in pieces)) for name, pieces in shards]
    sources = {number: Line(*fields) for number, fields in lines}
    return place, Block(wanted, sources, Path(root), Path(out), sync, with_preamble)


def _shard_name(blocks: Sequence[Block], record: Mapping[str, Any]) -> str:
    """Returns the name of the shard that a worker says is whole; raises the error that it says."""
    if "shard" in record:
        return blocks[int(record["block"])].shards[int(record["shard"])].name
    if "errno" in record:
        raise OSError(record["errno"], record["message"], record["file"])
    kind: type[CurateError] = getattr(errors, record["kind"])
    raise kind(record["message"], hint=record["hint"])


def _end(workers: Sequence[subprocess.Popen[bytes]], out: Path) -> None:
    alive = [worker for worker in workers if worker.poll() is None]
    for worker in alive:
        worker.kill()
    for worker in alive:
        worker.wait()
    if alive:
        durable.remove_leftovers(out, below=True)


def main() -> None:
    """Writes the block that stdin tells; says on stdout what is whole, or why something is not."""
    gc.set_threshold(100_000)
    told = sys.stdin.buffer.readline()
    if not told.endswith(b"\n"):  # who began this one has ended meanwhile
        return
    place, block = _heard(told)
    Thread(target=_end_with_stdin, daemon=True).start()
    try:
        for number, _ in enumerate(write_block(block)):
            _say(block=place, shard=number)
    except CurateError as error:
        _say(kind=type(error).__name__, message=error.message, hint=error.hint)
    except OSError as error:
        _say(errno=error.errno, message=error.strerror or str(error), file=str(error.filename or block.out))


def _say(**record: Any) -> None:
    """Writes a line. Up to `PIPE_BUF` bytes it is whole, whoever else writes; longer messages are cut."""
    while len(line := json.dumps(record).encode() + b"\n") > select.PIPE_BUF:
        longest = max({"message", "hint", "file"} & set(record), key=lambda name: len(record[name]))
        record[longest] = record[longest][: len(record[longest]) // 2]
    os.write(1, line)


def _end_with_stdin() -> None:
    while os.read(0, 1):
        pass
    os._exit(1)


def _write_shard(block: Block, shard: NewShard, walk: Callable[[int], list[Extent]]) -> None:
    path, with_preamble = block.out / shard.name, block.with_preamble
    path.parent.mkdir(parents=True, exist_ok=True)
    samples: list[list[IndexEntry]] = []
    seen: set[str] = set()
    # A name that a power cut takes away is written again; all names are synced at the end.
    with durable.replace(path, sync=block.sync, sync_name=False) as file:
        for piece in shard.pieces:
            line = block.lines[piece.line]
            if not with_preamble:
                _refuse_preamble(line)
            if line.codec == "tar":
                extents = walk(piece.line)[piece.first : piece.end]
                copied = _copy_plain(line, block.root / line.name, extents, file, with_preamble=with_preamble)
            else:
                copied = _copy_decompressed(line, block.root / line.name, piece, file, with_preamble=with_preamble)
            for key, entries in copied:
                if key in seen:
                    raise RunError(
                        f"The key '{printable(key)}' comes from two sources into {shard.name}.",
                        hint="Readers would join the two samples. Without --shards each source keeps its own shard.",
                    )
                seen.add(key)
                samples.append(entries)
        file.write(END)
        # Beside the shard and before it: where the shard is, its index is too.
        durable.write_bytes(path.with_suffix(".idx"), dali_index(samples).encode(), sync=block.sync, sync_name=False)
    if len(samples) != shard.samples:
        raise ManifestError(f"{shard.name} got {len(samples)} of {shard.samples} samples.", hint="Run verify.")


Copied = Iterator[tuple[str, list[IndexEntry]]]


def _copy_plain(line: Line, path: Path, extents: Sequence[Extent], file: IO[bytes], *, with_preamble: bool) -> Copied:
    preamble = line.preamble if with_preamble else 0
    at = file.tell() + preamble
    for extent in extents:
        entries = []
        for header, extension in zip(extent.entries, extent.extensions, strict=True):
            at += len(header.blocks)
            entries.append(IndexEntry(extension, at, header.size, header.name))
            at += header.padded
        yield extent.key, entries
    file.flush()
    with open_file(path, line.name) as source:
        _copy_runs(line, source, file.fileno(), byte_runs(extents, preamble))
    file.seek(0, os.SEEK_END)
    if file.tell() != at:
        raise ManifestError(f"{line.name} was cut short while it was copied.", hint="Run the same command again.")


def _copy_decompressed(line: Line, path: Path, piece: Piece, file: IO[bytes], *, with_preamble: bool) -> Copied:
    samples: list[tuple[str, list[IndexEntry]]] = []
    keys: list[str] = []

    def visit(header: Header, stream: Source) -> None:
        key, extension = split_key(header.name) or ("", "")
        if not keys or keys[-1] != key:
            keys.append(key)
        is_wanted = piece.first < len(keys) <= piece.end
        if is_wanted:
            if not samples or samples[-1][0] != key:
                samples.append((key, []))
            file.write(header.blocks)
            samples[-1][1].append(IndexEntry(extension, file.tell(), header.size, header.name))
        left = header.padded
        while left:
            chunk = stream.read(min(left, CHUNK_BYTES))
            if not chunk:
                raise ManifestError(f"{line.name} is cut short.", hint="Score and prune the new shards.")
            left -= len(chunk)
            if is_wanted:
                file.write(chunk)

    walk_kept(line, path, visit, preamble=file.write if with_preamble else None)
    yield from samples


def _copy_runs(line: Line, source: PatientFile, target: int, runs: Iterable[tuple[int, int]]) -> None:
    """Appends byte runs of a source: long ones in the kernel where the file systems can, short ones gathered.

    The kernel takes a call a run and small pages for it; gathered bytes go out in large ones. At 110 KiB a
    sample and keep 0.5 that takes a quarter less processor time on ext4.
    """
    gathered, used = memoryview(bytearray(CHUNK_BYTES)), 0
    for start, end in runs:
        if end - start >= CHUNK_BYTES:
            _write(target, gathered[:used])
            used = 0
            start += _copied_in_kernel(source.fileno(), target, start, end - start)
        while start < end:
            count = _read(line, source, start, gathered[used : used + end - start])
            if not count:
                break  # the caller compares sizes
            start, used = start + count, used + count
            if used == CHUNK_BYTES:
                _write(target, gathered)
                used = 0
    _write(target, gathered[:used])


def _copied_in_kernel(source: int, target: int, start: int, size: int) -> int:
    """Appends bytes of a source, returns how many. Who reads and writes the rest learns why it was not all."""
    done = 0
    with suppress(OSError):
        while done < size and (count := os.copy_file_range(source, target, size - done, offset_src=start + done)):
            done += count
    return done


def _read(line: Line, source: PatientFile, start: int, room: memoryview) -> int:
    try:
        return source.readinto_at(room, start)
    except OSError as error:
        raise unreadable(Path(str(source.name)), line.name, error) from error


def _write(target: int, data: memoryview) -> None:
    while data:
        data = data[os.write(target, data) :]


def _refuse_preamble(line: Line) -> None:
    if line.preamble:
        raise RunError(
            f"{line.name} begins with PAX global headers, which say something of all its entries.",
            hint="Such shards cannot be mixed. Without --shards each source keeps its own shard.",
        )


if __name__ == "__main__":
    main()
