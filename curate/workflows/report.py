"""`curate report`: what a person must see of a manifest before they trust it, as plain data. No torch.

Counts are exact; of samples only those in the galleries are read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.acquisition import ACQUISITIONS
from curate.errors import CurateError
from curate.manifest.iterations import iteration_counts
from curate.manifest.lines import manifest_digest, read_root
from curate.manifest.origin import Origin, find_origin
from curate.manifest.schema import Head
from curate.manifest.verify import load_whole
from curate.scores import SUMMARY, BadSample, Columns, read_record
from curate.selection.rank import last_of, order_keys, rank_of, ranks_of
from curate.statistics import bin_edges
from curate.workflows.decision import Ranking, class_name, kept_of, labels_of, outliers_of, ranking_of, sort_keys
from curate.workflows.explain import score_names
from curate.workflows.galleries import Gallery, Pair, around, confused, fitting, gallery, ordered, suspects
from curate.workflows.glimpses import Glimpse, Place, glimpses
from curate.workflows.neighbours import votes_of
from curate.workflows.results import saved_rows

BINS, SMALL_BINS = 48, 24
BAD_SHOWN = 24
HELD_BYTES = 1 << 30
PAGE_BYTES = 6_000_000  # of all samples; pairs, bad ones, classes and histograms take the rest of 10 MB
AGREEMENT, TIE = "variation_ratio", "mutual_information"
DISTRUST = ("aum", "loss")  # what orders likely label errors, the first that is there


@dataclass(frozen=True)
class Histogram:
    """Scored samples by one score; the last samples of `edges` are of the highest scores.

    Attributes:
        edges: of the bins, one more than there are.
        kept, dropped, outliers: samples in each bin.
        cut: score of the last one kept, None where there is no single one.
        cut_rank: its rank from the hardest, None also where the easiest are kept.
        outliers_from: lowest score that was set aside, None without outliers.
    """

    name: str
    edges: tuple[float, ...]
    kept: tuple[int, ...]
    dropped: tuple[int, ...]
    outliers: tuple[int, ...]
    cut: float | None = None
    cut_rank: int | None = None
    outliers_from: float | None = None


@dataclass(frozen=True)
class Shown:
    """One sample with all that is saved of it.

    Attributes:
        state: kept, dropped or failed, with the reason behind it where it is known.
        scores: (name, value, rank from the hardest) of every score that it has.
        votes: (member, class) of every member, empty where votes were not saved.
        agree: members whose class is the plurality's; None where that is not known.
    """

    shard: str
    ordinal: int
    key: str
    label: int
    label_name: str
    prediction: str
    state: str
    reason: str
    scores: tuple[tuple[str, float, int], ...]
    votes: tuple[tuple[str, str], ...]
    glimpse: Glimpse
    agree: int | None = None


@dataclass(frozen=True, eq=False)
class Report:
    """Everything a report says.

    Attributes:
        samples: those shown, by row; bad ones are in `bad`.
        pool_bytes: tar bytes of all samples, None where the index is gone.
        iterations: (iteration, samples it added), of manifests that grew.
        growth: what `curate score --base` recorded of samples added since training, empty without.
        evaluation: rows of `curate evaluate`'s table; `own` is the place of this manifest's first one.
        notes: what could not be said, and why.
    """

    name: str
    digest: str
    head: Head
    pool_bytes: int | None
    scored: int
    histograms: tuple[Histogram, ...]
    galleries: tuple[Gallery, ...]
    pairs: tuple[Pair, ...]
    samples: dict[int, Shown]
    bad: tuple[Shown, ...]
    iterations: tuple[tuple[int, int], ...]
    growth: dict[str, Any]
    evaluation: tuple[dict[str, Any], ...]
    own: int | None
    notes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class _Scored:
    """The scored samples of a manifest, as columns."""

    origin: Origin
    columns: Columns
    label_N: NDArray[np.int32]
    kept_N: NDArray[np.bool_]
    prediction_N: NDArray[np.int32] | None
    names: tuple[str, ...]
    ranking: Ranking | None
    outlier_N: NDArray[np.bool_] | None

    def place(self, row: int) -> Place:
        """Returns the shard's place and the ordinal of a row."""
        ends = np.cumsum([len(ordinal_K) for ordinal_K in self.columns.ordinals])
        number = int(np.searchsorted(ends, row, side="right"))
        ordinal_K = self.columns.ordinals[number]
        return number, int(ordinal_K[row - ends[number] + len(ordinal_K)])

    def score(self, name: str) -> NDArray[np.float64]:
        if self.ranking and self.origin.index and name == self.ranking.selection.fn:
            return np.asarray(self.ranking.score_N, dtype=np.float64)
        return self.read(name).values[name].astype(np.float64)

    def read(self, name: str) -> Columns:
        """Returns the identities and one column."""
        if name in self._held:
            return replace(self.columns, values={**self.columns.values, name: self._held[name]})
        return self.origin.columns([name], null_is_nan=True)

    @cached_property
    def _held(self) -> Mapping[str, NDArray[Any]]:
        """All scores, where they are not too many to hold: to open a table takes as long as to read a column of it."""
        is_little = len(self.names) * len(self.label_N) * 4 <= HELD_BYTES
        return self.origin.columns(self.names, null_is_nan=True).values if is_little and not self.origin.index else {}


def report(
    manifest: Path,
    *,
    scores: Path | None = None,
    index: Path | None = None,
    root: Path | None = None,
    evaluation: Path | None = None,
) -> Report:
    """Returns what there is to see of a manifest.

    Args:
        manifest: its folder.
        scores, index: what it was made from, if that moved.
        root: where the shards lie, if they moved.
        evaluation: the folder or `table.json` of `curate evaluate`.

    Raises:
        ManifestError: the manifest is damaged, or the scores are of another pool or selection.
        UsageError: the evaluation cannot be read.

    Cost: O(N) for each score; pictures are read only of samples that are shown.
    """
    head, digest, notes = load_whole(manifest), manifest_digest(manifest), list[str]()
    rows = tuple(row for row in saved_rows(evaluation) if row["n"]) if evaluation else ()
    scored = _scored(manifest, head, notes, scores=scores, index=index)
    galleries, pairs = _chosen(scored, notes) if scored else ((), ())
    shown = sorted({*_rows_of(galleries), *(row for pair in pairs for row in pair.rows.tolist())})
    bad = scored.origin.bad[:BAD_SHOWN] if scored else ()
    samples, failed = _samples(head, scored, shown, bad, root or read_root(manifest), notes) if scored else ({}, ())
    if scored:
        takes = {row: _bytes_of(sample) for row, sample in samples.items()}
        galleries = fitting(galleries, scored.label_N, takes, room=PAGE_BYTES)
        left = {*_rows_of(galleries), *(row for pair in pairs for row in pair.rows.tolist())}
        samples = {row: sample for row, sample in samples.items() if row in left}
    own = next((at for at, row in enumerate(rows) if row["arm"].endswith(f"-{digest[:8]}")), None)
    return Report(
        manifest.absolute().name, digest, head,
        sum(scan.tar_bytes for scan in scored.origin.pool.scans) if scored else None,
        head.totals.samples - sum(head.totals.failed.values()),
        _histograms(scored) if scored else (),
        galleries, pairs, samples, failed, iteration_counts(manifest, head), _growth(scored), rows, own, tuple(notes),
    )  # fmt: skip


def _growth(scored: _Scored | None) -> dict[str, Any]:
    if scored is None or scored.origin.index:
        return {}
    growth: dict[str, Any] = read_record(scored.origin.scores / SUMMARY).get("growth", {})
    return growth if growth.get("samples") else {}


def _scored(manifest: Path, head: Head, notes: list[str], *, scores: Path | None, index: Path | None) -> _Scored | None:
    try:
        origin = find_origin(manifest, head, scores, index)
    except CurateError as error:
        if scores or index:
            raise
        notes.append(f"No scores, histograms or samples: {error.message} {error.hint or ''}")
        return None
    selection = head.selection
    is_ranked = not selection.of and not selection.cover
    # Of the first shard that has any: of one whose images cannot be decoded nothing has a score.
    scored = (score_names(origin, scan.name) for scan in origin.pool.scans)
    names = [] if origin.index else [name for name in next(filter(None, scored), []) if "@" not in name]
    columns = origin.columns([] if origin.index else ["prediction"], null_is_nan=True)
    ranking = ranking_of(manifest, selection, origin, columns) if is_ranked else None
    if ranking is None:
        notes.append(f"'{selection.fn}' goes by no single score: there is no cut to show.")
    outlier_N = None
    if ranking and not (selection.base or selection.always or selection.never):
        outlier_N = outliers_of(ranking)
    names.sort(key=lambda name: name == "random")  # last: it says nothing of a sample
    if ranking and origin.index:
        names = [selection.fn]
    return _Scored(
        origin, columns, labels_of(origin, columns), kept_of(manifest, columns), columns.values.get("prediction"),
        tuple(names), ranking, outlier_N,
    )  # fmt: skip


def _chosen(scored: _Scored, notes: list[str]) -> tuple[tuple[Gallery, ...], tuple[Pair, ...]]:
    """Returns the galleries, and the classes that are mixed up."""
    galleries = _of_the_order(scored)
    if scored.prediction_N is None:
        notes.append("No classes mixed up and no likely label errors: scores from elsewhere hold no predictions.")
        return tuple(galleries), ()
    against_N = scored.score("error_count") if "error_count" in scored.names else None
    suspect_N = suspects(against_N, scored.label_N, scored.prediction_N)
    by = next((name for name in DISTRUST if name in scored.names), "")
    if by:
        score_N = np.nan_to_num(scored.score(by), nan=-np.inf)
        keys = order_keys(score_N, tie_N=None, identity_N=scored.columns.values["identity"], order="hardest")
        who = "every member votes against" if against_N is not None else "is not what was predicted"
        line = f"The label {who}; those that {by} trusts least come first."
        rows = ordered(keys, suspect_N)
        galleries.append(gallery("errors", "Suspected label errors", line, rows, scored.label_N))
    if AGREEMENT in scored.names and not (scored.ranking and scored.ranking.selection.fn in (AGREEMENT, TIE)):
        galleries.append(_disputed(scored))
    unsure_N = scored.score("least_confidence") if "least_confidence" in scored.names else np.zeros(len(scored.label_N))
    identity_N = scored.columns.values["identity"]
    pairs = confused(scored.label_N, scored.prediction_N, -np.nan_to_num(unsure_N), identity_N)
    return tuple(galleries), tuple(pairs)


def _disputed(scored: _Scored) -> Gallery:
    score_N = scored.score(AGREEMENT)
    columns = scored.read(TIE)
    rows = ordered(sort_keys(AGREEMENT, score_N, columns, "hardest"), score_N > 0)
    line = f"Highest {AGREEMENT}: the fewest members vote for one class."
    return gallery("disputed", "Members disagree", line, rows, scored.label_N)


def _of_the_order(scored: _Scored) -> list[Gallery]:
    ranking, label_N = scored.ranking, scored.label_N
    if ranking is None:
        return []
    fn, identity_N = ranking.selection.fn, scored.columns.values["identity"]
    outlier_N = scored.outlier_N if scored.outlier_N is not None else np.zeros(len(label_N), dtype=np.bool_)
    keys = order_keys(ranking.score_N, tie_N=ranking.tie_N, identity_N=identity_N, order="hardest")
    hardest = ordered(keys, ~outlier_N)
    without = ", outliers left out" if outlier_N.any() else ""
    found = [
        gallery("hardest", "Hardest", f"Highest {fn}{without}.", hardest, label_N),
        gallery("easiest", "Easiest", f"Lowest {fn}.", hardest[::-1], label_N),
    ]
    if scored.kept_N.any() and not (ranking.selection.always or ranking.selection.base):
        order_N = ordered(ranking.keys, ~outlier_N)
        last = last_of(np.flatnonzero(scored.kept_N), ranking.keys)
        rows = around(order_N, last)
        of_classes = "Around the last one kept; classes have cuts of their own."
        line = of_classes if ranking.selection.has_quotas else "The last kept and the first dropped."
        found.append(Gallery("cut", "At the cut", line, len(rows), rows, rows[:0]))
    if outlier_N.any():
        rows = ordered(keys, outlier_N)
        found.append(gallery("outliers", "Outliers set aside", f"Highest {fn} of all, not kept.", rows, label_N))
    return found


def _bytes_of(sample: Shown) -> int:
    """Returns about what showing a sample in one place takes; its texts are escaped."""
    words = f"{sample.key}{sample.label_name}{sample.prediction}{sample.glimpse.text}".encode()
    return 600 + 40 * (len(sample.scores) + len(sample.votes)) + 2 * len(words) + 4 * len(sample.glimpse.picture) // 3


def _rows_of(galleries: Iterable[Gallery]) -> list[int]:
    return [row for one in galleries for rows in (one.rows, one.more) for row in rows.tolist()]


def _histograms(scored: _Scored) -> tuple[Histogram, ...]:
    ranking, histograms = scored.ranking, list[Histogram]()
    if ranking:
        histograms.append(_main_histogram(scored, ranking))
    for name in scored.names:
        if not (ranking and name == ranking.selection.fn):
            histograms.append(_histogram(name, scored.score(name), scored, SMALL_BINS))
    return tuple(histograms)


def _main_histogram(scored: _Scored, ranking: Ranking) -> Histogram:
    selection, score_N, outlier_N = ranking.selection, np.asarray(ranking.score_N, dtype=np.float64), scored.outlier_N
    cut, cut_rank = None, None
    if scored.kept_N.any() and not (selection.has_quotas or selection.always or selection.base):
        last = last_of(np.flatnonzero(scored.kept_N), ranking.keys)
        cut = float(score_N[last])
        cut_rank = rank_of(last, ranking.keys) if selection.order == "hardest" else None
    aside = float(score_N[outlier_N].min()) if outlier_N is not None and outlier_N.any() else None
    plain = _histogram(selection.fn, score_N, scored, BINS)
    return replace(plain, cut=cut, cut_rank=cut_rank, outliers_from=aside)


def _histogram(name: str, score_N: NDArray[np.float64], scored: _Scored, bins: int) -> Histogram:
    finite_N = np.isfinite(score_N)
    outlier_N = scored.outlier_N if scored.outlier_N is not None else np.zeros(len(score_N), dtype=np.bool_)
    values = score_N[finite_N]
    edges = bin_edges(values, bins)
    parts = (scored.kept_N, ~scored.kept_N & ~outlier_N, outlier_N)
    kept, dropped, aside = (tuple(np.histogram(score_N[finite_N & part_N], edges)[0].tolist()) for part_N in parts)
    return Histogram(name, tuple(edges.tolist()), kept, dropped, aside)


def _samples(
    head: Head, scored: _Scored, rows: Sequence[int], bad: Sequence[BadSample], root: Path, notes: list[str]
) -> tuple[dict[int, Shown], tuple[Shown, ...]]:
    pool = scored.origin.pool
    number_of = {scan.name: number for number, scan in enumerate(pool.scans)}
    places = [scored.place(row) for row in rows]
    bad_places = [(number_of[sample.shard], sample.ordinal) for sample in bad]
    seen, gone = glimpses(pool, [*places, *bad_places], root)
    if gone:
        looked = len({number for number, _ in [*places, *bad_places]})
        notes.append(
            f"{len(gone):,} of {looked:,} shards looked at are not in {root} as they were: no pictures of theirs."
        )
    members = head.scored.members
    split_N = scored.score(AGREEMENT) if AGREEMENT in scored.names and members else None
    ranks, votes = _ranks(scored, rows), votes_of(scored.origin, rows)
    keys = {number: pool.read(number, ["key"])["key"] for number in {number for number, _ in places}}
    samples = {}
    for row, (number, ordinal) in zip(rows, places, strict=True):
        label = int(scored.label_N[row])
        prediction = "" if scored.prediction_N is None else class_name(pool, int(scored.prediction_N[row]))
        aside = scored.outlier_N is not None and bool(scored.outlier_N[row])
        samples[row] = Shown(
            pool.scans[number].name, ordinal, keys[number][ordinal].as_py(), label, class_name(pool, label), prediction,
            "kept" if scored.kept_N[row] else "dropped",
            "outlier" if aside else "", ranks[row], votes[row], seen.get((number, ordinal), Glimpse()),
            None if split_N is None or np.isnan(split_N[row]) else round((1 - float(split_N[row])) * members),
        )  # fmt: skip
    failed = tuple(
        Shown(one.shard, one.ordinal, one.key, -1, "", "", "failed", one.reason, (), (), seen.get(place, Glimpse()))
        for one, place in zip(bad, bad_places, strict=True)
    )
    return samples, failed


def _ranks(scored: _Scored, rows: Sequence[int]) -> dict[int, tuple[tuple[str, float, int], ...]]:
    """Returns every score of some samples with its rank."""
    found: dict[int, list[tuple[str, float, int]]] = {row: [] for row in rows}
    for name in scored.names:
        score_N, keys = _order_by(scored, name)
        scored_K = np.array([row for row in rows if not np.isnan(score_N[row])], dtype=np.int64)
        for row, rank in zip(scored_K.tolist(), ranks_of(scored_K, keys).tolist(), strict=True):
            found[row].append((name, float(score_N[row]), rank))
    return {row: tuple(scores) for row, scores in found.items()}


def _order_by(scored: _Scored, name: str) -> tuple[NDArray[Any], tuple[NDArray[Any], ...]]:
    """Returns scores with the keys of their order, hardest first: what the selection went by as it did."""
    ranking = scored.ranking
    if ranking and name == ranking.selection.fn:
        identity_N = scored.columns.values["identity"]
        return ranking.score_N, order_keys(ranking.score_N, tie_N=ranking.tie_N, identity_N=identity_N, order="hardest")
    score_N = scored.score(name)
    tie = ACQUISITIONS[name].tie if name in ACQUISITIONS and not scored.origin.index else None
    return score_N, sort_keys(name, score_N, scored.read(tie) if tie else scored.columns, "hardest")
