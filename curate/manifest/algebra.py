"""`curate manifest merge, intersect, subtract, invert`: manifests of one pool as sets of samples.

One literal table, name → what is kept. The result is a manifest like any other, with the digests of
those it was made of in its selection record.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from curate.errors import ManifestError, UsageError
from curate.manifest.lines import Line, manifest_digest, read_lines
from curate.manifest.origin import Origin, find_origin, made_from
from curate.manifest.schema import ClassTable, Head, Scored, Selection
from curate.manifest.verify import load_whole
from curate.manifest.write import Choice, write_manifest
from curate.pool.classes import label_ids

BoolArray = NDArray[np.bool_]

# Kept by the first, kept by the second, scored at all -> kept.
OPERATIONS: dict[str, Callable[[BoolArray, BoolArray, BoolArray], BoolArray]] = {
    "merge": lambda a_N, b_N, _: a_N | b_N,
    "intersect": lambda a_N, b_N, _: a_N & b_N,
    "subtract": lambda a_N, b_N, _: a_N & ~b_N,
    "invert": lambda a_N, _, scored_N: scored_N & ~a_N,
}
NOTHING = Scored(recipe=None, proxy="", members=0, test_accuracy=None)


@dataclass(frozen=True)
class Combined:
    """The manifest that was written, and what it holds."""

    out: Path
    digest: str
    samples: int
    kept: int
    dropped: int
    failed: int


def combine(
    operation: str,
    manifests: Sequence[Path],
    out: Path,
    *,
    scores: Path | None = None,
    index: Path | None = None,
    force: bool = False,
) -> Combined:
    """Writes what an operation makes of one manifest (`invert`) or two; equal input gives equal bytes.

    What the index calls bad and no manifest keeps stays failed; every other sample that is not kept is
    dropped, with the operation's name as its reason.

    Args:
        operation: a row of the table.
        manifests: their folders, in order.
        out: the new manifest's folder.
        scores, index: of the first manifest's pool, if they moved.
        force: replace a different manifest.

    Raises:
        ManifestError: a manifest is damaged, or they are of different pools.
        UsageError: nothing would be kept.

    Cost: reads the manifests and six columns of the index; one byte a sample of memory.
    """
    heads = [load_whole(folder) for folder in manifests]
    _check_one_pool(manifests, heads)
    origin = find_origin(manifests[0], heads[0], scores, index)
    failed = _failed_masks(origin)
    kept = list(_combined(operation, manifests, failed))
    total = int(sum(kept_N.sum() for kept_N in kept))
    if total == 0:
        raise UsageError(
            f"'{operation}' of {' and '.join(map(str, manifests))} keeps nothing.", hint="Nothing was written."
        )
    reasons = _reasons_by_shard(origin, kept)
    choices = [
        Choice(kept_N, {operation: len(kept_N) - int(kept_N.sum()) - sum(counts.values())}, counts)
        for kept_N, counts in zip(kept, reasons, strict=True)
    ]
    digest = write_manifest(
        out,
        origin.pool,
        choices,
        classes=_classes(origin, kept, failed),
        selection=_selection(operation, total, manifests),
        scored=heads[0].scored if all(head.scored == heads[0].scored for head in heads) else NOTHING,
        source=made_from(origin.scores, origin.index, origin.others),
        force=force,
    )
    lost = sum(sum(counts.values()) for counts in reasons)
    return Combined(out, digest, origin.pool.total, total, origin.pool.total - total - lost, lost)


def kept_mask(line: Line) -> BoolArray:
    """Returns which of a shard's ordinals are kept, shape (N,)."""
    steps = np.array([*line.runs, line.samples - sum(line.runs)], dtype=np.int64)
    mask_N: BoolArray = np.repeat(np.arange(len(steps)) % 2 == 1, steps)
    return mask_N


def _check_one_pool(manifests: Sequence[Path], heads: Sequence[Head]) -> None:
    for folder, head in zip(manifests, heads, strict=True):
        if head.pool.fingerprint != heads[0].pool.fingerprint:
            raise ManifestError(
                f"{manifests[0]} and {folder} are of different pools "
                f"({heads[0].pool.fingerprint} and {head.pool.fingerprint}).",
                hint="Only manifests of one pool can be combined; `curate diff` compares any two.",
            )


def _combined(operation: str, manifests: Sequence[Path], failed: Sequence[BoolArray]) -> Iterator[BoolArray]:
    lines = [read_lines(folder) for folder in (manifests[0], manifests[-1])]
    for a, b, failed_N in zip(*lines, failed, strict=True):
        a_N = kept_mask(a)
        lost_N = failed_N & ~a_N
        if (len(a_N), int(lost_N.sum())) != (len(failed_N), sum(a.failed.values())):
            raise ManifestError(
                f"{a.name}: {sum(a.failed.values()):,} of {a.samples:,} samples failed when {manifests[0]} was made; "
                f"the scores now name {int(lost_N.sum()):,} of {len(failed_N):,}.",
                hint="Name the scores that it was made from with --scores.",
            )
        yield OPERATIONS[operation](a_N, kept_mask(b), ~lost_N)


def _failed_masks(origin: Origin) -> list[BoolArray]:
    masks = {scan.name: np.zeros(scan.samples, dtype=np.bool_) for scan in origin.pool.scans}
    for sample in origin.bad:
        masks[sample.shard][sample.ordinal] = True
    return list(masks.values())


def _reasons_by_shard(origin: Origin, kept: Sequence[BoolArray]) -> list[dict[str, int]]:
    """Returns why the samples of each shard failed that are not kept, counted by reason."""
    place = {scan.name: number for number, scan in enumerate(origin.pool.scans)}
    counts: list[dict[str, int]] = [{} for _ in kept]
    for sample in origin.bad:
        number = place[sample.shard]
        if not kept[number][sample.ordinal]:
            counts[number][sample.kind] = counts[number].get(sample.kind, 0) + 1
    return counts


def _classes(origin: Origin, kept: Sequence[BoolArray], failed: Sequence[BoolArray]) -> ClassTable:
    classes, pool = origin.pool.classes, origin.pool
    # All texts at once: a shard has nearly as many distinct labels as the pool.
    texts = [chunk for number in range(len(pool.scans)) for chunk in pool.read(number, ["label"])["label"].chunks]
    label_N, kept_N, failed_N = (
        label_ids(pa.chunked_array(texts), classes),
        np.concatenate(kept),
        np.concatenate(failed),
    )
    before_C, after_C = (
        np.bincount(label_N[mask_N & (label_N >= 0)], minlength=classes.num_classes)
        for mask_N in (kept_N | ~failed_N, kept_N)
    )
    return ClassTable(kind=classes.kind, names=classes.names, before=before_C.tolist(), after=after_C.tolist())  # type: ignore[arg-type]  # a str that is one of three


def _selection(operation: str, kept: int, manifests: Sequence[Path]) -> Selection:
    return Selection(
        fn=operation,
        order="hardest",
        keep=str(kept),
        budget=kept,
        outliers="0",
        outlier_count=0,
        ties=(),
        seed=None,
        per_class=None,
        min_per_class=0,
        always=0,
        never=0,
        scheme="compress",
        iteration=0,
        base=None,
        of=tuple(manifest_digest(folder) for folder in manifests),
    )
