"""Many images at once -> uint8 pixels of one size.

Decoding goes image by image; what is left after it, a resampling by less than two, is done for all
images of a size together. torchvision's resize is the same call, and its result is PIL's to the byte
where the machine has AVX2 (to one level elsewhere): `curate.pool.images.decode` is the reference.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from curate.errors import SampleError
from curate.pool.images import decode_square

CHUNK_IMAGES = 64  # decoded together: enough to share the resampling, few enough to share among threads


def decode_images(images: Sequence[bytes], *, size_px: int, channels: int) -> list[NDArray[np.uint8] | SampleError]:
    """Returns each image's pixels, shape (size_px, size_px, channels), or the reason why it has none.

    Memory: at most four times the pixels that are returned, beside the image that is being decoded.
    """
    found: list[NDArray[np.uint8] | SampleError] = []
    by_side: dict[int, list[tuple[int, NDArray[np.uint8]]]] = {}
    for place, data in enumerate(images):
        try:
            square = decode_square(data, size_px=size_px, channels=channels)
        except SampleError as error:
            found.append(error)
            continue
        found.append(square)
        by_side.setdefault(len(square), []).append((place, square))
    for side, squares in by_side.items():
        if side != size_px:
            small = _resampled(np.stack([square for _, square in squares]), size_px)
            for (place, _), pixels in zip(squares, small, strict=True):
                found[place] = pixels
    return found


def _resampled(squares_NHWC: NDArray[np.uint8], size_px: int) -> NDArray[np.uint8]:
    squares_NCHW = torch.from_numpy(squares_NHWC).permute(0, 3, 1, 2)
    small_NCHW = functional.interpolate(squares_NCHW, (size_px, size_px), mode="bilinear", antialias=True)
    return small_NCHW.permute(0, 2, 3, 1).numpy()
