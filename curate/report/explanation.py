"""What is saved of one sample, in sentences and as a document."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from curate.pool.tar import printable
from curate.workflows.decision import Cut, Decision
from curate.workflows.explain import Explanation, Score
from curate.workflows.neighbours import Neighbour

VOTE_COLUMNS, NEIGHBOUR_COLUMNS = ("member", "class"), ("key", "distance", "label", "shard")
SCORE_COLUMNS = ("column", "value", "rank", "of")


def score_row(score: Score) -> tuple[str, ...]:
    """Returns one score's row under `SCORE_COLUMNS`."""
    value = "-" if score.value is None else f"{score.value:.6g}"
    return score.name, value, "-" if score.rank is None else f"{score.rank:,}", f"{score.scored:,}"


def neighbour_row(neighbour: Neighbour) -> tuple[str, ...]:
    """Returns a neighbour's row under `NEIGHBOUR_COLUMNS`."""
    return neighbour.key, f"{neighbour.distance:.4g}", neighbour.label or "-", neighbour.shard


def document(found: Explanation) -> dict[str, Any]:
    """Returns everything as plain values, for `--json`."""
    return {**asdict(found), "source": str(found.source)}


def sentences(found: Explanation) -> Iterator[str]:
    """Yields what is known, one line each: the sample, the decision, the cut, the votes."""
    label = f"label {found.label}" if found.label else "no label"
    predicted = f", predicted {found.prediction}" if found.prediction else ""
    yield printable(f"{found.key}: ordinal {found.ordinal} of {found.shard}, {label}{predicted}.")
    if found.text:
        yield printable(found.text)
    if found.decision:
        yield from _decision(found.decision)
    votes = [
        f"{count} of {found.members} voted {how}"
        for count, how in (
            (found.against_majority, "against the majority"),
            (found.against_label, "for another class than the label"),
        )
        if count is not None
    ]
    if votes:
        yield f"Members: {', '.join(votes)}."


def _decision(decision: Decision) -> Iterator[str]:
    reason = f": {printable(decision.reason)}" if decision.reason else ""
    yield f"{decision.state.capitalize()}{reason}."
    if decision.rank is None:
        return
    yield f"By {decision.fn}, {decision.order} first: {decision.score:.6g}, rank {decision.rank:,}."
    if decision.reason == "outlier":
        yield f"The {decision.outliers:,} of the highest score were set aside as outliers."
    elif decision.cut:
        yield _cut(decision.cut)


def _cut(cut: Cut) -> str:
    within = f" in class {printable(cut.within)}" if cut.within else ""
    at = f"The last one kept{within} has {cut.score:.6g}, rank {cut.rank:,}"
    if cut.places == 0:
        return f"{at}: it is this one."
    side = "missed the cut" if cut.places > 0 else "is above the cut"
    by = f"a tie that {cut.tie} decided" if cut.tie else f"{cut.gap:.6g}"
    return f"{at}: this one {side} by {abs(cut.places):,} places and {by}."
