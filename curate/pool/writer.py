"""Writes shards: equal samples give equal bytes, whoever packs them, when and where.

Names that fit are ustar, others PAX. Owner, mode and time are fixed; gzip headers hold no time.
"""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice, pairwise
from pathlib import Path
from typing import BinaryIO

import zstandard

from curate import durable
from curate.errors import UsageError
from curate.pool.tar import printable, split_key

CODECS = ("tar", "tar.gz", "tar.zst")
GZIP_LEVEL, ZSTD_LEVEL = 6, 3
Sample = tuple[str, Mapping[str, bytes]]  # key; bytes by extension, in the order they are written


def write_shards(
    folder: Path, prefix: str, samples: Iterable[Sample], *, total: int, samples_per_shard: int, codec: str = "tar"
) -> list[Path]:
    """Writes samples in their order into `folder/prefix-000000.tar` and so on; returns the shards.

    The number of shards is the smallest that keeps each at `samples_per_shard` or fewer; their
    counts differ by one at most. Memory holds one sample.

    Raises:
        UsageError: an unknown codec, or a name that readers of shards would ignore or split elsewhere.
        ValueError: there are more or fewer samples than `total`.
    """
    if codec not in CODECS:
        raise UsageError(f"Unknown codec '{codec}'.", hint=f"Known: {', '.join(CODECS)}.")
    folder.mkdir(parents=True, exist_ok=True)
    iterator, paths = iter(samples), []
    for number, (first, end) in enumerate(pairwise(edges(total, samples_per_shard))):
        path, count = folder / f"{prefix}-{number:06d}.{codec}", end - first
        with path.open("wb") as file, _encoded(file, codec) as stream:
            written = write_tar(stream, islice(iterator, count))
        if written != count:
            raise ValueError(f"{path.name} got {written} of {count} samples")
        durable.sync_path(path)
        paths.append(path)
    if next(iterator, None) is not None:
        raise ValueError(f"more than {total} samples")
    return paths


def edges(total: int, samples_per_shard: int) -> list[int]:
    """Returns where each shard begins, counted over all samples, and after the last one the total."""
    shards = max(1, -(-total // samples_per_shard))
    return [total * number // shards for number in range(shards + 1)]


def write_tar(stream: BinaryIO, samples: Iterable[Sample]) -> int:
    """Writes samples as a tar; returns their number."""
    written = 0
    with tarfile.open(fileobj=stream, mode="w|", format=tarfile.PAX_FORMAT) as tar:
        for key, entries in samples:
            for extension, data in entries.items():
                tar.addfile(_header(key, extension, len(data)), io.BytesIO(data))
            written += 1
    return written


def _header(key: str, extension: str, size: int) -> tarfile.TarInfo:
    name = f"{key}.{extension}"
    if split_key(name) != (key, extension.lower()):
        raise UsageError(
            f"'{printable(name)}' is no name for an entry of a shard.",
            hint="Readers cut a name at its first dot and leave out hidden names and those like __name__.",
        )
    header = tarfile.TarInfo(name)
    header.size = size
    return header


@contextmanager
def _encoded(file: BinaryIO, codec: str) -> Iterator[BinaryIO]:
    if codec == "tar":
        yield file
    elif codec == "tar.gz":
        with gzip.GzipFile("", "wb", GZIP_LEVEL, file, mtime=0) as stream:
            yield stream  # type: ignore[misc]  # a binary writer in all but name
    else:
        compressor = zstandard.ZstdCompressor(level=ZSTD_LEVEL, write_checksum=True)
        with compressor.stream_writer(file, closefd=False) as stream:
            yield stream
