"""`curate demo`: the whole story on scikit-learn's digits (1,797 real images of 8x8 px, in its wheel)."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from curate.pool.writer import Sample, write_shards
from curate.progress import Progress
from curate.recipe import Augment, Pixels, Proxy, Recipe, Train
from curate.workflows import evaluation
from curate.workflows import prune as pruning
from curate.workflows import score as scoring
from curate.workflows.evaluate import evaluate
from curate.workflows.run import Request

KEEP = "50%"
FN = "variation_ratio"
SHARDS, TEST_EVERY = 4, 5
TEST_SAMPLES = 360
RECIPE = Recipe(
    pixels=Pixels(mean=(0.3,), std=(0.3,), store="memory"),
    augment=Augment(flip=False, translate_px=1),
    proxy=Proxy(name="preact_resnet20"),
    train=Train(epochs=8, batch_size=64, rate=0.1, threads=1),
)


def demo(out: Path | None, *, seeds: int, progress: Progress) -> dict[str, Any]:
    """Packs, scores, prunes and compares; returns the table and what it says.

    Args:
        out: keeps shards, scores and manifest; None for a folder that is deleted again.
        seeds: training runs behind each figure.
        progress: who listens.
    """
    if out is None:
        with tempfile.TemporaryDirectory(prefix="curate-demo-") as folder:
            return demo(Path(folder), seeds=seeds, progress=progress)
    write_digits(out / "shards", out / "test")
    request = Request([str(out / "shards")], out / "scores", RECIPE, test=[str(out / "test")])
    summary = scoring.score(request, progress)
    pruned = pruning.prune(pruning.Request(out / "scores", FN, KEEP, out=out / "manifest", force=True))
    table = _compare(out, seeds=seeds, progress=progress)
    return {
        "samples": pruned.samples,
        "kept": pruned.kept,
        "digest": pruned.digest,
        "members": len(summary["members"]),
        "ensemble_test_accuracy": summary["ensemble"]["test"],
        "test_samples": TEST_SAMPLES,
        "seeds": seeds,
        "table": table,
        "verdict": _verdict(table),
    }


def write_digits(train: Path, test: Path) -> None:
    """Writes the digits as shards: every fifth image is for testing."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    place = np.arange(len(digits.images))
    is_test = place % TEST_EVERY == 0
    for folder, prefix, places, shards in (
        (train, "train", place[~is_test], SHARDS),
        (test, "test", place[is_test], 1),
    ):
        samples = (_digit(digits, number) for number in places.tolist())
        write_shards(folder, prefix, samples, total=len(places), samples_per_shard=-(-len(places) // shards))


def _digit(digits: Any, place: int) -> Sample:
    # 17 grey levels become 0 ... 255.
    image = Image.fromarray((digits.images[place] * (255 / 16)).astype(np.uint8))
    encoded = io.BytesIO()
    image.save(encoded, "PNG")
    return f"digit_{place:04d}", {"png": encoded.getvalue(), "cls": str(int(digits.target[place])).encode()}


def _compare(out: Path, *, seeds: int, progress: Progress) -> list[dict[str, Any]]:
    """Returns the rows for kept, random and all.

    Equal steps: at equal epochs half of the digits is under 100 steps, after which little is learned to the end.
    """
    request = evaluation.Request(
        [out / "manifest"], [str(out / "test")], out / "evaluation", RECIPE,
        seeds=seeds, equal="steps", scores=[out / "scores"],
    )  # fmt: skip
    rows: list[dict[str, Any]] = evaluate(request, progress)["rows"]
    return rows


def _verdict(table: list[dict[str, Any]]) -> str:
    kept, _, whole = table
    share = kept["samples"] / whole["samples"]
    return (
        f"Against random of the same size: {_said(kept['gain'])}. "
        f"Against all the data, in as many steps: {_said(kept['loss'])} with {share:.0%} of it."
    )


def _said(difference: dict[str, Any]) -> str:
    """Returns a difference in points and whether it is one: an interval that holds 0 shows none."""
    mean, low, high = (difference[name] for name in ("mean", "low", "high"))
    if low is None:
        return f"{100 * mean:+.2f} points in one run"
    how = "no difference is shown" if low <= 0 <= high else "a difference"
    return f"{100 * mean:+.2f} ± {100 * (high - mean):.2f} points ({how} at n = {difference['n']})"
