"""The gates of `curate check`: one literal table, name → what is measured and which way it is limited.

To add one: write a function from evidence to a measurement, add a row. The file of limits, the outputs
and the docs are all read from here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from curate.acquisition.difficulty import never_learned_last
from curate.errors import UsageError
from curate.manifest.lines import manifest_digest
from curate.manifest.origin import Origin, find_origin, open_origin
from curate.manifest.schema import Head, Selection
from curate.scores import SUMMARY, read_record
from curate.statistics import spearman
from curate.workflows.decision import scores_of
from curate.workflows.diff import Diff, class_names, diff
from curate.workflows.gather import NEVER
from curate.workflows.results import saved_rows

Unit = Literal["share", "samples", "correlation", "distance"]


@dataclass(frozen=True)
class Evidence:
    """What the gates may look at; the expensive parts are read when a gate asks for them.

    Attributes:
        folder, head: the manifest.
        base: an earlier manifest.
        earlier: earlier scores of the samples.
        evaluation: saved accuracies, see `read_margins`.
        scores, index: what the manifest was made from, if it moved.
    """

    folder: Path
    head: Head
    base: Path | None = None
    earlier: Path | None = None
    evaluation: Path | None = None
    scores: Path | None = None
    index: Path | None = None

    @cached_property
    def difference(self) -> Diff:
        """What changed since the base manifest."""
        assert self.base is not None
        return diff(self.base, self.folder)


@dataclass(frozen=True)
class Measured:
    """A measurement, and where it was taken or why it could not be."""

    value: float | None
    where: str = ""


@dataclass(frozen=True)
class Gate:
    """One row of the table.

    Attributes:
        measure: evidence → measurement; a value of None fails the gate.
        is_upper: the limit is the largest value that passes, else the smallest.
        unit: of the value and of the limit.
        lowest: the smallest limit that makes sense; the largest is 1, but for samples.
        needs: the evidence that must be given, a name of `Evidence`.
        line: one line of description.
    """

    measure: Callable[[Evidence], Measured]
    is_upper: bool
    unit: Unit
    line: str
    lowest: float = 0.0
    needs: str = ""


def total_drop(evidence: Evidence) -> Measured:
    """Returns the share of the scored samples that is dropped."""
    totals = evidence.head.totals
    dropped = sum(totals.dropped.values())
    return Measured(dropped / max(1, totals.kept + dropped), f"{dropped:,} of {totals.kept + dropped:,} samples")


def class_drop(evidence: Evidence) -> Measured:
    """Returns the largest share of a class that is dropped."""
    return _worst(evidence, lambda before_C, after_C: (before_C - after_C) / before_C, np.argmax)


def class_minimum(evidence: Evidence) -> Measured:
    """Returns the fewest samples that are kept of a class."""
    return _worst(evidence, lambda _, after_C: after_C, np.argmin)


def share_shift(evidence: Evidence) -> Measured:
    """Returns the largest change of a class's share, of all scored to of all kept samples."""
    return _worst(
        evidence,
        lambda before_C, after_C: np.abs(after_C / max(1, after_C.sum()) - before_C / before_C.sum()),
        np.argmax,
    )


def _worst(evidence: Evidence, of: Callable[[Any, Any], Any], pick: Callable[[Any], Any]) -> Measured:
    """Returns the worst class's value; classes without a scored sample are left out."""
    before_C, after_C = np.array(evidence.head.classes.before), np.array(evidence.head.classes.after)
    present_C = np.flatnonzero(before_C)
    if not len(present_C):
        return Measured(None, "the pool has no labels")
    value_C = of(before_C[present_C].astype(float), after_C[present_C].astype(float))
    worst = int(pick(value_C))
    name = class_names(evidence.head)[present_C[worst]]
    before, after = before_C[present_C[worst]], after_C[present_C[worst]]
    return Measured(float(value_C[worst]), f"class {name}: {after:,} kept of {before:,}")


def churn(evidence: Evidence) -> Measured:
    """Returns one minus Jaccard's index of the samples that the manifest and its base keep."""
    counts = evidence.difference.counts
    return Measured(evidence.difference.churn, f"{counts['added']:,} added, {counts['removed']:,} removed")


def bad_share(evidence: Evidence) -> Measured:
    """Returns the share of the pool's samples that could not be scored."""
    totals = evidence.head.totals
    failed = sum(totals.failed.values())
    return Measured(failed / max(1, totals.samples), f"{failed:,} of {totals.samples:,} samples")


def rank_agreement(evidence: Evidence) -> Measured:
    """Returns Spearman's correlation of the scores that decided with earlier ones, over samples scored both times."""
    selection = evidence.head.selection
    fn = selection.fn
    if fn == "random" or selection.of or selection.cover:
        return Measured(None, f"'{fn}' ranks nothing by a saved score")
    assert evidence.earlier is not None
    now = find_origin(evidence.folder, evidence.head, evidence.scores, evidence.index)
    is_own = (evidence.earlier / SUMMARY).exists()
    earlier = open_origin(evidence.earlier, None if is_own else now.index or evidence.index)
    decided = scores_of(selection, now)
    identity_N, b_N = _earlier_scores(selection, earlier)
    a_N = decided.score_N
    if not np.array_equal(decided.columns.values["identity"], identity_N):
        _, row_a, row_b = np.intersect1d(decided.columns.values["identity"], identity_N, return_indices=True)
        a_N, b_N = a_N[row_a], b_N[row_b]
    both_N = np.isfinite(b_N)
    value = spearman(a_N[both_N], b_N[both_N]) if both_N.sum() > 1 else np.nan
    return Measured(None if np.isnan(value) else value, f"{fn} of {both_N.sum():,} samples scored both times")


def _earlier_scores(selection: Selection, earlier: Origin) -> tuple[NDArray[Any], NDArray[Any]]:
    """Returns identities and what one earlier run says of them; NaN where it says nothing."""
    is_last = selection.never_learned == "last"
    names = [selection.fn, NEVER] if is_last else [selection.fn]
    values = earlier.columns(names, null_is_nan=True).values
    score_N = values[selection.fn]
    if is_last:
        epochs = read_record(earlier.scores / SUMMARY).get("epochs", 0)
        score_N = never_learned_last(score_N, values[NEVER], epochs)
    return values["identity"], score_N


def drift(evidence: Evidence) -> Measured:
    """Returns how far the scores of samples added since training lie from the others', as Kolmogorov and Smirnov's D.

    Of several runs, the one with the largest; 0 where nothing was added.
    """
    selection = evidence.head.selection
    if selection.fn == "random" or selection.of or selection.cover:
        return Measured(None, f"'{selection.fn}' ranks nothing by a saved score")
    origin = find_origin(evidence.folder, evidence.head, evidence.scores, evidence.index)
    if origin.index:
        return Measured(None, "scores from elsewhere do not say what they were trained on")
    found = [_drift_of(folder, selection.fn) for folder in (origin.scores, *origin.others)]
    return max(found, key=lambda one: float("inf") if one.value is None else one.value)


def _drift_of(scores: Path, fn: str) -> Measured:
    growth = read_record(scores / SUMMARY).get("growth")
    if growth is None or not growth["samples"]:
        return Measured(0.0, "nothing was added since the members were trained")
    found = growth["drift"].get(fn)
    if found is None:
        return Measured(None, f"no drift of {fn} was measured")
    kind = "held-out" if growth["held_out"] else "trained-on"
    where = f"{fn} of {growth['samples']:,} added samples against {growth['old']:,} {kind} ones"
    shift = f"{'higher' if found['shift'] > 0 else 'lower'} by {abs(found['shift']):.2f}"
    return Measured(
        found["distance"], f"{where}, {shift}; chance gives {found['chance']:.2f}; past the limit, train again"
    )


def proxy_accuracy(evidence: Evidence) -> Measured:
    """Returns the ensemble's accuracy on the test shards that were scored beside the pool."""
    scored = evidence.head.scored
    if scored.test_accuracy is None:
        return Measured(None, "no test set was given to `curate score --test`")
    return Measured(scored.test_accuracy, f"{scored.members} members of {scored.proxy}")


def margin_over_random(evidence: Evidence) -> Measured:
    """Returns a target's mean accuracy on the kept samples, less that on random ones of the same size.

    Of several targets, the one with the smallest margin.
    """
    assert evidence.evaluation is not None
    margins = read_margins(evidence.evaluation, evidence.folder)
    return min(margins, key=lambda found: float("-inf") if found.value is None else found.value)


def read_margins(path: Path, folder: Path) -> list[Measured]:
    """Returns the margins over random that a saved evaluation holds of a manifest, one a target.

    Args:
        path: as `saved_rows` takes it.
        folder: the manifest.

    Raises:
        UsageError: it cannot be read, lacks a figure, or is of another manifest.
    """
    mine = f"-{manifest_digest(folder)[:8]}"
    has_run = [row for row in saved_rows(path) if "gain" in row]
    rows = [row for row in has_run if row["kind"] == "manifest" and row["arm"].endswith(mine)]
    margins = [_margin(row) for row in rows]
    if not margins:
        raise UsageError(f"{path} is not of {folder}.", hint="Evaluate this manifest, or leave the gate out.")
    if not all(found.value is None or np.isfinite(found.value) for found in margins):
        raise UsageError(f"{path}: an accuracy is not finite.", hint="Evaluate again.")
    return margins


def _margin(row: dict[str, Any]) -> Measured:
    gain = row["gain"]
    what = f"n = {gain['n']}" if gain else "random of the same size was not run"
    return Measured(float(gain["mean"]) if gain else None, f"target {row['target']}, {what}")


GATES: dict[str, Gate] = {
    "max_drop": Gate(total_drop, True, "share", "scored samples that are dropped"),
    "max_class_drop": Gate(class_drop, True, "share", "scored samples of any one class that are dropped"),
    "min_per_class": Gate(class_minimum, False, "samples", "samples kept of every class"),
    "max_share_shift": Gate(share_shift, True, "share", "change of any class's share by pruning"),
    "max_churn": Gate(churn, True, "share", "1 - Jaccard against the base manifest", needs="base"),
    "max_bad": Gate(bad_share, True, "share", "samples of the pool that could not be scored"),
    "min_rank_agreement": Gate(
        rank_agreement, False, "correlation", "Spearman's correlation with earlier scores", lowest=-1.0, needs="earlier"
    ),
    "max_drift": Gate(drift, True, "distance", "drift of scores of samples added since training; past it, train again"),
    "min_proxy_accuracy": Gate(proxy_accuracy, False, "share", "test accuracy of the proxy's ensemble"),
    "min_margin_over_random": Gate(
        margin_over_random, False, "share", "accuracy on kept less that on random", lowest=-1.0, needs="evaluation"
    ),
}  # fmt: skip
