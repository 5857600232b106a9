"""What `auto` means on this machine for this pool: decided once, recorded, and kept by resumed runs."""

from __future__ import annotations

import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from curate.errors import SampleError, UsageError
from curate.pool.images import native_side
from curate.pool.index import Pool
from curate.progress import Progress
from curate.proxy.models import ModelSpec, check_name, stem_for
from curate.proxy.pixels import Pixels, Shape, StoredPixels, read_images, rows_of
from curate.proxy.streaming import StreamedPixels
from curate.proxy.training import Plan, has_fast_bf16
from curate.recipe import Recipe

LOOK_SHARDS, LOOK_IMAGES = 16, 16
SMALL_PX, LARGE_PX = 64, 96
MEMORY_SHARE, DISK_SHARE = 0.25, 0.5


@dataclass(frozen=True)
class Setting:
    """Every `auto` of a recipe resolved.

    Attributes:
        size_px, channels: what images are decoded to.
        store: `memory`, `disk` or `stream`.
        workers: threads or processes that decode.
        stem: `small` or `native`.
        is_bf16: whether bfloat16 pays here.
        threads: of torch.
        device: `cpu` or `cuda`.
    """

    size_px: int
    channels: int
    store: str
    workers: int
    stem: str
    is_bf16: bool
    threads: int
    device: str

    def record(self) -> dict[str, Any]:
        return asdict(self)


def settle(recipe: Recipe, pool: Pool, out: Path, device: str) -> Setting:
    """Returns the setting for a pool on this machine."""
    check_name(recipe.proxy.name)
    device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    size_px, channels = _shape(recipe, pool)
    workers = recipe.pixels.workers
    return Setting(
        size_px=size_px,
        channels=channels,
        store=_store(recipe.pixels.store, pool.total * size_px * size_px * channels, out),
        workers=min(16, len(os.sched_getaffinity(0))) if workers == "auto" else workers,
        stem=stem_for(recipe.proxy.stem, size_px),
        is_bf16=has_fast_bf16(device) if recipe.train.precision == "auto" else recipe.train.precision == "bf16",
        threads=recipe.train.threads or torch.get_num_threads(),
        device=device,
    )


def _shape(recipe: Recipe, pool: Pool) -> tuple[int, int]:
    size_px, channels = recipe.pixels.size_px, recipe.pixels.channels
    if size_px != "auto" and channels != "auto":
        return size_px, channels
    seen_px, seen_channels = _look(pool)
    return seen_px if size_px == "auto" else size_px, seen_channels if channels == "auto" else channels


def _look(pool: Pool) -> tuple[int, int]:
    """Returns (side in pixels, channels) from the headers of some images across the pool."""
    rows = rows_of(pool)
    sides, grey = list[int](), list[bool]()
    for index in np.unique(np.linspace(0, len(rows.shards) - 1, LOOK_SHARDS).astype(int)).tolist():
        for _, data in read_images(rows, index, rows.of_shard(index)[:LOOK_IMAGES]):
            try:
                side, is_grey = native_side(data)
            except SampleError:
                continue
            sides.append(side)
            grey.append(is_grey)
    if not sides:
        raise UsageError("None of the first images of the pool can be read.", hint="See `curate index SHARDS`.")
    typical = int(np.median(sides))
    return typical if typical <= SMALL_PX else LARGE_PX, 1 if all(grey) else 3


def _store(wanted: str, size: int, out: Path) -> str:
    if wanted != "auto":
        return wanted
    if size <= MEMORY_SHARE * psutil.virtual_memory().available:
        return "memory"
    folder = next(path for path in (out, *out.absolute().parents) if path.exists())
    return "disk" if size <= DISK_SHARE * shutil.disk_usage(folder).free else "stream"


def plan_for(recipe: Recipe, setting: Setting, num_classes: int) -> Plan:
    """Returns what training and scoring need to know."""
    spec = ModelSpec(
        name=recipe.proxy.name,
        num_classes=num_classes,
        in_chans=setting.channels,
        size_px=setting.size_px,
        stem=setting.stem,
        pretrained=recipe.proxy.pretrained,
        width=recipe.proxy.width,
    )
    mean, std = (_per_channel(values, setting.channels) for values in (recipe.pixels.mean, recipe.pixels.std))
    return Plan(spec, recipe.train, recipe.augment, mean, std, setting.is_bf16, setting.device)


def _per_channel(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    if len(values) == channels:
        return values
    return (sum(values) / len(values),) * channels


def open_pixels(pool: Pool, setting: Setting, recipe: Recipe, folder: Path, progress: Progress) -> Pixels:
    """Returns the pool's pixels in the way that the setting says, decoded if they are stored."""
    shape = Shape(setting.size_px, setting.channels)
    if setting.store == "stream":
        return StreamedPixels(pool, shape, workers=setting.workers, shuffle_buffer=recipe.pixels.shuffle_buffer)
    store = StoredPixels(pool, shape, folder=folder if setting.store == "disk" else None, threads=setting.workers)
    progress.stage(f"decode at {setting.size_px} px", pool.total, "images")
    store.build(progress.at)
    return store
