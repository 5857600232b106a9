"""`curate demo`: the whole story on scikit-learn's digits (1,797 real images of 8x8 px, in its wheel)."""

from __future__ import annotations

import io
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from curate.manifest.lines import read_lines
from curate.pool.writer import Sample, write_shards
from curate.progress import Progress
from curate.proxy.pixels import Rows
from curate.recipe import Augment, Pixels, Proxy, Recipe, Train
from curate.workflows import prune as pruning
from curate.workflows import score as scoring
from curate.workflows.evaluate import compare_subsets
from curate.workflows.held_out import other_shards
from curate.workflows.run import Request, open_run
from curate.workflows.setting import open_pixels

KEEP = "50%"
FN = "variation_ratio"
SHARDS, TEST_EVERY = 4, 5
FIRST_TARGET_SEED = 100
RECIPE = Recipe(
    pixels=Pixels(mean=(0.3,), std=(0.3,), store="memory"),
    augment=Augment(flip=False, translate_px=1),
    proxy=Proxy(name="preact_resnet20"),
    train=Train(epochs=10, batch_size=64, rate=0.1),
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
    table, test_samples = _compare(out, request, seeds=seeds, progress=progress)
    return {
        "samples": pruned.samples,
        "kept": pruned.kept,
        "digest": pruned.digest,
        "members": len(summary["members"]),
        "ensemble_test_accuracy": summary["ensemble"]["test"],
        "test_samples": test_samples,
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


def _compare(out: Path, request: Request, *, seeds: int, progress: Progress) -> tuple[list[dict[str, Any]], int]:
    run = open_run(request, progress)
    pixels = open_pixels(run.pool, run.setting, request.recipe, request.out / "pixels", progress)
    target = replace(run.plan, train=run.plan.train.model_copy(update={"checkpoints": 1}))
    test = other_shards(run, "test")
    kept_K = kept_rows(out / "manifest", pixels.rows)
    everything = np.arange(len(pixels.rows))
    random_K = np.sort(np.random.default_rng(FIRST_TARGET_SEED).choice(everything, len(kept_K), replace=False))
    subsets = {f"kept by {FN}": kept_K, "random, same size": random_K, "all": everything}
    table = compare_subsets(
        target,
        pixels,
        subsets,
        test,
        seeds=seeds,
        first_seed=FIRST_TARGET_SEED,
        batch_size=request.recipe.score.batch_size,
        progress=progress,
    )
    return table, len(test.rows_K)


def kept_rows(manifest: Path, rows: Rows) -> NDArray[np.int64]:
    """Returns the rows that a manifest keeps, read from its lines."""
    parts = []
    for line, first in zip(read_lines(manifest), rows.offset_S.tolist(), strict=False):
        edges = np.cumsum(line.runs)
        parts += [np.arange(begin, end) + first for begin, end in zip(edges[::2], edges[1::2], strict=True)]
    return np.concatenate(parts) if parts else np.array([], dtype=np.int64)


def _verdict(table: list[dict[str, Any]]) -> str:
    kept, random, whole = table
    margin = kept["mean"] - random["mean"]
    noise = max(kept["spread"] or 0.0, random["spread"] or 0.0)
    how = "more than" if abs(margin) > noise else "within"
    cost, share = kept["mean"] - whole["mean"], kept["samples"] / whole["samples"]
    return (
        f"Against random of the same size: {margin:+.2%}, {how} the spread over seeds ({noise:.2%}). "
        f"Against all the data: {cost:+.2%} with {share:.0%} of it."
    )
