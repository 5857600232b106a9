"""The proxy's embeddings of scored samples: float16, one file a shard, rows as in its score table.

A file's existence under its final name is its done-marker; the record beside them is that of all. Behind the array
lies its digest: a bit that flips on a disk would be another core-set.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate import durable
from curate.errors import RunError, ScoreError
from curate.pool.index import Pool
from curate.scores import read_record, write_record

FOLDER, RECORD = "embeddings", "record.json"
DIGEST_BYTES = 16
HINT = "Run the same `curate score` command again with --embeddings: members and scores are kept as they are."


def embeddings_path(run: Path, shard: str) -> Path:
    """Returns where a shard's embeddings lie in a run."""
    return run / FOLDER / f"{shard}.npy"


def write_embeddings(run: Path, shard: str, embedding_ND: NDArray[np.float32]) -> None:
    """Writes one shard's embeddings, rounded to float16.

    Raises:
        ScoreError: one is not finite, or too large for float16.
    """
    with np.errstate(over="ignore"):
        half_ND = embedding_ND.astype(np.float16)
    bad_N = ~np.isfinite(half_ND).all(axis=1)
    if bad_N.any():
        raise ScoreError(
            f"{shard}: the embedding of its scored sample {int(np.argmax(bad_N))} is not finite in float16.",
            hint="The proxy's training diverged. Lower train.rate, or set train.precision = 'float32'.",
        )
    path = embeddings_path(run, shard)
    path.parent.mkdir(parents=True, exist_ok=True)
    with durable.replace(path) as file:
        whole = io.BytesIO()
        np.save(whole, half_ND)
        file.write(whole.getbuffer())
        file.write(_digest(whole.getbuffer()))


def write_embeddings_record(run: Path, *, seed: int, epoch: int) -> None:
    """Writes which member the embeddings are of, once all shards have theirs."""
    write_record(run / FOLDER / RECORD, {"seed": seed, "epoch": epoch})


class Embeddings:
    """The embeddings of all scored samples of a run, by row: shards one after another in order of the pool.

    Attributes:
        seed, epoch: of the member that they are of.
    """

    def __init__(self, run: Path, pool: Pool, ordinals: Sequence[NDArray[np.int64]]) -> None:
        """Opens a run's embeddings; `ordinals` are those of the scored samples of each shard.

        Raises:
            RunError: the run has none, or not all.
        """
        if not (run / FOLDER / RECORD).exists():
            raise RunError(f"{run} holds no embeddings, or not of all its shards.", hint=HINT)
        record = read_record(run / FOLDER / RECORD)
        self.seed, self.epoch = int(record["seed"]), int(record["epoch"])
        self._paths = [embeddings_path(run, scan.name) for scan in pool.scans]
        self._first_S = np.concatenate([[0], np.cumsum([len(ordinal_N) for ordinal_N in ordinals])])

    @cached_property
    def row_bytes(self) -> int:
        """Bytes of one embedding in memory; reads the first shard that has one."""
        return self.read(np.zeros(1, dtype=np.int64)).nbytes

    def read(self, row_B: NDArray[np.int64]) -> NDArray[np.float32]:
        """Returns the embeddings of some rows in their order, shape (B, D).

        Cost: reads the file of every shard that a row lies in; memory of the result and of one shard.

        Raises:
            RunError: a file is missing, damaged, of another number of samples, or holds what is not finite.
        """
        shard_B = np.searchsorted(self._first_S, row_B, side="right") - 1
        by_shard_B = np.argsort(shard_B, kind="stable")
        result_BD: NDArray[np.float32] | None = None
        for place_b in np.split(by_shard_B, np.flatnonzero(np.diff(shard_B[by_shard_B])) + 1):
            if not len(place_b):
                continue
            shard = int(shard_B[place_b[0]])
            part_ND = self._load(shard)
            if result_BD is None:
                result_BD = np.empty((len(row_B), part_ND.shape[1]), dtype=np.float32)
            if part_ND.shape[1] != result_BD.shape[1]:
                raise RunError(
                    f"{self._paths[shard]}: {part_ND.shape[1]} dimensions, not {result_BD.shape[1]}.", hint=HINT
                )
            places_b = row_B[place_b] - self._first_S[shard]
            result_BD[place_b] = part_ND[places_b]
            bad_b = ~np.isfinite(result_BD[place_b]).all(axis=1)
            if bad_b.any():
                raise RunError(
                    f"{self._paths[shard]}: scored sample {int(places_b[bad_b][0])} is not finite.",
                    hint=f"Delete it. {HINT}",
                )
        return np.zeros((0, 1), dtype=np.float32) if result_BD is None else result_BD

    def _load(self, shard: int) -> NDArray[Any]:
        path, samples = self._paths[shard], int(self._first_S[shard + 1] - self._first_S[shard])
        try:
            data = memoryview(path.read_bytes())
            array, digest = data[:-DIGEST_BYTES], data[-DIGEST_BYTES:]
            if _digest(array) != digest:
                raise ValueError("it is not what was written")
            part_ND: NDArray[Any] = np.load(io.BytesIO(array), allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise RunError(f"{path}: cannot be read ({error}).", hint=f"Delete it. {HINT}") from error
        if part_ND.dtype != np.float16 or part_ND.ndim != 2 or len(part_ND) != samples:
            raise RunError(
                f"{path}: holds {part_ND.dtype} of shape {part_ND.shape}, expected float16 of {samples:,} samples.",
                hint=f"Delete it. {HINT}",
            )
        return part_ND


def _digest(data: memoryview) -> bytes:
    return hashlib.blake2b(data, digest_size=DIGEST_BYTES).digest()
