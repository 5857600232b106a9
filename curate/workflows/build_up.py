"""`curate build-up`: the subset grows. Members are trained on what is kept so far, all is scored, the best joins.

Source: Chitta et al. 2021, Training Data Subset Search with Ensemble Active Learning, section 3.1, "build up".
It is the loop of `score --within` and `prune --base`, nothing more: the same can be done by hand.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from curate import durable
from curate.acquisition import ACQUISITIONS, acquisition
from curate.errors import RunError, UsageError
from curate.pool.labels import LabelSource
from curate.progress import Progress, Silent
from curate.proxy.models import check_fits
from curate.proxy.pixels import Pixels, Rows
from curate.recipe import Recipe
from curate.scores import INDEX, SUMMARY, BadSample, read_record
from curate.selection.budget import divide, parse_keep, parse_outliers
from curate.selection.quotas import ClassRule
from curate.workflows import prune as pruning
from curate.workflows.cover import K_CENTERS
from curate.workflows.held_out import check_others, labelled_within
from curate.workflows.run import Request as RunRequest
from curate.workflows.run import Run, open_run, settled_if_accepted
from curate.workflows.score import score
from curate.workflows.setting import open_pixels

MANIFEST = "manifest"
RECORD = "build_up.json"


@dataclass(frozen=True)
class Request:
    """What `build-up` is asked to do.

    Attributes:
        shards: what names the pool.
        out: the folder of the iterations: `iteration-T/manifest`, and from 1 on `iteration-T/scores`. The
            last manifest also lists which iteration added which samples.
        schedule: how much is kept after each iteration, as `--keep` takes it; it rises.
        fn: the acquisition function by which the subset grows.
        first_per_class: how the first, random subset is divided among classes; None for as it falls.
        per_class: the same for what joins later.
    """

    shards: Sequence[str]
    out: Path
    schedule: Sequence[str]
    fn: str
    recipe: Recipe = field(default_factory=Recipe)
    labels: LabelSource = field(default_factory=LabelSource)
    outliers: str = "0"
    first_per_class: ClassRule | None = None
    per_class: ClassRule | None = None
    seed: int = 0
    val: Sequence[str] = ()
    test: Sequence[str] = ()
    device: str = "auto"
    skip_faults: bool = False
    max_bad: float = 0.1
    copied: bool = False


def build_up(request: Request, progress: Progress | None = None) -> list[dict[str, Any]]:
    """Runs the iterations that are missing; returns a record of each. Kill it anywhere: it resumes.

    Raises:
        UsageError: a schedule that does not rise, an unknown function, a class that is missing from the
            first subset: said before anything is trained.
        RunError: the folder holds another build-up.
    """
    progress = progress or Silent()
    check(request)
    with durable.lock(request.out):
        with settled_if_accepted(request.out):
            run = open_run(run_request(request, request.out), progress)
            check_fits(run.plan.spec)
            check_others(run)
            _check_sizes(request, run.pool.total - run.pool.bad)
            record = _checked_record(request)
            # Decoded once, for all iterations; who cannot be decoded is never drawn.
            folder = request.out / "pixels"
            pixels = open_pixels(run.pool, run.setting, request.recipe, folder, progress, is_checked=True)
            _check_sizes(request, run.pool.total - run.pool.bad - len(pixels.bad))
            _check_labels(request, pixels.rows)
            pruned = _drawn(request, run, pixels)
        durable.write_json(request.out / RECORD, record)
        records, manifests = list[dict[str, Any]](), list[Path]()
        for number, keep in enumerate(request.schedule):
            folder = request.out / f"iteration-{number}"
            progress.note(f"Iteration {number}: keep {keep} of {run.pool.total:,} samples.")
            if manifests:
                score(run_request(request, folder / "scores", manifests[-1]), progress, pixels=pixels)
                pruned = pruning.prune(_prune_request(request, keep, folder, manifests, pixels.bad))
            manifests.append(pruned.out)
            records.append(_record(number, pruned))
        return records


def check(request: Request) -> None:
    """Refuses what could only fail after hours.

    Raises:
        UsageError: fewer than two sizes, sizes that do not rise, outliers that leave too little, a function
            that one member cannot be asked.
    """
    hint = f"Known: {', '.join(name for name, one in ACQUISITIONS.items() if 'dynamics' not in one.needs)}."
    if request.fn == K_CENTERS:
        raise UsageError(
            f"'{K_CENTERS}' is no score by which a subset grows.",
            hint=f"{hint} Or by hand: score --within --embeddings, then prune --fn {K_CENTERS} --start MANIFEST.",
        )
    row = acquisition(request.fn)
    if "dynamics" in row.needs:
        raise UsageError(
            f"'{request.fn}' is known of samples that were trained on alone: it cannot say which others join.",
            hint=hint,
        )
    keeps = [parse_keep(keep, what="--schedule") for keep in request.schedule]
    outliers = parse_outliers(request.outliers)
    train = request.recipe.train
    if train.seeds * train.checkpoints < row.members:
        raise UsageError(f"'{request.fn}' needs {row.members} members.", hint="Such as --seeds 2, or --checkpoints 2.")
    if len(keeps) < 2:
        raise UsageError("A build-up has at least two sizes.", hint="Such as --schedule 0.2,0.4,0.8.")
    if len({keep.is_fraction for keep in keeps}) > 1:
        raise UsageError("--schedule mixes fractions and counts.", hint="Such as --schedule 0.2,0.4,0.8.")
    if any(later.value <= earlier.value for earlier, later in pairwise(keeps)):
        raise UsageError(f"--schedule {','.join(request.schedule)} does not rise.", hint="Such as 0.2,0.4,0.8.")
    if keeps[-1].is_fraction and outliers.is_fraction and keeps[-1].value + outliers.value > 1:
        raise UsageError(
            f"--outliers {request.outliers} and --schedule {keeps[-1].text} are more than all.",
            hint="Lower one of them.",
        )


def _check_sizes(request: Request, good: int) -> None:
    """Refuses sizes that the pool has not, or that round to nothing, before anything is trained."""
    for keep in request.schedule:
        parse_keep(keep, what="--schedule").budget(good)
    divide(parse_keep(request.schedule[-1], what="--schedule"), parse_outliers(request.outliers), good)


def _check_labels(request: Request, rows: Rows) -> None:
    unlabelled = int(((rows.label_N < 0) & ~rows.is_bad_N).sum())
    if unlabelled and "labels" in acquisition(request.fn).needs:
        raise UsageError(
            f"'{request.fn}' needs labels, and {unlabelled:,} samples have none.", hint="Choose another function."
        )


def _drawn(request: Request, run: Run, pixels: Pixels) -> pruning.Pruned:
    """Returns the first subset, drawn at random; one that lacks a class is refused and leaves nothing."""
    folder = request.out / "iteration-0"
    is_new = not (request.out / RECORD).exists()
    if is_new:  # of a kill before the record was written; the same words draw the same again
        shutil.rmtree(folder, ignore_errors=True)
    first = pruning.prune(_prune_request(request, request.schedule[0], folder, [], pixels.bad))
    try:
        labelled_within(run, pixels.rows, first.out)
    except UsageError:
        if is_new:
            shutil.rmtree(folder)
        raise
    return first


def _checked_record(request: Request) -> dict[str, Any]:
    """Returns what is recorded of a build-up. What steers the growth stays; the schedule may go on."""
    fresh = {
        "fn": request.fn, "seed": request.seed, "outliers": request.outliers,
        "first_per_class": request.first_per_class, "per_class": request.per_class, "schedule": list(request.schedule),
    }  # fmt: skip
    path = request.out / RECORD
    known: dict[str, Any] = durable.read_json(path, schedule=list) if path.exists() else fresh
    changed = [name for name in fresh if name != "schedule" and known.get(name) != fresh[name]]
    done = [keep for number, keep in enumerate(known["schedule"]) if _manifest(request, number).exists()]
    if changed or list(request.schedule)[: len(done)] != done:
        raise RunError(
            f"{request.out} holds a build-up with another {(*changed, 'schedule')[0]}.", hint="Choose another --out."
        )
    return fresh


def _manifest(request: Request, number: int) -> Path:
    return request.out / f"iteration-{number}" / MANIFEST


def run_request(request: Request, out: Path, within: Path | None = None) -> RunRequest:
    """Returns the run of an iteration, trained within a manifest."""
    return RunRequest(
        request.shards, out, request.recipe, request.labels, val=request.val, test=request.test, device=request.device,
        skip_faults=request.skip_faults, max_bad=request.max_bad, within=within, copied=request.copied,
    )  # fmt: skip


def _prune_request(
    request: Request, keep: str, folder: Path, manifests: Sequence[Path], bad: Sequence[BadSample]
) -> pruning.Request:
    out = folder / MANIFEST
    if not manifests:
        return pruning.Request(
            None, "random", keep, out, per_class=request.first_per_class, seed=request.seed,
            index=request.out / INDEX, undecodable=bad,
        )  # fmt: skip
    return pruning.Request(
        folder / "scores", request.fn, keep, out, outliers=request.outliers, per_class=request.per_class,
        seed=request.seed, base=manifests[-1],
    )  # fmt: skip


def _record(number: int, pruned: pruning.Pruned) -> dict[str, Any]:
    scores = pruned.out.parent / "scores"
    record = {"iteration": number, "kept": pruned.kept, "digest": pruned.digest, "manifest": str(pruned.out)}
    if not number:
        return record
    summary = read_record(scores / SUMMARY)
    return {**record, "trained": summary["trained"], "ensemble": summary["ensemble"]}
