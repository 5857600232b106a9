"""`curate evaluate`: was pruning worth it? Targets are trained on what was kept, on random samples of the
same number, and on everything, over seeds. Every run's result is a file; what is there is not run again.
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from curate import durable
from curate.errors import RunError
from curate.progress import Progress, Silent
from curate.proxy.members import Member, Members
from curate.proxy.models import check_name, forward_flops
from curate.proxy.pixels import Pixels, batches_of, rows_of
from curate.proxy.plan import Plan
from curate.proxy.predict import measured
from curate.proxy.training import history_of, member_path, settled_members, train_member
from curate.recipe import Train
from curate.workflows.anew import arms_anew, scores_of, selected
from curate.workflows.arms import ALL, Arm, arms_of, beside, kept_arms
from curate.workflows.cost import TRAIN_PASSES, not_found, selection_cost
from curate.workflows.evaluation import PRETRAIN, RECORD, RUNS, SCRATCH, WORK, Cell, Request, open_evaluation
from curate.workflows.held_out import HeldOut, RowArray, Validate, other_shards, split, split_rows, validation
from curate.workflows.results import Wanted, results_in, summarise, write_tables
from curate.workflows.run import Run
from curate.workflows.setting import open_pixels
from curate.workflows.sharing import Alone, alone_in, claimed

Costs = Mapping[str, dict[str, Any]]  # what selection cost, by the name of an arm
FIRST_SEED = 100  # a target that shares its seed with the proxy would be a member
MEMBER_STRIDE = 10_000
NOTE_EVERY = 10  # epochs


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
    for name in request.networks:
        check_name(name)
    if request.scheme == SCRATCH and request.anew is None:
        return _evaluated(request, progress, alone_in(request.out, progress))
    with durable.lock(request.out):
        return _evaluated(request, progress, nullcontext)


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
        run, plans = open_evaluation(request, progress)
        run.log(event="start", setting=run.setting.record())
        on_disk = _decoded(request, run, plans, progress) if run.setting.store == "disk" else None
    ground = on_disk or _decoded(request, run, plans, progress)
    if request.anew:  # once more: now it is known what cannot be decoded
        request.anew.check_sizes(int((~ground.pixels.rows.is_bad_N).sum()))
    cells = list[Cell]()
    for part in _parts(request):
        if request.anew:
            own = replace(request, scores=[scores_of(request.out, part[0])])
            arms = arms_anew(request.anew, run.request, run, ground.pixels, ground.labelled_K, part[0], progress)
        else:
            own, arms = request, arms_of(request.manifests, run.pool, ground.pixels.rows, ground.labelled_K)
        fresh, costs = list(_cells(own, arms, part)), _costs(own.scores, arms, progress)
        _run_missing(own, fresh, ground, costs, progress)
        with alone():
            _record_costs(request.out, fresh, costs)
        cells += fresh
    with alone():
        summary = summarise(request.out / RUNS, _wanted(cells))
        write_tables(request.out, summary)
        return summary


def _parts(request: Request) -> Sequence[Sequence[int]]:
    """Returns the numbers of the seeds that have their arms in common."""
    return [[number] for number in range(request.seeds)] if request.anew else [range(request.seeds)]


def _decoded(request: Request, run: Run, plans: dict[str, Plan], progress: Progress) -> _Ground:
    recipe = run.request.recipe
    pixels = open_pixels(run.pool, run.setting, recipe, request.out / "pixels", progress, is_checked=True)
    labelled_K, val = split(run, pixels)
    return _Ground(run, plans, pixels, labelled_K, val, other_shards(run, "test"))


def _run_missing(request: Request, cells: Sequence[Cell], ground: _Ground, costs: Costs, progress: Progress) -> None:
    missing = [cell for cell in cells if not cell.path(request.out).exists()]
    progress.stage("train targets", len(missing), "runs")
    for done, cell in enumerate(claimed(missing, request.out)):
        progress.at(done, f"{cell.target} on {cell.arm.name}, seed {cell.number}")
        _run_cell(request, cell, ground, costs, progress)
    progress.at(len(missing), "")
    if elsewhere := sum(not cell.path(request.out).exists() for cell in cells):
        progress.note(f"{elsewhere} more runs are trained by other processes; then the same command shows all.")


def planned(request: Request, progress: Progress | None = None) -> dict[str, Any]:
    """Returns the table of what is on disk and of what has not run, with how many runs are `asked` and `done`.

    Nothing is decoded or trained. Where nothing of a manifest has run, its number of samples still counts those that
    cannot be decoded.

    Raises:
        RunError: nothing has been evaluated there; else as `evaluate`, of what can be known so far.
    """
    progress = progress or Silent()
    for name in request.networks:
        check_name(name)
    if not (request.out / RECORD).exists():
        raise RunError(f"{request.out} holds no evaluation.", hint="Run the same command without --dry-run.")
    run, _ = open_evaluation(request, progress, is_only_read=True)
    rows = rows_of(run.pool)
    labelled_K, _ = split_rows(run, rows)
    cells, costs = list[Cell](), dict[str, dict[str, Any]]()
    for part in _parts(request):
        if request.anew:  # each seed's cost is recorded with its results
            kept = selected(request.anew, run, rows, labelled_K, part[0])
        else:
            kept = kept_arms(request.manifests, run.pool, rows, labelled_K)
            costs |= _costs(request.scores, kept, progress)
        kept = _as_counted(request, kept, part)
        cells += _cells(request, [*kept, *beside(kept, labelled_K)], part)
    summary = summarise(request.out / RUNS, _wanted(cells), costs)
    return {**summary, "asked": len(cells), "done": sum(cell.path(request.out).exists() for cell in cells)}


def _as_counted(request: Request, arms: Sequence[Arm], numbers: Sequence[int]) -> list[Arm]:
    """Returns arms with the numbers of samples that were trained on, where something of them has run."""
    counted = {
        result["arm"]: result["samples"]
        for result in results_in(request.out / RUNS)
        if not request.anew or result["seed"] in numbers
    }
    return [replace(arm, samples=counted.get(arm.name, arm.samples)) for arm in arms]


def _wanted(cells: Iterable[Cell]) -> list[Wanted]:
    """Returns the rows of the table that runs come to."""
    rows = dict[tuple[str, str], Wanted]()
    for cell in cells:
        arm, pair = cell.arm, (cell.target, cell.arm.name)
        row = rows.setdefault(pair, Wanted(*pair, arm.label, arm.kind, arm.samples))
        rows[pair] = replace(row, seeds=row.seeds + 1)
    return list(rows.values())


def _costs(scores: Sequence[Path], arms: Iterable[Arm], progress: Progress) -> Costs:
    """Returns what selection cost where the runs that scored a manifest are named; says of which they are not."""
    costs = dict[str, dict[str, Any]]()
    for arm in arms:
        if arm.kind != "manifest" or not scores:
            continue
        if cost := selection_cost(scores, arm.scored, arm.choosing_seconds):
            costs[arm.name] = cost
        else:
            progress.note(_unknown_cost(arm, scores))
    return costs


def _unknown_cost(arm: Arm, scores: Sequence[Path]) -> str:
    if not arm.scored:
        return f"{arm.name} does not say which runs scored it: what its selection cost is not known."
    lost = not_found(scores, arm.scored)
    named, all_of_them = len(arm.scored) - len(lost), len(arm.scored)
    some = f"{named} of the {all_of_them}" if named else "none of the"
    missing = (f"--scores {one.folder}" if one.folder else f"the run of the recipe {one.recipe}" for one in lost)
    return (
        f"{arm.name}: --scores names {some} runs that scored it. For what its selection cost, add {', '.join(missing)}."
    )


def _record_costs(out: Path, cells: Iterable[Cell], costs: Costs) -> None:
    """Puts right what results say that selection cost: who trained them may not have named the runs that scored."""
    for cell in cells:
        path, cost = cell.path(out), costs.get(cell.arm.name)
        if not cost or not path.exists():
            continue
        result = durable.read_json(path, accuracy=int | float)
        if result.get("selection") != cost:
            durable.write_json(path, {**result, "selection": cost})


def _cells(request: Request, arms: Sequence[Arm], numbers: Iterable[int]) -> Iterator[Cell]:
    """Seed by seed, so that every finished seed is a whole row of the table; first what others start from."""
    if request.scheme == PRETRAIN:
        arms = sorted(arms, key=lambda arm: arm.kind != ALL)
    for number in numbers:
        for target in request.networks:
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


def _run_cell(request: Request, cell: Cell, ground: _Ground, costs: Costs, progress: Progress) -> None:
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
        "selection": costs.get(cell.arm.name),
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
