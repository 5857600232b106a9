"""Parquet files as this project keeps them: written under a temporary name, renamed, read by column."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from curate import durable
from curate.errors import RunError
from curate.pool.tar import printable

# All that pyarrow raises for a damaged file, and OSError for one that is not there or cut short.
DAMAGE = (OSError, ValueError, TypeError, KeyError, MemoryError, OverflowError, pa.ArrowException)


def write_table(path: Path, table: pa.Table, metadata: dict[str, Any]) -> None:
    """Writes a Parquet file under a temporary name and renames it; `metadata` is stored as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    about = {"curate": json.dumps(metadata, sort_keys=True)}
    with durable.replace(path) as file:
        pq.write_table(
            table.replace_schema_metadata(about),
            file,
            compression="zstd",
            write_statistics=False,
            write_page_checksum=True,
        )


def read_table(path: Path, columns: Sequence[str]) -> pa.Table:
    """Returns columns of a Parquet file, their pages' checksums verified; nothing else of it is read.

    Raises:
        RunError: it cannot be read.
    """
    try:
        table = open_table(path).read(columns=list(columns), use_threads=False)
        return table.rename_columns(table.column_names)  # names that are no text fail here, and not later
    except DAMAGE as error:
        raise damaged(path, error) from error


def open_table(path: Path) -> pq.ParquetFile:
    """Returns a Parquet file that verifies the checksum of every page it reads."""
    # Without pre_buffer: a column of a shard is so small that handing it to another thread takes as long as reading it.
    return pq.ParquetFile(path, memory_map=True, page_checksum_verification=True, pre_buffer=False)


def read_schema(path: Path) -> tuple[pa.Schema, int]:
    """Returns the columns of a Parquet file and how many rows it has.

    Raises:
        RunError: it cannot be read.
    """
    try:
        file = open_table(path)
        schema = file.schema_arrow
        return schema, file.metadata.num_rows if schema.names else 0  # names that are no text fail here
    except DAMAGE as error:
        raise damaged(path, error) from error


def read_metadata(path: Path) -> dict[str, Any]:
    """Returns the metadata that `write_table` stored.

    Raises:
        RunError: it cannot be read.
    """
    try:
        return dict(json.loads(pq.read_schema(path).metadata[b"curate"]))
    except DAMAGE as error:
        raise damaged(path, error) from error


def damaged(path: Path, error: Exception) -> RunError:
    """Returns the error that says why a table cannot be read."""
    why = printable(" ".join(str(error).split())[:200])
    if isinstance(error, FileNotFoundError):
        return RunError(f"{path}: not there.", hint="Run the command that writes it again, or bring the whole folder.")
    return RunError(f"{path}: cannot be read ({why}).", hint="Delete it and run the same command again.")
