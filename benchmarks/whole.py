"""Seconds from shards to a manifest: `curate score` and `curate prune`, beside plain PyTorch.

Run: python -m benchmarks.whole SHARDS... --arm plain|target [--seeds 2 --epochs 3]

    curate   `curate score` and `curate prune`, both processes whole
    plain    the procedure of the paper as a good script does it: every image decoded once into memory, the same
             proxy, seeds, epochs and schedule, bfloat16 and channels_last where they pay, batches augmented as
             tensors, checkpoints kept in memory, all members over all batches, variation ratio, mutual
             information inside ties, keys written to a file. The whole process.

    target   what selection is for: one training of a network several times costlier, on the same images, by the same
             script; the ratio says how many selections it takes the time of

The first two end with the test accuracy of the ensemble, which must be alike for the comparison to mean something.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import torch
import zstandard
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional

from benchmarks.arms import Arm, module, report, timed
from benchmarks.pools import write_pool
from benchmarks.suite import OURS, Benchmark, Case, Setting, Target, compared
from curate.pool.writer import write_shards
from curate.proxy.device import has_fast_bf16
from curate.proxy.models import ModelSpec, build_model, stem_for

PROXY, BATCH, RATE, KEEP = "preact_resnet20", 128, 0.1, 0.8
TARGET, TARGET_EPOCHS = "convnet3", 6  # as in recipes/svp-cifar10-cpu.toml
COST = f"one training of {TARGET}, {TARGET_EPOCHS} epochs"


def pictures_of(shards: Sequence[str]) -> tuple[NDArray[np.uint8], NDArray[np.int64], list[str]]:
    """Returns pixels (N, H, W, 3), labels and keys of small images."""
    pixels, labels, keys = [], [], []
    for path in shards:
        for key, sample in _entries([Path(path)]):
            with Image.open(io.BytesIO(next(data for kind, data in sample.items() if kind != "cls"))) as image:
                pixels.append(np.asarray(image.convert("RGB")))
            labels.append(int(sample["cls"]))
            keys.append(key)
    return np.stack(pixels), np.array(labels), keys


def tensor(pixels_N: NDArray[np.uint8]) -> Tensor:
    """Returns normalised images, shape (N, 3, H, W), channels_last."""
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    images = torch.from_numpy(pixels_N).permute(0, 3, 1, 2).float() / 255
    return ((images - mean) / std).contiguous(memory_format=torch.channels_last)


def shifted(batch: Tensor) -> Tensor:
    """Returns a batch translated by up to 4 pixels and flipped at random."""
    padded = functional.pad(batch, (4, 4, 4, 4))
    at = torch.randint(0, 9, (len(batch), 2)).tolist()
    cut = torch.stack([image[:, y : y + 32, x : x + 32] for image, (y, x) in zip(padded, at, strict=True)])
    flip = torch.rand(len(batch)) < 0.5
    cut[flip] = cut[flip].flip(3)
    return cut.contiguous(memory_format=torch.channels_last)


def trained(inputs: Tensor, target: Tensor, spec: ModelSpec, seeds: int, epochs: int) -> list[dict[str, Tensor]]:
    """Returns the weights after each epoch of each seed."""
    members = []
    for seed in range(seeds):
        torch.manual_seed(seed)
        model = build_model(spec, seed=seed).train()
        optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=0.9, nesterov=True, weight_decay=5e-4)
        steps = epochs * -(-len(inputs) // BATCH)
        ramp = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps, pct_start=1 / epochs)
        for _ in range(epochs):
            for rows in torch.randperm(len(inputs)).split(BATCH):
                with cast():
                    logits = model(shifted(inputs[rows])).float()
                loss = functional.cross_entropy(logits, target[rows])
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                ramp.step()
            members.append({name: value.clone() for name, value in model.state_dict().items()})
    return members


def cast() -> torch.autocast:
    """Returns bfloat16 where the processor has it."""
    return torch.autocast("cpu", torch.bfloat16, enabled=has_fast_bf16("cpu"))


def probabilities(members: Sequence[dict[str, Tensor]], spec: ModelSpec, inputs: Tensor) -> Tensor:
    """Returns every member's class probabilities, shape (M, N, C)."""
    model, parts = build_model(spec, seed=0).eval(), []
    with torch.inference_mode(), cast():
        for weights in members:
            model.load_state_dict(weights)
            parts.append(torch.cat([model(batch).float().softmax(1) for batch in inputs.split(256)]))
    return torch.stack(parts)


def plain(shards: Sequence[str], test: Sequence[str], seeds: int, epochs: int, out: Path) -> float:
    """Trains, scores and selects; returns the ensemble's test accuracy."""
    pixels, labels, keys = pictures_of(shards)
    inputs, target, classes = tensor(pixels), torch.from_numpy(labels), int(labels.max()) + 1
    spec = ModelSpec(PROXY, classes, 3, 32, stem_for("auto", 32), "")
    members = trained(inputs, target, spec, seeds, epochs)
    probs = probabilities(members, spec, inputs)
    mean, votes = probs.mean(0), functional.one_hot(probs.argmax(2), classes).sum(0)
    ratio = 1 - votes.max(1).values / len(members)
    mutual = (probs * probs.clamp_min(1e-12).log()).sum(2).mean(0) - (mean * mean.clamp_min(1e-12).log()).sum(1)
    kept = np.lexsort((-mutual.numpy(), -ratio.numpy()))[: round(KEEP * len(keys))]
    out.write_text("\n".join(keys[row] for row in sorted(kept)) + "\n")
    held, answers, _ = pictures_of(test)
    return float((probabilities(members, spec, tensor(held)).mean(0).argmax(1).numpy() == answers).mean())


def train_target(shards: Sequence[str]) -> None:
    """Trains the target once, on everything."""
    pixels, labels, _ = pictures_of(shards)
    spec = ModelSpec(TARGET, int(labels.max()) + 1, 3, 32, stem_for("auto", 32), "")
    trained(tensor(pixels), torch.from_numpy(labels), spec, 1, TARGET_EPOCHS)


def slice_of(shards: Sequence[Path], folder: Path, samples: int) -> list[Path]:
    """Returns a shard of the first samples of a dataset."""
    found = islice(_entries(shards), samples)
    return list(write_shards(folder, "slice", found, total=samples, samples_per_shard=samples))


def _entries(shards: Sequence[Path]) -> Iterator[tuple[str, dict[str, bytes]]]:
    for path in shards:
        data = path.read_bytes()
        if path.suffix == ".zst":
            data = zstandard.ZstdDecompressor().stream_reader(data).read()
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            sample: dict[str, bytes] = {}
            for entry in tar:
                key, _, kind = entry.name.partition(".")
                file = tar.extractfile(entry)
                sample[kind] = file.read() if file else b""
                if kind == "cls":
                    yield key, sample
                    sample = {}


def bench(setting: Setting) -> list[Case]:
    samples, seeds, epochs = (256, 2, 2) if setting.quick else (1_200, 2, 3)
    source = setting.data / "cifar10" if setting.data else None
    train, test = setting.folder / "train", setting.folder / "test"
    if source and source.is_dir():
        slice_of(sorted(source.glob("train-*.tar.zst")), train, samples)
        slice_of(sorted(source.glob("test-*.tar.zst")), test, samples // 4)
    else:
        write_pool(train, samples, 32, samples_per_shard=samples)
        write_pool(test, samples // 4, 32, samples_per_shard=samples)
    shards, held = (sorted(folder.glob("*.tar")) for folder in (train, test))
    scores, manifest = setting.folder / "scores", setting.folder / "manifest"
    curate = f"{sys.executable} -m curate"
    score = (
        f"{curate} score {train} --out {scores} --proxy {PROXY} --seeds {seeds} --epochs {epochs} "
        f"--checkpoints {epochs} --test {held[0]} --set train.batch_size={BATCH} --set train.rate={RATE}"
    )
    prune = f"{curate} prune --scores {scores} --keep {KEEP} --fn variation_ratio --out {manifest}"

    def fresh() -> None:
        shutil.rmtree(scores, ignore_errors=True)
        shutil.rmtree(manifest, ignore_errors=True)

    words = [*shards, "--test", *held, "--seeds", seeds, "--epochs", epochs, "--arm", "plain"]
    plain_arm = Arm(module("whole", *words), is_timed=True)
    target_arm = Arm(module("whole", *shards, "--test", *held, "--arm", "target"), is_timed=True)
    case = compared(
        f"{samples:,} images of 32 px, {seeds} x {epochs} members of {PROXY}", "s",
        {OURS: timed("sh", "-c", f"{score} && {prune}", before=fresh), "plain": plain_arm, COST: target_arm},
        repeats=setting.repeats,
        targets=[Target("plain", 4)],
    )  # fmt: skip
    if OURS in case.measured:
        ours = json.loads((scores / "summary.json").read_bytes())["ensemble"].get("test")
        theirs = case.measured["plain"].also.get("accuracy") if "plain" in case.measured else None
        case.note = f"{'CIFAR-10' if source else 'noise'}; test accuracy of the ensemble: ours {ours}, plain {theirs}"
    gpu = Case("CIFAR-10, 5 seeds x 20 checkpoints of a ResNet-18, 30 epochs, one GPU", "s",
               absent=dict.fromkeys((OURS, "180 s"), "no GPU here"), targets=[Target("180 s", 1)])  # fmt: skip
    return [case, gpu]


BENCHMARK = Benchmark(
    bench,
    "From shards to a manifest, beside a plain PyTorch script of the same procedure.",
    why="Both take the same steps of the same network, and those are nearly all of the time.",
)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("shards", nargs="+")
    parser.add_argument("--test", nargs="+", required=True)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--arm", choices=["plain", "target"], default="plain")
    arguments = parser.parse_args()
    if arguments.arm == "target":
        train_target(arguments.shards)
        report()
        return
    with tempfile.TemporaryDirectory(prefix="curate-bench-") as folder:
        out = Path(folder) / "keep.txt"
        accuracy = plain(arguments.shards, arguments.test, arguments.seeds, arguments.epochs, out)
    report(accuracy=round(accuracy, 4))


if __name__ == "__main__":
    main()
