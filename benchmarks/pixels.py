"""Images a second into small uint8 pixels, beside the stock pipeline.

Run: python -m benchmarks.pixels SHARDS... [--size 96] [--workers 2]

    curate   what `curate score` does: index the shards, then decode them into a store in memory
    stock    webdataset `decode("pil")`, torchvision's Resize, CenterCrop and ToTensor, a DataLoader
             with as many workers, batches of 64
    torchvision, dali   torchvision's JPEG decoder, and DALI's reader, decoder and resize on the processor
    limit    nothing but libjpeg-turbo's decoding of the same bytes, in memory, at the reduced scale, in as many threads

Time starts after the imports and ends when every image has arrived. Memory is that of the largest
process; the stock pipeline has one for each worker besides the main one.
"""

from __future__ import annotations

import argparse
import io
import os
import tarfile
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
import simplejpeg
import torch
import webdataset as wds
from PIL import Image
from torchvision import transforms
from torchvision.io import ImageReadMode, decode_jpeg

from benchmarks.arms import Absent, Arm, compare, module, peer, report
from benchmarks.pools import stored
from benchmarks.suite import LIMIT, OURS, Benchmark, Case, Setting, Target, compared
from curate.pool.index import build_index
from curate.pool.labels import LabelSource
from curate.pool.scan import IMAGE_EXTENSIONS
from curate.pool.writer import write_shards

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


def limit(data: Sequence[bytes], size_px: int, workers: int) -> int:
    """The decoder alone, the bytes in memory; returns the number of images."""

    def decode(some: Sequence[bytes]) -> int:
        for image in some:
            simplejpeg.decode_jpeg(image, colorspace="RGB", min_height=size_px, min_width=size_px)
        return len(some)

    with ThreadPoolExecutor(workers) as threads:
        return sum(threads.map(decode, (data[at : at + BATCH] for at in range(0, len(data), BATCH))))


def _images(shards: Sequence[str]) -> Iterator[bytes]:
    for shard in shards:
        with tarfile.open(shard) as tar:
            for entry in tar:
                if entry.name.rpartition(".")[2].lower() in IMAGE_EXTENSIONS and (file := tar.extractfile(entry)):
                    yield file.read()


def by_torchvision(shards: Sequence[str], size_px: int, workers: int) -> int:
    """The JPEG decoder of torchvision at full size, then its antialiased resize; returns the number of images."""
    transform = transforms.Compose([transforms.Resize(size_px), transforms.CenterCrop(size_px)])

    def decode(data: bytes) -> torch.Tensor:
        return transform(decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), mode=ImageReadMode.RGB))

    images, count = _images(shards), 0
    with ThreadPoolExecutor(workers) as threads:
        while chunk := list(islice(images, CHUNK)):
            count += len(torch.stack(list(threads.map(decode, chunk))))
    return count


ARMS = {OURS: store, "stock": stock, "torchvision": by_torchvision, LIMIT: limit}


def bench(setting: Setting) -> list[Case]:
    shards = sorted(map(str, (setting.data / "imagenette").glob("train-*.tar"))) if setting.data else []
    what = "Imagenette, JPEGs of 224 px"
    if not shards:
        shards, what = write_photos(setting.folder, 64 if setting.quick else 1400), "made-up JPEGs of 224 px"
    cases = []
    for size in (96,) if setting.quick else (96, 64, 224):
        some = shards[: 2 if size == 96 and not setting.quick else 1]
        words = [*some, "--size", size, "--workers", 1, "--cores", 1]
        names = list(ARMS) if size == 96 else [OURS, "stock"]
        arms: dict[str, Arm | Absent] = {name: Arm(module("pixels", *words, "--arm", name)) for name in names}
        if size == 96:
            arms["dali"] = peer("nvidia.dali", "dali", *some, "--size", size, "--cores", 1)
        targets = [Target("stock", 4), Target(LIMIT, 0.7)] if size == 96 else []
        cases.append(compared(f"to {size} px, one core", "images/s", arms, repeats=setting.repeats, targets=targets,
                              note=f"{what}; limit: libjpeg-turbo's reduced decoding of the bytes"))  # fmt: skip
    return cases


def write_photos(folder: Path, samples: int) -> list[str]:
    """Writes shards of smooth pictures with a little noise, about as large as photographs of that size."""

    def picture(seed: int) -> bytes:
        random = np.random.default_rng(seed)
        small = Image.fromarray(random.integers(0, 256, (14, 14, 3), np.uint8))
        noise = random.normal(0, 8, (224, 224, 3))
        large = np.asarray(small.resize((224, 224), Image.Resampling.BICUBIC)) + noise
        out = io.BytesIO()
        Image.fromarray(large.clip(0, 255).astype(np.uint8)).save(out, "JPEG", quality=80)
        return out.getvalue()

    pictures = [picture(seed) for seed in range(64)]
    keyed = ((f"{n:08d}", {"jpg": pictures[n % 64], "cls": b"0"}) for n in range(samples))
    return [str(path) for path in write_shards(folder, "photos", keyed, total=samples, samples_per_shard=700)]


BENCHMARK = Benchmark(
    bench,
    "Shards of JPEGs into small uint8 pixels, one core.",
    why="Beside decoding, the same core finds the images in the tar, reads them and scales them to the exact size.",
)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("shards", nargs="+")
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--cores", type=int, default=0, help="stay on so many of the processor's cores")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--arm", default="")
    arguments = parser.parse_args()
    if arguments.cores:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: arguments.cores])
    if arguments.arm:
        torch.set_num_threads(1)
        source = list(_images(arguments.shards)) if arguments.arm == LIMIT else arguments.shards
        started = time.perf_counter()
        images = ARMS[arguments.arm](source, arguments.size, arguments.workers)
        report(value=images / (time.perf_counter() - started), images=images)
        return
    options = ["--size", arguments.size, "--workers", arguments.workers]
    arms = {name: module("pixels", *arguments.shards, *options, "--arm", name) for name in ARMS}
    medians = compare(arms, repeats=arguments.repeats, unit="images/s", warm_up=1)
    print(f"curate / stock: {medians[OURS] / medians['stock']:.2f}")
    print(f"curate / limit: {medians[OURS] / medians['limit']:.2f}")


if __name__ == "__main__":
    main()
