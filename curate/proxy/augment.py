"""What training sees instead of the plain image: flip, translation, cutout. Seeded, on whole batches."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from curate.recipe import Augment

Pixel = NDArray[np.uint8]


def augmented(pixels: Pixel, augment: Augment, generator: np.random.Generator) -> Pixel:
    """Returns a randomly changed copy of a batch, shape (B, H, W, C).

    Flip: left-right with probability one half. Translation: by up to `translate_px` each way, black
    comes in. Cutout: a black square of `cutout_px`, its centre anywhere (DeVries and Taylor 2017).
    One gather does flip and translation.
    """
    size = pixels.shape[1]
    shift = translation(augment, size)
    if augment.flip or shift:
        pixels = _gather(pixels, flip=augment.flip, shift=shift, generator=generator)
    if augment.cutout_px:
        pixels = _cut(pixels, augment.cutout_px, generator)
    return pixels


def translation(augment: Augment, size_px: int) -> int:
    """Returns what `auto` means: an eighth of the side, 4 px at 32 px as the CIFAR literature does."""
    return size_px // 8 if augment.translate_px == "auto" else augment.translate_px


def _gather(pixels: Pixel, *, flip: bool, shift: int, generator: np.random.Generator) -> Pixel:
    count, size = pixels.shape[:2]
    padded = np.pad(pixels, ((0, 0), (shift, shift), (shift, shift), (0, 0)))
    place = np.arange(size)
    top_B: NDArray[np.int64] = generator.integers(0, 2 * shift + 1, (count,))
    left_B: NDArray[np.int64] = generator.integers(0, 2 * shift + 1, (count,))
    columns = np.repeat(place[None], count, axis=0)
    if flip:
        columns = np.where(generator.random((count,))[:, None] < 0.5, columns[:, ::-1], columns)
    rows = (top_B[:, None] + place)[:, :, None]
    out: Pixel = padded[np.arange(count)[:, None, None], rows, (left_B[:, None] + columns)[:, None, :]]
    return out


def _cut(pixels: Pixel, side: int, generator: np.random.Generator) -> Pixel:
    count, size = pixels.shape[:2]
    place = np.arange(size)
    centres: NDArray[np.int64] = generator.integers(0, size, (2, count))
    inside = [np.abs(2 * (place - centre[:, None]) + 1 - side % 2) < side + side % 2 for centre in centres]
    out = pixels.copy() if pixels.base is None else np.array(pixels)
    out[inside[0][:, :, None] & inside[1][:, None, :]] = 0
    return out
