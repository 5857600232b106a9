"""Images decoded together have the pixels that each has alone."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from curate.errors import SampleError
from curate.pool.images import decode
from curate.proxy.decoding import decode_images

KINDS = ("JPEG", "PNG", "WEBP")


def photo(height: int, width: int, seed: int) -> bytes:
    """A smooth picture with some noise, as a file."""
    draw = np.random.default_rng([height, width, seed])
    rows, columns = np.mgrid[0:height, 0:width]
    ramps = np.stack([rows * 255 / height, columns * 255 / width, (rows + columns) * 255 / (height + width)], 2)
    pixels = np.clip(ramps + draw.normal(0, 20, ramps.shape), 0, 255).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, KINDS[seed % len(KINDS)])
    return out.getvalue()


SIDES = [(32, 32), (33, 33), (40, 31), (47, 90), (64, 63), (100, 65), (20, 20), (300, 200), (51, 50), (50, 51)]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size_px", [24, 32, 49])
def test_together_is_what_each_is_alone(size_px: int, channels: int) -> None:
    images = [photo(height, width, seed) for seed in range(4) for height, width in SIDES]
    together = decode_images(images, size_px=size_px, channels=channels)
    alone = [decode(data, size_px=size_px, channels=channels) for data in images]
    for one, other in zip(together, alone, strict=True):
        assert not isinstance(one, SampleError)
        assert one.shape == other.shape == (size_px, size_px, channels)
        # One level: without AVX2 the batched resampling rounds by itself.
        assert np.abs(one.astype(int) - other.astype(int)).max() <= 1


def test_a_bad_image_costs_its_neighbours_nothing() -> None:
    good = photo(40, 40, 0)
    found = decode_images([good, b"no image", good, good[:200]], size_px=32, channels=3)
    assert [isinstance(one, SampleError) for one in found] == [False, True, False, True]
    assert np.array_equal(found[0], found[2])


def test_nothing_gives_nothing() -> None:
    assert decode_images([], size_px=32, channels=3) == []


@pytest.mark.data
def test_real_photos_together(real_data: Path) -> None:
    import tarfile

    with tarfile.open(sorted((real_data / "imagenette").glob("train-*.tar"))[0]) as tar:
        images = [file.read() for entry in tar if entry.name.endswith(".jpg") and (file := tar.extractfile(entry))]
    together = decode_images(images[:200], size_px=96, channels=3)
    for one, data in zip(together, images, strict=False):
        assert np.abs(np.asarray(one, int) - decode(data, size_px=96, channels=3).astype(int)).max() <= 1
