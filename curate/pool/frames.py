"""Whether a zstd file ends where its last frame does.

A decompressor that is given the beginning of a frame returns what it could make of it, and then just ends: after
a whole tar, a second frame that is cut short would look like nothing at all.

Source: RFC 8878, section 3.1: frames, blocks and skippable frames.
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

from curate.errors import ShardError
from curate.pool.sources import open_file

MAGIC, SKIPPABLE = 0xFD2FB528, 0x184D2A50
BLOCK_HEADER_BYTES, CHECKSUM_BYTES = 3, 4
DICTIONARY_BYTES, SIZE_BYTES = (0, 1, 2, 4), (0, 2, 4, 8)
RLE = 1  # a block that is one byte, many times


def check_frames(path: Path, shard: str) -> None:
    """Walks the frames of a file whose content has been read, block by block, without decompressing.

    Args:
        path: where it lies.
        shard: its name, for messages.

    Raises:
        ShardError: it ends inside of a frame or goes on after it, or cannot be read.

    Cost: one small read a block, of which there are eight in a MiB of content.
    """
    with open_file(path, shard) as file:
        size = file.seek(0, 2)
        at = 0
        while at < size:
            at = _end_of_frame(file, at) or size + 1
    if at != size:
        raise ShardError(
            f"{shard}: the file of {size:,} bytes does not end where a zstd frame does.",
            hint="The shard was not written or copied completely. Copy or pack it again.",
        )


def _end_of_frame(file: BinaryIO, at: int) -> int:
    """Returns where the frame that begins at a byte ends, 0 where none does or its blocks are not all there."""
    head = _read(file, at, 8)
    magic = int.from_bytes(head[:4], "little")
    if magic & ~0xF == SKIPPABLE and len(head) == 8:
        return at + 8 + int.from_bytes(head[4:], "little")
    if magic != MAGIC or len(head) == 4:
        return 0
    described = head[4]
    is_single, has_checksum = described >> 5 & 1, described >> 2 & 1
    content = SIZE_BYTES[described >> 6] or is_single
    at += 5 + (1 - is_single) + DICTIONARY_BYTES[described & 3] + content
    is_last = False
    while not is_last:
        header = _read(file, at, BLOCK_HEADER_BYTES)
        if len(header) < BLOCK_HEADER_BYTES:
            return 0
        block = int.from_bytes(header, "little")
        is_last, kind, size = bool(block & 1), block >> 1 & 3, block >> 3
        at += BLOCK_HEADER_BYTES + (1 if kind == RLE else size)
    return at + CHECKSUM_BYTES * has_checksum


def _read(file: BinaryIO, at: int, size: int) -> bytes:
    file.seek(at)
    return file.read(size)
