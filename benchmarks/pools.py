"""Pools that benchmarks make for themselves, and pixels of any pool."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from curate.pool.index import Pool, build_index
from curate.pool.labels import LabelSource
from curate.pool.writer import Sample, write_shards
from curate.proxy.pixels import Shape, StoredPixels

DISTINCT, CLASSES = 64, 10


def write_pool(folder: Path, samples: int, size_px: int, *, samples_per_shard: int = 1000) -> None:
    """Writes shards of noise: `DISTINCT` PNG images in turn, under keys of their own."""
    images = []
    for seed in range(DISTINCT):
        noise = np.random.default_rng(seed).integers(0, 256, (size_px, size_px, 3), np.uint8)
        out = io.BytesIO()
        Image.fromarray(noise).save(out, "PNG")
        images.append(out.getvalue())
    keyed: Iterator[Sample] = (
        (f"{place:08d}", {"png": images[place % DISTINCT], "cls": str(place % CLASSES).encode()})
        for place in range(samples)
    )
    write_shards(folder, "noise", keyed, total=samples, samples_per_shard=samples_per_shard)


@contextmanager
def opened(shards: list[str], *, noise: int, size_px: int) -> Iterator[Pool]:
    """Yields the pool of some shards, or of `noise` made-up samples where none are named."""
    with tempfile.TemporaryDirectory(prefix="curate-bench-") as folder:
        if not shards:
            write_pool(Path(folder) / "shards", noise, size_px)
            shards = [str(Path(folder) / "shards")]
        yield build_index(shards, Path(folder) / "index", LabelSource())


def stored(pool: Pool, size_px: int, threads: int = 2) -> StoredPixels:
    """Returns a pool's pixels in memory."""
    pixels = StoredPixels(pool, Shape(size_px, 3), folder=None, threads=threads)
    pixels.build(lambda done, name: None)
    return pixels
