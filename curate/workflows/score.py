"""`curate score`: index, decode, train the members, score every sample. Resumes by itself."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from curate import durable
from curate.acquisition import ACQUISITIONS, Ensemble
from curate.acquisition.baseline import random
from curate.errors import RunError, TooMuchBadDataError, UsageError
from curate.pool.index import Pool, bad_samples, build_index
from curate.pool.labels import LabelSource
from curate.progress import Progress, Silent, as_stage
from curate.proxy.pixels import Pixels
from curate.proxy.predict import accuracy, predict_shard
from curate.proxy.schedule import checkpoint_epochs
from curate.proxy.training import Plan, history_of, load_member, member_path, train_member
from curate.recipe import Recipe
from curate.samples import shuffled, uniform
from curate.scores import (
    BAD,
    INDEX,
    RUN,
    SUMMARY,
    BadSample,
    read_record,
    table_path,
    write_bad,
    write_record,
    write_scores,
)
from curate.workflows.setting import Setting, open_pixels, plan_for, settle

LOG = "log.jsonl"


@dataclass(frozen=True)
class Request:
    """What `score` is asked to do.

    Attributes:
        shards: what names the pool.
        out: the run's folder.
        val: a fraction of the labelled samples to hold out of training, or what names shards.
        test: what names shards that are only reported on.
        max_bad: the fraction of bad samples at which the run ends.
    """

    shards: Sequence[str]
    out: Path
    recipe: Recipe = field(default_factory=Recipe)
    labels: LabelSource = field(default_factory=LabelSource)
    val: str = ""
    test: Sequence[str] = ()
    device: str = "auto"
    skip_faults: bool = False
    max_bad: float = 0.1


@dataclass
class _Run:
    request: Request
    pool: Pool
    setting: Setting
    plan: Plan
    progress: Progress

    def folder(self, seed: int) -> Path:
        return self.request.out / "members" / f"seed-{seed:03d}"

    @property
    def seeds(self) -> list[int]:
        first = self.request.recipe.train.seed
        return list(range(first, first + self.request.recipe.train.seeds))

    def log(self, **event: Any) -> None:
        """Appends what was done, with the time and the process: what ran again after a kill shows here."""
        line = json.dumps({"time": round(time.time(), 3), "process": os.getpid(), **event})
        with (self.request.out / LOG).open("a") as file:
            file.write(line + "\n")


def score(request: Request, progress: Progress | None = None) -> dict[str, Any]:
    """Scores a pool into `request.out`; returns the summary that it also writes there.

    Raises:
        RunError: the folder belongs to another pool or recipe, or is in use.
        UsageError: the pool cannot be trained on.
        TooMuchBadDataError: more bad samples than `max_bad`.
    """
    progress = progress or Silent()
    with durable.lock(request.out):
        run = _open(request, progress)
        started = time.monotonic()
        pixels = open_pixels(run.pool, run.setting, request.recipe, request.out / "pixels", progress)
        bad = [BadSample(*sample) for sample in bad_samples(run.pool)]
        _check_bad(len(bad) + len(pixels.bad), run)
        train_K, val_K = _split(run, pixels)
        for seed in run.seeds:
            _train(run, pixels, train_K, seed)
        members = _members(run)
        _score_shards(run, pixels, members)
        bad += _all_bad(run)
        _check_bad(len(bad), run)
        write_bad(request.out / BAD, bad)
        summary = _summary(run, pixels, members, bad, val_K)
        write_record(request.out / SUMMARY, summary)
        run.log(event="done", seconds=round(time.monotonic() - started, 1))
        return summary


def _open(request: Request, progress: Progress) -> _Run:
    durable.remove_leftovers(request.out)
    pool = build_index(
        request.shards,
        request.out / INDEX,
        request.labels,
        skip_faults=request.skip_faults,
        progress=as_stage(progress, "index", "shards"),
    )
    _check_classes(pool)
    record = _settled(request, pool)
    setting = Setting(**record["setting"])
    torch.set_num_threads(setting.threads)
    run = _Run(request, pool, setting, plan_for(request.recipe, setting, pool.classes.num_classes), progress)
    run.log(event="start", setting=setting.record())
    progress.note(_said(setting, pool))
    return run


def _settled(request: Request, pool: Pool) -> dict[str, Any]:
    """Returns the run's record: written by the first execution, checked and kept by the next ones."""
    path = request.out / RUN
    fresh = {
        "recipe": request.recipe.model_dump(mode="json"),
        "recipe_digest": request.recipe.digest,
        "pool": pool.fingerprint,
        "val": request.val,
    }
    if not path.exists():
        record = {**fresh, "setting": settle(request.recipe, pool, request.out, request.device).record()}
        write_record(path, record)
    known = read_record(path)
    for name, what in (("pool", "another pool"), ("recipe", "another recipe"), ("val", "another --val")):
        if known[name] != fresh[name]:
            raise RunError(
                f"{request.out} holds scores of {what}{_difference(known[name], fresh[name])}.",
                hint="Choose another --out, or delete that folder.",
            )
    return known


def _difference(old: Any, new: Any) -> str:
    if not isinstance(old, dict):
        return f" ({old} there, {new} here)"
    changes = [
        f"{section}.{key} is {old[section].get(key)!r} there and {value!r} here"
        for section, values in new.items()
        for key, value in values.items()
        if old.get(section, {}).get(key) != value
    ]
    return f" ({'; '.join(changes[:3])})"


def _said(setting: Setting, pool: Pool) -> str:
    stem = ", stem adapted to small images (3x3, stride 1, no pooling)" if setting.stem == "small" else ""
    gib = pool.total * setting.size_px**2 * setting.channels / 2**30
    where = {
        "memory": f"stored in memory ({gib:.2f} GiB)",
        "disk": f"stored on disk ({gib:.2f} GiB)",
        "stream": f"streamed by {setting.workers} workers ({gib:.2f} GiB would be needed to store them)",
    }[setting.store]
    precision = "bfloat16" if setting.is_bf16 else "float32"
    what = f"{pool.total:,} samples of {pool.classes.num_classes} classes"
    return f"{what}; pixels {where}; {precision} on {setting.device}{stem}."


def _check_classes(pool: Pool) -> None:
    present = sum(count > 0 for count in pool.classes.counts)
    if present < 2:
        what = "no labels" if present == 0 else "labels of one class only"
        raise UsageError(
            f"The pool has {what}: a proxy cannot be trained on it.",
            hint="Labels come from .cls entries; else use --label-field, --labels or --label-from folder.",
        )


def _check_bad(count: int, run: _Run) -> None:
    if count > run.request.max_bad * run.pool.total:
        raise TooMuchBadDataError(
            f"{count:,} of {run.pool.total:,} samples are bad, more than --max-bad {run.request.max_bad:g} allows.",
            hint=f"`curate index` lists them with reasons. {run.request.out} keeps what is done so far.",
        )


def _split(run: _Run, pixels: Pixels) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Returns (rows to train on, rows held out); the identity's hash decides, not the position."""
    labelled = np.flatnonzero((pixels.rows.label_N >= 0) & ~pixels.rows.is_bad_N)
    if not run.request.val:
        return labelled, labelled[:0]
    try:
        fraction = float(run.request.val)
    except ValueError:
        fraction = 0.0
    if not 0 < fraction < 1:
        raise UsageError(f"--val {run.request.val}: expected a fraction between 0 and 1.", hint="Such as --val 0.1.")
    identity_N = np.concatenate(
        [run.pool.read(i, ["identity"])["identity"].to_numpy() for i in range(len(run.pool.scans))]
    )
    held_N = uniform(shuffled(identity_N, seed=run.request.recipe.train.seed)) < fraction
    return labelled[~held_N[labelled]], labelled[held_N[labelled]]


def _train(run: _Run, pixels: Pixels, rows_K: NDArray[np.int64], seed: int) -> None:
    epochs = run.plan.train.epochs
    done = len(history_of(run.folder(seed)))
    if done == epochs:
        return
    run.progress.stage(f"train seed {seed}", epochs * len(rows_K), "images")

    def on_epoch(epoch: int, model: nn.Module, record: dict[str, Any]) -> None:
        if run.request.recipe.score.trace:
            _trace(run, pixels, model, seed, epoch)
        run.log(event="epoch", seed=seed, **record)

    train_member(
        run.plan,
        pixels,
        rows_K,
        seed=seed,
        folder=run.folder(seed),
        progress=lambda epoch, seen: run.progress.at(epoch * len(rows_K) + seen, f"epoch {epoch + 1}/{epochs}"),
        on_epoch=on_epoch,
    )


def _trace(run: _Run, pixels: Pixels, model: nn.Module, seed: int, epoch: int) -> None:
    """Writes entropy and correctness of every sample after an epoch, on the plain image."""
    model.eval()
    for index, scan in enumerate(run.pool.scans):
        parts = [
            (
                part.rows_B - pixels.rows.offset_S[index],
                ACQUISITIONS["entropy"].function(part.whole),
                part.whole.errors_B,
            )
            for part in predict_shard(
                run.plan, [(seed, model)], pixels, index, batch_size=run.request.recipe.score.batch_size
            )
        ]
        ordinal_N, entropy_N, errors_N = (np.concatenate(column) for column in zip(*parts, strict=True))
        write_scores(
            run.request.out / "trace" / f"seed-{seed:03d}" / f"epoch-{epoch:03d}",
            scan.name,
            {"ordinal": ordinal_N, "entropy": entropy_N, "correct": errors_N == 0},
        )


def _members(run: _Run) -> list[tuple[int, nn.Module]]:
    epochs = checkpoint_epochs(run.plan.train)
    return [
        (seed, load_member(member_path(run.folder(seed), epoch), run.plan)) for seed in run.seeds for epoch in epochs
    ]


def _score_shards(run: _Run, pixels: Pixels, members: Sequence[tuple[int, nn.Module]]) -> None:
    run.progress.stage(f"score with {len(members)} members", run.pool.total, "images")
    for index, scan in enumerate(run.pool.scans):
        marker = table_path(run.request.out, scan.name)
        if not marker.exists() or not _bad_path(run, scan.name).exists():
            columns = score_columns(run, pixels, members, index)
            before = {(bad.shard, bad.ordinal) for bad in bad_samples_of(run, index)}
            bad = [b for b in pixels.bad if b.shard == scan.name and (b.shard, b.ordinal) not in before]
            # The list of bad samples first: the table is the marker that the shard is done.
            _bad_path(run, scan.name).parent.mkdir(parents=True, exist_ok=True)
            durable.write_json(_bad_path(run, scan.name), [vars(sample) for sample in bad])
            write_scores(run.request.out, scan.name, columns)
            run.log(event="shard", shard=scan.name, rows=len(columns["ordinal"]))
        run.progress.at(int(pixels.rows.offset_S[index + 1]), scan.name)


def _bad_path(run: _Run, shard: str) -> Path:
    return run.request.out / "bad" / f"{shard}.json"


def bad_samples_of(run: _Run, index: int) -> list[BadSample]:
    """Returns what the scan found bad in one shard."""
    name = run.pool.scans[index].name
    return [BadSample(*sample) for sample in bad_samples(run.pool) if sample[0] == name]


def _all_bad(run: _Run) -> list[BadSample]:
    return [
        BadSample(**sample) for scan in run.pool.scans for sample in json.loads(_bad_path(run, scan.name).read_bytes())
    ]


def score_columns(
    run: _Run,
    pixels: Pixels,
    members: Sequence[tuple[int, nn.Module]],
    index: int,
) -> dict[str, Any]:
    """Returns the columns of one shard's score table: identity, prediction, every acquisition function.

    A shard of bad samples alone has an empty table without scores.
    """
    table = run.pool.read(index, ["key", "identity"])
    first = int(pixels.rows.offset_S[index])
    identity_S = table["identity"].to_numpy()
    parts: dict[str, list[NDArray[Any]]] = {}
    for part in predict_shard(
        run.plan,
        members,
        pixels,
        index,
        batch_size=run.request.recipe.score.batch_size,
        per_seed=run.request.recipe.score.per_seed,
    ):
        ordinal_B = part.rows_B - first
        columns: dict[str, NDArray[Any]] = {"ordinal": ordinal_B, "label": pixels.rows.label_N[part.rows_B]}
        columns["prediction"] = part.whole.mean_probs_BC.argmax(1).astype(np.int32)
        columns |= _acquired(part.whole, identity_S[ordinal_B], run.plan.train.seed)
        for seed, ensemble in part.by_seed.items():
            columns |= {f"{name}@{seed}": values for name, values in _acquired(ensemble, None, 0).items()}
        for name, values in columns.items():
            parts.setdefault(name, []).append(values)
        run.progress.at(int(part.rows_B[-1]), run.pool.scans[index].name)
    parts = parts or {"ordinal": [np.array([], dtype=np.int64)]}
    whole = {name: np.concatenate(values) for name, values in parts.items()}
    ordinal_N = whole.pop("ordinal")
    return {
        "ordinal": ordinal_N,
        "key": table["key"].take(ordinal_N).combine_chunks(),
        "identity": identity_S[ordinal_N],
        **whole,
    }


def _acquired(ensemble: Ensemble, identity_B: NDArray[np.uint64] | None, seed: int) -> dict[str, NDArray[Any]]:
    columns: dict[str, NDArray[Any]] = {}
    for name, row in ACQUISITIONS.items():
        if "identity" in row.needs:
            if identity_B is not None:
                columns[name] = random(_with_identity(ensemble, identity_B), seed=seed)
        elif row.members <= ensemble.members:
            columns[name] = row.function(ensemble)
    return columns


def _with_identity(ensemble: Ensemble, identity_B: NDArray[np.uint64]) -> Ensemble:
    return Ensemble(**{**vars(ensemble), "identity_B": identity_B})


def _summary(
    run: _Run,
    pixels: Pixels,
    members: Sequence[tuple[int, nn.Module]],
    bad: Sequence[BadSample],
    val_K: NDArray[np.int64],
) -> dict[str, Any]:
    """Returns what the run came to: counts, members and their accuracies. No times: equal runs are equal."""
    batch_size = run.request.recipe.score.batch_size
    epochs = checkpoint_epochs(run.plan.train)
    records: list[dict[str, float]] = [{"seed": seed, "epoch": epoch} for seed in run.seeds for epoch in epochs]
    ensemble: dict[str, float] = {}
    for name, (held, rows_K) in _held_out(run, pixels, val_K).items():
        run.progress.note(f"Measuring accuracy on {len(rows_K):,} {name} samples.")
        each, together = accuracy(run.plan, members, held, rows_K, batch_size=batch_size)
        ensemble[name] = together
        for record, value in zip(records, each, strict=True):
            record[name] = value
    return {
        "recipe_digest": run.request.recipe.digest,
        "proxy": run.plan.spec.name,
        "pool": run.pool.fingerprint,
        "samples": run.pool.total,
        "scored": run.pool.total - len(bad),
        "failed": len(bad),
        "unlabelled": run.pool.unlabelled,
        "held_out": len(val_K),
        "members": records,
        "ensemble": ensemble,
    }


def _held_out(run: _Run, pixels: Pixels, val_K: NDArray[np.int64]) -> dict[str, tuple[Pixels, NDArray[np.int64]]]:
    held: dict[str, tuple[Pixels, NDArray[np.int64]]] = {}
    if len(val_K):
        held["val"] = (pixels, val_K[~pixels.rows.is_bad_N[val_K]])
    if run.request.test:
        held["test"] = test_pixels(run.request, run.setting, run.plan, run.progress)
    return held


def test_pixels(request: Request, setting: Setting, plan: Plan, progress: Progress) -> tuple[Pixels, NDArray[np.int64]]:
    """Returns the pixels of the test shards and their labelled rows.

    Raises:
        UsageError: the test set has classes that the pool has not.
    """
    pool = build_index(request.test, request.out / "test" / INDEX, request.labels, skip_faults=request.skip_faults)
    if pool.classes.num_classes > plan.spec.num_classes:
        raise UsageError(
            f"The test shards have {pool.classes.num_classes} classes and the pool {plan.spec.num_classes}.",
            hint="Name test shards of the same task.",
        )
    pixels = open_pixels(pool, setting, request.recipe, request.out / "test" / "pixels", progress)
    return pixels, np.flatnonzero((pixels.rows.label_N >= 0) & ~pixels.rows.is_bad_N)
