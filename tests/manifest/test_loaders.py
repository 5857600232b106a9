"""The loaders that come with curate's own dependencies: timm's, torch's and torchvision's."""

import gc
import io
import os
import shlex
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import webdataset as wds
from PIL import Image
from tars import contents, kept_keys
from torch.utils.data import DataLoader

from curate.cli import run
from curate.manifest.exports import export

BLANK = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0), "crop_pct": 1.0, "use_prefetcher": False}
Seen = list[tuple[bytes, int]]


@pytest.fixture(autouse=True)
def curate_on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")


def expected(manifest: Path, pool: Path) -> Seen:
    files = {name: data for path in pool.glob("*.tar") for name, data in contents(path).items()}
    return sorted(
        (np.asarray(Image.open(io.BytesIO(files[f"{key}.png"])).convert("RGB")).tobytes(), int(files[f"{key}.cls"]))
        for key in kept_keys(manifest, pool)
    )


def seen(batches: Iterable[Any]) -> Seen:
    """Returns the pixels and labels of float batches, as bytes of RGB."""
    found = []
    for images, labels in batches:
        pixels = (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
        found += [(image.numpy().tobytes(), int(label)) for image, label in zip(pixels, labels, strict=True)]
    return sorted(found)


@pytest.mark.filterwarnings("ignore::UserWarning")  # timm's own
@pytest.mark.parametrize("workers", [1, 2])
def test_timms_loader_reads_the_kept_samples(
    toy_manifest: Path, pool_folder: Path, tmp_path: Path, workers: int
) -> None:
    from timm.data import create_dataset, create_loader

    words = shlex.split(export(toy_manifest, "timm", tmp_path / "out").lines[0])
    root = words[words.index("--data-dir") + 1]
    dataset = create_dataset("wds/kept", root=root, split="train", is_training=False, batch_size=5)
    loader = create_loader(dataset, (3, 8, 8), 5, is_training=False, num_workers=workers, **BLANK)
    assert seen(loader) == expected(toy_manifest, pool_folder)


@pytest.mark.filterwarnings("ignore::UserWarning")  # timm's own
def test_timms_loader_reads_materialized_shards(toy_manifest: Path, pool_folder: Path, tmp_path: Path) -> None:
    """In training, shuffled; of shards of equal counts every sample comes once an epoch."""
    from timm.data import create_dataset, create_loader

    assert run(["materialize", str(toy_manifest), str(tmp_path / "out"), "--shards", "2"]) == 0
    dataset = create_dataset("wds/kept", root=str(tmp_path / "out"), split="train", is_training=True, batch_size=4)
    loader = create_loader(dataset, (3, 8, 8), 4, is_training=True, no_aug=True, num_workers=2, **BLANK)
    assert len(dataset) == 24
    assert seen(loader) == expected(toy_manifest, pool_folder)


@pytest.mark.filterwarnings("ignore::UserWarning")  # torch's own, of machines with few processors
@pytest.mark.parametrize("workers", [1, 3])
def test_webdataset_under_torchs_loader_with_workers(
    toy_manifest: Path, pool_folder: Path, tmp_path: Path, workers: int
) -> None:
    export(toy_manifest, "urls", tmp_path / "out")
    urls = (tmp_path / "out" / "urls.txt").read_text().splitlines()
    dataset = wds.WebDataset(urls, shardshuffle=False).decode("rgb").to_tuple("png", "cls")
    loader = DataLoader(
        dataset.map_tuple(lambda image: torch.tensor(image.transpose(2, 0, 1)), int), 4, num_workers=workers
    )
    assert seen(loader) == expected(toy_manifest, pool_folder)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_more_workers_than_shards_are_an_error_and_no_shorter_epoch(
    toy_manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # After an error torch waits so long for each of the other workers, five seconds.
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.2)
    export(toy_manifest, "urls", tmp_path / "out")
    urls = (tmp_path / "out" / "urls.txt").read_text().splitlines()
    with pytest.raises(ValueError, match="No samples found"):
        list(DataLoader(wds.WebDataset(urls, shardshuffle=False), batch_size=None, num_workers=4))
    gc.collect()  # which ends its workers
