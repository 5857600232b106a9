"""Ordinary JPEGs -> pixels, by libjpeg-turbo without what PIL does around it.

PIL decodes with the same library, so the bytes are the same; it costs half as much again, and holds
the interpreter's lock for part of it. What is not ordinary is left to PIL, which also decides what
is damaged: `ordinary_square` never refuses an image, it only passes it on.
"""

from __future__ import annotations

import numpy as np
import simplejpeg
from numpy.typing import NDArray

_START = b"\xff\xd8\xff"
_SCAN, _APP1, _APP2 = 0xDA, 0xE1, 0xE2
_SMALLEST_PX = 16  # of smaller images two scales can have the same size


def ordinary_square(data: bytes, *, size_px: int, channels: int, max_pixels: int) -> NDArray[np.uint8] | None:
    """Returns the middle square of a JPEG as PIL's draft mode decodes it, shape (S, S, channels), uint8.

    S is the side at the smallest scale (1, 1/2, 1/4, 1/8) that covers `size_px`. None where the data
    is not a whole, upright JPEG of grey or YCbCr with at most `max_pixels`, or is grey where colour
    would have to be weighed.
    """
    if not data.startswith(_START) or not _is_plain(data):
        return None
    try:
        height, width, space, _ = simplejpeg.decode_jpeg_header(data)
        if min(height, width) < _SMALLEST_PX or height * width > max_pixels:
            return None
        if space != "Gray" and (space != "YCbCr" or channels == 1):
            return None
        scale = _draft_scale(height, width, size_px)
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(
            data,
            colorspace="GRAY" if channels == 1 else "RGB",
            min_height=-(-height // scale),
            min_width=-(-width // scale),
        )
    except ValueError:  # raised for what libjpeg only warns of, too
        return None
    height, width = pixels.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return np.ascontiguousarray(pixels[top : top + side, left : left + side])


def _is_plain(data: bytes) -> bool:
    """Returns whether nothing before the first scan can turn the picture (EXIF, XMP) or names another one (MPF)."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == _SCAN:
            return True
        if marker == _APP1 or marker < 0xC0 or 0xD0 <= marker <= 0xD9 or marker == 0xFF:
            return False
        if marker == _APP2 and data.startswith(b"MPF\0", at + 4):
            return False
        at += 2 + (data[at + 2] << 8 | data[at + 3])
    return False


def _draft_scale(height: int, width: int, size_px: int) -> int:
    """Returns 1, 2, 4 or 8: what PIL's draft mode divides by when asked for a shorter side of `size_px`."""
    wanted = size_px / min(height, width)
    fits = min(width // max(1, int(width * wanted)), height // max(1, int(height * wanted)))
    return next((scale for scale in (8, 4, 2) if fits >= scale), 1)
