"""Who reads which samples of an epoch: plain arithmetic over counts.

An epoch is a line of samples, shard after shard. Ranks take runs of it, and so do the workers of a
rank, so that each reads as few shards as can be and none is left without because shards are few.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from curate.errors import UsageError
from curate.manifest.layout import Piece

Remainder = Literal["keep", "drop", "pad"]
T = TypeVar("T")


def rank_share(total: int, rank: int, world_size: int, remainder: Remainder) -> tuple[int, int]:
    """Returns the run of an epoch that a rank takes: (first, end); with `pad` the end may lie past the total.

    Args:
        total: samples in the epoch.
        rank: in [0, world_size).
        world_size: ranks.
        remainder: what becomes of the samples that cannot be dealt evenly. `keep`: each sample once,
            ranks differ by one; `drop`: the epoch's last ones are left out; `pad`: its first ones come twice.

    Raises:
        UsageError: `drop` would leave nothing.
    """
    if remainder == "keep":
        return total * rank // world_size, total * (rank + 1) // world_size
    each = total // world_size if remainder == "drop" else -(-total // world_size)
    if not each:
        raise UsageError(
            f"{total:,} samples dealt evenly to {world_size:,} ranks leave none.", hint="Use remainder='pad'."
        )
    return each * rank, each * (rank + 1)


def worker_share(first: int, end: int, worker: int, workers: int, batch_size: int) -> tuple[int, int]:
    """Returns the part of a rank's run that a worker takes, cut between batches."""
    batches = -(-(end - first) // batch_size)
    low, high = (batches * number // workers * batch_size for number in (worker, worker + 1))
    return min(end, first + low), min(end, first + high)


def pieces(order_S: NDArray[np.int64], kept_S: NDArray[np.int64], first: int, end: int) -> Iterator[Piece]:
    """Yields the pieces of shards that make up a run of an epoch, which begins again after its end.

    Args:
        order_S: the shards in the epoch's order.
        kept_S: kept samples by shard.
        first, end: the run.
    """
    turns = -(-end // int(kept_S.sum()))
    shard_P = np.tile(order_S, turns)
    end_P = np.cumsum(kept_S[shard_P])
    for place in range(int(np.searchsorted(end_P, first, side="right")), len(shard_P)):
        shard, stop = int(shard_P[place]), int(end_P[place])
        start = stop - int(kept_S[shard])
        if start >= end:
            return
        yield Piece(shard, max(first, start) - start, min(end, stop) - start)


def shuffled(items: Iterable[T], size: int, draw: random.Random) -> Iterator[T]:
    """Yields items in an order drawn through a buffer of `size`; with none, in their own."""
    buffer: list[T] = []
    for item in items:
        if len(buffer) < size:
            buffer.append(item)
            continue
        if size:
            place = draw.randrange(size)
            item, buffer[place] = buffer[place], item
        yield item
    draw.shuffle(buffer)
    yield from buffer
