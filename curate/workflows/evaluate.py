"""`curate evaluate`: was pruning worth it? Targets are trained on what was kept, on random samples of the
same number, and on everything, over seeds. Every run's result is a file; what is there is not run again.
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from curate import durable
from curate.errors import RunError, UsageError
from curate.manifest.lines import read_lines, read_root
from curate.manifest.schema import load_head
from curate.pool.labels import LabelSource
from curate.progress import Progress, Silent
from curate.proxy import reads_of
from curate.proxy.members import Member, Members
from curate.proxy.models import check_fits, check_name, forward_flops
from curate.proxy.pixels import Pixels, batches_of
from curate.proxy.plan import Plan
from curate.proxy.predict import measured
from curate.proxy.training import history_of, member_path, settled_members, train_member
from curate.recipe import Recipe, Train
from curate.workflows.anew import Anew, arms_anew, scores_of
from curate.workflows.arms import ALL, Arm, arm_name, arms_of, by_digest
from curate.workflows.cost import TRAIN_PASSES, selection_cost
from curate.workflows.held_out import HeldOut, RowArray, Validate, check_others, other_shards, split, validation
from curate.workflows.results import summarise, write_tables
from curate.workflows.run import Request as RunRequest
from curate.workflows.run import Run, open_run, settled_if_accepted
from curate.workflows.setting import open_pixels, plan_for
from curate.workflows.sharing import Alone, alone_in, claimed

RECORD, RUNS, WORK, FULL = "evaluation.json", "runs", "work", "full"
SCRATCH, PRETRAIN = "scratch", "pretrain"
FIRST_SEED = 100  # a target that shares its seed with the proxy would be a member
MEMBER_STRIDE = 10_000
NOTE_EVERY = 10  # epochs


@dataclass(frozen=True)
class Request:
    """What `evaluate` is asked to do.

    Attributes:
        manifests: of one pool.
        test: what names the shards that accuracy is measured on.
        out: the folder of the results.
        recipe: how targets are trained; one checkpoint, the last epoch.
        targets: names of networks; empty for the recipe's own.
        seeds: runs behind each figure.
        members: targets that vote together in each run (Chitta et al. report such ensembles).
        equal: `epochs`, or `steps`: a smaller set is trained for more epochs, for as many steps as the pool.
        scheme: `scratch`, or `pretrain`: a target starts from the one of its seed that was trained on everything,
            and is fine-tuned at the recipe's `train.finetune_rate` (Chitta et al. 2021, section 3.1).
        scores: folders of the runs that scored the manifests, for what selection cost.
        root: where the pool lies, if it moved.
        val: what is held out of every training, and steers it where the recipe asks for that: as in `score`.
        anew: how each seed trains a proxy and selects, in place of manifests.
        copied: as in `score`.
    """

    manifests: Sequence[Path]
    test: Sequence[str]
    out: Path
    recipe: Recipe = field(default_factory=Recipe)
    targets: Sequence[str] = ()
    seeds: int = 3
    members: int = 1
    equal: str = "epochs"
    scheme: str = SCRATCH
    scores: Sequence[Path] = ()
    labels: LabelSource = field(default_factory=LabelSource)
    root: Path | None = None
    device: str = "auto"
    skip_faults: bool = False
    val: Sequence[str] = ()
    anew: Anew | None = None
    copied: bool = False


@dataclass(frozen=True)
class Cell:
    """One run: a target, what it is trained on, and the number of its seed."""

    target: str
    arm: Arm
    number: int

    def path(self, out: Path) -> Path:
        """Returns where its result lies."""
        return out / RUNS / self.target / self.arm.name / f"{self.number:03d}.json"

    def claim(self, out: Path) -> Path:
        """Returns the file by which a process holds it while it is trained."""
        return out / WORK / self.target / self.arm.name / f"{self.number:03d}.claim"

    def full(self, out: Path, member: int) -> Path:
        """Returns where the weights of its seed lie that were trained on everything."""
        return out / FULL / self.target / f"{self.number:03d}-{member}.safetensors"


def evaluate(request: Request, progress: Progress | None = None) -> dict[str, Any]:
    """Runs what is missing and returns the table, which it also writes to `request.out`.

    Several processes with one request share its runs, each on a device of its own or all on one; where a run needs
    what another leaves (`pretrain`, `anew`), one process holds the folder.

    Raises:
        RunError: the folder holds results of another pool, test set or recipe, or is in use.
        ManifestError, UsageError: manifests of several pools, a target that does not fit the images.

    Cost: (manifests + sizes + 1) x targets x seeds x members training runs.
    """
    progress = progress or Silent()
    for name in _targets(request):
        check_name(name)
    if request.scheme == SCRATCH and request.anew is None:
        return _evaluated(request, progress, alone_in(request.out, progress))
    with durable.lock(request.out):
        return _evaluated(request, progress, nullcontext)


def _targets(request: Request) -> list[str]:
    return list(request.targets) or [request.recipe.proxy.name]


@dataclass(frozen=True)
class _Ground:
    """What the runs of an evaluation share."""

    run: Run
    plans: dict[str, Plan]
    pixels: Pixels
    labelled_K: RowArray
    val: HeldOut | None
    test: HeldOut


def _evaluated(request: Request, progress: Progress, alone: Alone) -> dict[str, Any]:
    """Evaluates; what is written for all runs, and the tables, while no other process does so (`alone`)."""
    with alone():
        recipe = _of_target(request.recipe)
        with settled_if_accepted(request.out):
            run = open_run(_run_request(request, recipe), progress)
            plans = {name: _plan(run, recipe, name) for name in _targets(request)}
            for plan in plans.values():
                check_fits(plan.spec)
            if request.anew:
                request.anew.check_sizes(run.pool.total - run.pool.bad)
            test = check_others(run)
        _check_record(request, run, test)
        _check_reading(run, list(plans))
        on_disk = _decoded(request, run, plans, progress) if run.setting.store == "disk" else None
    ground = on_disk or _decoded(request, run, plans, progress)
    if request.anew:  # once more: now it is known what cannot be decoded
        request.anew.check_sizes(int((~ground.pixels.rows.is_bad_N).sum()))
    cells = list[Cell]()
    for part in [[number] for number in range(request.seeds)] if request.anew else [range(request.seeds)]:
        if request.anew:
            own = replace(request, scores=[scores_of(request.out, part[0])])
            arms = arms_anew(request.anew, run.request, run, ground.pixels, ground.labelled_K, part[0], progress)
        else:
            own, arms = request, arms_of(request.manifests, run.pool, ground.pixels.rows, ground.labelled_K)
        fresh = list(_cells(own, arms, list(plans), part))
        _run_missing(own, fresh, ground, progress)
        cells += fresh
    with alone():
        return _tables(request, cells)


def _decoded(request: Request, run: Run, plans: dict[str, Plan], progress: Progress) -> _Ground:
    recipe = run.request.recipe
    pixels = open_pixels(run.pool, run.setting, recipe, request.out / "pixels", progress, is_checked=True)
    labelled_K, val = split(run, pixels)
    return _Ground(run, plans, pixels, labelled_K, val, other_shards(run, "test"))


def _run_missing(request: Request, cells: Sequence[Cell], ground: _Ground, progress: Progress) -> None:
    missing = [cell for cell in cells if not cell.path(request.out).exists()]
    progress.stage("train targets", len(missing), "runs")
    for done, cell in enumerate(claimed(missing, request.out)):
        progress.at(done, f"{cell.target} on {cell.arm.name}, seed {cell.number}")
        _run_cell(request, cell, ground, progress)
    progress.at(len(missing), "")
    if elsewhere := sum(not cell.path(request.out).exists() for cell in cells):
        progress.note(f"{elsewhere} more runs are trained by other processes; then the same command shows all.")


def planned(request: Request) -> dict[str, Any]:
    """Returns the table of what is on disk; of manifests and all the data also what has not run. Trains nothing.

    Raises:
        RunError: nothing has been evaluated there.
    """
    if not (request.out / RECORD).exists():
        raise RunError(f"{request.out} holds no evaluation.", hint="Run the same command without --dry-run.")
    arms = [*map(arm_name, request.manifests), ALL]
    return summarise(request.out / RUNS, [(target, arm) for target in _targets(request) for arm in arms])


def _of_target(recipe: Recipe) -> Recipe:
    return recipe.model_copy(update={"train": recipe.train.model_copy(update={"checkpoints": 1})})


def _run_request(request: Request, recipe: Recipe) -> RunRequest:
    if request.anew and request.manifests:
        raise UsageError("--proxy-recipe selects by itself: it takes no manifests.", hint="Leave them out.")
    if request.anew:
        request.anew.check(request.val)
    elif not request.manifests:
        raise UsageError("No manifest to evaluate.", hint="Such as: curate evaluate manifests/margin-0.5 --test SHARDS")
    if not request.test:
        raise UsageError("Accuracy is measured on --test SHARDS.", hint="Name labelled shards beside the pool.")
    shards, root = (request.anew.shards, None) if request.anew else _shards_of(request)
    return RunRequest(
        shards, request.out, recipe, request.labels, val=request.val, test=request.test, device=request.device,
        skip_faults=request.skip_faults, copied=request.copied, root=root, networks=_targets(request),
    )  # fmt: skip


def _shards_of(request: Request) -> tuple[list[str], Path]:
    """Returns the shards of the manifests' pool, and the folder that their names are relative to."""
    folder, *others = request.manifests
    fingerprint = load_head(folder).pool.fingerprint
    for other in others:
        if load_head(other).pool.fingerprint != fingerprint:
            raise UsageError(f"{folder} and {other} are of different pools.", hint="Evaluate each in its own --out.")
    by_digest(request.manifests)  # said before anything is decoded
    root = request.root or read_root(folder)
    return [str(root / line.name) for line in read_lines(folder)], root


def _check_record(request: Request, run: Run, test: str) -> None:
    """Results that mean different things never share a folder."""
    fresh = {
        "test": test, "equal": request.equal, "members": request.members, "scheme": request.scheme,
        "anew": request.anew.recipe.digest if request.anew else "",
    }  # fmt: skip
    path = request.out / RECORD
    if not path.exists():
        durable.write_json(path, fresh)
    known = durable.read_json(path)
    for name, what in (
        ("test", "another test set"), ("equal", "another --equal"), ("members", "other members"),
        ("scheme", "another --scheme"), ("anew", "another --proxy-recipe"),
    ):  # fmt: skip
        if known.get(name, SCRATCH if name == "scheme" else "") != fresh[name]:
            raise RunError(f"{request.out} holds results of {what}.", hint="Choose another --out.")
    run.log(event="start", setting=run.setting.record())


def _plan(run: Run, recipe: Recipe, name: str) -> Plan:
    proxy = recipe.proxy.model_copy(update={"name": name})
    return plan_for(recipe.model_copy(update={"proxy": proxy}), run.setting, run.pool.classes.num_classes)


def _check_reading(run: Run, targets: Sequence[str]) -> None:
    """One store serves all targets of an evaluation: of one that reads words, characters cannot be had."""
    other = next((name for name in targets if reads_of(name) != run.setting.reads), None)
    if other:
        raise UsageError(
            f"'{other}' reads {reads_of(other)}, and {run.plan.spec.name} reads {run.setting.reads}.",
            hint="Evaluate such targets one by one, each in its own --out.",
        )


def _cells(request: Request, arms: Sequence[Arm], targets: Sequence[str], numbers: Iterable[int]) -> Iterator[Cell]:
    """Seed by seed, so that every finished seed is a whole row of the table; first what others start from."""
    if request.scheme == PRETRAIN:
        arms = sorted(arms, key=lambda arm: arm.kind != ALL)
    for number in numbers:
        for target in targets:
            for arm in arms:
                yield Cell(target, arm, number)


def stretched(train: Train, samples: int, whole: int) -> Train:
    """Returns the schedule with which a subset takes about as many steps as the whole pool does.

    Epochs and an epoch's steps are whole: a subset of a few batches may take two or three times as many.
    """
    ratio = whole / samples
    milestones = tuple(round(milestone * ratio) for milestone in train.milestones)
    return train.model_copy(
        update={
            "epochs": max(1, round(train.epochs * ratio)),
            "warmup_epochs": train.warmup_epochs * ratio,
            "milestones": milestones,
            "patience": max(1, round(train.patience * ratio)),
            "stop_after": round(train.stop_after * ratio),
        }
    )


def _run_cell(request: Request, cell: Cell, ground: _Ground, progress: Progress) -> None:
    plan, test, whole = ground.plans[cell.target], ground.test, len(ground.labelled_K)
    validate = validation(ground.run, ground.val, plan)
    first = FIRST_SEED + cell.number
    rows_K = cell.arm.rows(first)
    starts = request.scheme == PRETRAIN and cell.arm.kind != ALL
    if request.equal == "steps":
        plan = replace(plan, train=stretched(plan.train, len(rows_K), whole))
    work = request.out / WORK / cell.target / cell.arm.name / f"{cell.number:03d}"
    members, epochs = [], 0
    for member in range(request.members):
        seed = first + member * MEMBER_STRIDE
        start = cell.full(request.out, member)
        own = _finetuning(plan, start) if starts else plan
        folder = work / str(member)
        _train(own, ground.pixels, rows_K, seed, folder, progress, validate)
        [epoch] = settled_members(folder, own.train)
        members.append(Member(seed, epoch, member_path(folder, epoch)))
        epochs += len(history_of(folder))
        if request.scheme == PRETRAIN and not starts:
            start.parent.mkdir(parents=True, exist_ok=True)
            durable.write_bytes(start, members[-1].path.read_bytes())
    accuracy = measured(
        plan, Members(plan, members), test.pixels, test.good_K, batch_size=request.recipe.score.batch_size
    )
    mean_epochs = round(epochs / request.members)
    steps = mean_epochs * len(batches_of(rows_K, plan.train.batch_size))
    result = {
        "target": cell.target, "arm": cell.arm.name, "kind": cell.arm.kind, "label": cell.arm.label,
        "digest": cell.arm.digest, "samples": len(rows_K), "pool_samples": whole, "seed": cell.number,
        "members": request.members, "equal": request.equal, "scheme": request.scheme,
        "anew": request.anew is not None, "epochs": mean_epochs, "steps": steps,
        "accuracy": accuracy.together, "each": accuracy.each, "per_class": accuracy.per_class,
        "seconds": round(sum(_seconds(work / str(member)) for member in range(request.members)), 1),
        "flops": TRAIN_PASSES * forward_flops(plan.spec) * len(rows_K) * epochs,
        "selection": selection_cost(request.scores, cell.arm.scored, cell.arm.choosing_seconds),
        "device": plan.device, "threads": torch.get_num_threads(), "is_best": plan.train.member == "best",
    }  # fmt: skip
    if starts:
        _add_start(result, replace(cell, arm=replace(cell.arm, name=ALL)).path(request.out))
    cell.path(request.out).parent.mkdir(parents=True, exist_ok=True)
    durable.write_json(cell.path(request.out), result)
    shutil.rmtree(work)


def _finetuning(plan: Plan, start: Path) -> Plan:
    """Returns the plan that goes on from weights at a small constant rate."""
    if not start.exists():
        raise RunError(
            f"{start}, which a target starts from, is missing.",
            hint=f"Delete the results in runs/*/{ALL}; they are run again.",
        )
    constant = {"schedule": "constant", "rate": plan.train.finetune_rate, "warmup_epochs": 0.0}
    return replace(
        plan, spec=replace(plan.spec, pretrained=str(start)), train=plan.train.model_copy(update=constant)
    )  # fmt: skip


def _add_start(result: dict[str, Any], path: Path) -> None:
    """Adds what the training on everything took: without it there is nothing to fine-tune."""
    whole = durable.read_json(path, seconds=int | float, flops=int | float)
    for name in ("seconds", "flops"):
        result[name] += whole[name]


def _train(plan: Plan, pixels: Pixels, rows_K: RowArray, seed: int, folder: Path, progress: Progress,
    validate: Validate | None,
) -> None:  # fmt: skip
    """Trains one target; the time of its epochs is kept beside its state, so that a resumed one adds up."""
    begun = time.monotonic()

    def on_epoch(epoch: int, _model: Any, _record: Any) -> None:
        nonlocal begun
        now = time.monotonic()
        with (folder / "seconds.txt").open("a") as file:
            file.write(f"\n{epoch} {now - begun:.3f}")  # a new line: the last one may be cut off
        begun = now
        if epoch % NOTE_EVERY == 0:
            progress.note(f"epoch {epoch}/{plan.train.epochs}")

    train_member(
        plan, pixels, rows_K, seed=seed, folder=folder, progress=lambda epoch, seen: None, on_epoch=on_epoch,
        validate=validate,
    )  # fmt: skip


def _seconds(folder: Path) -> float:
    """Returns the time of the epochs; the last time of one that ran twice; no line that a kill cut off."""
    lines = (folder / "seconds.txt").read_text(errors="replace").splitlines()
    whole = (re.fullmatch(r"(\d+) (\d+\.\d{3})", line) for line in lines)
    return sum({found[1]: float(found[2]) for found in whole if found}.values())


def _tables(request: Request, cells: Sequence[Cell]) -> dict[str, Any]:
    summary = summarise(request.out / RUNS, [(cell.target, cell.arm.name) for cell in cells])
    write_tables(request.out, summary)
    return summary
