"""Score tables: Parquet, one file a shard, and the record of the run that made them.

A table's existence under its final name is its done-marker. Failed samples have no row; they are in
`bad.parquet` with shard, ordinal, key and reason. Rows and bad samples together are the pool.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from curate import durable
from curate.errors import RunError, ScoreError
from curate.pool.index import Pool
from curate.pool.scan import Scan
from curate.tables import DAMAGE, damaged, open_table, read_schema, read_table, write_table

RUN, SUMMARY, BAD, TABLES, INDEX = "run.json", "summary.json", "bad.parquet", "tables", "index"
VOTES, VOTE = "votes", "vote@"  # where the members' classes lie, and how their columns begin
FORMAT = 1
BAD_SCHEMA = pa.schema([("shard", pa.string()), ("ordinal", pa.int64()), ("key", pa.string()), ("reason", pa.string())])


def table_path(run: Path, shard: str) -> Path:
    """Returns where a shard's scores lie in a run."""
    return run / TABLES / f"{shard}.parquet"


def write_scores(run: Path, shard: str, columns: Mapping[str, Any]) -> None:
    """Writes one shard's table. Columns are arrays of equal length; NaN in a float column means null."""
    arrays = {name: _nullable(values) for name, values in columns.items()}
    write_table(table_path(run, shard), pa.table(arrays), {"format": FORMAT, "shard": shard})


def write_votes(run: Path, shard: str, columns: dict[str, Any]) -> None:
    """Moves the members' votes out of a shard's columns into a table of their own, which few commands read."""
    votes = {name: columns.pop(name) for name in list(columns) if name.startswith(VOTE)}
    if votes:
        write_scores(run / VOTES, shard, {"ordinal": columns["ordinal"], **votes})


def _nullable(values: Any) -> pa.Array:
    if isinstance(values, np.ndarray) and values.dtype.kind == "f":
        return pa.array(values.astype(np.float32), from_pandas=True)
    if isinstance(values, np.ndarray) and values.dtype == np.int32:
        return pa.array(values, mask=values < 0)
    return pa.array(values)


_OWN = re.compile(r"(?<=^the label) '.*'(?= is no class id$)| \(byte [\d,]+\)$", re.DOTALL)


@dataclass(frozen=True)
class BadSample:
    """One sample that could not be scored."""

    shard: str
    ordinal: int
    key: str
    reason: str

    @property
    def kind(self) -> str:
        """The reason without what is the sample's own in it: as many kinds as there are faults, not as samples."""
        return _OWN.sub("", self.reason)


def write_bad(path: Path, bad: Iterable[BadSample]) -> None:
    """Writes `bad.parquet`, sorted by shard and ordinal."""
    rows = [vars(sample) for sample in sorted(bad, key=lambda sample: (sample.shard, sample.ordinal))]
    write_table(path, pa.Table.from_pylist(rows, schema=BAD_SCHEMA), {"format": FORMAT})


def read_bad(path: Path) -> list[BadSample]:
    """Returns what `bad.parquet` holds."""
    table = read_table(path, BAD_SCHEMA.names)
    if table.schema.remove_metadata() != BAD_SCHEMA:
        raise RunError(f"{path}: not a list of bad samples.", hint="Run `curate score` again.")
    return [BadSample(**row) for row in table.to_pylist()]


@dataclass(frozen=True)
class Columns:
    """Chosen columns of all scored samples, shards one after another in order of the pool.

    Attributes:
        ordinals: per shard, the ordinals of its rows.
        values: name -> array over all rows, shape (N,).
    """

    ordinals: tuple[NDArray[np.int64], ...]
    values: Mapping[str, NDArray[Any]]


def read_columns(
    run: Path, pool: Pool, names: Sequence[str], *, bad: Sequence[BadSample], null_is_nan: bool = False
) -> Columns:
    """Returns columns of every shard's table, checked against the pool.

    With `null_is_nan`, a sample without a score has NaN instead of ending the reading.

    Raises:
        ScoreError: a table is missing or short, a column is missing, a score is null or not finite.
    """
    ordinals, parts = [], []
    for scan, size in zip(pool.scans, scored_sizes(run, pool, bad), strict=True):
        table = _read_whole(run, scan, size, ["ordinal", *names]) if size else None
        ordinals.append(np.array([], dtype=np.int64) if table is None else table["ordinal"].to_numpy())
        parts += [] if table is None else [table]
    whole = pa.concat_tables(parts)
    return Columns(tuple(ordinals), {name: _plain(whole[name], name, null_is_nan) for name in names})


def scored_sizes(run: Path, pool: Pool, bad: Sequence[BadSample]) -> list[int]:
    """Returns how many scored samples each shard has.

    Raises:
        ScoreError: there is none at all.
    """
    failed = {scan.name: 0 for scan in pool.scans}
    for sample in bad:
        failed[sample.shard] = failed.get(sample.shard, 0) + 1
    sizes = [scan.samples - failed[scan.name] for scan in pool.scans]
    if not any(sizes):
        raise ScoreError("Every sample of the pool is bad.", hint=f"See {run / BAD}.")
    return sizes


def read_column(run: Path, scan: Scan, size: int, name: str) -> NDArray[Any]:
    """Returns one column of one shard's `size` scored samples, checked as `read_columns` does."""
    return _plain(_read_whole(run, scan, size, [name])[name], name, null_is_nan=False)


def _read_whole(run: Path, scan: Scan, size: int, names: Sequence[str]) -> pa.Table:
    table = _read(run, scan.name, names)
    if table.num_rows != size:
        raise ScoreError(
            f"{scan.name}: {table.num_rows:,} scored and {scan.samples - size:,} bad of {scan.samples:,} samples.",
            hint="Run the same `curate score` command again: it goes on where it stopped.",
        )
    return table


def check_counts(run: Path, pool: Pool) -> None:
    """Counts on the disk: every sample of the pool has a row in a table or is in `bad.parquet`, and not both.

    Raises:
        ScoreError: scored + failed is not the number of samples, of some shard.
    """
    failed: dict[str, set[int]] = {scan.name: set() for scan in pool.scans}
    bad = read_bad(run / BAD)
    for sample in bad:
        failed[sample.shard].add(sample.ordinal)
    for scan in pool.scans:
        known = failed[scan.name]
        scored = set(_read(run, scan.name, ["ordinal"])["ordinal"].to_pylist())
        if (
            len(scored) + len(known) != scan.samples
            or scored & known
            or max(scored | known, default=-1) >= scan.samples
        ):
            raise ScoreError(
                f"{scan.name}: {len(scored):,} scored and {len(known):,} failed of {scan.samples:,} samples.",
                hint=f"This is a fault of curate. Delete {table_path(run, scan.name)} and run the same command again.",
            )


def _plain(column: pa.ChunkedArray, name: str, null_is_nan: bool) -> NDArray[Any]:
    if pa.types.is_integer(column.type):
        return np.asarray(column.fill_null(-1).to_numpy() if column.null_count else column.to_numpy())
    if column.null_count and not null_is_nan:
        raise ScoreError(
            f"{column.null_count:,} of {len(column):,} samples have no '{name}': it needs a label, and what is "
            "measured while training needs samples that were trained on.",
            hint="Choose a function that needs neither, such as entropy or mutual_information; or score without --val.",
        )
    return np.asarray(column.to_numpy())


def _read(run: Path, shard: str, names: Sequence[str]) -> pa.Table:
    path = table_path(run, shard)
    try:
        file = open_table(path)
        table = file.read(columns=list(names), use_threads=False)
        missing = [name for name in names if name not in table.column_names]
        if missing:
            known = ", ".join(file.schema_arrow.names)
            raise ScoreError(f"{path}: no column '{missing[0]}'.", hint=f"It has: {known}.")
        return table
    except FileNotFoundError:
        raise ScoreError(
            f"{shard} has no scores in {run}.",
            hint="Run the same `curate score` command again: it goes on where it stopped.",
        ) from None
    except DAMAGE as error:
        raise ScoreError(damaged(path, error).message, hint="Delete it and score again.") from error


def column_names(run: Path, pool: Pool) -> list[str]:
    """Returns the names of the columns of a run's tables; one without rows has not all.

    Raises:
        RunError: a table cannot be read.
    """
    found = (read_schema(table_path(run, scan.name)) for scan in pool.scans)
    return next((list(schema.names) for schema, rows in found if rows), [])


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Writes `run.json` or `summary.json`."""
    durable.write_json(path, {"format": FORMAT, **record})


def read_record(path: Path) -> dict[str, Any]:
    """Returns `run.json` or `summary.json`.

    Raises:
        RunError: missing, damaged, or of another format.
    """
    try:
        record = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise RunError(
            f"{path.parent}: no finished scores here ({path.name} is missing).",
            hint="Run `curate score SHARDS` first, or name the folder with --scores.",
        ) from None
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: damaged ({error}).", hint="Choose another folder, or delete this one.") from error
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise RunError(f"{path}: written by another version of curate.", hint="Choose another folder.")
    return record
