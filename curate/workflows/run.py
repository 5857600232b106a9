"""The run of `score`: its request, its folder, and what `auto` came to. Checked when it is resumed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

import torch
from pydantic import ValidationError

from curate import durable
from curate.errors import CurateError, DivergedError, RunError, TimeUpError, UsageError
from curate.manifest.lines import manifest_digest
from curate.pool.index import Answers, Pool, build_index
from curate.pool.label_tables import note, unmatched
from curate.pool.labels import LabelSource
from curate.progress import Progress, as_stage
from curate.proxy.device import make_repeatable
from curate.proxy.plan import Plan
from curate.recipe import Recipe
from curate.scores import INDEX, RUN, read_record, write_record
from curate.workflows.base_run import open_base_run
from curate.workflows.given import Choice, Given, check_given, open_given
from curate.workflows.setting import Setting, check_device, check_reads, plan_for, settle

LOG, DIVERGED = "log.jsonl", "diverged.json"


@dataclass(frozen=True)
class Request:
    """What `score` is asked to do.

    Attributes:
        shards: what names the pool.
        out: the run's folder.
        val: one fraction of the labelled samples to hold out of training, or what names shards.
        test: what names shards that are only reported on.
        max_bad: the fraction of bad samples at which the run ends.
        embeddings: also keep the embedding of every scored sample. Not in the recipe: scores are the same without.
        within: a manifest; members are trained on what it keeps alone, everything is scored.
        base: a finished run that grows: its members score what was added, nothing is trained; see `growth`.
        copied: shards may have other times than when they were indexed; those are scanned again, and must be the same.
        answers: labels of samples that have none in the shards, by (shard, key).
        members: a folder of members that were trained before; nothing is trained.
        choice: which of them, where they are a run's; None for all.
        root: the shards' common folder, where it is known.
        networks: names of those that read the pool in place of the recipe's proxy.
    """

    shards: Sequence[str]
    out: Path
    recipe: Recipe = field(default_factory=Recipe)
    labels: LabelSource = field(default_factory=LabelSource)
    val: Sequence[str] = ()
    test: Sequence[str] = ()
    device: str = "auto"
    skip_faults: bool = False
    max_bad: float = 0.1
    embeddings: bool = False
    within: Path | None = None
    base: Path | None = None
    copied: bool = False
    answers: Answers = field(default_factory=dict)
    members: Path | None = None
    choice: Choice | None = None
    root: Path | None = None
    networks: Sequence[str] = ()


@dataclass
class Run:
    """One execution of `score`: what was asked, and what was settled for it; `given` members are not trained."""

    request: Request
    pool: Pool
    setting: Setting
    plan: Plan
    progress: Progress
    given: Given | None = None

    def folder(self, seed: int) -> Path:
        """Returns where a seed's members lie."""
        return self.request.out / "members" / f"seed-{seed:03d}"

    @property
    def seeds(self) -> list[int]:
        """The seeds of the training runs, but for those that diverged."""
        return [seed for seed in self._all_seeds if not (self.folder(seed) / DIVERGED).exists()]

    @property
    def diverged(self) -> list[dict[str, Any]]:
        """The seeds that are left out, with reasons."""
        paths = (self.folder(seed) / DIVERGED for seed in self._all_seeds)
        return [durable.read_json(path, seed=int, reason=str) for path in paths if path.exists()]

    def exclude(self, seed: int, error: DivergedError) -> None:
        """Leaves out a seed from now on, also when the run is gone on with.

        Raises:
            DivergedError: no other is left.
        """
        if self.seeds == [seed]:
            raise error
        self.folder(seed).mkdir(parents=True, exist_ok=True)
        durable.write_json(self.folder(seed) / DIVERGED, {"seed": seed, "reason": error.message})
        self.log(event="diverged", seed=seed)
        self.progress.note(f"Seed {seed} is left out. {error.message}")

    @property
    def _all_seeds(self) -> list[int]:
        if self.given:
            return sorted({member.seed for member in self.given.members})
        first = self.request.recipe.train.seed
        return list(range(first, first + self.request.recipe.train.seeds))

    def log(self, **event: Any) -> None:
        """Appends what was done, with the time and the process: what ran again after a kill shows here."""
        line = json.dumps({"time": round(time.time(), 3), "process": os.getpid(), **event})
        with (self.request.out / LOG).open("ab+") as file:
            is_torn = file.tell() > 0 and _last_byte(file) != b"\n"  # by a kill in the middle of a line
            file.write(b"\n" * is_torn + line.encode() + b"\n")


def _last_byte(file: BinaryIO) -> bytes:
    file.seek(-1, os.SEEK_END)
    return file.read(1)


def open_run(request: Request, progress: Progress, *, is_only_read: bool = False) -> Run:
    """Indexes the pool and settles how this run works; a resumed run keeps what was settled before.

    Args:
        request: what is asked.
        progress: is told of the index.
        is_only_read: no network will run, so that the device that was settled on need not be here.

    Raises:
        RunError: the folder holds a run of another pool, recipe or held-out set.
        UsageError: the pool cannot be trained on, nothing is held out where that steers training, or the
            members that are given are of another network or of other classes.
    """
    check_device(request.device)
    given = given_members(request)
    if request.base:
        open_base_run(request.base).check_members(given.digest if given else "")
    if given:
        request = replace(request, recipe=given.recipe(request.recipe))
    pool = build_index(
        request.shards,
        request.out / INDEX,
        request.labels,
        skip_faults=request.skip_faults,
        progress=as_stage(progress, "index", "shards"),
        answers=request.answers,
        copied=request.copied,
        root=request.root,
    )
    if line := note(request.labels, unmatched(pool, request.labels, request.answers)):
        progress.note(line)
    for name in request.networks:
        check_reads(name, pool)
    num_classes = (given.num_classes if given else 0) or pool.classes.num_classes
    if not given:
        _check_classes(pool)
    elif not num_classes:
        raise UsageError("Neither the pool nor the members say how many classes there are.", hint="Give --label-from.")
    if request.base:
        open_base_run(request.base).check(pool)
    record = _settled(request, pool, given)
    setting = Setting(**record["setting"])
    if not is_only_read:
        check_device(setting.device)
    torch.set_num_threads(setting.threads)
    make_repeatable()
    plan = plan_for(request.recipe, setting, num_classes)
    if given:
        check_given(given, plan, pool.classes)
    if not (request.out / RUN).exists():
        write_record(request.out / RUN, record)
    return Run(request, pool, setting, plan, progress, given)


@contextmanager
def settled_if_accepted(out: Path) -> Iterator[None]:
    """A run that is refused before its work settles nothing: its folder takes other settings and other test shards.

    What was indexed of the pool stays.
    """
    is_new = not (out / RUN).exists()
    beside = [out / name for name in ("val", "test") if not (out / name).exists()]
    try:
        yield
    except TimeUpError:  # the same goes on
        raise
    except CurateError:
        if is_new:
            (out / RUN).unlink(missing_ok=True)
        for folder in beside:
            shutil.rmtree(folder, ignore_errors=True)
        raise


def given_members(request: Request) -> Given | None:
    """Returns the members that are given; refuses what contradicts itself, before anything is read.

    Raises:
        UsageError: held-out samples are missing, or asked for where nothing is trained.
    """
    if request.members is None:
        if request.recipe.train.needs_val and not (request.val or request.base):
            raise UsageError(
                "The recipe steers training by held-out samples (patience, stop_after or member 'best').",
                hint="Give --val, such as --val 0.1.",
            )
        return None
    if request.val or request.within:
        raise UsageError("With --members nothing is trained.", hint="Leave out --val and --within.")
    return open_given(request.members, request.choice)


def _settled(request: Request, pool: Pool, given: Given | None) -> dict[str, Any]:
    """Returns the run's record: made by the first execution, checked and kept by the next ones."""
    path, base = request.out / RUN, open_base_run(request.base) if request.base else None
    fresh = {
        "recipe": request.recipe.model_dump(mode="json"),
        "recipe_digest": request.recipe.digest,
        "pool": pool.fingerprint,
        "val": list(request.val),
        "within": manifest_digest(request.within) if request.within else "",
        "base": base.digest if base else "",
        "answers": _digest(request.answers),
        "members": given.digest if given else "",
        "classes": [pool.classes.kind, *pool.classes.names, str(pool.classes.num_classes)],
    }
    if not path.exists():
        setting = settle(request.recipe, pool, request.out, request.device)
        setting = base.setting(setting) if base else setting
        return {**fresh, "setting": setting.record()}
    known = read_record(path)
    known["recipe"] = _completed(known["recipe"])
    if request.device not in ("auto", known["setting"]["device"]):
        raise RunError(
            f"{request.out} holds a run on {known['setting']['device']}, not on {request.device}.",
            hint="Go on without --device, or choose another --out.",
        )
    for name, what in (
        ("pool", "pool"),
        ("recipe", "recipe"),
        ("val", "--val"),
        ("within", "--within"),
        ("base", "--base"),
        ("answers", "answers"),
        ("members", "members"),
        ("classes", "set of classes"),
    ):
        if known.get(name, fresh[name] if name == "classes" else "") != fresh[name]:
            raise RunError(
                f"{request.out} holds scores of another {what}{_difference(known.get(name, ''), fresh[name])}.",
                hint="Choose another --out, or delete that folder.",
            )
    return known


def _completed(recipe: dict[str, Any]) -> dict[str, Any]:
    """Returns a recorded recipe with the defaults of the keys that have come since: they change nothing."""
    try:
        return Recipe.model_validate(recipe).model_dump(mode="json")
    except ValidationError:
        return recipe


def _digest(answers: Answers) -> str:
    """Returns BLAKE2b-128 of what was answered, whatever the order; empty for nothing."""
    text = json.dumps(sorted([*identity, label] for identity, label in answers.items()))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest() if answers else ""


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


def described(run: Run) -> str:
    """Returns one line on what the run works with and how."""
    setting, pool = run.setting, run.pool
    stem = ", stem adapted to small images (3x3, stride 1, no pooling)" if setting.stem == "small" else ""
    gib = pool.total * setting.form(pool).row_bytes / 2**30
    where = {
        "memory": f"stored in memory ({gib:.2f} GiB)",
        "disk": f"stored on disk ({gib:.2f} GiB)",
        "stream": f"streamed by {setting.workers} workers ({gib:.2f} GiB would be needed to store them)",
    }[setting.store]
    precision = "bfloat16" if setting.is_bf16 else "float32"
    what = f"{pool.total:,} samples of {pool.classes.num_classes} classes"
    what += f", {pool.unlabelled:,} without a label" if pool.unlabelled else ""
    form = "pixels" if setting.reads == "images" else f"texts of up to {setting.length:,} {setting.reads}"
    return f"{what}; {form} {where}; {precision} on {setting.device}{stem}."


def _check_classes(pool: Pool) -> None:
    present = sum(count > 0 for count in pool.classes.counts)
    if present < 2:
        what = "no labels" if present == 0 else "labels of one class only"
        raise UsageError(
            f"The pool has {what}: a proxy cannot be trained on it.",
            hint="Labels come from .cls entries; else use --label-field, --labels or --label-from folder. "
            "Without any, `curate acquire` says what to label first.",
        )
