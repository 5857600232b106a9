"""`curate acquire`: active learning. Members are trained on what is labelled so far, all is scored, the best is next.

Source: Coleman et al. 2020, Selection via Proxy, section 2: the proxy is trained anew in every round, on the labels
of that round alone. A round is `score --within`, then `prune --base`: the difference of two nested manifests is
what is to be labelled.
"""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

from curate import durable
from curate.acquisition import ACQUISITIONS, acquisition
from curate.errors import RunError, UsageError
from curate.manifest.lines import read_lines
from curate.manifest.schema import load_head
from curate.pool.index import Pool, build_index, load_pool
from curate.pool.labels import LabelSource, read_label_table
from curate.pool.tar import printable
from curate.progress import Progress, Silent, as_stage
from curate.proxy.pixels import Pixels
from curate.recipe import Recipe
from curate.scores import INDEX, write_record
from curate.selection.budget import parse_keep
from curate.workflows import prune as pruning
from curate.workflows.answers import check_tested, write_answers
from curate.workflows.asking import Waiting, asked_and_answered, check_answers_stand, first_labels
from curate.workflows.cover import K_CENTERS, CoverRequest
from curate.workflows.rounds import ANSWERS, MANIFEST, SELECTED, Round, write_rounds
from curate.workflows.run import Request as RunRequest
from curate.workflows.run import given_members
from curate.workflows.score import score
from curate.workflows.setting import Setting, open_pixels, settle

RECORD = "acquire.json"
CLASSES_SHOWN = 30
RANDOM = "random"
SCHEDULE = "--schedule"
# What a sample without a label can be asked.
FUNCTIONS = (*(name for name, row in ACQUISITIONS.items() if row.needs <= {"identity", "ensemble"}), K_CENTERS)


@dataclass(frozen=True)
class Request:
    """What `acquire` is asked to do.

    Attributes:
        shards: what names the pool.
        out: the folder of the rounds: `round-N/manifest` is what is labelled in round N, `round-N/scores` what
            members trained on that make of the pool.
        initial: how much is drawn at random to begin with, as `--keep` takes it.
        schedule: how much is labelled after each further round; it rises.
        fn: one of `FUNCTIONS`.
        oracle: the labels in the shards answer; each is unknown until its sample is chosen. Without it, those
            labels are there from the beginning, and people are asked for the others.
        answers: CSVs of labels for the round that waits, beside its own `to_label.csv`.
        classes: the names of all classes, where they are known.
        copied: as in `score`.
        seed: of the first draw, and of `random`.
    """

    shards: Sequence[str]
    out: Path
    initial: str
    schedule: Sequence[str]
    fn: str
    oracle: bool = False
    recipe: Recipe = field(default_factory=Recipe)
    labels: LabelSource = field(default_factory=LabelSource)
    seed: int = 0
    val: Sequence[str] = ()
    test: Sequence[str] = ()
    device: str = "auto"
    skip_faults: bool = False
    max_bad: float = 0.1
    answers: Sequence[Path] = ()
    classes: Sequence[str] = ()
    copied: bool = False

    @property
    def keeps(self) -> list[str]:
        """The sizes of all rounds, as they were written."""
        return [self.initial, *self.schedule]


@dataclass(frozen=True)
class Acquisition:
    """An active learning under way.

    Attributes:
        request: what was asked.
        pool: with the labels that are in the shards.
    """

    request: Request
    pool: Pool
    progress: Progress

    @cached_property
    def setting(self) -> Setting:
        return settle(self.request.recipe, self.pool, self.request.out, self.request.device)

    @cached_property
    def pixels(self) -> Pixels:
        """The pool's pixels, decoded at most once and only if something is to be trained or drawn."""
        folder = self.request.out / "pixels"
        return open_pixels(self.pool, self.setting, self.request.recipe, folder, self.progress, is_checked=True)

    def round(self, number: int) -> Round:
        """Returns a round by its number."""
        return Round(number, self.request.keeps[number], self.request.out / f"round-{number}")


@dataclass(frozen=True)
class Acquired:
    """The finished rounds, as in `rounds.json`, and the one that waits for labels, if one does."""

    rounds: list[dict[str, Any]]
    waiting: Waiting | None = None


def acquire(request: Request, progress: Progress | None = None) -> Acquired:
    """Runs the rounds that are missing, until labels are to be given or all is done. Kill it anywhere: it resumes.

    Raises:
        UsageError: a function that needs labels, sizes that do not rise or are more than the pool, a class that
            is missing from the first subset: said before anything is trained. Answers that do not fit.
        RunError: the folder holds another active learning; a round is answered in part.
    """
    progress = progress or Silent()
    check(request)
    with durable.lock(request.out):
        work = Acquisition(request, _index(request, request.shards, request.out / INDEX, progress), progress)
        _check_labels(work)
        _check_record(work)
        parse_keep(request.initial, what="--initial").budget(work.pool.total - work.pool.bad)
        _select(work, 0)
        _check_sizes(work)
        records = list[dict[str, Any]]()
        for number in range(len(request.keeps)):
            _select(work, number)
            waiting = None if request.oracle else _ask(work, number)
            if waiting:
                return Acquired(records, waiting)
            if _needs_scores(request, number):
                _score(work, number)
            records = write_rounds(request.out, [work.round(n) for n in range(number + 1)], work.pool.total)
        return Acquired(records)


def check(request: Request) -> None:
    """Refuses what could only fail after hours.

    Raises:
        UsageError: no size, an unknown function, one that one member cannot be asked or that needs labels.
    """
    keeps = [
        parse_keep(request.initial, what="--initial"),
        *(parse_keep(keep, what=SCHEDULE) for keep in request.schedule),
    ]
    given_members(RunRequest(request.shards, request.out, request.recipe, val=request.val))
    if request.fn not in FUNCTIONS:
        acquisition(request.fn)
        raise UsageError(f"'{request.fn}' needs the labels that are asked for.", hint=f"Known: {', '.join(FUNCTIONS)}.")
    members = 1 if request.fn == K_CENTERS else acquisition(request.fn).members
    if request.recipe.train.seeds * request.recipe.train.checkpoints < members:
        raise UsageError(f"'{request.fn}' needs {members} members.", hint="Such as --seeds 2, or --checkpoints 2.")
    for earlier, later in pairwise(keeps):
        if earlier.is_fraction == later.is_fraction and later.value <= earlier.value:
            raise UsageError(
                f"--initial {request.initial} and --schedule {','.join(request.schedule)} do not rise.",
                hint="Such as --initial 0.02 --schedule 0.1,0.2,0.3.",
            )


def _index(request: Request, shards: Sequence[str], folder: Path, progress: Progress) -> Pool:
    return build_index(
        shards, folder, request.labels, skip_faults=request.skip_faults,
        copied=request.copied, progress=as_stage(progress, "index", "shards"),
    )  # fmt: skip


def _check_labels(work: Acquisition) -> None:
    """An oracle needs every answer, people need a question."""
    missing = work.pool.total - work.pool.bad - sum(work.pool.classes.counts)
    if work.request.oracle and missing:
        raise UsageError(
            f"--oracle: {missing:,} of {work.pool.total:,} samples have no label in the shards.",
            hint="Leave out --oracle, or name where labels are: --label-field, --labels, --label-from folder.",
        )

    if not work.request.oracle and not missing:
        raise UsageError(
            "Every sample has a label in the shards: there is nothing to ask.",
            hint="--oracle simulates that they had none; --label-from none forgets them.",
        )


def _check_record(work: Acquisition) -> None:
    """What steers the choice stays, and what it is measured on; the schedule may go on, and a test set join."""
    request, path = work.request, work.request.out / RECORD
    fresh = {
        "fn": request.fn, "seed": request.seed, "oracle": request.oracle, "val": list(request.val),
        "recipe": request.recipe.digest, "pool": work.pool.fingerprint, "sizes": request.keeps,
    }  # fmt: skip
    known: dict[str, Any] = durable.read_json(path, sizes=list) if path.exists() else fresh
    before = known.get("test", "")
    is_new = not (request.out / "test").exists()
    index = request.out / "test" / INDEX
    try:
        fresh["test"] = _index(request, request.test, index, work.progress).fingerprint if request.test else before
        check_tested(first_labels(work.pool, work.round(0)), _tested(request))
    except UsageError:  # another one may be named
        if is_new:
            shutil.rmtree(request.out / "test", ignore_errors=True)
        raise
    changed = [name for name in fresh if name not in ("sizes", "test") and known.get(name) != fresh[name]]
    changed += ["test"] * (before not in ("", fresh["test"]))
    done = [keep for number, keep in enumerate(known["sizes"]) if (request.out / f"round-{number}" / MANIFEST).exists()]
    if changed or request.keeps[: len(done)] != done:
        raise RunError(
            f"{request.out} holds an active learning with another {(*changed, '--initial or --schedule')[0]}.",
            hint="Choose another --out, or the same words as before; a schedule may go on.",
        )
    durable.write_json(path, fresh)


def _check_sizes(work: Acquisition) -> None:
    """Refuses rounds that add nothing or ask for more than there is, now that it is known what can be asked for."""
    head = load_head(work.round(0).manifest)
    there, before = head.totals.samples - sum(head.totals.failed.values()), head.totals.kept
    for keep in work.request.schedule:
        size = parse_keep(keep, what=SCHEDULE).budget(there)
        if size <= before:
            raise UsageError(
                f"--schedule {keep} is {size:,} of {there:,} samples, no more than the {before:,} before it.",
                hint="Each round labels more than the one before.",
            )
        before = size


def _needs_scores(request: Request, number: int) -> bool:
    """Says whether members are to be trained on a round: the next one is chosen by them, or they are measured."""
    if request.test:
        return True
    return request.fn != RANDOM and number + 1 < len(request.keeps)


def _score(work: Acquisition, number: int) -> None:
    """Trains members from scratch on what is labelled in a round, and scores everything."""
    request, this = work.request, work.round(number)
    if this.is_scored(with_test=bool(request.test)):
        return
    kept = sum(line.kept for line in read_lines(this.manifest))
    work.progress.note(f"Round {number}: members are trained on {kept:,} of {work.pool.total:,} samples.")
    run = RunRequest(
        request.shards, this.scores, request.recipe, request.labels, val=request.val, test=request.test,
        device=request.device, skip_faults=request.skip_faults, max_bad=request.max_bad,
        embeddings=request.fn == K_CENTERS, within=this.manifest, answers=_answers(work, number + 1),
        copied=request.copied,
    )  # fmt: skip
    score(run, work.progress, pixels=work.pixels)


def _select(work: Acquisition, number: int) -> None:
    """Writes a round's manifest: the one before it, and what is to be labelled next."""
    this = work.round(number)
    if this.is_selected:
        return
    request = _prune_request(work, number)
    started = time.monotonic()
    pruning.prune(request)
    write_record(this.folder / SELECTED, {"seconds": round(time.monotonic() - started, 3)})


def _ask(work: Acquisition, number: int) -> Waiting | None:
    """Takes a round's answers over, or says that it waits for them."""
    request, this = work.request, work.round(number)
    if not this.answers.exists():
        before, tested = _answers(work, number), _tested(request)
        waiting = asked_and_answered(work.pool, this, before, request.classes, request.answers, tested=tested)
        if waiting:
            return waiting
        if number == 0:
            _note_classes(work)
    elif not request.oracle:
        check_answers_stand(work.pool, this, _answers(work, number), request.classes)
    write_answers(request.out / ANSWERS, _answers(work, len(request.keeps)))
    return None


def _tested(request: Request) -> list[str]:
    """Returns the labels of the test shards, each of which members must have seen."""
    return load_pool(request.out / "test" / INDEX).classes.seen if request.test else []


def _note_classes(work: Acquisition) -> None:
    """Says which classes people have made, where nothing says what there may be: a slip makes one."""
    counts = Counter(_answers(work, 1).values())
    if counts and not work.request.classes:
        shown = ", ".join(f"'{printable(label)}' {count:,}" for label, count in sorted(counts.items())[:CLASSES_SHOWN])
        more = ", …" if len(counts) > CLASSES_SHOWN else ""
        work.progress.note(
            f"{len(counts):,} classes were answered: {shown}{more}. Later rounds take these alone. Is one a slip? "
            "Stop, delete labels.csv and scores in round-0, mend the answers and run this again. --classes FILE "
            "refuses slips."
        )


def _answers(work: Acquisition, rounds: int) -> dict[tuple[str, str], str]:
    """Returns what people answered in the first rounds, of those that are finished."""
    files = [work.round(number).answers for number in range(rounds)]
    return {identity: label for path in files if path.exists() for identity, label in read_label_table(path).items()}


def _prune_request(work: Acquisition, number: int) -> pruning.Request:
    request, this = work.request, work.round(number)
    before = work.round(number - 1) if number else None
    base = before.manifest if before else None
    if before is None or request.fn == RANDOM:
        return pruning.Request(
            None, RANDOM, this.keep, this.manifest, seed=request.seed, index=request.out / INDEX, base=base,
            undecodable=work.pixels.bad, labelled=before is None and not request.oracle,
        )  # fmt: skip
    cover = CoverRequest(start=str(before.manifest)) if request.fn == K_CENTERS else CoverRequest()
    return pruning.Request(
        before.scores, request.fn, this.keep, this.manifest, seed=request.seed, base=base, cover=cover
    )  # fmt: skip
