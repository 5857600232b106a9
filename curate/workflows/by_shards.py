"""Selection by rank alone from a run whose columns would not fit into memory: read shard by shard, again and again.

What is held is two bits a sample and one shard's columns. The manifest is the same to the byte.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from curate.acquisition import acquisition
from curate.pool.index import POOL, load_pool
from curate.scores import INDEX, read_column, scored_sizes
from curate.selection.radix import Bits, Column, Order, Parts, take_first_of
from curate.selection.strata import KEPT, OUTLIER, RANK, REASONS
from curate.workflows.gather import Opened, open_run, random_order

LARGE = 1 << 25  # samples; the columns of fewer take at most 1 GiB


@dataclass(frozen=True)
class Shards:
    """An opened run, of which single columns of single shards are read."""

    run: Path
    opened: Opened
    sizes: list[int]
    fn: str
    tie: str | None
    seed: int

    @property
    def total(self) -> int:
        """Scored samples."""
        return sum(self.sizes)

    def column(self, name: str) -> Column:
        """Returns the function that reads a column of one shard."""
        return lambda part: read_column(self.run, self.opened.pool.scans[part], self.sizes[part], name)

    def select(self, *, budget: int, outliers: int, order: Order) -> list[tuple[Bits, Bits]]:
        """Returns which scored samples of each shard are kept and which are set aside, as packed masks.

        Raises:
            ScoreError: a score is missing or not finite.
        """
        identity = self.column("identity")
        is_random = self.fn == "random"
        score = (lambda part: random_order(identity(part), self.seed)) if is_random else self.column(self.fn)
        parts = Parts(self.sizes, score, self.column(self.tie) if self.tie else None, identity)
        aside = take_first_of(parts, count=outliers)
        free = [np.packbits(np.ones(size, np.bool_)) & ~bits for size, bits in zip(self.sizes, aside, strict=True)]
        kept = take_first_of(parts, count=budget, order=order, eligible=free)
        return list(zip(kept, aside, strict=True))

    def reasons(self, masks: list[tuple[Bits, Bits]]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.uint8]]]:
        """Yields the ordinals of each shard's scored samples, and why each is kept or dropped."""
        ordinal = self.column("ordinal")
        for part, (size, (kept, aside)) in enumerate(zip(self.sizes, masks, strict=True)):
            reason_K = np.full(size, RANK, np.uint8)
            reason_K[np.unpackbits(aside, count=size).view(np.bool_)] = OUTLIER
            reason_K[np.unpackbits(kept, count=size).view(np.bool_)] = KEPT
            yield ordinal(part) if size else np.array([], np.int64), reason_K

    def class_counts(self, masks: list[tuple[Bits, Bits]]) -> tuple[list[int], list[int]]:
        """Returns the scored and the kept samples of each class."""
        classes, label = self.opened.pool.classes.num_classes, self.column("label")
        before_C, after_C = np.zeros((2, classes), np.int64)
        for part, (size, (kept, _)) in enumerate(zip(self.sizes, masks, strict=True)):
            label_K = label(part) if size else np.array([], np.int64)
            is_kept_K = np.unpackbits(kept, count=size).view(np.bool_)
            before_C += np.bincount(label_K[label_K >= 0], minlength=classes)
            after_C += np.bincount(label_K[is_kept_K & (label_K >= 0)], minlength=classes)
        return before_C.tolist(), after_C.tolist()


def is_large(run: Path) -> bool:
    """Says whether a run has more samples than are held at once; False where it has no index."""
    return (run / INDEX / POOL).exists() and load_pool(run / INDEX).total > LARGE


def open_shards(run: Path, fn: str, seed: int) -> Shards:
    """Returns a run for `Shards.select`."""
    opened = open_run(run, fn)
    return Shards(run, opened, scored_sizes(run, opened.pool, opened.bad), fn, acquisition(fn).tie, seed)


def counts_of(masks: list[tuple[Bits, Bits]], total: int) -> dict[str, int]:
    """Returns how many scored samples have each reason."""
    kept, aside = (sum(int(np.bitwise_count(pair[place]).sum()) for pair in masks) for place in (0, 1))
    found = dict.fromkeys(REASONS, 0)
    return found | {REASONS[KEPT]: kept, REASONS[OUTLIER]: aside, REASONS[RANK]: total - kept - aside}
