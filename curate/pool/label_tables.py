"""A CSV of labels beside the pool that it is about: rows that name no sample, and labels that changed."""

from __future__ import annotations

from collections.abc import Sequence

from curate.errors import RunError, UsageError
from curate.pool.index import Answers, Pool
from curate.pool.labels import LabelSource
from curate.pool.tar import printable


def unmatched(
    pool: Pool, labels: LabelSource, answers: Answers | None = None, *, some: bool = True
) -> list[tuple[str, str]]:
    """Returns the rows of a CSV of labels that name no sample of the pool, as (shard or "", key); in its order.

    A CSV may be about more than the pool, such as test shards: such rows are no error as long as others fit.

    Args:
        pool: its index.
        labels: where labels come from; nothing is looked at where that is no CSV.
        answers: labels of samples that have none there, by (shard, key).
        some: whether rows must be about the pool at all.

    Raises:
        UsageError: none of the rows names a sample, or one without a shard names several.
        RunError: the pool was indexed with other labels than the CSV has now.

    Cost: reads every key and label of the index.
    """
    if labels.kind != "csv":
        return []
    left, first = dict.fromkeys(labels.table), ""
    for number, scan in enumerate(pool.scans):
        table = pool.read(number, ["key", "label"])
        for key, label in zip(*(column.to_pylist() for column in table.columns), strict=True):
            first = first or key
            if (scan.name, key) in labels.table:
                left.pop((scan.name, key), None)
            elif ("", key) in labels.table:
                if ("", key) not in left:
                    raise _several(labels, key)
                del left["", key]
            if label != (labels.read(scan.name, key, None) or (answers or {}).get((scan.name, key))):
                raise _changed(pool, labels, scan.name, key)
    if some and labels.table and len(left) == len(labels.table):
        raise _none(labels, first)
    return list(left)


def note(labels: LabelSource, rows: Sequence[tuple[str, str]]) -> str:
    """Returns one line on the rows that name no sample, empty where there are none."""
    if not rows:
        return ""
    shard, key = rows[0]
    of = f" of '{printable(shard)}'" if shard else ""
    return (
        f"{labels.field}: {len(rows):,} of {len(labels.table):,} rows name no sample of the pool, "
        f"such as '{printable(key)}'{of}."
    )


def _several(labels: LabelSource, key: str) -> UsageError:
    return UsageError(
        f"{labels.field}: '{printable(key)}' is the key of several samples.",
        hint="Add a column 'shard', with the name of each one's shard in the pool.",
    )


def _none(labels: LabelSource, key: str) -> UsageError:
    return UsageError(
        f"{labels.field}: none of its {len(labels.table):,} rows names a sample of the pool.",
        hint=f"Expected keys such as '{printable(key)}', and shards by their names in the pool, if at all.",
    )


def _changed(pool: Pool, labels: LabelSource, shard: str, key: str) -> RunError:
    return RunError(
        f"{labels.field} gives '{printable(key)}' of {shard} another label than it had when {pool.folder} was made.",
        hint="Choose another --out, or delete that folder.",
    )
