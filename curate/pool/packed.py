"""Where packed samples came from: beside shards, the file of every sample, one line a shard.

`files.jsonl.zst` holds paths relative to the folder that was packed; that folder itself is in the
unhashed `source.json`, so that equal images give equal bytes wherever they lie.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import zstandard

from curate import durable
from curate.errors import RunError

FILES, SOURCE = "files.jsonl.zst", "source.json"
ZSTD_LEVEL = 3


class PackedFile(NamedTuple):
    """A sample's key, its file below the packed folder, its class id, None where it has none."""

    key: str
    path: str
    label: int | None


def write_files(folder: Path, source: Path, shards: Iterable[tuple[str, list[PackedFile]]]) -> None:
    """Writes the record beside shards.

    Args:
        folder: the shards'.
        source: the folder that the paths are relative to.
        shards: name and samples, in their order, of each shard.
    """
    with (
        durable.replace(folder / FILES) as file,
        zstandard.ZstdCompressor(level=ZSTD_LEVEL).stream_writer(file, closefd=False) as stream,
    ):
        for name, files in shards:
            stream.write(json.dumps([name, files], separators=(",", ":")).encode() + b"\n")
    durable.write_json(folder / SOURCE, {"folder": str(source.absolute())})


def read_source(folder: Path) -> Path:
    """Returns the folder that was packed.

    Raises:
        RunError: the shards in `folder` were not packed from files, or the record is damaged.
    """
    try:
        return Path(json.loads((folder / SOURCE).read_bytes())["folder"])
    except FileNotFoundError:
        raise RunError(
            f"{folder}: no {SOURCE}, so nobody knows which files its samples were.",
            hint="`curate pack` writes one for folders of images and CSVs. For others use another export.",
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{folder / SOURCE}: damaged or unreadable ({error}).", hint="Pack again.") from error


def read_files(folder: Path) -> Iterator[tuple[str, list[PackedFile]]]:
    """Yields the name and the samples of each shard, as they were packed. Memory holds one shard's.

    Raises:
        RunError: no record, or a damaged one.
    """
    path = folder / FILES
    try:
        with path.open("rb") as file, zstandard.ZstdDecompressor().stream_reader(file) as stream:
            for text in io.TextIOWrapper(stream, encoding="utf-8"):
                name, rows = json.loads(text)
                yield name, [PackedFile(*row) for row in rows]
    except (OSError, ValueError, TypeError, zstandard.ZstdError) as error:
        raise RunError(f"{path}: missing, damaged or unreadable ({error}).", hint="Pack again.") from error
