"""One seed as a stock script trains it and scores with it: the peer of `curate score` with many seeds.

Run: python -m benchmarks.stock SHARDS... [--seed 0] [--epochs 2] [--size 32] [--batch 128]

webdataset with PIL and torchvision's transforms, a DataLoader, float32, NCHW; after each epoch the entropy of
every sample is worked out by the same pipeline without augmentation. Prints the accuracy of the last epoch on
what it was trained on.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import webdataset
from torch import nn
from torch.nn import functional
from torchvision import transforms

from benchmarks.arms import report
from curate.proxy.models import ModelSpec, build_model, stem_for

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SHUFFLED = 1000


def batches(
    shards: Sequence[Path], size_px: int, batch: int, *, mean: Sequence[float], std: Sequence[float], augment: bool
) -> Any:
    """Returns the loader that both libraries' documentation leads to, of (images, labels)."""
    drawn = [transforms.RandomCrop(size_px, padding=size_px // 8), transforms.RandomHorizontalFlip()]
    transform = transforms.Compose([
        transforms.Resize(size_px), transforms.CenterCrop(size_px), *(drawn if augment else []),
        transforms.ToTensor(), transforms.Normalize(mean, std),
    ])  # fmt: skip
    dataset = (
        webdataset.WebDataset([f"pipe:{cat_of(shard)}" for shard in shards], shardshuffle=False)
        .shuffle(SHUFFLED if augment else 0).decode("pilrgb").to_tuple("jpg;jpeg;png", "cls")
        .map_tuple(transform, int).batched(batch)
    )  # fmt: skip
    return torch.utils.data.DataLoader(dataset, batch_size=None, num_workers=min(2, len(shards)))


def cat_of(path: Path) -> str:
    """Returns the command that prints a shard's tar."""
    return f"{'zstd -dcq' if path.suffix == '.zst' else 'cat'} {path}"


def entropies(model: nn.Module, loader: Any) -> tuple[torch.Tensor, float]:
    """Returns the entropy of every sample, shape (N,), and the accuracy."""
    parts, hits = [], 0
    model.eval()
    with torch.inference_mode():
        for inputs, labels in loader:
            logs = functional.log_softmax(model(inputs), 1)
            parts.append(-(logs.exp() * logs).sum(1))
            hits += int((logs.argmax(1) == torch.as_tensor(labels)).sum())
    entropy = torch.cat(parts)
    return entropy, hits / len(entropy)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("shards", nargs="+", type=Path)
    parser.add_argument("--proxy", default="preact_resnet20")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rate", type=float, default=0.05)
    given = parser.parse_args()
    torch.manual_seed(given.seed)
    spec = ModelSpec(given.proxy, 10, 3, given.size, stem_for("auto", given.size), "")
    model = build_model(spec, seed=given.seed).to(memory_format=torch.contiguous_format)
    optimizer = torch.optim.SGD(model.parameters(), lr=given.rate, momentum=0.9, nesterov=True, weight_decay=5e-4)
    accuracy = 0.0
    for _ in range(given.epochs):
        model.train()
        for inputs, labels in batches(given.shards, given.size, given.batch, mean=MEAN, std=STD, augment=True):
            loss = functional.cross_entropy(model(inputs), torch.as_tensor(labels))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        _, accuracy = entropies(
            model, batches(given.shards, given.size, 2 * given.batch, mean=MEAN, std=STD, augment=False)
        )
    report(accuracy=round(accuracy, 3))


if __name__ == "__main__":
    main()
