"""`curate fingerprint`: a cache key for scores, from what they depend on, without reading what shards hold."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curate import __version__
from curate.errors import ShardError
from curate.manifest.lines import file_digest
from curate.pool.classes import class_names
from curate.pool.shards import Shard, find_shards
from curate.scores import FORMAT, SUMMARY

EDGE_BYTES = 4096


@dataclass(frozen=True)
class Fingerprint:
    """The key, and what of the pool went into it."""

    key: str
    shards: int
    bytes: int


def fingerprint(
    sources: Sequence[str], *, recipe: str, test: Sequence[str] = (), more: Sequence[str] = ()
) -> Fingerprint:
    """Returns the cache key of a pool's scores.

    BLAKE2b-128 of every shard's name, size, first and last 4 KiB, classes.txt beside them, the recipe's digest,
    further words, and the versions of curate and of its score tables. Where the shards lie and when they were
    written does not count. A shard whose middle changed at an equal size is not noticed: `curate index` would.

    Args:
        sources: what names the shards.
        recipe: its digest.
        test: what names the test shards.
        more: words; where one names a file, its content counts instead; where it names a finished run, its summary;
            of any other folder, each file's name, size and edges.

    Raises:
        UsageError: no such shards.
        ShardError: a shard cannot be read.

    Cost: two small reads a shard.
    """
    found, held = find_shards(sources), find_shards(test) if test else None
    pool = [_row(shard) for shard in found.shards]
    record = {
        "curate": [__version__, FORMAT],
        "pool": pool,
        "classes": list(class_names(found.root)),
        "test": [_row(shard) for shard in held.shards] if held else [],
        "recipe": recipe,
        "more": [_content(Path(word)) or word for word in more if word],
    }
    text = json.dumps(record, sort_keys=True)
    key = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
    return Fingerprint(key, len(pool), sum(size for _, size, _ in pool))


def _content(path: Path) -> Any:
    """Returns what stands for a file or a folder, None where there is none."""
    if path.is_dir() and (path / SUMMARY).is_file():
        return file_digest(path / SUMMARY)
    if path.is_dir():
        return [_edges(file.name, file) for file in sorted(path.iterdir()) if file.is_file()]
    return file_digest(path) if path.is_file() else None


def _edges(name: str, path: Path) -> tuple[str, int, str]:
    """Returns a file's size and the digest of its first and last bytes."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        first = file.read(EDGE_BYTES)
        file.seek(max(0, size - EDGE_BYTES))
        return name, size, hashlib.blake2b(first + file.read(), digest_size=16).hexdigest()


def _row(shard: Shard) -> tuple[str, int, str]:
    try:
        return _edges(shard.name, shard.path)
    except OSError as error:
        raise ShardError(
            f"{shard.name}: cannot be read ({error.strerror}).", hint=f"Looked at {shard.path}."
        ) from error
