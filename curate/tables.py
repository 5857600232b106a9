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


def write_table(path: Path, table: pa.Table, metadata: dict[str, Any]) -> None:
    """Writes a Parquet file under a temporary name and renames it; `metadata` is stored as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    about = {"curate": json.dumps(metadata, sort_keys=True)}
    with durable.replace(path) as file:
        pq.write_table(table.replace_schema_metadata(about), file, compression="zstd", write_statistics=False)


def read_table(path: Path, columns: Sequence[str]) -> pa.Table:
    """Returns columns of a Parquet file; nothing else of it is read.

    Raises:
        RunError: it cannot be read.
    """
    try:
        return pq.ParquetFile(path, memory_map=True).read(columns=list(columns), use_threads=False)
    except (OSError, pa.ArrowInvalid) as error:
        raise RunError(
            f"{path}: cannot be read ({error}).", hint="Delete it and run the same command again."
        ) from error


def read_metadata(path: Path) -> dict[str, Any]:
    """Returns the metadata that `write_table` stored."""
    return dict(json.loads(pq.read_schema(path).metadata[b"curate"]))
