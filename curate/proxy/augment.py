"""What training sees instead of the plain image: flip, translation, cutout. Seeded, on whole batches."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from curate.proxy.device import on_device
from curate.recipe import Augment


def augmented(pixels: Tensor, augment: Augment, generator: np.random.Generator) -> Tensor:
    """Returns a randomly changed copy of a batch where it lies, uint8 of shape (B, H, W, C).

    Flip: left-right with probability one half. Translation: by up to `translate_px` each way, black
    comes in. Cutout: a black square of `cutout_px`, its centre anywhere (DeVries and Taylor 2017).
    One gather does flip and translation. What is drawn does not depend on the device.
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


def _gather(pixels: Tensor, *, flip: bool, shift: int, generator: np.random.Generator) -> Tensor:
    count, size = pixels.shape[:2]
    padded = functional.pad(pixels, (0, 0, shift, shift, shift, shift))
    drawn = np.zeros((3, count), np.int64)
    drawn[:2] = [generator.integers(0, 2 * shift + 1, (count,)) for _ in range(2)]
    if flip:
        drawn[2] = generator.random((count,)) < 0.5
    top_B, left_B, is_flipped_B = on_device(drawn, pixels.device)[:, :, None]
    place = torch.arange(size, device=pixels.device)
    rows = top_B + place
    columns = left_B + torch.where(is_flipped_B > 0, size - 1 - place, place)
    sample_B = torch.arange(count, device=pixels.device)
    return padded[sample_B[:, None, None], rows[:, :, None], columns[:, None, :]]


def _cut(pixels: Tensor, side: int, generator: np.random.Generator) -> Tensor:
    count, size = pixels.shape[:2]
    centres = on_device(generator.integers(0, size, (2, count)), pixels.device)
    place = torch.arange(size, device=pixels.device)
    down, right = (2 * (place - centres[:, :, None]) + 1 - side % 2).abs() < side + side % 2
    return pixels.masked_fill((down[:, :, None] & right[:, None, :])[..., None], 0)
