"""The manifest that a new one grows from: what it keeps stays kept, and who joined when is remembered."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from curate.errors import UsageError
from curate.manifest.iterations import NOT_KEPT, IterationArray, iteration_lines, iterations_of
from curate.manifest.lines import manifest_digest
from curate.manifest.origin import check_pool
from curate.manifest.verify import load_whole
from curate.pool.index import Pool
from curate.scores import Columns
from curate.selection.rank import BoolArray


@dataclass(frozen=True)
class Base:
    """A manifest that grows.

    Attributes:
        digest: of it.
        iteration: its own, 0 for the first.
        added: for each shard, which iteration added each ordinal; −1 for what it does not keep.
    """

    digest: str
    iteration: int
    added: list[IterationArray]

    def mask(self, columns: Columns) -> BoolArray:
        """Returns which of the scored samples it keeps; what can no longer be scored has failed and is not there."""
        parts = [added_N[ordinal_K] for added_N, ordinal_K in zip(self.added, columns.ordinals, strict=True)]
        kept_N: BoolArray = np.concatenate(parts) != NOT_KEPT
        return kept_N

    def lines(self, pool: Pool, columns: Columns, kept_N: NDArray[np.bool_]) -> Iterator[str]:
        """Yields the lines of `iterations.jsonl` for what is kept now."""
        added, at = [], 0
        for before_N, ordinal_K in zip(self.added, columns.ordinals, strict=True):
            kept_K = kept_N[at : at + len(ordinal_K)]
            at += len(ordinal_K)
            now_N = np.full(len(before_N), NOT_KEPT, dtype=np.int16)
            before_K = before_N[ordinal_K]
            now_N[ordinal_K[kept_K]] = np.where(before_K == NOT_KEPT, self.iteration + 1, before_K)[kept_K]
            added.append(now_N)
        return iteration_lines(pool, added)


def open_base(folder: Path, pool: Pool) -> Base:
    """Returns the manifest that grows.

    Raises:
        ManifestError: it is damaged, or of another pool.
        UsageError: its classes are others: labels were read in another way.
    """
    head = load_whole(folder)
    check_pool(pool, folder, head)
    # Labels that were given since may have added classes.
    same_kind = head.classes.kind in ("none", pool.classes.kind)
    if not same_kind or not set(head.classes.names) <= set(pool.classes.names):
        raise UsageError(
            f"{folder} has other classes than the scores ({head.classes.kind}, {len(head.classes.before)}).",
            hint="Score with the same --label-from, --label-field or --labels.",
        )
    return Base(manifest_digest(folder), head.selection.iteration, iterations_of(folder, head))


def joined(always_N: BoolArray | None, base: Base | None, columns: Columns) -> BoolArray | None:
    """Returns what is kept in any case: the list, and the base."""
    if base is None:
        return always_N
    held_N = base.mask(columns)
    return held_N if always_N is None else held_N | always_N
