"""Why a manifest keeps a sample or not: the cut of its selection, found again in the scores it was made from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.acquisition import ACQUISITIONS
from curate.errors import ManifestError
from curate.manifest.algebra import kept_mask
from curate.manifest.iterations import ITERATIONS, iterations_of
from curate.manifest.lines import find_line, read_lines
from curate.manifest.origin import Origin
from curate.manifest.schema import Selection, load_head
from curate.pool.index import Pool
from curate.scores import Columns
from curate.selection.radix import Order
from curate.selection.rank import last_of, order_keys, rank_of
from curate.selection.strata import KEPT, OUTLIER, select
from curate.workflows.cover import CENTERS
from curate.workflows.gather import Scores, gather


@dataclass(frozen=True)
class Cut:
    """The last sample that was kept in the order of selection, and how far another is from it.

    Attributes:
        rank, score: of the last one kept.
        places: ranks between the two; positive where the sample comes after the cut.
        gap: |score of the cut − score of the sample|.
        tie: what decided, where the scores are equal; else empty.
        within: the class that the cut is of, where classes have quotas; else empty.
    """

    rank: int
    score: float
    places: int
    gap: float
    tie: str
    within: str


@dataclass(frozen=True)
class Decision:
    """What a manifest says of a sample.

    Attributes:
        state: kept, dropped or failed.
        reason: of a drop: rank, outlier, or what is known; of a failure: what was wrong; of what a manifest that grew
            keeps: since which iteration.
        fn, order: what the selection went by; empty where the sample was not ranked.
        score, rank: by that, in that order.
        outliers: samples that were set aside from the top.
        cut: None where nothing was ranked, or keys on a list were kept in any case.
    """

    state: str
    reason: str
    fn: str = ""
    order: str = ""
    score: float | None = None
    rank: int | None = None
    outliers: int = 0
    cut: Cut | None = None


@dataclass(frozen=True, eq=False)
class Ranking:
    """The scores that a selection went by, in its order."""

    selection: Selection
    columns: Columns
    score_N: NDArray[Any]
    tie_N: NDArray[Any] | None
    keys: tuple[NDArray[Any], ...]
    label_N: NDArray[np.int32]
    kept_N: NDArray[np.bool_]


def decide(
    manifest: Path, selection: Selection, origin: Origin, columns: Columns, *, shard: str, ordinal: int, row: int | None
) -> Decision:
    """Returns why a sample was kept, dropped or failed.

    Args:
        manifest, selection: the manifest and its record.
        origin: what it was made from.
        columns: of all scored samples: what was selected by, and what breaks its ties.
        shard, ordinal: where the sample lies.
        row: its row in the columns, None where it has no score.

    Raises:
        ManifestError: these scores do not give this manifest.
    """
    is_kept = bool(kept_mask(find_line(manifest, shard))[ordinal])
    if row is None and not is_kept:
        reasons = {(bad.shard, bad.ordinal): bad.reason for bad in origin.bad}
        return Decision("failed", reasons[shard, ordinal])
    if selection.cover:
        return Decision(
            "kept" if is_kept else "dropped", f"'{selection.fn}' goes by distances: its order is in {CENTERS}"
        )
    if selection.of or row is None:
        return Decision(
            "kept" if is_kept else "dropped",
            f"'{selection.fn}' of {len(selection.of)} manifests: explain the sample by those",
        )
    ranking = ranking_of(manifest, selection, origin, columns)
    return Decision(
        state="kept" if is_kept else "dropped",
        reason=_since(manifest, shard, ordinal) if is_kept else _why_dropped(ranking, row),
        fn=selection.fn,
        order=selection.order,
        score=float(ranking.score_N[row]),
        rank=rank_of(row, ranking.keys),
        outliers=selection.outlier_count,
        cut=_cut(ranking, row, origin.pool),
    )


def _since(manifest: Path, shard: str, ordinal: int) -> str:
    """Returns since which iteration a manifest that grew keeps a sample; empty where it did not grow."""
    if not (manifest / ITERATIONS).exists():
        return ""
    head = load_head(manifest)
    place = [line.name for line in read_lines(manifest)].index(shard)
    iteration = int(iterations_of(manifest, head)[place][ordinal])
    is_new = iteration == head.selection.iteration
    return f"added by iteration {iteration}" if is_new else f"in the base since iteration {iteration}"


def sort_keys(fn: str, score_N: NDArray[Any], columns: Columns, order: Order) -> tuple[NDArray[Any], ...]:
    """Returns the keys of the total order by a function's scores."""
    identity_N = columns.values["identity"]
    tie = ACQUISITIONS[fn].tie if fn in ACQUISITIONS else None
    tie_N = columns.values.get(tie) if tie else None
    return order_keys(score_N, tie_N=tie_N, identity_N=identity_N, order=order)


def class_name(pool: Pool, label: int) -> str:
    """Returns what a class is called: its id, and its name where it has one; empty for no label."""
    if label < 0:
        return ""
    names = pool.classes.names
    return f"{label} {names[label]}".strip() if label < len(names) else str(label)


def scores_of(selection: Selection, origin: Origin) -> Scores:
    """Returns the scores that a selection went by, of all scored samples.

    Raises:
        ScoreError: the scores are incomplete.
    """
    return gather(
        [origin.scores, *origin.others],
        origin.index,
        selection.fn,
        combine=selection.combine,
        never_learned=selection.never_learned or "first",
        seed=selection.seed or 0,
    )


def ranking_of(manifest: Path, selection: Selection, origin: Origin, columns: Columns) -> Ranking:
    """Returns the scores that a manifest's selection went by; not for distances, nor for sets of manifests.

    Raises:
        ScoreError: the scores are incomplete.
    """
    scores = scores_of(selection, origin)
    identity_N = scores.columns.values["identity"]
    return Ranking(
        selection,
        columns,
        scores.score_N,
        scores.tie_N,
        order_keys(scores.score_N, tie_N=scores.tie_N, identity_N=identity_N, order=selection.order),
        labels_of(origin, columns),
        kept_of(manifest, columns),
    )


def labels_of(origin: Origin, columns: Columns) -> NDArray[np.int32]:
    """Returns the class ids of all scored samples, shape (N,); −1 for none."""
    return np.concatenate([origin.pool.labels(number)[rows] for number, rows in enumerate(columns.ordinals)])


def kept_of(manifest: Path, columns: Columns) -> NDArray[np.bool_]:
    """Returns which of the scored samples a manifest keeps, shape (N,)."""
    lines = zip(read_lines(manifest), columns.ordinals, strict=True)
    return np.concatenate([kept_mask(line)[rows] for line, rows in lines])


def _cut(ranking: Ranking, row: int, pool: Pool) -> Cut | None:
    selection, score_N = ranking.selection, ranking.score_N
    rival_N = ranking.kept_N & (ranking.label_N == ranking.label_N[row]) if selection.has_quotas else ranking.kept_N
    if selection.always or selection.base or not rival_N.any():  # what is kept in any case says nothing of the cut
        return None
    last = last_of(np.flatnonzero(rival_N), ranking.keys)
    tie = ""
    if score_N[last] == score_N[row] and last != row:
        level = next(number for number, key_N in enumerate(ranking.keys) if key_N[last] != key_N[row])
        tie = selection.ties[level - 1]
    rank = rank_of(last, ranking.keys)
    return Cut(
        rank=rank,
        score=float(score_N[last]),
        places=rank_of(row, ranking.keys) - rank,
        gap=abs(float(score_N[last]) - float(score_N[row])),
        tie=tie,
        within=class_name(pool, int(ranking.label_N[row])) if selection.has_quotas else "",
    )


def _why_dropped(ranking: Ranking, row: int) -> str:
    selection = ranking.selection
    if selection.base:
        return "rank or outlier, of what the base manifest does not keep"
    if selection.always or selection.never:
        return "rank, outlier or never (the lists of keys are not saved)"
    return "outlier" if outliers_of(ranking)[row] else "rank"


def outliers_of(ranking: Ranking) -> NDArray[np.bool_]:
    """Returns which scored samples were set aside, shape (N,), by selecting again.

    Not for manifests that grew or had lists of keys: those are not saved.

    Raises:
        ManifestError: these scores do not give this manifest.
    """
    selection, columns = ranking.selection, ranking.columns
    again = select(
        ranking.score_N,
        ranking.tie_N,
        columns.values["identity"],
        ranking.label_N,
        budget=selection.budget,
        outliers=selection.outlier_count,
        order=selection.order,
        per_class=selection.per_class,
        min_per_class=selection.min_per_class,
    )
    if not np.array_equal(again.reason_N == KEPT, ranking.kept_N):
        raise ManifestError(
            "These scores do not give this manifest.", hint="Name those it was made from with --scores."
        )
    outlier_N: NDArray[np.bool_] = again.reason_N == OUTLIER
    return outlier_N
