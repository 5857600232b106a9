"""Images a second into small uint8 pixels, beside the stock pipeline.

Run: python -m benchmarks.pixels SHARDS... [--size 96] [--workers 2]

    store    what `curate score` does: index the shards, then decode them into a store in memory
    stock    webdataset `decode("pil")`, torchvision's Resize, CenterCrop and ToTensor, a DataLoader
             with as many workers, batches of 64
    limit    nothing but PIL's decoding of the same images at the reduced scale, in as many threads

Time starts after the imports and ends when every image has arrived. Memory is that of the largest
process; the stock pipeline has one for each worker besides the main one.
"""

from __future__ import annotations

import argparse
import io
import tarfile
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import torch
import webdataset as wds
from PIL import Image
from torchvision import transforms

from benchmarks.arms import compare, module, report
from benchmarks.pools import stored
from curate.pool.images import IMAGE_EXTENSIONS
from curate.pool.index import build_index
from curate.pool.labels import LabelSource

BATCH, CHUNK = 64, 512


def store(shards: Sequence[str], size_px: int, workers: int) -> int:
    """Indexes and decodes; returns the number of images."""
    with tempfile.TemporaryDirectory() as folder:
        pixels = stored(build_index(shards, Path(folder), LabelSource()), size_px, threads=workers)
        return int((~pixels.rows.is_bad_N).sum())


def stock(shards: Sequence[str], size_px: int, workers: int) -> int:
    """The pipeline that the documentation of both libraries leads to; returns the number of images."""
    transform = transforms.Compose([transforms.Resize(size_px), transforms.CenterCrop(size_px), transforms.ToTensor()])
    dataset = (
        wds.WebDataset([f"pipe:cat {shard}" for shard in shards], shardshuffle=False)
        .decode("pil")
        .to_tuple("jpg;png;jpeg")
        .map_tuple(lambda image: transform(image.convert("RGB")))
        .batched(BATCH)
    )
    loader = torch.utils.data.DataLoader(dataset, batch_size=None, num_workers=workers)
    return sum(len(batch) for (batch,) in loader)


def limit(shards: Sequence[str], size_px: int, workers: int) -> int:
    """PIL alone; returns the number of images."""

    def decode(data: bytes) -> None:
        with Image.open(io.BytesIO(data)) as image:
            image.draft("RGB", (size_px, size_px))
            image.load()

    images, count = _images(shards), 0
    with ThreadPoolExecutor(workers) as threads:
        while chunk := list(islice(images, CHUNK)):
            list(threads.map(decode, chunk))
            count += len(chunk)
    return count


def _images(shards: Sequence[str]) -> Iterator[bytes]:
    for shard in shards:
        with tarfile.open(shard) as tar:
            for entry in tar:
                if entry.name.rpartition(".")[2].lower() in IMAGE_EXTENSIONS and (file := tar.extractfile(entry)):
                    yield file.read()


ARMS = {"store": store, "stock": stock, "limit": limit}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("shards", nargs="+")
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--arm", default="")
    arguments = parser.parse_args()
    if arguments.arm:
        torch.set_num_threads(1)
        started = time.perf_counter()
        images = ARMS[arguments.arm](arguments.shards, arguments.size, arguments.workers)
        report(value=images / (time.perf_counter() - started), images=images)
        return
    options = ["--size", arguments.size, "--workers", arguments.workers]
    arms = {name: module("pixels", *arguments.shards, *options, "--arm", name) for name in ARMS}
    medians = compare(arms, repeats=arguments.repeats, unit="images/s", warm_up=1)
    print(f"store / stock: {medians['store'] / medians['stock']:.2f}")
    print(f"store / limit: {medians['store'] / medians['limit']:.2f}")


if __name__ == "__main__":
    main()
