"""Pixels without a store: webdataset pipelines that decode every image anew, in worker processes.

Every sample comes exactly once an epoch, whatever the number of shards and workers: the pool is cut
into parts of shards, the parts are shuffled and dealt to the workers, samples are shuffled again in a
buffer, and the main process cuts the joint stream into batches. The order depends on the seed, the
pool and the number of workers, and on nothing else.
"""

from __future__ import annotations

import multiprocessing
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import webdataset as wds
from numpy.typing import NDArray

from curate.errors import SampleError
from curate.pool.index import Pool
from curate.proxy.decoding import CHUNK_IMAGES
from curate.proxy.pixels import Batch, Form, Pixel, Rows, chunked, decoded, name_bad, read_images, rows_of
from curate.scores import BadSample

Decoded = tuple[NDArray[np.int64], Pixel]
PARTS_PER_WORKER = 4
CHECKED_ROWS = 64  # held at once


@dataclass(frozen=True)
class Part:
    """A run of rows of one shard: the unit that workers are dealt."""

    index: int
    rows: NDArray[np.int64]


class StreamedPixels:
    """Rows decoded whenever they are needed."""

    def __init__(self, pool: Pool, shape: Form, *, workers: int, shuffle_buffer: int) -> None:
        self.rows = rows_of(pool)
        self.shape = shape
        self.bad: list[BadSample] = []
        self._pool = pool
        self._workers = workers
        self._buffer = max(1, shuffle_buffer // max(1, workers))

    def epoch(self, rows_K: NDArray[np.int64], *, batch_size: int, seed: Sequence[int]) -> Iterator[Batch]:
        """Yields each row once in a shuffled order; undecodable ones are left out."""
        parts = cut_parts(self.rows, rows_K, at_least=self._workers * PARTS_PER_WORKER)
        generator = np.random.default_rng(list(seed))
        shuffled = [parts[place] for place in generator.permutation(len(parts))]
        draw = random.Random(int(generator.integers(2**63)))  # noqa: S311  (an order, no secret)
        pipeline = wds.DataPipeline(
            _Deal(shuffled),
            wds.split_by_worker,
            _Read(self.rows),
            wds.shuffle(self._buffer, initial=self._buffer, rng=draw),
            _Decode(self.shape),
        )
        loader = torch.utils.data.DataLoader(
            pipeline,
            batch_size=None,
            num_workers=self._workers,
            # Forked workers start in milliseconds and touch neither torch's threads nor a device.
            multiprocessing_context=multiprocessing.get_context("fork") if self._workers else None,
            collate_fn=_as_it_is,
        )
        return ((rows_B, torch.from_numpy(pixels_B)) for rows_B, pixels_B in rebatched(loader, batch_size))

    def check(self, progress: Callable[[int, str], None]) -> None:
        """Decodes everything once, so that whoever draws rows knows the undecodable ones."""
        for index, shard in enumerate(self.rows.shards):
            progress(int(self.rows.offset_S[index]), shard.name)
            for _ in self.in_order(index, batch_size=CHECKED_ROWS):
                pass
        place = {shard.name: index for index, shard in enumerate(self.rows.shards)}
        for sample in self.bad:
            self.rows.is_bad_N[self.rows.offset_S[place[sample.shard]] + sample.ordinal] = True

    def in_order(self, index: int, *, batch_size: int) -> Iterator[Batch]:
        """Yields the good rows of one shard in order, and takes note of the undecodable ones."""
        rows, pixels, bad = list[int](), list[Pixel](), list[tuple[int, str]]()
        for row, one in decoded(self.rows, index, self.shape, threads=max(1, self._workers)):
            if isinstance(one, SampleError):
                bad.append((row, str(one)))
                continue
            rows.append(row)
            pixels.append(one)
            if len(rows) == batch_size:
                yield np.array(rows), torch.from_numpy(np.stack(pixels))
                rows, pixels = [], []
        if rows:
            yield np.array(rows), torch.from_numpy(np.stack(pixels))
        known = {(sample.shard, sample.ordinal) for sample in self.bad}
        named = name_bad(self._pool, self.rows, index, bad)
        self.bad += [sample for sample in named if (sample.shard, sample.ordinal) not in known]


def cut_parts(rows: Rows, rows_K: NDArray[np.int64], *, at_least: int) -> list[Part]:
    """Returns rows cut into parts of one shard each, so many that no worker starves."""
    order_K = np.sort(rows_K[~rows.is_bad_N[rows_K]])
    by_shard = np.split(order_K, np.searchsorted(order_K, rows.offset_S[1:-1]))
    pieces = max(1, -(-at_least // len(rows.shards)))
    return [
        Part(index, piece)
        for index, rows_S in enumerate(by_shard)
        for piece in np.array_split(rows_S, min(pieces, max(1, len(rows_S))))
        if len(piece)
    ]


def rebatched(chunks: Iterable[Decoded], batch_size: int) -> Iterator[Decoded]:
    """Yields batches of a size from chunks of any; a last batch of one joins the one before."""
    rows, pixels, ready = list[NDArray[np.int64]](), list[Pixel](), 0
    for rows_B, pixels_B in chunks:
        rows.append(rows_B)
        pixels.append(pixels_B)
        ready += len(rows_B)
        while ready > batch_size + 1:
            joined, stacked = np.concatenate(rows), np.concatenate(pixels)
            yield joined[:batch_size], stacked[:batch_size]
            rows, pixels, ready = [joined[batch_size:]], [stacked[batch_size:]], ready - batch_size
    if ready:
        yield np.concatenate(rows), np.concatenate(pixels)


def _as_it_is(item: Any) -> Any:
    return item


class _Deal(torch.utils.data.IterableDataset):  # type: ignore[type-arg]  # yields what webdataset calls URLs
    def __init__(self, parts: Sequence[Part]) -> None:
        self._parts = parts

    def __iter__(self) -> Iterator[dict[str, Part]]:
        return ({"url": part} for part in self._parts)


class _Read:
    """The stage that opens parts: image bytes by byte range, nothing else of the tar."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    def __call__(self, source: Iterable[dict[str, Part]]) -> Iterator[tuple[int, bytes]]:
        for item in source:
            yield from read_images(self._rows, item["url"].index, item["url"].rows)


class _Decode:
    """The stage that decodes, and packs samples so that few messages travel."""

    def __init__(self, shape: Form) -> None:
        self._shape = shape

    def __call__(self, source: Iterable[tuple[int, bytes]]) -> Iterator[Decoded]:
        for chunk in chunked(source, CHUNK_IMAGES):
            found = self._shape.decode([data for _, data in chunk])
            # What has no pixels is counted and named by the scoring pass, which sees every sample.
            good = [(row, one) for (row, _), one in zip(chunk, found, strict=True) if not isinstance(one, SampleError)]
            if good:
                rows, pixels = zip(*good, strict=True)
                yield np.array(rows), np.stack(pixels)
