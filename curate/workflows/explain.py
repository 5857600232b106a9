"""`curate explain`: all that is saved of one sample, and why it was kept, dropped or failed. No torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curate.acquisition import ACQUISITIONS
from curate.errors import ShardError, UsageError
from curate.manifest.origin import Origin, find_origin, open_origin
from curate.manifest.schema import Selection
from curate.manifest.verify import load_whole
from curate.pool.sources import open_source
from curate.pool.tar import printable
from curate.scores import SUMMARY, Columns, read_record, table_path
from curate.selection.rank import rank_of
from curate.tables import read_schema
from curate.workflows.decision import Decision, class_name, decide, kept_of, sort_keys
from curate.workflows.glimpses import Glimpse, glimpses
from curate.workflows.neighbours import Neighbour, Votes, nearest_kept, votes_of

PLACES = ("ordinal", "key", "identity", "label", "prediction")  # columns that are no score
MAX_IMAGE_BYTES = 1 << 26


@dataclass(frozen=True)
class Score:
    """One column's value for the sample; rank 1 is the hardest of `scored`, None where it has no value."""

    name: str
    value: float | None
    rank: int | None
    scored: int


@dataclass(frozen=True)
class Explanation:
    """All that is saved of one sample.

    Attributes:
        label, prediction: class names, empty where there is none.
        members: votes behind the scores.
        against_majority, against_label: how many members voted otherwise; None where that was not saved.
        scores: every acquisition function's, in order of the table, then other columns.
        votes: (member, class) of every member; empty where votes were not saved.
        decision: None without a manifest.
        neighbours: the kept samples nearest to it; None without a manifest, or without embeddings.
        source: the shard's file.
        image: (first byte, size) of its image in the decompressed tar; None without one.
        text: how its text begins, in a pool of texts; empty where it cannot be read.
    """

    shard: str
    ordinal: int
    key: str
    label: str
    prediction: str
    members: int
    against_majority: int | None
    against_label: int | None
    scores: tuple[Score, ...]
    votes: Votes
    decision: Decision | None
    neighbours: tuple[Neighbour, ...] | None
    source: Path
    image: tuple[int, int] | None
    text: str = ""


def explain(
    key: str,
    *,
    manifest: Path | None = None,
    scores: Path | None = None,
    index: Path | None = None,
    shard: str = "",
) -> Explanation:
    """Returns all that is saved of a sample.

    Args:
        key: the sample's.
        manifest: what to explain the decision of; None for the scores alone.
        scores, index: as `prune` takes them; by default what the manifest was made from.
        shard: its shard, where several have the key.

    Raises:
        UsageError: no sample has the key, or several do.
        ManifestError, ScoreError, RunError: manifest and scores are damaged or do not belong together.

    Cost: reads the keys of the pool, and the columns of all scores.
    """
    if manifest:
        head = load_whole(manifest)
        selection, origin = head.selection, find_origin(manifest, head, scores, index)
    else:
        selection, origin = None, open_origin(scores or Path("scores"), index)
    number, ordinal = _find(origin, key, shard)
    scan = origin.pool.scans[number]
    names = _foreign_names(selection) if origin.index else score_names(origin, scan.name)
    prediction = [] if origin.index else ["prediction"]
    columns = origin.columns([*names, *prediction], null_is_nan=True)
    row = _row(columns, number, ordinal)
    found = tuple(_scores(columns, row, names))
    members = 0 if origin.index else len(read_record(origin.scores / SUMMARY)["members"])
    votes = {score.name: round(score.value * members) for score in found if members and score.value is not None}
    decision, neighbours = None, None
    if manifest and selection:
        decision = decide(manifest, selection, origin, columns, shard=scan.name, ordinal=ordinal, row=row)
        if row is not None:
            neighbours = nearest_kept(origin, columns, kept_of(manifest, columns), row)
    return Explanation(
        shard=scan.name,
        ordinal=ordinal,
        key=key,
        label=class_name(origin.pool, int(origin.pool.labels(number)[ordinal])),
        prediction=class_name(origin.pool, int(columns.values["prediction"][row]))
        if prediction and row is not None
        else "",
        members=members,
        against_majority=votes.get("variation_ratio"),
        against_label=votes.get("error_count"),
        scores=found,
        votes=votes_of(origin, [row])[row] if row is not None else (),
        decision=decision,
        neighbours=neighbours,
        source=origin.pool.shard(number).path,
        image=_image(origin, number, ordinal),
        text=_text(origin, number, ordinal),
    )


def read_image(explanation: Explanation) -> bytes | None:
    """Returns the sample's encoded image; None where it has none, it is huge, or its shard moved away."""
    start, size = explanation.image or (0, 0)
    if not 0 < size <= MAX_IMAGE_BYTES:
        return None
    try:
        with open_source(explanation.source, explanation.shard) as stream:
            return stream.read(size) if stream.skip(start) == start else None
    except ShardError:
        return None


def _find(origin: Origin, key: str, shard: str) -> tuple[int, int]:
    """Returns the place of the sample's shard in the pool, and its ordinal."""
    found = []
    for number, scan in enumerate(origin.pool.scans):
        if not shard or f"/{scan.name}".endswith(f"/{shard}"):
            ordinal = pc.index(origin.pool.read(number, ["key"])["key"], pa.scalar(key)).as_py()
            found += [(number, ordinal)] if ordinal >= 0 else []
    if len(found) == 1:
        return found[0]
    where = f" in {printable(shard)}" if shard else ""
    if not found:
        raise UsageError(
            f"No sample{where} has the key '{printable(key)}'.",
            hint="A key is an entry's path without its extensions: `tar t` lists them.",
        )
    names = ", ".join(printable(origin.pool.scans[number].name) for number, _ in found[:5])
    raise UsageError(
        f"{len(found)} samples{where} have the key '{printable(key)}': in {names}{', …' if len(found) > 5 else ''}.",
        hint="Say which with --shard.",
    )


def score_names(origin: Origin, shard: str) -> list[str]:
    """Returns the names of a shard's scores: acquisition functions in order of their table, then the others."""
    path = table_path(origin.scores, shard)
    fields = [field for field in read_schema(path)[0] if field.name not in PLACES] if path.exists() else []
    numbers = [f.name for f in fields if pa.types.is_floating(f.type) or pa.types.is_integer(f.type)]
    return [
        *(name for name in ACQUISITIONS if name in numbers),
        *(name for name in numbers if name not in ACQUISITIONS),
    ]


def _foreign_names(selection: Selection | None) -> list[str]:
    """Returns the one column that a manifest of scores from elsewhere went by."""
    if selection is None:
        raise UsageError("Scores from elsewhere are explained by a manifest.", hint="Give --manifest.")
    return [] if selection.of or selection.fn == "random" else [selection.fn]


def _row(columns: Columns, number: int, ordinal: int) -> int | None:
    """Returns the sample's row among all scored ones, None where it failed."""
    first = sum(len(ordinal_K) for ordinal_K in columns.ordinals[:number])
    found = np.flatnonzero(columns.ordinals[number] == ordinal)
    return first + int(found[0]) if len(found) else None


def _scores(columns: Columns, row: int | None, names: Sequence[str]) -> Iterator[Score]:
    for name in names:
        score_N = columns.values[name].astype(np.float64)
        scored = int(np.count_nonzero(~np.isnan(score_N)))
        if row is None or np.isnan(score_N[row]):
            yield Score(name, None, None, scored)
        else:
            yield Score(name, float(score_N[row]), rank_of(row, sort_keys(name, score_N, columns, "hardest")), scored)


def _text(origin: Origin, number: int, ordinal: int) -> str:
    if origin.pool.kind != "text":
        return ""
    found, _ = glimpses(origin.pool, [(number, ordinal)], origin.pool.root)
    return found.get((number, ordinal), Glimpse()).text


def _image(origin: Origin, number: int, ordinal: int) -> tuple[int, int] | None:
    if origin.pool.kind == "text":
        return None
    table = origin.pool.read(number, ["image_start", "image_size"]).slice(ordinal, 1)
    start, size = (column[0].as_py() for column in table.columns)
    return None if start is None else (start, size)
