"""What a selection says of each shard and each class, as a manifest records it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from curate.manifest.schema import ClassTable
from curate.manifest.write import Choice
from curate.pool.index import Pool
from curate.scores import BadSample, Columns
from curate.selection.strata import KEPT, REASONS


def cut(
    ordinals: Sequence[NDArray[np.int64]], reason_N: NDArray[np.uint8]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.uint8]]]:
    at = 0
    for ordinal_K in ordinals:
        yield ordinal_K, reason_N[at : at + len(ordinal_K)]
        at += len(ordinal_K)


def choices_of(
    pool: Pool, reasons: Iterable[tuple[NDArray[np.int64], NDArray[np.uint8]]], bad: Sequence[BadSample]
) -> Iterator[Choice]:
    failed: dict[str, dict[str, int]] = {}
    for sample in bad:
        counts = failed.setdefault(sample.shard, {})
        counts[sample.kind] = counts.get(sample.kind, 0) + 1
    for scan, (ordinal_K, reason_K) in zip(pool.scans, reasons, strict=True):
        kept_N = np.zeros(scan.samples, dtype=np.bool_)
        kept_N[ordinal_K[reason_K == KEPT]] = True
        dropped = dict(zip(REASONS, np.bincount(reason_K, minlength=len(REASONS)).tolist(), strict=True))
        del dropped[REASONS[KEPT]]
        yield Choice(kept_N, dropped, failed.get(scan.name, {}))


def class_counts(pool: Pool, columns: Columns, kept_N: NDArray[np.bool_]) -> ClassTable:
    label_N, size = columns.values["label"], pool.classes.num_classes
    before, after = (np.bincount(labels[labels >= 0], minlength=size).tolist() for labels in (label_N, label_N[kept_N]))
    return class_table(pool, before, after)


def class_table(pool: Pool, before: list[int], after: list[int]) -> ClassTable:
    return ClassTable(kind=pool.classes.kind, names=pool.classes.names, before=before, after=after)  # type: ignore[arg-type]  # a str that is one of three
