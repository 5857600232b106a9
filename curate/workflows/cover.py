"""k-centers as a selection: the start, the quotas of classes, the centers, and what the manifest says of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import psutil
from numpy.typing import NDArray

from curate.embeddings import Embeddings
from curate.errors import RunError, UsageError
from curate.manifest.algebra import kept_mask
from curate.manifest.lines import manifest_digest, read_lines
from curate.manifest.origin import check_pool
from curate.manifest.schema import Cover
from curate.manifest.verify import load_whole
from curate.pool.index import Pool
from curate.scores import Columns
from curate.selection.distances import Kernel
from curate.selection.k_centers import Centers, k_centers
from curate.selection.parts import k_centers_in_two_rounds, k_centers_per_class, part_samples
from curate.selection.quotas import ClassRule, quotas
from curate.selection.rank import BoolArray, take_first
from curate.selection.strata import KEPT, NEVER, RANK, Selection

K_CENTERS = "k_centers"
CENTERS = "centers.tsv"
START_SIZE = 1000
MEMORY_FACTOR = 1.5  # what is held at a time, by the embeddings alone
PARTITIONS = tuple(2**n for n in range(1, 17))
StartKind = Literal["random", "labelled", "manifest"]


@dataclass(frozen=True)
class CoverRequest:
    """What k-centers are asked to be.

    Attributes:
        start: `random`, `labelled`, or a manifest's folder: the centers that are there from the beginning.
        start_size: of a random start; None for 1,000, or a tenth of the budget where that is less.
        partitions: more than 1 for two rounds, where embeddings do not fit in memory.
        device: where products are done: `cpu`, which is numpy, or `cuda`. The centers are the same.
    """

    start: str = "random"
    start_size: int | None = None
    partitions: int = 1
    device: str = "cpu"

    def check(self, given: Sequence[str], per_class: ClassRule | None) -> None:
        """Accepts a request beside `given`, the options that are of scores.

        Raises:
            UsageError: there are such options, or some that exclude each other.
        """
        if given:
            raise UsageError(
                f"{given[0]} cannot be with --fn {K_CENTERS}.", hint="It chooses by distance, not by a score."
            )
        if per_class and self.partitions > 1:
            raise UsageError(
                "--partitions cannot be with --per-class.", hint="One class at a time is in memory already."
            )
        if self.device not in ("cpu", "cuda") or (self.device != "cpu" and (per_class or self.partitions > 1)):
            raise UsageError(f"--device {self.device}: expected cpu; or cuda, without --per-class and --partitions.")
        if self.device == "cuda":
            from curate.workflows.setting import check_device  # torch, which prune needs for this alone

            check_device(self.device)
        if _kind(self.start) != "random" and self.start_size is not None:
            raise UsageError(f"--start-size is of --start random, not of '{self.start}'.")


@dataclass(frozen=True, eq=False)
class Covered:
    """What was selected.

    Attributes:
        selection: kept is the start and the centers.
        centers: as rows of the scored samples.
        start_N: mask of the start.
        record: what the manifest says of it.
        base: digest of the manifest that the start is, if one.
    """

    selection: Selection
    centers: Centers
    start_N: BoolArray
    record: Cover
    base: str | None

    def lines(self, pool: Pool, columns: Columns) -> Iterator[str]:
        """Yields `radius TAB shard TAB key`: the start in order of the pool, then the centers as chosen."""
        names = [scan.name for scan in pool.scans]
        shard_N = np.repeat(np.arange(len(names)), [len(ordinal_N) for ordinal_N in columns.ordinals])
        key_N = columns.values["key"]
        rows = [*((row, "start") for row in np.flatnonzero(self.start_N).tolist())]
        rows += zip(self.centers.order_K.tolist(), map(repr, self.centers.radius_K.tolist()), strict=True)
        for row, radius in rows:
            yield f"{radius}\t{names[shard_N[row]]}\t{key_N[row]}\n"


def cover(
    request: CoverRequest,
    run: Path,
    pool: Pool,
    columns: Columns,
    random_N: NDArray[np.float64],
    *,
    budget: int,
    per_class: ClassRule | None,
    always_N: BoolArray | None,
    never_N: BoolArray | None,
) -> Covered:
    """Returns the start and the centers that fill the budget.

    Args:
        request: how.
        run: the folder of the scores.
        pool, columns: what was scored, with identities, labels and keys.
        random_N: a random score, of which a random start is the top.
        budget: samples to keep, the start included.
        per_class: divides the budget among classes, each covered by its own samples.
        always_N: further samples of the start.
        never_N: samples that are neither centers nor covered.

    Raises:
        RunError: the run has no embeddings, or more than the memory holds.
        UsageError: a start that cannot be, or is larger than the budget.
        ManifestError: the start is a manifest of another pool, or damaged.
    """
    embeddings = Embeddings(run, pool, columns.ordinals)
    free_N = np.ones(len(random_N), dtype=np.bool_) if never_N is None else ~never_N
    samples = int(free_N.sum())
    held = part_samples(samples, budget, request.partitions) if request.partitions > 1 else samples
    if per_class:
        held = int(np.bincount(columns.values["label"][free_N] + 1).max(initial=0))
    check_memory(embeddings, held, hint=_partitions_that_fit(embeddings, samples, budget))
    listed = 0 if always_N is None else int(always_N.sum())
    start_N = _start(request, pool, columns, random_N, free_N, budget, listed)
    if always_N is not None:
        start_N |= always_N
    if start_N.sum() > budget:
        raise UsageError(
            f"the start has {int(start_N.sum()):,} samples, but the budget is {budget:,}",
            hint="The start is kept too. Keep more, or name a smaller start.",
        )
    row_F = np.flatnonzero(free_N)
    chosen = _choose(request, embeddings, row_F, columns, start_N, budget=budget, per_class=per_class)
    reason_N = np.where(free_N, RANK, NEVER).astype(np.uint8)
    reason_N[start_N] = reason_N[chosen.order_K] = KEPT
    record = Cover(
        start=_kind(request.start),
        start_size=int(start_N.sum()),
        partitions=request.partitions,
        radius=_finite(chosen.cover_radius),
        lower_bound=_finite(chosen.lower_bound),
        member_seed=embeddings.seed,
        member_epoch=embeddings.epoch,
    )
    base = manifest_digest(Path(request.start)) if record.start == "manifest" else None
    return Covered(Selection(reason_N), chosen, start_N, record, base)


def _choose(
    request: CoverRequest,
    embeddings: Embeddings,
    row_F: NDArray[np.int64],
    columns: Columns,
    start_N: BoolArray,
    *,
    budget: int,
    per_class: ClassRule | None,
) -> Centers:
    """Returns the centers among some rows, the start being some of them."""
    start_F, rank_F = start_N[row_F], columns.values["identity"][row_F]
    start_S, left = np.flatnonzero(start_F), budget - int(start_N.sum())

    def read(row_B: NDArray[np.int64]) -> NDArray[np.float32]:
        return embeddings.read(row_F[row_B])

    if per_class:
        class_F, quota_C = _quotas(columns.values["label"][row_F], start_F, budget, per_class)
        found = k_centers_per_class(read, class_F, quota_C, start_S=start_S, rank_N=rank_F)
    elif request.partitions > 1:
        found = k_centers_in_two_rounds(read, left, partitions=request.partitions, start_S=start_S, rank_N=rank_F)
    else:
        x_FD = read(np.arange(len(row_F)))
        found = k_centers(x_FD, left, start=start_S, rank_N=rank_F, kernel=_kernel(request.device, x_FD))
    return Centers(row_F[found.order_K], found.radius_K, found.cover_radius, found.lower_bound)


def check_memory(embeddings: Embeddings, samples: int, *, hint: str) -> None:
    """Refuses to begin what would end without memory.

    Args:
        embeddings: of a run.
        samples: how many are held at a time.
        hint: what to do instead.

    Raises:
        RunError: they take more than the memory that is available, with what is worked out beside them.
    """
    needed, available = MEMORY_FACTOR * samples * embeddings.row_bytes, psutil.virtual_memory().available
    if needed > available:
        raise RunError(
            f"The embeddings of {samples:,} samples take {needed / 2**20:,.1f} MiB of memory to cover, "
            f"of which {available / 2**20:,.1f} MiB are available.",
            hint=hint,
        )


def _partitions_that_fit(embeddings: Embeddings, samples: int, budget: int) -> str:
    available = psutil.virtual_memory().available
    for partitions in PARTITIONS:
        if MEMORY_FACTOR * part_samples(samples, budget, partitions) * embeddings.row_bytes <= available:
            return (
                f"`curate prune --partitions {partitions}` holds a part at a time; its radius is at most four times "
                "the smallest possible."
            )
    return "Keep less, with `curate prune --partitions 2` or more; or cover each class alone, with its --per-class."


def _kernel(device: str, x_ND: NDArray[np.float32]) -> Kernel | None:
    if device == "cpu":
        return None
    from curate.proxy.products import TorchKernel  # prune knows torch for this alone

    return TorchKernel(x_ND, device)


def _quotas(
    label_F: NDArray[Any], start_F: BoolArray, budget: int, rule: ClassRule
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Returns each sample's class and how many centers each class gets beside its start."""
    if (label_F < 0).any():
        raise UsageError(
            f"class rules need labels, and {int((label_F < 0).sum()):,} of {len(label_F):,} samples have none",
            hint="Label them, list them as never to be kept, or leave out --per-class.",
        )
    class_F = np.unique(label_F, return_inverse=True)[1].astype(np.int64)
    counts_C = np.bincount(class_F)
    placed_C = np.bincount(class_F[start_F], minlength=len(counts_C))
    return class_F, quotas(counts_C, budget, rule, placed_C=placed_C) - placed_C


def _start(
    request: CoverRequest,
    pool: Pool,
    columns: Columns,
    random_N: NDArray[np.float64],
    free_N: BoolArray,
    budget: int,
    listed: int,
) -> BoolArray:
    kind = _kind(request.start)
    if kind == "random":
        size = request.start_size
        # Samples of a list are a start too: they may fill the budget alone.
        size = min(start_size(budget), max(0, budget - listed)) if size is None else size
        if size > free_N.sum():
            raise UsageError(f"a start of {size:,} samples was asked for, but there are {int(free_N.sum()):,}")
        return take_first(random_N, identity_N=columns.values["identity"], count=size, eligible_N=free_N)
    if kind == "labelled":
        labelled_N: BoolArray = (columns.values["label"] >= 0) & free_N
        if not labelled_N.any():
            raise UsageError("No sample of the pool has a label to start from.", hint="Use --start random.")
        return labelled_N
    return _kept(Path(request.start), pool, columns) & free_N


def start_size(budget: int) -> int:
    """Returns how many samples a random start has where nobody says it: 1,000, or a tenth of a small budget."""
    return min(START_SIZE, max(1, budget // 10))


def _kind(start: str) -> StartKind:
    if start in ("random", "labelled"):
        return start  # type: ignore[return-value]  # one of the two
    if not Path(start).is_dir():
        raise UsageError(f"--start {start}: expected random, labelled, or a manifest's folder.")
    return "manifest"


def _kept(folder: Path, pool: Pool, columns: Columns) -> BoolArray:
    """Returns which scored samples a manifest of the same pool keeps."""
    check_pool(pool, folder, load_whole(folder))
    parts = [kept_mask(line)[ordinal_N] for line, ordinal_N in zip(read_lines(folder), columns.ordinals, strict=True)]
    return np.concatenate(parts)


def _finite(radius: float) -> float | None:
    return radius if np.isfinite(radius) else None
