"""Seconds from shards to a manifest: `curate score` and `curate prune`, beside plain PyTorch.

Run: python -m benchmarks.whole SHARDS... --arm plain [--seeds 2 --epochs 3]

    curate   `curate score` and `curate prune`, both processes whole
    plain    the procedure of the paper as a good script does it: every image decoded once into memory, the same
             proxy, seeds, epochs and schedule, bfloat16 and channels_last where they pay, batches augmented as
             tensors, checkpoints kept in memory, all members over all batches, variation ratio, mutual
             information inside ties, keys written to a file. The whole process.

Both end with the test accuracy of the ensemble, which must be alike for the comparison to mean something.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.arms import Arm, module, report, timed
from benchmarks.pools import write_pool
from benchmarks.suite import OURS, Benchmark, Case, Setting, Target, compared

PROXY, BATCH, RATE, KEEP = "preact_resnet20", 128, 0.1, 0.8


def pictures_of(shards: Sequence[str]):
    """Returns pixels (N, 3, H, W), labels and keys of small images."""
    import numpy as np
    import zstandard
    from PIL import Image

    pixels, labels, keys = [], [], []
    for path in shards:
        data = Path(path).read_bytes()
        if path.endswith(".zst"):
            data = zstandard.ZstdDecompressor().stream_reader(data).read()
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            for entry in tar:
                file = tar.extractfile(entry)
                if file and entry.name.endswith(".cls"):
                    labels.append(int(file.read()))
                elif file:
                    pixels.append(np.asarray(Image.open(file).convert("RGB")))
                    keys.append(entry.name.partition(".")[0])
    return np.stack(pixels), np.array(labels), keys


def plain(shards: Sequence[str], test: Sequence[str], seeds: int, epochs: int, out: Path) -> float:
    """Trains, scores and selects; returns the ensemble's test accuracy."""
    import numpy as np
    import torch
    from torch.nn import functional

    from curate.proxy.models import ModelSpec, build_model, stem_for
    from curate.proxy.training import has_fast_bf16

    def tensor(pixels_N: np.ndarray) -> torch.Tensor:
        mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
        batch = torch.from_numpy(pixels_N).permute(0, 3, 1, 2).float() / 255
        return ((batch - mean) / std).contiguous(memory_format=torch.channels_last)

    def shifted(batch: torch.Tensor) -> torch.Tensor:
        padded = functional.pad(batch, (4, 4, 4, 4))
        at = torch.randint(0, 9, (len(batch), 2))
        cut = torch.stack([p[:, y : y + 32, x : x + 32] for p, (y, x) in zip(padded, at.tolist(), strict=True)])
        flip = torch.rand(len(batch)) < 0.5
        cut[flip] = cut[flip].flip(3)
        return cut.contiguous(memory_format=torch.channels_last)

    pixels, labels, keys = pictures_of(shards)
    inputs, target, size = tensor(pixels), torch.from_numpy(labels), len(pixels)
    classes = int(target.max()) + 1
    spec = ModelSpec(PROXY, classes, 3, 32, stem_for("auto", 32), "")
    cast = torch.autocast("cpu", torch.bfloat16, enabled=has_fast_bf16("cpu"))
    members = []
    for seed in range(seeds):
        torch.manual_seed(seed)
        model = build_model(spec, seed=seed).train()
        optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=0.9, nesterov=True, weight_decay=5e-4)
        steps = epochs * -(-size // BATCH)
        ramp = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps, pct_start=1 / epochs)
        for _ in range(epochs):
            for rows in torch.randperm(size).split(BATCH):
                with cast:
                    logits = model(shifted(inputs[rows])).float()
                loss = functional.cross_entropy(logits, target[rows])
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                ramp.step()
            members.append({name: value.clone() for name, value in model.state_dict().items()})
    model.eval()

    def probabilities(batches: torch.Tensor) -> torch.Tensor:
        parts = []
        with torch.inference_mode(), cast:
            for weights in members:
                model.load_state_dict(weights)
                parts.append(torch.cat([model(batch).float().softmax(1) for batch in batches.split(256)]))
        return torch.stack(parts)

    probs = probabilities(inputs)
    mean = probs.mean(0)
    votes = functional.one_hot(probs.argmax(2), classes).sum(0)
    ratio = 1 - votes.max(1).values / len(members)
    mutual = -(mean * mean.clamp_min(1e-12).log()).sum(1) + (probs * probs.clamp_min(1e-12).log()).sum(2).mean(0)
    kept = np.lexsort((-mutual.numpy(), -ratio.numpy()))[: round(KEEP * size)]
    out.write_text("\n".join(keys[row] for row in sorted(kept)) + "\n")
    held, answers, _ = pictures_of(test)
    return float((probabilities(tensor(held)).mean(0).argmax(1).numpy() == answers).mean())


def slice_of(shards: Sequence[Path], folder: Path, samples: int) -> list[Path]:
    """Returns a shard of the first samples of a dataset."""
    from curate.pool.writer import write_shards

    pixels = iter(_entries(shards))
    return list(write_shards(folder, "slice", (next(pixels) for _ in range(samples)), total=samples,
                             samples_per_shard=samples))  # fmt: skip


def _entries(shards: Sequence[Path]):
    import zstandard

    for path in shards:
        data = zstandard.ZstdDecompressor().stream_reader(path.read_bytes()).read()
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
    case = compared(
        f"{samples:,} images of 32 px, {seeds} x {epochs} members of {PROXY}", "s",
        {OURS: timed("sh", "-c", f"{score} && {prune}", before=fresh), "plain": plain_arm}, repeats=setting.repeats,
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
    parser.add_argument("--arm", choices=["plain"], default="plain")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="curate-bench-") as folder:
        out = Path(folder) / "keep.txt"
        accuracy = plain(arguments.shards, arguments.test, arguments.seeds, arguments.epochs, out)
    report(accuracy=round(accuracy, 4))


if __name__ == "__main__":
    main()
