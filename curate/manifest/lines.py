"""One line a shard, each in its own zstd frame, and the offsets to find one among 100,000.

`shards.jsonl.zst` holds the lines. `shards.idx` is text, one row a shard: the shard's name with its
path reversed, its frame's offset and length, sorted. A search for a path suffix is then a search
for a prefix, and a bisection finds it without reading the rest.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import zstandard

from curate.errors import ManifestError
from curate.pool.tar import BLOCK, printable

FORMAT_VERSION = 1
HEAD, LINES, INDEX, SOURCE = "manifest.json", "shards.jsonl.zst", "shards.idx", "source.json"
CHUNK_BYTES = 1 << 16
MAX_LINE_BYTES = 1 << 27  # ten million runs


class Line(NamedTuple):
    """What is kept of one shard.

    Attributes:
        name: the shard's, relative to the pool's common folder.
        bytes: size of the source file.
        first_header: BLAKE2b-128 of the source's first tar header, hexadecimal.
        headers: BLAKE2b-128 over the digests of every kept header, hexadecimal.
        samples, kept: counts; the rest is in `dropped` and `failed`, by reason.
        preamble: bytes of PAX global headers that go before the first sample.
        runs: [skip, take, skip, take, …] over ordinals.
        ranges: [gap, length, …] over blocks of 512 bytes of the decompressed tar.
        kept_bytes: size of the kept entries with their headers and padding.
    """

    name: str
    codec: str
    bytes: int
    first_header: str
    headers: str
    samples: int
    kept: int
    dropped: dict[str, int]
    failed: dict[str, int]
    preamble: int
    runs: list[int]
    ranges: list[int]
    kept_bytes: int

    def spans(self) -> Iterator[tuple[int, int]]:
        """Yields (start, end) of `ranges`, in bytes of the decompressed tar. The first gap is from its first byte."""
        end = 0
        for gap, length in zip(self.ranges[::2], self.ranges[1::2], strict=True):
            start = end + gap * BLOCK
            end = start + length * BLOCK
            yield start, end


def write_lines(folder: Path, lines: Iterable[Line]) -> None:
    """Writes the lines and their offsets. Level 3: level 12 is at most a quarter smaller."""
    compressor = zstandard.ZstdCompressor(level=3, write_checksum=True, write_content_size=True)
    rows, at = [], 0
    with (folder / LINES).open("wb") as file:
        for line in lines:
            frame = compressor.compress(json.dumps(line._asdict(), separators=(",", ":")).encode() + b"\n")
            file.write(frame)
            rows.append(f"{_reversed(line.name)}\t{at}\t{len(frame)}\n".encode())
            at += len(frame)
    (folder / INDEX).write_bytes(b"".join(sorted(rows)))


def read_lines(folder: Path) -> Iterator[Line]:
    """Yields every line, in order of the shards' names."""
    with _reading(folder / LINES), (folder / LINES).open("rb") as file:
        reader = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True)
        rest = b""
        while chunk := reader.read(1 << 20):
            *whole, rest = (rest + chunk).split(b"\n")
            yield from (_line(text, folder) for text in whole)
            if len(rest) > MAX_LINE_BYTES:
                raise ManifestError(f"{folder / LINES}: a line without an end.", hint="Prune again.")
        if rest:
            raise ManifestError(f"{folder / LINES}: the last line is cut short.", hint="Prune again.")


def check_files(folder: Path) -> None:
    """Raises ManifestError where a file of a manifest is not the one that `manifest.json` names."""
    with _reading(folder / HEAD):
        files = dict(read_head(folder)["files"])
    for name, digest in files.items():
        if file_digest(folder / name) != digest:
            raise ManifestError(
                f"{folder / name} is not the file that {HEAD} names: it was changed.", hint="Prune again."
            )


def find_line(folder: Path, shard: str) -> Line:
    """Returns the line of a shard: the exact name, else the longest unique path suffix.

    Cost: a bisection over `shards.idx` and one frame, whatever the number of shards.

    Raises:
        ManifestError: no such shard, or several that fit equally well.
    """
    matches = find_rows(folder, shard)
    if len(matches) != 1:
        raise _no_match(folder, shard, [name for name, _, _ in matches])
    name, at, length = matches[0]
    with _reading(folder / LINES), (folder / LINES).open("rb") as file:
        frame = os.pread(file.fileno(), min(length, os.fstat(file.fileno()).st_size), at)
        text = _decompressed(frame)
    line = _line(text, folder)
    if line.name != name:
        raise ManifestError(f"{folder / INDEX}: leads from {printable(name)} to another shard.", hint="Prune again.")
    return line


def _decompressed(frame: bytes) -> bytes:
    """Returns a line. A damaged header may announce any size: what comes out decides how much memory is taken."""
    parts = list[bytes]()
    with zstandard.ZstdDecompressor().stream_reader(frame) as reader:
        while (chunk := reader.read(CHUNK_BYTES)) and len(parts) * CHUNK_BYTES <= MAX_LINE_BYTES:
            parts.append(chunk)
    return b"".join(parts)


def find_rows(folder: Path, shard: str) -> list[tuple[str, int, int]]:
    """Returns (name, offset, length) of every shard that shares the longest path suffix with `shard`."""
    parts = [part for part in shard.split("/") if part not in ("", ".")]
    with _reading(folder / INDEX), (folder / INDEX).open("rb") as file:
        size = file.seek(0, 2)
        if size == 0 or not parts:
            return []
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as rows:
            exact = _reversed("/".join(parts)).encode()
            found = [row for row in _with_prefix(rows, exact) if row[0] == "/".join(parts)]
            for count in range(len(parts), 0, -1):
                if found:
                    return found
                name = "/".join(parts[-count:])
                found = list(_with_prefix(rows, _reversed(name).encode()))
                found = [row for row in found if row[0] == name] or found  # all of its name, not the end of another
            return found


def read_head(folder: Path) -> dict[str, Any]:
    """Returns `manifest.json`, its format version checked and nothing else."""
    path = folder / HEAD
    with _reading(path):
        head = json.loads(path.read_bytes())
    version = head.get("format_version") if isinstance(head, dict) else None
    if version != FORMAT_VERSION:
        raise ManifestError(f"{path}: format version {version}.", hint=f"This curate reads version {FORMAT_VERSION}.")
    return dict(head)


def read_source(folder: Path) -> dict[str, Any]:
    """Returns the unhashed `source.json`: `root`, where the shards were, and what the manifest was made from."""
    path = folder / SOURCE
    if not path.exists() and (folder / HEAD).exists():
        raise ManifestError(
            f"{folder} does not say where its shards lie ({SOURCE} is missing).", hint="Give their folder with --root."
        )
    with _reading(path):
        source = json.loads(path.read_bytes())
        return {**source, "root": Path(source["root"])}


def read_root(folder: Path) -> Path:
    """Returns the folder that the shards' names are relative to."""
    return Path(read_source(folder)["root"])


def file_digest(path: Path) -> str:
    """Returns BLAKE2b-128 of a file, hexadecimal."""
    with _reading(path), path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def manifest_digest(folder: Path) -> str:
    """Returns the digest of a manifest: that of `manifest.json`, which holds those of the other files."""
    return file_digest(folder / HEAD)


def fits_on_a_line(shard: str, key: str) -> bool:
    """Says whether `shard TAB key` is one line of two words."""
    return not any(sign in word for sign in "\n\t" for word in (shard, key))


def _reversed(name: str) -> str:
    """Returns a name with its path reversed and closed by a slash, control characters escaped."""
    parts = reversed(name.split("/"))
    return "".join(_escape(part) + "/" for part in parts)


def _escape(part: str) -> str:
    special = (c for c in set(part) if ord(c) < 32 or c in "%\x7f" or 0xD800 <= ord(c) < 0xE000)
    for c in sorted(special, key=lambda c: c != "%"):
        part = part.replace(c, f"%{ord(c):02X};")
    return part


def _unescape(part: str) -> str:
    head, *rest = part.split("%")
    return head + "".join(chr(int(code, 16)) + text for code, _, text in (item.partition(";") for item in rest))


def _with_prefix(rows: mmap.mmap, prefix: bytes) -> Iterator[tuple[str, int, int]]:
    at = _bisect(rows, prefix)
    while at < len(rows) and rows[at : at + len(prefix)] == prefix:
        end = rows.find(b"\n", at)
        if end < 0:
            raise ValueError("its last row has no end")
        name, offset, length = rows[at:end].decode().split("\t")
        yield _unescape("/".join(reversed(name.rstrip("/").split("/")))), int(offset), int(length)
        at = end + 1


def _bisect(rows: mmap.mmap, prefix: bytes) -> int:
    """Returns the offset of the first row that is not before `prefix`."""
    low, high = 0, len(rows)
    while low < high:
        middle = (low + high) // 2
        start = rows.rfind(b"\n", low, middle) + 1 or low
        end = rows.find(b"\n", middle) + 1 or len(rows)
        if rows[start:end] < prefix:
            low = end
        else:
            high = start
    return low


def _line(text: bytes, folder: Path) -> Line:
    try:
        line = Line(**json.loads(text))
    except (ValueError, TypeError, RecursionError) as error:
        raise ManifestError(
            f"{folder / LINES}: a damaged line ({printable(str(error))}).", hint="Prune again."
        ) from error
    if not _is_sound(line):
        raise ManifestError(f"{folder / LINES}: a line that cannot be.", hint="Prune again.")
    return line


def _is_sound(line: Line) -> bool:
    """Says whether a line's values have their types, and its name leads nowhere but below the root."""
    counts = (line.bytes, line.samples, line.kept, line.preamble, line.kept_bytes)
    reasons = (line.dropped, line.failed)
    if not isinstance(line.name, str) or not all(isinstance(counted, dict) for counted in reasons):
        return False
    parts = line.name.split("/")
    is_below = "\0" not in line.name and not {"", ".", ".."} & set(parts)
    steps = [*counts, *line.runs, *line.ranges, *(n for counted in reasons for n in counted.values())]
    are_pairs = len(line.runs) % 2 == 0 and len(line.ranges) % 2 == 0
    return is_below and are_pairs and set(map(type, steps)) <= {int} and min(steps) >= 0


def _no_match(folder: Path, shard: str, names: list[str]) -> ManifestError:
    if not names:
        return ManifestError(
            f"{printable(shard)}: no such shard in {folder}.", hint="`curate verify` lists the shards of a manifest."
        )
    shown = ", ".join(printable(name) for name in names[:5]) + (", …" if len(names) > 5 else "")
    return ManifestError(
        f"{printable(shard)} could be {len(names)} shards of {folder}: {shown}.", hint="Give more of the path."
    )


_DAMAGE = (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError, zstandard.ZstdError)


class _reading:  # noqa: N801  (used as a verb: `with _reading(path)`)
    """Turns what the system says of a manifest's file into an error that names it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None: ...

    def __exit__(self, _type: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, FileNotFoundError):
            raise ManifestError(f"{self._path}: no such file.", hint="Expected the folder of a manifest.") from None
        if isinstance(error, _DAMAGE):
            raise ManifestError(
                f"{self._path}: damaged or unreadable ({printable(str(error))}).", hint="Prune again."
            ) from error
