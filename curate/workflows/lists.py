"""Lists of keys that are always kept or never: read from files, found among the scored samples."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from curate.errors import UsageError
from curate.pool.index import Pool
from curate.pool.tar import printable
from curate.scores import Columns

Keys = list[tuple[str, str]]  # (shard, key); the shard is empty where a line gives the key alone


def read_keys(path: Path | None) -> Keys:
    """Returns the pairs of a file, one a line: a key, or SHARD TAB KEY.

    Raises:
        UsageError: it cannot be read.
    """
    if path is None:
        return []
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")  # read_text makes \r\n one
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read ({error}).", hint="Expected one key a line, UTF-8.") from error
    pairs = [line.rpartition("\t") for line in lines if line.strip()]
    return [(shard, key) for shard, _, key in pairs]


def on_list(
    keys: Sequence[tuple[str, str]], columns: Columns, pool: Pool, path: Path | None
) -> NDArray[np.bool_] | None:
    """Returns the mask of the listed samples.

    Raises:
        UsageError: a key that no scored sample has, or that several have.
    """
    if not keys:
        return None
    places: dict[tuple[str, str], list[int]] = {}
    names = [scan.name for scan, part in zip(pool.scans, columns.ordinals, strict=True) for _ in range(len(part))]
    listed = {key for _, key in keys}
    for place, (shard, key) in enumerate(zip(names, columns.values["key"].tolist(), strict=True)):
        if key in listed:
            places.setdefault(("", key), []).append(place)
            places[(shard, key)] = [place]
    mask_N = np.zeros(len(names), dtype=np.bool_)
    for pair in keys:
        found = places.get(pair, [])
        if len(found) != 1:
            what = "is no scored sample" if not found else f"is the key of {len(found)} samples"
            raise UsageError(f"{path}: '{printable(pair[1])}' {what}.", hint="Write SHARD TAB KEY where keys repeat.")
        mask_N[found[0]] = True
    return mask_N
