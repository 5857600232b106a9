"""Images a second of DALI on the processor: the arm of `benchmarks.pixels` that runs where DALI is installed.

Run: python -m benchmarks.dali SHARDS... [--size 96] [--cores 1]

The reader for webdataset shards, the image decoder, the shorter side resized and the middle cropped, as its
documentation has it. Time starts after the imports and ends when every image has arrived.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence

from benchmarks.arms import report

BATCH = 64


def images_of(shards: Sequence[str], size_px: int, threads: int) -> int:
    """Returns the number of images that came through."""
    from nvidia.dali import fn, pipeline_def, types

    @pipeline_def(batch_size=BATCH, num_threads=threads, device_id=None)
    def pictures() -> object:
        data = fn.readers.webdataset(
            paths=list(shards), ext=["jpg;jpeg"], missing_component_behavior="skip", pad_last_batch=False, name="shards"
        )
        images = fn.decoders.image(data, device="cpu", output_type=types.RGB)
        return fn.crop(fn.resize(images, resize_shorter=size_px), crop=(size_px, size_px))

    pipeline = pictures()
    pipeline.build()
    total = left = pipeline.epoch_size("shards")
    while left > 0:
        (batch,) = pipeline.run()
        left -= len(batch)
    return int(total)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("shards", nargs="+")
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--cores", type=int, default=1)
    arguments = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: arguments.cores])
    import nvidia.dali  # before the time starts

    started = time.perf_counter()
    images = images_of(arguments.shards, arguments.size, arguments.cores)
    report(value=images / (time.perf_counter() - started), images=images, version=nvidia.dali.__version__)


if __name__ == "__main__":
    main()
