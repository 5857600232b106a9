"""The first samples of a pool whose columns need not fit into memory, by the total order of `rank`.

The pool comes in parts, such as its shards or the row groups of a file, and a column is a function that
reads one part. What is held: two bits a sample, one part, one histogram and the keys of few samples.
The result is that of `rank.take_first` over all parts joined.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise, zip_longest
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from curate.errors import ScoreError, UsageError

Order = Literal["hardest", "easiest"]
Column = Callable[[int], NDArray[Any]]
Bits = NDArray[np.uint8]
Keys = NDArray[np.unsignedinteger[Any]]

ORDERS: tuple[Order, ...] = ("hardest", "easiest")
DIGIT_BITS = 16
GATHERED, SHARE_BITS = 1 << 16, 7  # keys that are held at once, or this binary fraction of all that are tied
CHUNK = 1 << 16  # samples whose keys are made at once: they stay in the processor's cache


@dataclass(frozen=True)
class Parts:
    """A pool in parts. Columns are called from another thread, one call at a time.

    Attributes:
        sizes: samples of each part.
        score: reads the scores of a part, floating point.
        tie: reads what decides between equal scores, floating point; None for the identity alone.
        identity: reads the identities of a part, uint64.
    """

    sizes: Sequence[int]
    score: Column
    tie: Column | None
    identity: Column


def take_first_of(
    parts: Parts, *, count: int, order: Order = "hardest", eligible: Sequence[Bits] | None = None
) -> list[Bits]:
    """Returns a mask of the first `count` samples in the total order: packed bits, one array a part.

    Args:
        parts: the pool.
        count: from 0 to the number of eligible samples.
        order: "hardest" takes the highest scores, "easiest" the lowest.
        eligible: masks of the samples to take from, as `np.packbits` makes them; None for all.

    Raises:
        ScoreError: the score of an eligible sample is not finite, or its tie where that decides.
        UsageError: fewer than `count` samples are eligible.

    Cost: two passes over the scores, and one more for each 16 bits that more than 1 / 128 of the samples
        have in common at the threshold. Ties and identities are read of those parts alone whose scores are
        tied there. N / 4 bytes of memory beside one part and the keys of 1 / 128.

    Source: radix selection from the most significant digit; histograms of parts add up.
    """
    check_order(order)
    search = _Search(parts.sizes, order, eligible)
    if not 0 <= count <= search.left:
        raise UsageError(f"{count:,} samples cannot be taken out of {search.left:,}")
    for column in (parts.score, parts.tie, parts.identity):
        if column is not None and 0 < count < search.left:
            count -= search.narrow(column, count)
    search.take(count)
    return search.first


class _Search:
    """What is known so far.

    Attributes:
        first: masks of the samples that are in.
        tied: masks of the samples that nothing has told apart yet.
        left: how many those are.
    """

    def __init__(self, sizes: Sequence[int], order: Order, eligible: Sequence[Bits] | None) -> None:
        self._sizes, self._order = sizes, order
        self.first = [np.zeros(-(-size // 8), np.uint8) for size in sizes]
        self.tied = [np.packbits(np.ones(size, np.bool_)) if eligible is None else eligible[part].copy()
                     for part, size in enumerate(sizes)]  # fmt: skip
        self.left = _total(self.tied)

    def narrow(self, column: Column, count: int) -> int:
        """Tells the tied samples apart by one column; returns how many of them are in now."""
        before, top, width, inside, bits = 0, 0, 0, self.left, 64
        while inside > max(GATHERED, self.left >> SHARE_BITS) and width < bits:
            counts, bits = self._histogram(column, top, width)
            ends = np.cumsum(counts)
            digit = int(np.searchsorted(ends, count - before))
            inside, before = int(counts[digit]), before + int(ends[digit] - counts[digit])
            top, width = top << DIGIT_BITS | digit, width + DIGIT_BITS
        keys = self._split(column, top, width)
        if width < bits:
            before += self._settle(keys, count - before)
        self.left = _total(self.tied)
        return before

    def take(self, count: int) -> None:
        """Takes the first tied samples by position: nothing else tells them apart."""
        for first, tied in zip(self.first, self.tied, strict=True):
            rows = np.flatnonzero(np.unpackbits(tied))[:count]
            np.bitwise_or.at(first, rows >> 3, np.uint8(128) >> (rows & 7).astype(np.uint8))
            count -= len(rows)

    def _histogram(self, column: Column, top: int, width: int) -> tuple[NDArray[np.int64], int]:
        """Returns how many keys that begin with `top` go on with each digit, and the bits of a key."""
        counts, bits = np.zeros(1 << DIGIT_BITS, np.int64), 64
        for _, _, key_K, is_whole, tied in self._chunks(column):
            bits = 8 * key_K.itemsize
            if width:
                key_K = key_K[_starts(key_K, top, width) & _mask(tied, len(key_K))]
            elif not is_whole:
                key_K = key_K[_mask(tied, len(key_K))]
            digit_K = (key_K >> key_K.dtype.type(bits - width - DIGIT_BITS)).astype(np.uint16)
            counts += np.bincount(digit_K, minlength=len(counts))
        return counts, bits

    def _split(self, column: Column, top: int, width: int) -> list[Keys]:
        """Takes what lies below `top`, unties what lies above, and returns the keys of what begins with it.

        Where `top` is a whole key, the keys say nothing more and none are returned.
        """
        gathered: list[Keys] = []
        for part, place, key_K, is_whole, tied in self._chunks(column):
            if width:
                high_K = _high(key_K, width)
                is_in_K = high_K == top
                self.first[part][place] |= np.packbits(high_K < top) & tied
                self.tied[part][place] = tied & np.packbits(is_in_K)
                is_whole = False
            if width < 8 * key_K.itemsize:
                gathered.append(key_K if is_whole else key_K[_mask(self.tied[part][place], len(key_K))])
        return gathered

    def _settle(self, gathered: list[Keys], count: int) -> int:
        """Takes the tied samples whose keys are below the threshold, unties those above; returns how many are in."""
        key_K = np.concatenate(gathered)
        threshold = np.partition(key_K, count - 1)[count - 1]
        is_in_K, is_tied_K = key_K < threshold, key_K == threshold
        ends = np.cumsum([0, *(int(np.bitwise_count(bits).sum()) for bits in self.tied)])
        for part, (start, end) in enumerate(pairwise(ends.tolist())):
            if start < end:
                is_in, self.tied[part] = (
                    _spread(mask_K[start:end], self.tied[part], self._sizes[part]) for mask_K in (is_in_K, is_tied_K)
                )
                self.first[part] |= is_in
        return int(np.count_nonzero(is_in_K))

    def _chunks(self, column: Column) -> Iterator[tuple[int, slice, Keys, bool, Bits]]:
        """Yields the part, the bytes, the keys, whether all are tied, and which; where at least one is."""
        for part, value_N in _read(column, [part for part, tied in enumerate(self.tied) if tied.any()]):
            for start in range(0, len(value_N), CHUNK):
                place = slice(start // 8, (start + CHUNK) // 8)
                value_K, tied = value_N[start : start + CHUNK], self.tied[part][place]
                number = int(np.bitwise_count(tied).sum())
                if number:
                    _check(value_K, tied, part, start)
                    yield part, place, keys_of(value_K, self._order), number == len(value_K), tied


def _read(column: Column, parts: Sequence[int]) -> Iterator[tuple[int, NDArray[Any]]]:
    """Yields parts with their values; each is read while the one before it is worked on."""
    if len(parts) == 1:
        yield parts[0], column(parts[0])
        return
    with ThreadPoolExecutor(1) as ahead:
        coming = ahead.submit(column, parts[0]) if parts else None
        for part, following in zip_longest(parts, parts[1:]):
            value_N = coming.result() if coming else column(part)
            coming = None if following is None else ahead.submit(column, following)
            yield part, value_N


def check_order(order: str) -> None:
    """Refuses an order that does not exist."""
    if order not in ORDERS:
        raise UsageError(f"unknown order '{order}'", hint=f"Known: {', '.join(ORDERS)}.")


def keys_of(value_N: NDArray[Any], order: Order) -> Keys:
    """Returns unsigned integers in whose order the values come: floats by `order`, identities as they are."""
    if value_N.dtype.kind == "u":
        return value_N
    value_N = 0 - value_N if order == "hardest" else value_N + 0  # -0.0 becomes +0.0
    size = value_N.itemsize
    bits_N = value_N.view(f"u{size}")
    sign_N = (value_N.view(f"i{size}") >> (8 * size - 1)).view(f"u{size}")
    keys_N: Keys = bits_N ^ (sign_N | bits_N.dtype.type(1 << (8 * size - 1)))
    return keys_N


def _spread(mask_K: NDArray[np.bool_], bits: Bits, size: int) -> Bits:
    """Returns a mask of all samples from one of those that `bits` names."""
    if len(mask_K) == size:
        return np.packbits(mask_K)
    mask_N = _mask(bits, size)
    mask_N[mask_N] = mask_K
    return np.packbits(mask_N)


def _check(value_K: NDArray[Any], tied: Bits, part: int, start: int) -> None:
    if value_K.dtype.kind == "f" and not np.isfinite(value_K).all():
        bad_K = ~np.isfinite(value_K) & _mask(tied, len(value_K))
        if bad_K.any():
            row = int(np.argmax(bad_K))
            raise ScoreError(
                f"the score of sample {start + row} of part {part} is {value_K[row]}",
                hint="Scores must be finite numbers: what is not a number has no rank.",
            )


def _high(key_K: Keys, width: int) -> Keys:
    return key_K >> key_K.dtype.type(8 * key_K.itemsize - width)


def _starts(key_K: Keys, top: int, width: int) -> NDArray[np.bool_]:
    return np.asarray(_high(key_K, width) == top)


def _mask(bits: Bits, size: int) -> NDArray[np.bool_]:
    return np.unpackbits(bits, count=size).view(np.bool_)


def _total(masks: Sequence[Bits]) -> int:
    return sum(int(np.bitwise_count(bits).sum()) for bits in masks)
