"""`curate doctor`: is this machine fit for the work? Versions, devices, memory, disk, and a self-test of the way
of a sample on images that are made on the spot. One literal table of checks.
"""

from __future__ import annotations

import importlib.util
import io
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

import numpy as np
import psutil
import pyarrow as pa
from PIL import Image

from curate import __version__
from curate.errors import CurateError
from curate.manifest.verify import verify
from curate.pool.index import build_index
from curate.pool.labels import LabelSource
from curate.pool.writer import Sample, write_shards
from curate.tables import write_table
from curate.workflows.prune import Request, prune

Status = Literal["ok", "warning", "failed"]
TRAINING = ("torch", "torchvision", "timm")
LIBRARIES = (
    "numpy",
    "pyarrow",
    "pillow",
    "pydantic",
    "typer",
    "rich",
    "zstandard",
    "webdataset",
    "scikit-learn",
    *TRAINING,
)
OPTIONAL = ("webdataset", "scikit-learn", *TRAINING)
LOW_DISK_BYTES, LOW_MEMORY_BYTES = 1 << 30, 1 << 30
SAMPLES, SHARDS = 24, 2


@dataclass(frozen=True)
class Finding:
    """What one check found."""

    check: str
    status: Status
    what: str


def doctor(folder: Path, *, with_torch: bool = True) -> list[Finding]:
    """Returns what every check found, in order of the table.

    Args:
        folder: where results would go: its disk is looked at, and written to.
        with_torch: also import torch, which takes seconds.
    """
    checks = {name: check for name, check in CHECKS.items() if with_torch or name != "devices"}
    return [finding for name, check in checks.items() for finding in _guarded(name, check, folder)]


def _guarded(name: str, check: Callable[[Path], Iterator[Finding]], folder: Path) -> Iterator[Finding]:
    try:
        yield from check(folder)
    except CurateError as error:
        yield Finding(name, "failed", error.message)
    except Exception as error:  # what a broken installation raises is anybody's guess, and is the finding
        yield Finding(name, "failed", f"{type(error).__name__}: {error}")


def _versions(_: Path) -> Iterator[Finding]:
    yield Finding("curate", "ok", f"{__version__}, Python {platform.python_version()}, {platform.platform()}")
    for name in LIBRARIES:
        try:
            yield Finding(name, "ok", metadata.version(name))
        except metadata.PackageNotFoundError:
            needed = "`curate score` needs it" if name in TRAINING else "some commands need it"
            yield Finding(name, "warning" if name in OPTIONAL else "failed", f"not installed; {needed}")


def _memory(_: Path) -> Iterator[Finding]:
    memory = psutil.virtual_memory()
    status: Status = "warning" if memory.available < LOW_MEMORY_BYTES else "ok"
    yield Finding("memory", status, f"{memory.available / 2**30:.1f} of {memory.total / 2**30:.1f} GiB available")


def _disk(folder: Path) -> Iterator[Finding]:
    with tempfile.TemporaryDirectory(prefix=".curate-doctor-", dir=folder):
        free = shutil.disk_usage(folder).free
    status: Status = "warning" if free < LOW_DISK_BYTES else "ok"
    yield Finding("disk", status, f"{free / 2**30:.1f} GiB free in {folder.absolute()}, which can be written to")


def _devices(_: Path) -> Iterator[Finding]:
    if importlib.util.find_spec("torch") is None:
        yield Finding("devices", "warning", "none: torch is not installed")
        return
    import torch

    yield Finding("cpu", "ok", f"{psutil.cpu_count(logical=True)} cores, torch uses {torch.get_num_threads()} threads")
    for number in range(torch.cuda.device_count()):
        one = torch.ones(64, 64, device=f"cuda:{number}")
        is_right = float((one @ one).sum()) == 64.0**3
        name, total = torch.cuda.get_device_name(number), torch.cuda.get_device_properties(number).total_memory
        yield Finding(f"cuda:{number}", "ok" if is_right else "failed", f"{name}, {total / 2**30:.0f} GiB")


def _self_test(_: Path) -> Iterator[Finding]:
    """Writes shards, indexes, prunes by random and verifies the manifest against the shards."""
    with tempfile.TemporaryDirectory(prefix="curate-doctor-") as name:
        folder = Path(name)
        write_shards(
            folder / "shards",
            "doctor",
            map(_sample, range(SAMPLES)),
            total=SAMPLES,
            samples_per_shard=SAMPLES // SHARDS,
        )
        pool = build_index([str(folder / "shards")], folder / "index", LabelSource())
        rows = [(scan.name, ordinal) for scan in pool.scans for ordinal in range(scan.samples)]
        table = pa.table({"shard": [shard for shard, _ in rows], "ordinal": [ordinal for _, ordinal in rows]})
        write_table(folder / "scores.parquet", table, {})
        pruned = prune(Request(folder / "scores.parquet", "random", "0.5", out=folder / "m", index=folder / "index"))
        faults = verify(pruned.out).findings
    is_right = (pruned.samples, pruned.kept, pruned.failed) == (SAMPLES, SAMPLES // 2, 0) and not faults
    what = f"{pruned.samples} images packed, indexed, pruned to {pruned.kept} and verified"
    yield Finding("self-test", "ok" if is_right else "failed", what if is_right else f"{what}; {faults}")


def _sample(place: int) -> Sample:
    image, out = np.full((8, 8, 3), place * 10, np.uint8), io.BytesIO()
    Image.fromarray(image).save(out, "PNG")
    return f"sample_{place:02d}", {"png": out.getvalue(), "cls": str(place % 3).encode()}


CHECKS: dict[str, Callable[[Path], Iterator[Finding]]] = {
    "versions": _versions,
    "devices": _devices,
    "memory": _memory,
    "disk": _disk,
    "self-test": _self_test,
}
