"""Pixels: every image decoded once, at the proxy's resolution, into uint8 rows; every text into rows of tokens.

A row is a sample of the pool, counted over all shards in order; bad samples have rows too, so that a
row's number never depends on what is broken. Two stores keep the rows, in memory or on disk. The
third way, streaming, lies in `curate.proxy.streaming`; all three have the same two methods.
"""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from curate import durable
from curate.errors import SampleError, ShardError
from curate.pool.index import Pool
from curate.pool.scan import check_unchanged
from curate.pool.shards import Shard
from curate.pool.sources import open_source
from curate.pool.texts import MAX_TEXT_BYTES
from curate.proxy.decoding import CHUNK_IMAGES, decode_images
from curate.proxy.device import on_device
from curate.scores import BadSample

Item = TypeVar("Item")
Pixel = NDArray[Any]  # uint8 pixels of images; tokens of texts
Batch = tuple[NDArray[np.int64], Tensor]  # rows (B,) and pixels (B, H, W, C), or tokens (B, L)
RESIDENT_SHARE = 0.5  # of a GPU's free memory that pixels may take


@dataclass(frozen=True)
class Rows:
    """The samples of a pool as parallel arrays over rows. About 21 bytes a sample.

    Attributes:
        shards: the pool's.
        offset_S: first row of each shard, and the number of rows at the end.
        start_N, size_N: byte range of each image in its decompressed tar, or of the part of each text that is read.
        label_N: class ids, -1 where there is none.
        is_bad_N: rows that the scan or the decoder found bad; decoders write it.
    """

    shards: tuple[Shard, ...]
    offset_S: NDArray[np.int64]
    start_N: NDArray[np.int64]
    size_N: NDArray[np.int64]
    label_N: NDArray[np.int32]
    is_bad_N: NDArray[np.bool_]

    def of_shard(self, index: int) -> NDArray[np.int64]:
        """Returns the rows of one shard that are not known to be bad."""
        rows = np.arange(self.offset_S[index], self.offset_S[index + 1])
        return rows[~self.is_bad_N[rows]]

    def shard_of(self, row: int) -> int:
        """Returns the index of the shard that a row lies in."""
        return int(np.searchsorted(self.offset_S, row, side="right")) - 1

    def labels_on(self, device: torch.device | str, rows_B: NDArray[np.int64]) -> Tensor:
        """Returns the labels of rows on a device, shape (B,), int64."""
        return on_device(self.label_N[rows_B].astype(np.int64), device)

    def __len__(self) -> int:
        return int(self.offset_S[-1])


def rows_of(pool: Pool) -> Rows:
    """Returns the rows of an indexed pool."""
    starts, sizes, labels, bad = [], [], [], []
    for index in range(len(pool.scans)):
        table = pool.read(index, ["image_start", "image_size", "reason"])
        starts.append(table["image_start"].to_numpy())
        sizes.append(table["image_size"].to_numpy())
        bad.append(table["reason"].is_valid().to_numpy())
        labels.append(pool.labels(index))
    offset_S = np.concatenate([[0], np.cumsum([scan.samples for scan in pool.scans])]).astype(np.int64)
    shards = tuple(pool.shard(index) for index in range(len(pool.scans)))
    start_N, size_N, label_N, is_bad_N = (np.concatenate(part) for part in (starts, sizes, labels, bad))
    if pool.kind == "text":
        size_N = np.minimum(size_N, MAX_TEXT_BYTES)
    return Rows(shards, offset_S, start_N, size_N, label_N, is_bad_N)


def with_labels_of(pool: Pool, rows: Rows) -> Rows:
    """Returns the rows with the labels that an index has now; the rows may be of an earlier one."""
    return replace(rows, label_N=np.concatenate([pool.labels(index) for index in range(len(pool.scans))]))


class Form(Protocol):
    """What every row is decoded to: a `Shape` of images, or `curate.proxy.tokens.Tokens` of texts."""

    @property
    def dtype(self) -> np.dtype[Any]: ...

    @property
    def row_bytes(self) -> int: ...

    @property
    def of_row(self) -> tuple[int, ...]: ...

    def decode(self, entries: Sequence[bytes], /) -> Sequence[Pixel | SampleError]:
        """Returns what each entry is decoded to, or the reason why it is bad."""
        ...


@dataclass(frozen=True)
class Shape:
    """What every row of a pool of images is decoded to."""

    size_px: int
    channels: int

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.uint8)

    @property
    def row_bytes(self) -> int:
        return self.size_px * self.size_px * self.channels

    @property
    def of_row(self) -> tuple[int, int, int]:
        return (self.size_px, self.size_px, self.channels)

    def decode(self, images: Sequence[bytes]) -> Sequence[Pixel | SampleError]:
        """Returns each image's pixels, or the reason why it has none."""
        return decode_images(images, size_px=self.size_px, channels=self.channels)


class Pixels(Protocol):
    """Rows of uint8 pixels, in training's order or in the pool's, on the device or on their way to it."""

    rows: Rows
    shape: Form
    bad: list[BadSample]

    def epoch(self, rows_K: NDArray[np.int64], *, batch_size: int, seed: Sequence[int]) -> Iterator[Batch]:
        """Yields each row once, in an order that the seed alone decides; undecodable ones are left out."""
        ...

    def in_order(self, index: int, *, batch_size: int) -> Iterator[Batch]:
        """Yields the good rows of one shard in order."""
        ...


def read_images(rows: Rows, index: int, rows_K: NDArray[np.int64]) -> Iterator[tuple[int, bytes]]:
    """Yields (row, image bytes) for rows of one shard, in rising order; nothing else is read.

    Raises:
        ShardError: the shard is not, or is no longer, what it was when it was indexed.
    """
    shard = rows.shards[index]
    check_unchanged(shard)
    at = 0
    with open_source(shard.path, shard.name) as stream:
        for row in rows_K.tolist():
            start, size = int(rows.start_N[row]), int(rows.size_N[row])
            stream.skip(start - at)
            data = stream.read(size)
            if len(data) != size:
                raise ShardError(
                    f"{shard.name} is shorter than when it was indexed: {size:,} bytes were expected at {start:,}.",
                    hint="It changed while it was read. Score the new shards in a new folder.",
                )
            at = start + size
            yield row, data
    check_unchanged(shard)


def decoded(rows: Rows, index: int, shape: Form, *, threads: int) -> Iterator[tuple[int, Pixel | SampleError]]:
    """Yields (row, pixels) of one shard in order, or the reason why a row has none.

    Decoding runs in threads (the decoder leaves the interpreter's lock) on a bounded number of images.
    """
    some = partial(_decode_chunk, shape=shape)
    chunks = chunked(read_images(rows, index, rows.of_shard(index)), CHUNK_IMAGES)
    if threads <= 1:
        yield from chain.from_iterable(map(some, chunks))
        return
    with ThreadPoolExecutor(threads) as pool:
        pending = deque[Future[list[tuple[int, Pixel | SampleError]]]]()
        for chunk in chunks:
            pending.append(pool.submit(some, chunk))
            if len(pending) > threads:
                yield from pending.popleft().result()
        for future in pending:
            yield from future.result()


def _decode_chunk(chunk: Sequence[tuple[int, bytes]], shape: Form) -> list[tuple[int, Pixel | SampleError]]:
    found = shape.decode([data for _, data in chunk])
    return [(row, one) for (row, _), one in zip(chunk, found, strict=True)]


class StoredPixels:
    """Rows decoded once, kept in memory or in one flat file.

    On disk, rows are read by position and not through a mapping: mapped pages count as the process's
    memory, and with random access the whole file would. What is kept in memory moves to the GPU where one is
    used and has the room, so that no batch has to.
    """

    def __init__(
        self, pool: Pool, shape: Form, *, folder: Path | None, threads: int, device: torch.device | str = "cpu"
    ) -> None:
        self.rows = rows_of(pool)
        self.shape = shape
        self.bad: list[BadSample] = []
        self._pool = pool
        self._folder = folder
        self._threads = threads
        self._array: Pixel | None = None if folder else np.empty((len(self.rows), *shape.of_row), shape.dtype)
        self._device = torch.device(device)
        self._resident: Tensor | None = None
        self._file = -1

    def build(self, progress: Callable[[int, str], None]) -> None:
        """Decodes every shard that is not in the store yet. `progress` is called with rows done."""
        if self._folder:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self._folder / "rows.u8", os.O_RDWR | os.O_CREAT, 0o644)
            os.ftruncate(self._file, len(self.rows) * self.shape.row_bytes)
        for index, shard in enumerate(self.rows.shards):
            progress(int(self.rows.offset_S[index]), shard.name)
            marker = self._folder / f"{shard.name}.json" if self._folder else None
            if marker and marker.exists():
                bad = [BadSample(**sample) for sample in json.loads(marker.read_bytes())]
            else:
                bad = self._decode_shard(index)
                if marker:
                    os.fdatasync(self._file)
                    marker.parent.mkdir(parents=True, exist_ok=True)
                    durable.write_json(marker, [vars(sample) for sample in bad])
            for sample in bad:
                self.rows.is_bad_N[self.rows.offset_S[index] + sample.ordinal] = True
            self.bad += bad
        if self._array is not None and self._fits(self._array):
            with suppress(torch.OutOfMemoryError):  # another process was faster: batches travel, then
                self._resident, self._array = torch.from_numpy(self._array).to(self._device), None
        progress(len(self.rows), "")

    def _fits(self, array: Pixel) -> bool:
        if self._device.type != "cuda" or array.dtype != np.uint8:
            return False
        return array.nbytes <= RESIDENT_SHARE * torch.cuda.mem_get_info(self._device)[0]

    def _decode_shard(self, index: int) -> list[BadSample]:
        bad = []
        for row, pixels in decoded(self.rows, index, self.shape, threads=self._threads):
            if isinstance(pixels, SampleError):
                bad.append((row, str(pixels)))
            elif self._array is not None:
                self._array[row] = pixels
            else:
                os.pwrite(self._file, np.ascontiguousarray(pixels).data, row * self.shape.row_bytes)
        return name_bad(self._pool, self.rows, index, bad)

    def take(self, rows_B: NDArray[np.int64]) -> Tensor:
        """Returns the pixels of rows, shape (B, H, W, C)."""
        if self._resident is not None:
            return self._resident[on_device(rows_B, self._device)]
        if self._array is not None:
            return torch.from_numpy(self._array[rows_B])
        pixels = np.empty((len(rows_B), *self.shape.of_row), self.shape.dtype)
        size = self.shape.row_bytes
        for into, row in zip(pixels.reshape(len(rows_B), -1), rows_B.tolist(), strict=True):
            if os.preadv(self._file, [into.data], row * size) != size:
                raise ShardError("The pixel store on disk is shorter than it was written.", hint="Delete it.")
        return torch.from_numpy(pixels)

    def epoch(self, rows_K: NDArray[np.int64], *, batch_size: int, seed: Sequence[int]) -> Iterator[Batch]:
        """Yields each good row once, in an order that the seed alone decides."""
        order = np.random.default_rng(list(seed)).permutation(rows_K[~self.rows.is_bad_N[rows_K]])
        for rows_B in batches_of(order, batch_size):
            yield rows_B, self.take(rows_B)

    def in_order(self, index: int, *, batch_size: int) -> Iterator[Batch]:
        """Yields the good rows of one shard in order."""
        rows_K = self.rows.of_shard(index)
        for at in range(0, len(rows_K), batch_size):
            rows_B = rows_K[at : at + batch_size]
            yield rows_B, self.take(rows_B)


def chunked(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Yields runs of at most `size` items, in order."""
    left = iter(items)
    while chunk := list(islice(left, size)):
        yield chunk


def batches_of(rows_K: NDArray[np.int64], batch_size: int) -> list[NDArray[np.int64]]:
    """Returns rows cut into batches; a last batch of one joins the one before (batch norm needs two)."""
    cuts = list(range(batch_size, len(rows_K), batch_size))
    if cuts and len(rows_K) - cuts[-1] == 1:
        cuts.pop()
    return np.split(rows_K, cuts)


def name_bad(pool: Pool, rows: Rows, index: int, bad: Sequence[tuple[int, str]]) -> list[BadSample]:
    """Returns bad rows of one shard with their keys."""
    if not bad:
        return []
    keys = pool.read(index, ["key"])["key"]
    first = int(rows.offset_S[index])
    name = rows.shards[index].name
    return [BadSample(name, row - first, keys[row - first].as_py(), reason) for row, reason in bad]
