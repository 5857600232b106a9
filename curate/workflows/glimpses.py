"""A look at single samples of a pool: a small picture or the first words of each, read forward, shard by shard."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from curate.errors import SampleError, ShardError
from curate.pool.images import thumbnail
from curate.pool.index import Pool
from curate.pool.scan import IMAGE_EXTENSIONS
from curate.pool.sources import DecompressedStream, PlainStream, open_source
from curate.pool.tar import Header, HeaderReader, padded, split_key
from curate.pool.texts import MAX_TEXT_BYTES, read_text

Place = tuple[int, int]  # (shard's place in the pool, ordinal)
PICTURE_PX, QUALITIES = 112, (75, 40, 15)
PICTURE_BYTES = 1 << 13  # of one that holds noise, quality goes
TEXT_BYTES = TEXT_CHARACTERS = 600
MAX_IMAGE_BYTES = 1 << 26


@dataclass(frozen=True)
class Glimpse:
    """What there is to see of a sample: a small JPEG, the beginning of its text, or why there is neither."""

    picture: bytes = b""
    text: str = ""
    missing: str = ""


def glimpses(pool: Pool, places: Iterable[Place], root: Path) -> tuple[dict[Place, Glimpse], list[str]]:
    """Returns a glimpse of each sample, and the shards that are gone or changed.

    Args:
        pool: its index.
        places: the samples.
        root: where the shards lie.

    Cost: of plain tars only the samples themselves are read; compressed ones are read up to the last sample.
    """
    found, gone = dict[Place, Glimpse](), list[str]()
    for number, group in groupby(sorted(set(places)), key=lambda place: place[0]):
        ordinals = [ordinal for _, ordinal in group]
        scan = pool.scans[number]
        path = root / scan.name
        try:
            if path.stat().st_size != scan.bytes:
                raise ShardError(f"{scan.name}: changed since it was indexed.")
            of_shard = _of_text_shard if pool.kind == "text" else _of_shard
            found |= {(number, ordinal): seen for ordinal, seen in of_shard(pool, number, ordinals, path).items()}
        except (OSError, ShardError):
            gone.append(scan.name)
    return found, gone


def _of_shard(pool: Pool, number: int, ordinals: Sequence[int], path: Path) -> Mapping[int, Glimpse]:
    table = pool.read(number, ["key", "start", "length"]).take(ordinals).to_pylist()
    found, at = dict[int, Glimpse](), 0
    with open_source(path, path.name) as stream:
        for ordinal, row in zip(ordinals, table, strict=True):
            if stream.skip(row["start"] - at) != row["start"] - at:
                raise ShardError(f"{path.name}: cut short.")
            headers = HeaderReader(stream, path.name, at=row["start"])
            found[ordinal] = _glimpse(headers, stream, row["key"], row["start"] + row["length"])
            at = headers.at
    return found


def _of_text_shard(pool: Pool, number: int, ordinals: Sequence[int], path: Path) -> Mapping[int, Glimpse]:
    table = pool.read(number, ["image_start", "image_size"]).take(ordinals).to_pylist()
    found, at = dict[int, Glimpse](), 0
    with open_source(path, path.name) as stream:
        for ordinal, row in zip(ordinals, table, strict=True):
            if not row["image_size"]:
                found[ordinal] = Glimpse(missing="no text")
                continue
            stream.skip(row["image_start"] - at)
            data = stream.read(min(row["image_size"], MAX_TEXT_BYTES))
            at = row["image_start"] + len(data)
            found[ordinal] = _words(data, pool.text_field)
    return found


def _words(data: bytes, field: str) -> Glimpse:
    try:
        text = read_text(data, field)
    except SampleError as error:
        return Glimpse(missing=str(error))
    return Glimpse(text=text[:TEXT_CHARACTERS] + ("…" if len(text) > TEXT_CHARACTERS else ""))


def _glimpse(headers: HeaderReader, stream: PlainStream | DecompressedStream, key: str, end: int) -> Glimpse:
    """Reads one sample's entries, the stream standing at its first header."""
    image, text = b"", ""
    while headers.at < end and (header := headers.next()) is not None:
        extension = _extension(header, key)
        taken = b""
        if extension in IMAGE_EXTENSIONS and not image and header.size <= MAX_IMAGE_BYTES:
            image = taken = stream.read(header.size)
        elif extension == "txt" and not text:
            taken = stream.read(min(header.size, TEXT_BYTES))
            text = taken.decode("utf-8", "replace") + ("…" if header.size > TEXT_BYTES else "")
        stream.skip(padded(header.size) - len(taken))
        headers.at += padded(header.size)
    if not image:
        return Glimpse(text=text, missing="" if text else "no image")
    try:
        return Glimpse(_picture(image), text)
    except SampleError as error:
        return Glimpse(text=text, missing=str(error))


def _picture(image: bytes) -> bytes:
    for quality in QUALITIES:
        small = thumbnail(image, size_px=PICTURE_PX, quality=quality)
        if len(small) <= PICTURE_BYTES:
            break
    return small


def _extension(header: Header, key: str) -> str:
    """Returns the extension of an entry of the sample; of anything else nothing."""
    parts = split_key(header.name) if header.is_file else None
    if parts is None or parts[0].encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace") != key:
        return ""
    return parts[1]
