"""Tar archives read header by header, from any stream that can only go forward.

What this module knows: ustar, PAX (local and global headers), GNU long names and base-256 numbers,
the end-of-archive marker, and the key rule of webdataset. It never extracts, never follows a link
and never holds more than one header's worth of an archive in memory. It imports the standard
library alone, because `curate cat` starts from here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import NamedTuple, Protocol
from zlib import adler32

from curate.errors import ShardError

BLOCK = 512
MAX_EXTENDED_BYTES = 1 << 20  # no honest name is longer; a header that claims more is damage or malice
SKIP_BYTES = 1 << 20

_REGULAR = (b"0", b"\0", b"7")
_PAX_LOCAL, _PAX_GLOBAL, _LONG_NAME, _LONG_LINK = b"x", b"g", b"L", b"K"
_EXTENDED = (_PAX_LOCAL, _PAX_GLOBAL, _LONG_NAME, _LONG_LINK)
_NAMING = (_PAX_LOCAL, _LONG_NAME)
_SPARSE = b"S"
_USTAR = b"ustar\0"
_WITHOUT_DATA = (b"1", b"2", b"3", b"4", b"5", b"6")
_ZERO = bytes(BLOCK)
_KEY = re.compile(r"^((?:.*/|)[^.]+)[.]([^/]*)$")
_OCTAL = re.compile(rb"[0-7]*")
# Mode, owner, group, size, time and checksum as nearly every writer has them; then the device's two numbers.
_USUAL = re.compile(rb"(?:[0-7]{6}[0-7 ][ \0]){3}([0-7]{11})[ \0][0-7]{11}[ \0](?:([0-7]{6})\0 )?")
_USUAL_DEVICE = re.compile(rb"\0{16}|(?:[0-7]{6}[0-7 ][ \0]){2}")
_NUMBERS = ((100, 108), (108, 116), (116, 124), (136, 148), (329, 337), (337, 345))
_RESERVED = re.compile(r"__[^/]*__($|/)")


class Stream(Protocol):
    """Bytes that go forward: `read` may return less only at the end."""

    def read(self, size: int, /) -> bytes: ...

    def skip(self, size: int, /) -> int:
        """Goes `size` bytes forward; returns how many there were."""
        ...


class Entry(NamedTuple):
    """One regular file of an archive.

    Attributes:
        name: path inside the archive, as stored.
        start: byte of its first header block, extended headers included.
        data: byte of its first data byte.
        size: data bytes, without padding.
        header: all its header blocks, extended headers included.
        content: its data, where the reader asked for it.
    """

    name: str
    start: int
    data: int
    size: int
    header: bytes
    content: bytes | None = None

    @property
    def end(self) -> int:
        """The byte after its padding."""
        return self.data + padded(self.size)


class Tally:
    """What an archive holds besides regular files.

    Attributes:
        ignored: links, devices, folders and pipes, which are never followed.
        preamble: bytes of the global headers before the first entry.
        end: the byte after the last entry.
        first_block: the archive's first header block, whatever it announces.
    """

    def __init__(self) -> None:
        self.ignored = self.preamble = self.end = 0
        self.first_block = b""


def padded(size: int) -> int:
    """Returns `size` rounded up to whole blocks."""
    return -(-size // BLOCK) * BLOCK


@lru_cache(16)  # who reads an entry asks for the same name several times
def split_key(name: str) -> tuple[str, str] | None:
    """Returns (key, lower-case extension) by webdataset's rule, or None where it ignores the name.

    The key is the folders plus the base name up to its FIRST dot.
    """
    if "__" in name and _RESERVED.search(name):
        return None
    match = _KEY.match(name)
    return (match[1], match[2].lower()) if match else None


def entries(
    stream: Stream, shard: str, tally: Tally, *, wanted: Callable[[str, int], bool] | None = None
) -> Iterator[Entry]:
    """Yields the regular files of an archive in their order.

    Args:
        stream: the decompressed archive, at its first byte.
        shard: its name, for messages.
        tally: filled in on the way; `end` and `preamble` are final once the iterator is exhausted.
        wanted: says by name and size whether an entry's data is read into `Entry.content`.

    Raises:
        ShardError: not a tar, cut short, damaged header, no end-of-archive marker, data behind it.
    """
    headers = HeaderReader(stream, shard)
    while (header := headers.next()) is not None:
        name, size = header.name, header.size
        is_file = header.is_file
        content = _read_exactly(stream, size) if is_file and wanted is not None and wanted(name, size) else None
        whole = padded(size)
        rest = whole - (len(content) if content is not None else 0)
        if stream.skip(rest) != rest:
            raise ShardError(
                f"{shard}: cut short inside '{printable(name)}', which begins at byte {header.start} and "
                f"announces {size} bytes of data.",
                hint="The shard was not written or copied completely. Copy or pack it again.",
            )
        headers.at += whole
        tally.preamble, tally.end, tally.first_block = headers.preamble, headers.at, headers.first_block
        if is_file:
            yield Entry(name, header.start, header.data, size, header.blocks, content)
        else:
            tally.ignored += 1


def printable(text: str) -> str:
    """Returns text with every control character and lone surrogate escaped, safe for a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


class Header(NamedTuple):
    """A header with the extended ones before it; `blocks` holds them all, `size` is that of its data."""

    name: str
    kind: bytes
    size: int
    start: int
    data: int
    blocks: bytes

    @property
    def is_file(self) -> bool:
        return self.kind in _REGULAR and not self.name.endswith("/")

    @property
    def padded(self) -> int:
        return -(-self.size // BLOCK) * BLOCK


def usual_header(block: bytes, at: int) -> Header | None:
    """Returns the header of a regular file as nearly every writer has it, None for any other.

    It trusts the checksum: for who knows by a digest that these are bytes that `HeaderReader` has read before.

    Args:
        block: one header block.
        at: the byte where it begins.
    """
    kind = block[156:157]
    usual = _USUAL.match(block, 100)
    if len(block) != BLOCK or kind not in _REGULAR or usual is None or usual[2] is None:
        return None
    if block[345] and block[257:263] != _USTAR:
        return None
    name = _ustar_name(block) if block[345] else _text(block[:100])
    return None if name.endswith("/") else Header(name, kind, int(usual[1], 8), at, at + BLOCK, block)


class HeaderReader:
    """The headers of an archive, extended ones folded into the entry they belong to."""

    def __init__(self, stream: Stream, shard: str, *, at: int = 0) -> None:
        self._stream = stream
        self._shard = shard
        self._common: dict[str, str] = {}
        self._has_begun = at > 0
        self.at = at
        self.preamble = 0
        self.first_block = b""

    def next(self) -> Header | None:
        """Returns the next header, the stream then standing at its data; None at the end."""
        start = first = self.at
        pending: list[bytes] = []
        fields: dict[str, str] = {}
        while True:
            block = self._stream.read(BLOCK)
            self.first_block = self.first_block or block
            if len(block) < BLOCK or block == _ZERO:
                _check_end(self._stream, block, self._shard, self.at, self.at != first)
                return None
            kind, size = _checked_header(block, self._shard, self.at)
            if kind not in _EXTENDED:
                break
            body = _extended(self._stream, self._shard, self.at, size)
            if kind in _NAMING and "path" in fields:
                # Readers do not agree on which of the two it is.
                raise ShardError(
                    f"{self._shard}: two names for the entry at byte {start}.", hint="Pack the shard again."
                )
            if kind == _PAX_GLOBAL:
                self._global(_pax_records(body[:size], self._shard, self.at))
            elif kind == _PAX_LOCAL:
                fields.update(_pax_records(body[:size], self._shard, self.at))
            elif kind == _LONG_NAME:
                fields["path"] = _text(body[:size])
                if fields["path"] != _text(body):  # which tarfile would read on behind its size
                    raise ShardError(
                        f"{self._shard}: a long name without an end at byte {start}.", hint="Pack the shard again."
                    )
            self.at += BLOCK + len(body)
            if kind == _PAX_GLOBAL and not pending:
                start = self.at
                self.preamble = self.preamble if self._has_begun else start
            else:
                pending += [block, body]
        self._has_begun = True
        return self._header(block, kind, size, start, pending, {**self._common, **fields} if self._common else fields)

    def _global(self, records: dict[str, str]) -> None:
        if self._has_begun and set(records) - {"comment"}:
            raise ShardError(
                f"{self._shard}: a PAX global header in mid-archive, at byte {self.at}.",
                hint="Samples behind it could not be read alone. Pack the shard again.",
            )
        self._common.update(records)

    def _header(
        self, block: bytes, kind: bytes, size: int, start: int, pending: list[bytes], fields: dict[str, str]
    ) -> Header:
        if kind == _SPARSE or (fields and any(word.startswith("GNU.sparse") for word in fields)):
            raise ShardError(
                f"{self._shard}: a sparse entry at byte {self.at}.",
                hint="Sparse files cannot be read by byte range. Pack the shard again without --sparse.",
            )
        if "path" not in fields and block[345] and block[257:263] != _USTAR:
            # tarfile takes what stands there for a folder, whatever the format; others do not.
            raise ShardError(
                f"{self._shard}: a name at byte {self.at} that readers take differently.",
                hint="Pack the shard again, not as an incremental archive.",
            )
        size = _number(fields["size"], self._shard, self.at) if "size" in fields else size
        # Links, devices, folders and pipes have no data, whatever their size field says (POSIX).
        size = 0 if kind in _WITHOUT_DATA else size
        name = fields["path"] if "path" in fields else _ustar_name(block)
        self.at += BLOCK
        return Header(name, kind, size, start, self.at, b"".join([*pending, block]) if pending else block)


def _checked_header(block: bytes, shard: str, at: int) -> tuple[bytes, int]:
    total = _sum(block[:148]) + _sum(block[156:412]) + _sum(block[412:]) + 8 * 32
    usual = _USUAL.match(block, 100) if _USUAL_DEVICE.match(block, 329) else None
    if usual is not None and usual[2] is not None and int(usual[2], 8) == total:
        return block[156:157], int(usual[1], 8)
    try:
        stored = int(block[148:156].split(b"\0", 1)[0].strip() or b"0", 8)  # to the first NUL, as tarfile
    except ValueError:
        stored = None
    # Some old writers sum signed characters; both sums are accepted, as tarfile and GNU tar do.
    if stored != total and stored != total - 256 * sum(b > 127 for b in block[:148] + block[156:]):
        what = "is not a tar archive" if at == 0 else f"has a damaged header at byte {at}"
        raise ShardError(f"{shard}: {what}.", hint="Expected tar shards. Copy or pack it again.")
    if usual is None:
        _check_numbers(block, shard, at)
    return block[156:157], _number_field(block[124:136], shard, at)


def _check_numbers(block: bytes, shard: str, at: int) -> None:
    """Refuses what tarfile takes for no header: readers built on it would silently end there."""
    for first, end in _NUMBERS:
        field = block[first:end]
        if field[0] in (0o200, 0o377):
            continue
        try:
            int(field.split(b"\0", 1)[0].decode("ascii").strip() or "0", 8)
        except ValueError:
            raise ShardError(
                f"{shard}: a header at byte {at} with a number that is none.", hint="Copy or pack it again."
            ) from None


def _sum(half: bytes) -> int:
    """Returns the sum of at most 256 bytes, which Adler-32 holds below its modulus: ten times as fast as `sum`."""
    return adler32(half, 0) & 0xFFFF


def _number_field(field: bytes, shard: str, at: int) -> int:
    if field[0] == 0o200:
        return int.from_bytes(field[1:], "big")
    if field[0] == 0o377:
        raise ShardError(f"{shard}: a negative size at byte {at}.", hint="The shard is damaged.")
    text = field.split(b"\0", 1)[0].strip()
    if not _OCTAL.fullmatch(text):
        raise ShardError(f"{shard}: a size that is no number at byte {at}.", hint="The shard is damaged.")
    return int(text or b"0", 8)


def _number(text: str, shard: str, at: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise ShardError(f"{shard}: a size that is no number at byte {at}.", hint="The shard is damaged.")
    return int(text)


def _extended(stream: Stream, shard: str, at: int, size: int) -> bytes:
    if size > MAX_EXTENDED_BYTES:
        raise ShardError(
            f"{shard}: an extended header of {size} bytes at byte {at}.",
            hint=f"At most {MAX_EXTENDED_BYTES} bytes are read. The shard is damaged.",
        )
    body = stream.read(padded(size))
    if len(body) != padded(size):
        raise ShardError(f"{shard}: cut short inside a header at byte {at}.", hint="Copy or pack it again.")
    return body


def _pax_records(body: bytes, shard: str, at: int) -> dict[str, str]:
    """Returns the records of a PAX header: `LENGTH KEY=VALUE NEWLINE`, one after another."""
    records: dict[str, str] = {}
    rest = body
    while rest.strip(b"\0"):
        digits, _, _ = rest.partition(b" ")
        length = int(digits) if digits.isdigit() and len(digits) < 8 else 0
        word, equals, value = rest[len(digits) + 1 : length - 1].partition(b"=")
        is_torn = word == b"path" and b"\0" in value  # a name to its NUL for some readers, whole for others
        if is_torn or not equals or length > len(rest) or rest[length - 1 : length] != b"\n":
            raise ShardError(f"{shard}: a damaged PAX header before byte {at}.", hint="Copy or pack it again.")
        records[_text(word)] = _text(value)
        rest = rest[length:]
    return records


def _text(raw: bytes) -> str:
    return raw.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")


def _ustar_name(block: bytes) -> str:
    name = _text(block[:100])
    has_prefix = block[345] and block[257:263] == _USTAR
    return f"{_text(block[345:500])}/{name}" if has_prefix else name


def _read_exactly(stream: Stream, size: int) -> bytes:
    """Returns up to `size` bytes, in bounded steps: a header may claim more than there is memory for."""
    if size <= SKIP_BYTES:
        return stream.read(size)
    parts = []
    while size and (chunk := stream.read(min(size, SKIP_BYTES))):
        parts.append(chunk)
        size -= len(chunk)
    return b"".join(parts)


def _check_end(stream: Stream, block: bytes, shard: str, at: int, is_pending: bool) -> None:
    if len(block) not in (0, BLOCK) or is_pending:
        raise ShardError(f"{shard}: cut short inside a header at byte {at}.", hint="Copy or pack it again.")
    if not block:
        what = "is empty" if at == 0 else f"ends at byte {at} without the end-of-archive marker"
        raise ShardError(
            f"{shard}: {what}; samples may be missing.",
            hint="A complete tar ends in blocks of zeros. Copy or pack it again.",
        )
    after = at + BLOCK
    while chunk := stream.read(SKIP_BYTES):
        if chunk.strip(b"\0"):
            raise ShardError(
                f"{shard}: data behind the end-of-archive marker, after byte {after}.",
                hint="Concatenated archives are read only up to the first end. Pack it as one archive.",
            )
        after += len(chunk)
