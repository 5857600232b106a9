"""One toy pool, one toy run: made once, through the public ways in."""

import contextlib
import io
import os
import tarfile
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

os.environ.setdefault("OMP_NUM_THREADS", "1")  # toy batches: a second thread only waits, and costs its core


def _not_waiting(descriptor: int) -> None:
    os.fstat(descriptor)  # what is no open file is refused as ever


# Nobody cuts the power here, so a test need not wait for the disk, which was a tenth of its time. Processes that tests
# start do wait.
os.fsync = _not_waiting

COLOURS = [(220, 30, 30), (30, 200, 40), (40, 60, 220)]
SHARDS, PER_SHARD = 3, 16
BAD_KEY = "s1_07"
TOY = [
    "--proxy", "preact_resnet20", "--seeds", "2", "--epochs", "3", "--checkpoints", "2", "--device", "cpu",
    "--set", "train.batch_size=16", "--set", "augment.translate_px=1",
]  # fmt: skip


def write_tar(
    path: Path, members: list[tuple[str, bytes]], *, tar_format: int = tarfile.USTAR_FORMAT, mode: str = "w"
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode, format=tar_format) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def png(colour: tuple[int, int, int], seed: int, size: int = 8) -> bytes:
    noise = np.random.default_rng(seed).integers(-25, 26, (size, size, 3))
    pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def toy_members(shard: int) -> list[tuple[str, bytes]]:
    members = []
    for place in range(PER_SHARD):
        key, label = f"s{shard}_{place:02d}", (place + shard) % 3
        image = png(COLOURS[label], shard * 100 + place)
        members.append((f"{key}.png", b"no image at all" if key == BAD_KEY else image))
        members.append((f"{key}.cls", str(label).encode()))
    return members


def everything(out: Path) -> dict[str, bytes]:
    """Returns every file below a folder but for its lock, by its path there."""
    return {
        str(path.relative_to(out)): path.read_bytes()
        for path in out.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def workers_of(number: int, module: str) -> list[psutil.Process]:
    """Returns the processes that run a module for another one."""
    with contextlib.suppress(psutil.Error):
        return [child for child in psutil.Process(number).children() if module in child.cmdline()]
    return []


def made_not_finite(path: Path) -> None:
    """Rewrites a checkpoint as training would have that left the numbers; its digest is right."""
    from curate.proxy.sealed import load_sealed, save_sealed

    tensors, metadata = load_sealed(path)
    name = next(name for name in tensors if name.endswith("weight") and not name.startswith(("momentum", "dynamics")))
    tensors[name] = tensors[name] * float("nan")
    save_sealed(path, tensors, metadata)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real datasets; without it a test is reported as skipped."""
    if "CURATE_DATA" not in os.environ:
        pytest.skip("CURATE_DATA names no folder of real datasets")
    return Path(os.environ["CURATE_DATA"])


@pytest.fixture(scope="session")
def pool_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pool")
    for shard in range(SHARDS):
        write_tar(folder / f"toy-{shard:04d}.tar", toy_members(shard))
    return folder


@pytest.fixture(scope="session")
def toy_scores(pool_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from curate.cli import run

    out = tmp_path_factory.mktemp("run") / "scores"
    assert run(["score", str(pool_folder), "--out", str(out), *TOY]) == 0
    return out


@pytest.fixture
def toy_manifest(toy_scores: Path, tmp_path: Path) -> Path:
    from curate.cli import run

    out = tmp_path / "manifest"
    assert (
        run(["prune", "--scores", str(toy_scores), "--keep", "0.5", "--fn", "variation_ratio", "--out", str(out)]) == 0
    )
    return out
