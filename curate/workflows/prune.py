"""`curate prune`: score tables -> manifest. Seconds, no torch, only the columns it needs."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.acquisition import acquisition
from curate.acquisition.difficulty import NeverLearned
from curate.errors import UsageError
from curate.manifest.iterations import ITERATIONS
from curate.manifest.lines import find_line
from curate.manifest.origin import made_from
from curate.manifest.schema import ClassTable, Curve, Scored, Selection
from curate.manifest.write import Choice, write_manifest
from curate.pool.index import Pool
from curate.pool.tar import printable
from curate.scores import BadSample
from curate.selection.budget import Keep, Outliers, divide, parse_keep, parse_outliers
from curate.selection.combine import Combine
from curate.selection.quotas import ClassRule
from curate.selection.radix import Order
from curate.selection.strata import REASONS, select
from curate.selection.strata import Selection as Selected
from curate.workflows import by_shards
from curate.workflows.base import Base, joined, open_base
from curate.workflows.choices import choices_of, class_counts, class_table, cut
from curate.workflows.cover import CENTERS, K_CENTERS, Covered, CoverRequest, cover
from curate.workflows.gather import FORGETTING, Scores, gather
from curate.workflows.keep_curve import AUTO, check_plain, keep_from
from curate.workflows.lists import Keys, on_list, read_keys

CURVE, TOLERANCE = Path("evaluation"), 0.003  # what --keep auto goes by, where nothing else is named


@dataclass(frozen=True)
class Request:
    """What `prune` is asked to do.

    Attributes:
        scores: the run's folder; with `index`, a Parquet file or folder that something else wrote.
        fn: an acquisition function; with `index`, the column that holds the scores.
        index: the index of the pool that foreign scores are of.
        others: further runs over the same pool, combined with `scores`.
        combine: how several runs, or the seeds of one, become one score.
        never_learned: where `forgetting` puts what was never learned.
        out: the manifest's folder, None for `manifests/<fn>-<keep>`.
        keep, outliers: as written on the command line; keep "auto" is chosen from a measured curve.
        seed: of a random order.
        always, never: files of keys, one a line, `shard TAB key` where keys repeat.
        cover: what is asked of `k_centers`.
        curve: the folder of an evaluation, for keep "auto".
        tolerance: of accuracy, for keep "auto".
        base: a manifest that grows: what it keeps stays, the rest of the budget joins (Chitta et al.'s build-up).
        undecodable: beside the index's bad samples, of an index that is pruned without scores.
        labelled: what has a label is kept in any case, and where that is more than `keep`, nothing else is.

    Without `scores` an index alone can be pruned at random.
    """

    scores: Path | None
    fn: str
    keep: str
    out: Path | None = None
    outliers: str = "0"
    order: Order = "hardest"
    per_class: ClassRule | None = None
    min_per_class: int = 0
    seed: int = 0
    always: Path | None = None
    never: Path | None = None
    keep_list: bool = False
    force: bool = False
    index: Path | None = None
    others: Sequence[Path] = ()
    combine: Combine | None = None
    never_learned: NeverLearned = "first"
    cover: CoverRequest = field(default_factory=CoverRequest)
    curve: Path = CURVE
    tolerance: float = TOLERANCE
    evidence: Curve | None = None
    base: Path | None = None
    undecodable: Sequence[BadSample] = ()
    labelled: bool = False

    @property
    def is_by_rank(self) -> bool:
        """Says whether nothing but a run's own scores decides: no lists, no class rules, no base."""
        nothing = (
            self.index, self.others, self.combine, self.always, self.never, self.per_class, self.min_per_class,
            self.base, self.undecodable, self.labelled,
        )  # fmt: skip
        return not any(nothing) and self.fn != K_CENTERS and self.never_learned == "first"


@dataclass(frozen=True)
class Pruned:
    """The manifest that was written, and what it holds."""

    out: Path
    digest: str
    samples: int
    scored: int
    kept: int
    dropped: Mapping[str, int]
    failed: int
    first_shard: str
    cover: Mapping[str, Any] | None = None
    keep: str = ""


def prune(request: Request) -> Pruned:
    """Writes the manifest that a request describes.

    Raises:
        UsageError: an unknown function, a keep that cannot be, a function that these scores do not hold.
        ScoreError: the scores are incomplete, or a sample has none.
        RunError: another manifest lies at `out`.
    """
    if request.keep == AUTO:
        _check_auto(request)
        fraction, evidence = keep_from(request.curve, request.fn, request.tolerance)
        return prune(replace(request, keep=fraction, evidence=evidence))
    keep, outliers = parse_keep(request.keep), parse_outliers(request.outliers)
    lists = [read_keys(path) for path in (request.always, request.never)]
    _check_cover(request)
    if request.is_by_rank and request.scores and by_shards.is_large(request.scores):
        return _prune_by_shards(request, request.scores, keep, outliers)
    started = time.monotonic()
    scores = gather(
        [folder for folder in (request.scores, *request.others) if folder],
        request.index,
        # k-centers need no score but the random one that their start is drawn by.
        "random" if request.fn == K_CENTERS else request.fn,
        combine=request.combine,
        never_learned=request.never_learned,
        seed=request.seed,
        with_keys=any(lists) or request.fn == K_CENTERS,
        undecodable=request.undecodable,
    )
    chosen = _choose(request, scores, lists, keep, outliers)
    pool, columns = scores.pool, scores.columns
    reasons = cut(columns.ordinals, chosen.selection.reason_N)
    written = _write(
        request,
        pool,
        choices_of(pool, reasons, scores.bad),
        classes=class_counts(pool, columns, chosen.selection.kept_N),
        selection=_record(request, scores.tie, chosen),
        scored=scores.scored,
        beside=_beside(scores, chosen),
        started=started,
    )
    cover_record = chosen.covered.record.model_dump() if chosen.covered else None
    return replace(_pruned(request, pool, *written, chosen.selection.counts, len(scores.bad)), cover=cover_record)


def _check_auto(request: Request) -> None:
    """Refuses what makes another choice than plain `fn`, of which the curve is."""
    check_plain(request.fn, {
        "--order": request.order != "hardest", "--outliers": parse_outliers(request.outliers).value > 0,
        "--per-class": request.per_class, "--min-per-class": request.min_per_class, "--base": request.base,
        "--combine": request.combine, "--never-learned": request.never_learned == "last",
        "--always": request.always, "--never": request.never,
    })  # fmt: skip


def _prune_by_shards(request: Request, run: Path, keep: Keep, outliers: Outliers) -> Pruned:
    """Writes the manifest of a run that is too large to hold; the same bytes."""
    started = time.monotonic()
    shards = by_shards.open_shards(run, request.fn, request.seed)
    pool, bad = shards.opened.pool, shards.opened.bad
    budget, aside = divide(keep, outliers, shards.total)
    masks = shards.select(budget=budget, outliers=aside, order=request.order)
    before, after = shards.class_counts(masks)
    chosen = Chosen(Selected(np.array([], np.uint8)), None, None, budget, aside, 0, 0)
    written = _write(
        request,
        pool,
        choices_of(pool, shards.reasons(masks), bad),
        classes=class_table(pool, before, after),
        selection=_record(request, shards.tie, chosen),
        scored=shards.opened.scored,
        beside={},
        started=started,
    )
    return _pruned(request, pool, *written, by_shards.counts_of(masks, shards.total), len(bad))


def _write(
    request: Request,
    pool: Pool,
    choices: Iterator[Choice],
    *,
    classes: ClassTable,
    selection: Selection,
    scored: Scored,
    beside: Mapping[str, Iterable[str]],
    started: float,
) -> tuple[Path, str]:
    """Writes the manifest, whose choice began when the clock was at `started`; returns where it lies and its digest."""
    out = request.out or Path("manifests") / f"{request.fn}-{request.keep.replace('%', 'pct')}"
    digest = write_manifest(
        out,
        pool,
        choices,
        classes=classes,
        selection=selection,
        scored=scored,
        source=made_from(
            request.scores, request.index, request.others, base=request.base, seconds=time.monotonic() - started
        ),
        keep_list=request.keep_list,
        beside=beside,
        force=request.force,
    )
    return out, digest


def _pruned(request: Request, pool: Pool, out: Path, digest: str, counts: Mapping[str, int], bad: int) -> Pruned:
    first = next(scan.name for scan in pool.scans)
    find_line(out, first)
    dropped = {name: counts[name] for name in REASONS[1:] if counts[name]}
    scored = sum(counts.values())
    return Pruned(out, digest, pool.total, scored, counts["kept"], dropped, bad, first, keep=request.keep)


@dataclass(frozen=True)
class Chosen:
    """What was decided for the scored samples, and all that the manifest says of how.

    Attributes:
        budget, aside: samples to keep, and to set aside.
        always, never: samples on the lists.
    """

    selection: Selected
    covered: Covered | None
    base: Base | None
    budget: int
    aside: int
    always: int
    never: int


def _choose(request: Request, scores: Scores, lists: Sequence[Keys], keep: Keep, outliers: Outliers) -> Chosen:
    pool, columns = scores.pool, scores.columns
    budget, aside = divide(keep, outliers, len(scores.score_N))
    always_N, never_N = (
        on_list(keys, columns, pool, path) for keys, path in zip(lists, (request.always, request.never), strict=True)
    )
    if always_N is not None and never_N is not None and (always_N & never_N).any():
        key = columns.values["key"][int(np.argmax(always_N & never_N))]
        raise UsageError(f"{request.always} and {request.never} both list '{printable(str(key))}'.")
    if request.labelled:
        always_N = columns.values["label"] >= 0
        budget = max(budget, int(always_N.sum()))
    base = open_base(request.base, pool) if request.base else None
    held_N = joined(always_N, base, columns)
    selection, covered = _select(request, scores, budget=budget, aside=aside, always_N=held_N, never_N=never_N)
    always, never = (0 if mask_N is None else int(mask_N.sum()) for mask_N in (always_N, never_N))
    return Chosen(selection, covered, base, budget, aside, always, never)


def _beside(scores: Scores, chosen: Chosen) -> dict[str, Iterable[str]]:
    """Returns the lines of further files: the centers in order, what each iteration added."""
    pool, columns = scores.pool, scores.columns
    files: dict[str, Iterable[str]] = {}
    if chosen.covered:
        files[CENTERS] = chosen.covered.lines(pool, columns)
    if chosen.base:
        files[ITERATIONS] = chosen.base.lines(pool, columns, chosen.selection.kept_N)
    return files


def _select(
    request: Request,
    scores: Scores,
    *,
    budget: int,
    aside: int,
    always_N: NDArray[np.bool_] | None,
    never_N: NDArray[np.bool_] | None,
) -> tuple[Selected, Covered | None]:
    """Returns why each sample is kept or dropped, and the centers where it was by k-centers."""
    columns = scores.columns
    if request.fn == K_CENTERS and request.scores:
        covered = cover(
            request.cover,
            request.scores,
            scores.pool,
            columns,
            scores.score_N,
            budget=budget,
            per_class=request.per_class,
            always_N=always_N,
            never_N=never_N,
        )
        return covered.selection, covered
    selected = select(
        scores.score_N,
        scores.tie_N,
        columns.values["identity"],
        columns.values["label"],
        budget=budget,
        outliers=aside,
        order=request.order,
        per_class=request.per_class,
        min_per_class=request.min_per_class,
        always_N=always_N,
        never_N=never_N,
    )
    return selected, None


def _record(request: Request, tie: str | None, chosen: Chosen) -> Selection:
    """Returns what the manifest says of how the kept samples were chosen."""
    covered, base = chosen.covered, chosen.base
    return Selection(
        fn=request.fn,
        order=request.order,
        keep=request.keep,
        budget=chosen.budget,
        outliers=request.outliers,
        outlier_count=chosen.aside,
        ties=tuple(filter(None, (tie, "identity"))),
        seed=request.seed if _is_seeded(request) else None,
        per_class=request.per_class,
        min_per_class=request.min_per_class,
        always=chosen.always,
        never=chosen.never,
        scheme="build_up" if base else "compress",
        iteration=base.iteration + 1 if base else 0,
        base=base.digest if base else covered.base if covered else None,
        combine=request.combine,
        never_learned=request.never_learned if request.fn == FORGETTING and not request.index else None,
        cover=covered.record if covered else None,
        curve=request.evidence,
    )


def _check_cover(request: Request) -> None:
    """Refuses what is of scores where there are none, and of k-centers where there are scores."""
    given = {
        "--index": request.index is not None,
        "--order easiest": request.order == "easiest",
        "--outliers": request.outliers != "0",
        "--min-per-class": request.min_per_class > 0,
        "--combine": request.combine is not None or len(request.others) > 0,
    }
    if request.keep != AUTO and request.evidence is None and (request.curve, request.tolerance) != (CURVE, TOLERANCE):
        raise UsageError("--curve and --tolerance are of --keep auto.", hint="Leave them out.")
    if request.fn == K_CENTERS:
        request.cover.check([name for name, is_given in given.items() if is_given], request.per_class)
    elif request.index is None:
        files = [folder for folder in (request.scores, *request.others) if folder and folder.is_file()]
        if files:
            raise UsageError(f"{files[0]} is a file.", hint="Scores from elsewhere need the --index of their pool.")
        acquisition(request.fn, [K_CENTERS])
    if request.fn != K_CENTERS and request.cover != CoverRequest():
        raise UsageError(
            f"--start, --start-size, --partitions and --device are of --fn {K_CENTERS}, not of '{request.fn}'."
        )


def _is_seeded(request: Request) -> bool:
    return request.fn == "random" or (request.fn == K_CENTERS and request.cover.start == "random")
