"""Threads that share out the rows of an array.

A block of rows has one thread from its first operation to its last. So numpy's BLAS is held to one
thread meanwhile: its own threads wait for each other at every product, which costs more than they give
where blocks are small or the machine has other work.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from threadpoolctl import ThreadpoolController


class Workers:
    """As many threads as BLAS would use."""

    def __init__(self) -> None:
        self._blas = _blas()
        self.count: int = max((library["num_threads"] for library in self._blas.info()), default=1)
        self._threads = ThreadPoolExecutor(self.count)  # starts none before there is work

    def each(self, work: Callable[[slice], None], size: int, most: int) -> None:
        """Does some work for every block of at most `most` of `size` rows."""
        step = max(1, min(most, -(-size // self.count)))
        blocks = [slice(first, min(first + step, size)) for first in range(0, size, step)]
        with self._blas.limit(limits=1):
            # One thread beside this one, which waits for it, would only cost.
            for _ in self._threads.map(work, blocks) if min(len(blocks), self.count) > 1 else map(work, blocks):
                pass


@functools.cache
def _blas() -> Any:
    return ThreadpoolController().select(user_api="blas")  # looks through all loaded libraries: 6 ms
