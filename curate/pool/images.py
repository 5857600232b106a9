"""Image bytes -> uint8 pixels at the proxy's resolution.

The shorter side is scaled to the target and the centre is cut out; an image that already has the
target's size is not resampled. JPEG is decoded at the nearest larger scale of its own transform
(PIL's draft mode). EXIF orientation is applied. Transparency lies on black; CMYK, LAB and palettes
become RGB; 16-bit values are scaled to 8 bits, 32-bit and float images by their own range. Of an
animation the first frame counts. Pixels are bounded before anything is decoded.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from curate.errors import SampleError
from curate.pool.jpeg import ordinary_square

# Not all that PIL reads: for some, such as EPS, it starts programs.
FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
MAX_PIXELS = 89_478_485  # PIL's own warning level: a quarter of a GiB as RGB
_ORIENTATION = 0x0112
_GREY_MODES = ("1", "L", "LA", "La", "I", "F", "I;16", "I;16B", "I;16L", "I;16N")


def native_side(data: bytes) -> tuple[int, bool]:
    """Returns (shorter side in pixels, is grey) from the header alone.

    Raises:
        SampleError: not an image.
    """
    try:
        with _opened(data) as image:
            return min(image.size), image.mode in _GREY_MODES
    except SampleError:
        raise
    except Exception as error:  # PIL's plug-ins raise nearly every kind for damaged data
        raise SampleError(f"cannot be decoded ({type(error).__name__})") from error


def decode(data: bytes, *, size_px: int, channels: int) -> NDArray[np.uint8]:
    """Returns the image as pixels, shape (size_px, size_px, channels), uint8.

    Args:
        data: the encoded image.
        size_px: side of the square.
        channels: 1 (luma) or 3 (RGB).

    Raises:
        SampleError: not an image, damaged, cut short, or larger than `MAX_PIXELS`.
    """
    return _resampled(decode_square(data, size_px=size_px, channels=channels), size_px)


def decode_square(data: bytes, *, size_px: int, channels: int) -> NDArray[np.uint8]:
    """Returns the middle square of the image, shape (S, S, channels), uint8, with size_px <= S < 2 * size_px.

    What is left to do is a resampling by less than two, which many images can share
    (`curate.proxy.decoding`); an image that is farther from the target has been resampled here.

    Raises:
        SampleError: as `decode` does.
    """
    pixels = ordinary_square(data, size_px=size_px, channels=channels, max_pixels=MAX_PIXELS)
    if pixels is None:
        pixels = _any_square(data, size_px, "L" if channels == 1 else "RGB")
    if not size_px <= len(pixels) < 2 * size_px:
        pixels = _resampled(pixels, size_px)
    return pixels.reshape(len(pixels), len(pixels), channels)


def thumbnail(data: bytes, *, size_px: int, quality: int) -> bytes:
    """Returns the middle of an image as a JPEG of at most `size_px` a side; a smaller image is not enlarged.

    Raises:
        SampleError: as `decode` does.
    """
    pixels = decode(data, size_px=min(size_px, native_side(data)[0]), channels=3)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=quality, subsampling=0)
    return out.getvalue()


def _opened(data: bytes) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError:
        raise SampleError(f"has more than {MAX_PIXELS:,} pixels") from None
    except Image.DecompressionBombWarning:  # raised where warnings are errors
        raise SampleError(f"has more than {MAX_PIXELS:,} pixels") from None
    except Exception as error:  # not only UnidentifiedImageError: a damaged header raises others
        raise SampleError("is not an image that can be read") from error
    if image.width * image.height > MAX_PIXELS:
        raise SampleError(f"has more than {MAX_PIXELS:,} pixels")
    return image


def _any_square(data: bytes, size_px: int, mode: str) -> NDArray[np.uint8]:
    """Returns what `decode_square` does for anything that PIL reads, not yet resampled."""
    try:
        with _opened(data) as image:
            return _square(image, size_px, mode)
    except SampleError:
        raise
    except Exception as error:  # PIL's plug-ins raise nearly every kind for damaged data
        raise SampleError(f"cannot be decoded ({type(error).__name__})") from error


def _square(image: Image.Image, size_px: int, mode: str) -> NDArray[np.uint8]:
    width, height = image.size
    if image.format == "JPEG":
        # Never below the target: draft picks the smallest scale that still covers what is asked for.
        scale = size_px / min(width, height)
        image.draft(None, (max(1, int(width * scale)), max(1, int(height * scale))))
    image = _eight_bit(image, mode)
    orientation = _orientation(image)
    if orientation != 1:
        image = ImageOps.exif_transpose(image)
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    if side != max(image.size):
        image = image.crop((left, top, left + side, top + side))
    return np.asarray(image)


def _resampled(square: NDArray[np.uint8], size_px: int) -> NDArray[np.uint8]:
    if len(square) == size_px:
        return square
    image = Image.fromarray(square[..., 0] if square.ndim == 3 and square.shape[2] == 1 else square)
    resized = np.asarray(image.resize((size_px, size_px), Image.Resampling.BILINEAR))
    return resized.reshape(size_px, size_px, *square.shape[2:])


def _eight_bit(image: Image.Image, mode: str) -> Image.Image:
    """Returns an image in the wanted mode, its orientation still recorded."""
    exif = image.getexif()
    if image.mode.startswith("I") or image.mode == "F":
        image = Image.fromarray(_scaled(np.asarray(image)))
    if image.mode == "LAB":  # which Pillow makes RGB of, and nothing else
        image = image.convert("RGB")
    if image.mode == "P" or "transparency" in image.info:
        image = image.convert("RGBA")
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa"):
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)
    if image.mode != mode:
        image = image.convert(mode)
    else:
        image.load()
    if _ORIENTATION in exif:
        image.getexif()[_ORIENTATION] = exif[_ORIENTATION]
    return image


def _scaled(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Returns deep values as 8 bits: 16-bit range by its full scale, anything wider by its own range."""
    if values.dtype.itemsize == 2 or (values.dtype.kind == "i" and values.min() >= 0 and values.max() < 2**16):
        return (values.astype(np.float64) / 257 + 0.5).astype(np.uint8)
    if not np.isfinite(values).all():
        raise SampleError("holds values that are not finite")
    low, high = float(values.min()), float(values.max())
    return ((values.astype(np.float64) - low) * (255 / (high - low or 1)) + 0.5).astype(np.uint8)


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except (ValueError, TypeError, SyntaxError, OSError):  # a damaged EXIF block does not damage the image
        return 1
