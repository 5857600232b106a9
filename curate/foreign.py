"""Scores that something else computed: any Parquet with the columns shard, ordinal and a score."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from curate.errors import ScoreError
from curate.pool.index import Pool, bad_samples
from curate.pool.tar import printable
from curate.scores import BadSample, Columns
from curate.tables import DAMAGE, damaged

PLACE = ("shard", "ordinal")


def read_foreign(path: Path, pool: Pool, score: str | None, *, with_keys: bool) -> tuple[Columns, list[BadSample]]:
    """Returns the scored samples of a pool in its order, and those that have no score for a known reason.

    A sample without a row must be one that the index lists as bad.

    Args:
        path: a Parquet file, or a folder of them.
        pool: the index that says which samples there are.
        score: the column that holds the scores, higher = keep first; None reads places alone.
        with_keys: also return the keys.

    Raises:
        ScoreError: a column is missing or of another type, a place is not in the pool or is there twice,
            a score is null or not finite, or a good sample has no row.
    """
    table = _read(path, [*PLACE, *([score] if score else [])])
    row_R = _rows(table, pool, path)
    is_scored_N = np.zeros(pool.total, dtype=np.bool_)
    is_scored_N[row_R] = True
    bad = _without_score(pool, is_scored_N, path)
    values = _pool_columns(pool, is_scored_N, ["identity", *(["key"] if with_keys else [])])
    if score:
        score_N = np.full(pool.total, np.nan)
        score_N[row_R] = _numbers(table[score], score, path)
        values[score] = score_N[is_scored_N]
    edges = np.cumsum([scan.samples for scan in pool.scans])[:-1]
    return Columns(tuple(np.flatnonzero(part) for part in np.split(is_scored_N, edges)), values), bad


def unscored(pool: Pool, undecodable: Sequence[BadSample], *, with_keys: bool) -> tuple[Columns, list[BadSample]]:
    """Returns all samples of an index that are not bad, without scores, and the bad ones."""
    bad = [*(BadSample(*sample) for sample in bad_samples(pool)), *undecodable]
    masks = {scan.name: np.ones(scan.samples, dtype=np.bool_) for scan in pool.scans}
    for sample in bad:
        masks[sample.shard][sample.ordinal] = False
    values = _pool_columns(pool, np.concatenate(list(masks.values())), ["identity", *(["key"] if with_keys else [])])
    return Columns(tuple(np.flatnonzero(mask_N) for mask_N in masks.values()), values), bad


def _read(path: Path, names: Sequence[str]) -> pa.Table:
    import pyarrow.dataset  # only here: others wait for nothing that they do not need

    try:
        dataset = pyarrow.dataset.dataset(path, format="parquet")
        missing = [name for name in names if name not in dataset.schema.names]
        if missing:
            raise ScoreError(
                f"{path}: no column '{missing[0]}'.",
                hint=f"It has: {', '.join(dataset.schema.names)}. Expected shard, ordinal and the one that --fn names.",
            )
        table = dataset.to_table(columns=list(names))
        table.validate(full=True)  # texts that are no UTF-8
        return table
    except DAMAGE as error:
        raise ScoreError(damaged(path, error).message, hint="Name a file or a folder of Parquet.") from error


def _rows(table: pa.Table, pool: Pool, path: Path) -> NDArray[np.int64]:
    """Returns the place in the pool of every row of the table."""
    if not pa.types.is_integer(table["ordinal"].type) or table["ordinal"].null_count or table["shard"].null_count:
        raise ScoreError(f"{path}: shard and ordinal must be texts and integers without nulls.", hint="")
    first = np.concatenate([[0], np.cumsum([scan.samples for scan in pool.scans])]).astype(np.int64)
    place_of = {scan.name: place for place, scan in enumerate(pool.scans)}
    try:
        encoded = pc.dictionary_encode(table["shard"].cast(pa.string())).combine_chunks()
    except DAMAGE as error:
        raise ScoreError(f"{path}: column 'shard' holds {table['shard'].type}.", hint="Expected texts.") from error
    names = encoded.dictionary.to_pylist()
    unknown = [name for name in names if name not in place_of]
    if unknown:
        raise ScoreError(
            f"{path}: '{printable(unknown[0])}' is no shard of the index, nor are {len(unknown) - 1:,} others.",
            hint=f"Its shards are named like '{pool.scans[0].name}'.",
        )
    place_R = np.array([place_of[name] for name in names], dtype=np.int64)[encoded.indices.to_numpy()]
    ordinal_R = table["ordinal"].to_numpy().astype(np.int64)
    outside = np.flatnonzero((ordinal_R < 0) | (ordinal_R >= first[place_R + 1] - first[place_R]))
    row_R: NDArray[np.int64] = first[place_R] + ordinal_R
    _, begins = np.unique(row_R, return_index=True)
    for wrong, what in (
        (outside, "is outside the shard"),
        (np.setdiff1d(np.arange(len(row_R)), begins), "is repeated"),
    ):
        if len(wrong):
            at = int(wrong[0])
            raise ScoreError(
                f"{path}: ordinal {ordinal_R[at]} of '{printable(names[encoded.indices[at].as_py()])}' {what}.",
                hint="An ordinal is a sample's place in its shard, from 0; each has one row.",
            )
    return row_R


def _numbers(column: pa.ChunkedArray, name: str, path: Path) -> NDArray[np.float64]:
    if not (pa.types.is_floating(column.type) or pa.types.is_integer(column.type)):
        raise ScoreError(f"{path}: column '{name}' holds {column.type}.", hint="Expected numbers.")
    values = column.cast(pa.float64(), safe=False).to_numpy()  # integers past 2^53 are rounded
    count = int(np.count_nonzero(~np.isfinite(values)))
    if count:
        raise ScoreError(f"{path}: {count:,} scores are null or not finite.", hint="Every sample needs a number.")
    return np.asarray(values)


def _without_score(pool: Pool, is_scored_N: NDArray[np.bool_], path: Path) -> list[BadSample]:
    first = dict(
        zip((s.name for s in pool.scans), np.cumsum([0, *(s.samples for s in pool.scans)]).tolist(), strict=False)
    )
    bad = [BadSample(*sample) for sample in bad_samples(pool)]
    bad = [sample for sample in bad if not is_scored_N[first[sample.shard] + sample.ordinal]]
    missing = pool.total - int(is_scored_N.sum()) - len(bad)
    if missing:
        raise ScoreError(
            f"{path}: {missing:,} of {pool.total:,} samples of the index have no score.",
            hint="Score every sample, or index only the shards that were scored.",
        )
    return bad


def _pool_columns(pool: Pool, is_scored_N: NDArray[np.bool_], names: Sequence[str]) -> dict[str, NDArray[Any]]:
    tables = [pool.read(place, names) for place in range(len(pool.scans))]
    values = {name: pa.concat_tables(tables)[name].to_numpy()[is_scored_N] for name in names}
    values["label"] = np.concatenate([pool.labels(place) for place in range(len(pool.scans))])[is_scored_N]
    return values
