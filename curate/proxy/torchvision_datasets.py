"""torchvision datasets that already lie on disk, as listings that `curate pack` writes out.

Only datasets of arrays are here: those that are folders of files are packed as folders, byte for byte.
Nothing is downloaded. torchvision reads some of them with pickle, after it has checked the files' MD5
against the published ones; a file that differs is refused before it is opened.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from torchvision import datasets

from curate.errors import UsageError
from curate.pool.readers import Listing

TRAIN_TEST: Mapping[str, Mapping[str, Any]] = {"train": {"train": True}, "test": {"train": False}}
BY_NAME: Mapping[str, Mapping[str, Any]] = {"train": {"split": "train"}, "test": {"split": "test"}}


@dataclass(frozen=True)
class ArrayDataset:
    """One dataset of torchvision.

    Attributes:
        open: torchvision's own class.
        splits: split → the arguments that ask for it.
    """

    open: Callable[..., Any]
    splits: Mapping[str, Mapping[str, Any]]


def _emnist(part: str) -> Mapping[str, Mapping[str, Any]]:
    return {split: {"split": part, "train": split == "train"} for split in ("train", "test")}


DATASETS: dict[str, ArrayDataset] = {
    "cifar10": ArrayDataset(datasets.CIFAR10, TRAIN_TEST),
    "cifar100": ArrayDataset(datasets.CIFAR100, TRAIN_TEST),
    "svhn": ArrayDataset(datasets.SVHN, {**BY_NAME, "extra": {"split": "extra"}}),
    "stl10": ArrayDataset(datasets.STL10, {**BY_NAME, "unlabeled": {"split": "unlabeled"}}),
    "mnist": ArrayDataset(datasets.MNIST, TRAIN_TEST),
    "fashion_mnist": ArrayDataset(datasets.FashionMNIST, TRAIN_TEST),
    "kmnist": ArrayDataset(datasets.KMNIST, TRAIN_TEST),
    "qmnist": ArrayDataset(datasets.QMNIST, TRAIN_TEST),
    "emnist_balanced": ArrayDataset(datasets.EMNIST, _emnist("balanced")),
    "emnist_letters": ArrayDataset(datasets.EMNIST, _emnist("letters")),
    "emnist_byclass": ArrayDataset(datasets.EMNIST, _emnist("byclass")),
    "usps": ArrayDataset(datasets.USPS, TRAIN_TEST),
}


def list_dataset(name: str, root: Path, split: str) -> Listing:
    """Lists a dataset's images: keys are places in the split, images become PNG, losslessly.

    Raises:
        UsageError: no such split, or the files are missing or not the published ones.
    """
    row = DATASETS[name]
    if split not in row.splits:
        raise UsageError(f"{name} has no split '{split}'.", hint=f"It has: {', '.join(row.splits)}.")
    try:
        dataset = row.open(root=str(root), download=False, **row.splits[split])
    except (RuntimeError, OSError, ValueError) as error:
        raise UsageError(
            f"{root}: torchvision finds no {name} there ({error}).",
            hint="Expected the folder that torchvision calls root, with the published files.",
        ) from error

    def load(place: int) -> tuple[str, bytes]:
        image: Image.Image = dataset[place][0]
        out = io.BytesIO()
        image.save(out, "PNG")
        return "png", out.getvalue()

    labels = [None if label < 0 else label for label in map(int, _targets(dataset))]
    names = tuple(map(str, getattr(dataset, "classes", ())))
    return Listing([f"{split}_{place:07d}" for place in range(len(dataset))], labels, names, load, {})


def _targets(dataset: Any) -> Any:
    """Returns the labels without decoding an image; torchvision has two names for them."""
    targets = getattr(dataset, "targets", None)
    if targets is None:
        targets = dataset.labels
    return targets[:, 0] if getattr(targets, "ndim", 1) == 2 else targets  # QMNIST: the first column is the class
