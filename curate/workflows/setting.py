"""What `auto` means on this machine for this pool: decided once, recorded, and kept by resumed runs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from curate.errors import SampleError, UsageError
from curate.pool.images import native_side
from curate.pool.index import Pool
from curate.pool.texts import read_text
from curate.progress import Progress
from curate.proxy import PROXIES, reads_of
from curate.proxy.device import has_fast_bf16
from curate.proxy.models import ModelSpec, TextSpec, check_name, stem_for
from curate.proxy.pixels import Form, Pixels, Shape, StoredPixels, read_images, rows_of
from curate.proxy.plan import Plan
from curate.proxy.streaming import StreamedPixels
from curate.proxy.tokens import VDCNN_LENGTH, Tokens, words_of_most
from curate.proxy.vdcnn import SHORTEST
from curate.recipe import Augment, Recipe

LOOK_SHARDS, LOOK_IMAGES = 16, 16
SMALL_PX, LARGE_PX = 64, 96
MEMORY_SHARE, DISK_SHARE = 0.25, 0.5


@dataclass(frozen=True)
class Setting:
    """Every `auto` of a recipe resolved.

    Attributes:
        size_px, channels: what images are decoded to; 0 for texts.
        store: `memory`, `disk` or `stream`.
        workers: threads or processes that decode.
        stem: `small` or `native`.
        is_bf16: whether bfloat16 pays here.
        threads: of torch.
        device: `cpu` or `cuda`.
        reads: `images`, `words` or `characters`.
        length: of a text's row, in what it reads; 0 for images.
    """

    size_px: int
    channels: int
    store: str
    workers: int
    stem: str
    is_bf16: bool
    threads: int
    device: str
    reads: str = "images"
    length: int = 0

    @property
    def unit(self) -> str:
        """What progress counts."""
        return "images" if self.reads == "images" else "texts"

    def form(self, pool: Pool) -> Form:
        """Returns what every sample is decoded to."""
        if self.reads == "images":
            return Shape(self.size_px, self.channels)
        return Tokens(self.reads, self.length, pool.text_field)

    def record(self) -> dict[str, Any]:
        return asdict(self)


def settle(recipe: Recipe, pool: Pool, out: Path, device: str) -> Setting:
    """Returns the setting for a pool on this machine.

    Raises:
        UsageError: a proxy or options that are not for what the pool holds, samples that cannot be read.
    """
    check_name(recipe.proxy.name)
    check_reads(recipe.proxy.name, pool)
    check_options(recipe, pool)
    check_device(device)
    device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    reads = reads_of(recipe.proxy.name)
    size_px, channels = _shape(recipe, pool) if reads == "images" else (0, 0)
    length = _length(recipe, pool, reads) if reads != "images" else 0
    row_bytes = (Tokens(reads, length) if length else Shape(size_px, channels)).row_bytes
    workers = recipe.pixels.workers
    return Setting(
        size_px=size_px,
        channels=channels,
        store=_store(recipe.pixels.store, pool.total * row_bytes, out),
        workers=min(16, len(os.sched_getaffinity(0))) if workers == "auto" else workers,
        stem=stem_for(recipe.proxy.stem, size_px) if reads == "images" else recipe.proxy.stem,
        is_bf16=has_fast_bf16(device) if recipe.train.precision == "auto" else recipe.train.precision == "bf16",
        threads=recipe.train.threads or torch.get_num_threads(),
        device=device,
        reads=reads,
        length=length,
    )


def check_device(device: str) -> None:
    """Refuses a device that does not exist, or is not here."""
    if device not in ("auto", "cpu", "cuda"):
        raise UsageError(f"--device {device}: expected auto, cpu or cuda.")
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError(
            "torch finds no GPU here, and the device is cuda.",
            hint="Use --device cpu; what a run on a GPU left in --out goes on there alone.",
        )


FOR_IMAGES = {"pixels": ("size_px", "channels", "mean", "std"), "augment": (), "proxy": ("stem", "width")}


def check_reads(name: str, pool: Pool) -> None:
    """Refuses a network, by name, that reads something else than the pool holds."""
    is_text = pool.kind == "text"
    if is_text != (reads_of(name) != "images"):
        fitting = [other for other, row in PROXIES.items() if is_text == (row.reads != "images")]
        reads, holds = ("images", "texts") if is_text else ("texts", "images")
        raise UsageError(
            f"'{name}' is a network for {reads}, and the pool holds {holds}.",
            hint=f"Choose {', '.join(fitting)}{'' if is_text else ', or another timm name'}.",
        )


def check_options(recipe: Recipe, pool: Pool) -> None:
    """Refuses options that would say nothing of what the pool holds."""
    is_text = pool.kind == "text"
    for section, names in (FOR_IMAGES if is_text else {"text": ()}).items():
        given = getattr(recipe, section)
        for option in names or type(given).model_fields:
            if getattr(given, option) != type(given).model_fields[option].default:
                raise UsageError(
                    f"{section}.{option} is for {'images' if is_text else 'texts'}, and the pool holds "
                    f"{'texts' if is_text else 'images'}.",
                    hint="Leave it out.",
                )


def _length(recipe: Recipe, pool: Pool, reads: str) -> int:
    length = recipe.text.length
    if reads == "words":
        return _look_texts(pool) if length == "auto" else length
    length = VDCNN_LENGTH if length == "auto" else length
    if length < SHORTEST:
        raise UsageError(f"text.length = {length}: {recipe.proxy.name} needs {SHORTEST} characters at least.")
    return length


def _look_texts(pool: Pool) -> int:
    """Returns the length of a row that most texts fit into, from some texts across the pool."""
    found = list[str]()
    for data in _some(pool):
        try:
            found.append(read_text(data, pool.text_field))
        except SampleError:
            continue
    if not found:
        raise UsageError("None of the first texts of the pool can be read.", hint="See `curate index SHARDS --decode`.")
    return words_of_most(found)


def _shape(recipe: Recipe, pool: Pool) -> tuple[int, int]:
    size_px, channels = recipe.pixels.size_px, recipe.pixels.channels
    if size_px != "auto" and channels != "auto":
        return size_px, channels
    seen_px, seen_channels = _look(pool)
    return seen_px if size_px == "auto" else size_px, seen_channels if channels == "auto" else channels


def _look(pool: Pool) -> tuple[int, int]:
    """Returns (side in pixels, channels) from the headers of some images across the pool."""
    sides, grey = list[int](), list[bool]()
    for data in _some(pool):
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


def _some(pool: Pool) -> Iterator[bytes]:
    """Yields the entries of the first good samples of shards across the pool."""
    rows = rows_of(pool)
    for index in np.unique(np.linspace(0, len(rows.shards) - 1, LOOK_SHARDS).astype(int)).tolist():
        yield from (data for _, data in read_images(rows, index, rows.of_shard(index)[:LOOK_IMAGES]))


def _store(wanted: str, size: int, out: Path) -> str:
    if wanted != "auto":
        return wanted
    if size <= MEMORY_SHARE * psutil.virtual_memory().available:
        return "memory"
    folder = next(path for path in (out, *out.absolute().parents) if path.exists())
    return "disk" if size <= DISK_SHARE * shutil.disk_usage(folder).free else "stream"


def plan_for(recipe: Recipe, setting: Setting, num_classes: int) -> Plan:
    """Returns what training and scoring need to know."""
    text = recipe.text.model_dump(exclude={"length"})
    spec = ModelSpec(
        name=recipe.proxy.name,
        num_classes=num_classes,
        in_chans=setting.channels,
        size_px=setting.size_px,
        stem=setting.stem,
        pretrained=recipe.proxy.pretrained,
        width=recipe.proxy.width,
        text=TextSpec(length=setting.length, **text) if setting.length else None,
    )
    mean, std = (_per_channel(values, setting.channels) for values in (recipe.pixels.mean, recipe.pixels.std))
    augment = Augment(flip=False, translate_px=0) if spec.text else recipe.augment
    return Plan(spec, recipe.train, augment, mean, std, setting.is_bf16, setting.device)


def _per_channel(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    if len(values) == channels:
        return values
    return (sum(values) / len(values),) * channels


def open_pixels(
    pool: Pool, setting: Setting, recipe: Recipe, folder: Path, progress: Progress, *, is_checked: bool = False
) -> Pixels:
    """Returns the pool's pixels in the way that the setting says, decoded if they are stored.

    Streamed ones find out who cannot be decoded as they pass. Who draws samples must know before: `is_checked`.
    """
    shape = setting.form(pool)
    what = f"at {setting.size_px} px" if setting.size_px else f"to {setting.length:,} {setting.reads}"
    if setting.store == "stream":
        stream = StreamedPixels(pool, shape, workers=setting.workers, shuffle_buffer=recipe.pixels.shuffle_buffer)
        if is_checked:
            progress.stage(f"check {what}", pool.total, setting.unit)
            stream.check(progress.at)
        return stream
    on_disk = folder if setting.store == "disk" else None
    store = StoredPixels(pool, shape, folder=on_disk, threads=setting.workers, device=setting.device)
    progress.stage(f"decode {what}", pool.total, setting.unit)
    store.build(progress.at)
    return store
