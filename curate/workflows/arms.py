"""What a target is trained on: what a manifest keeps, random samples of the same number, everything."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, repeat
from pathlib import Path

import numpy as np

from curate.errors import UsageError
from curate.manifest.lines import manifest_digest
from curate.manifest.origin import check_pool, choosing_seconds, find_base, scores_named
from curate.manifest.schema import Head, load_head
from curate.manifest.verify import load_whole
from curate.pool.index import Pool
from curate.proxy.pixels import Rows
from curate.workflows.cost import Scoring
from curate.workflows.held_out import RowArray, kept_rows

ALL = "all"
Scored = tuple[Scoring, ...]


@dataclass(frozen=True)
class Arm:
    """One way to choose what is trained on.

    Attributes:
        name: unique; also the folder of its results.
        kind: `manifest`, `random` or `all`.
        label: what tables call it.
        samples: how many are trained on, all labelled.
        digest: of the manifest, else empty.
        scored: the runs that scored the manifest or, in build-up, one before it; empty where they are not known.
        choosing_seconds: what choosing by those scores took, of all manifests that it grew from.
        rows: returns the rows by the seed of a run; a manifest's do not depend on it.
    """

    name: str
    kind: str
    label: str
    samples: int
    digest: str
    scored: Scored
    choosing_seconds: float
    rows: Callable[[int], RowArray]


def arms_of(manifests: Sequence[Path], pool: Pool, rows: Rows, labelled_K: RowArray) -> list[Arm]:
    """Returns the manifests' arms, for each number of samples a random one, and everything. Raises as `kept_arms`."""
    kept = kept_arms(manifests, pool, rows, labelled_K)
    return [*kept, *beside(kept, labelled_K)]


def kept_arms(manifests: Sequence[Path], pool: Pool, rows: Rows, labelled_K: RowArray) -> list[Arm]:
    """Returns the manifests' arms.

    Args:
        manifests: of the pool.
        pool, rows: what is trained on.
        labelled_K: the rows that may be trained on: labelled, and not held out.

    Raises:
        ManifestError: a manifest of another pool.
        UsageError: a manifest that keeps no labelled sample, or all of them; one manifest twice.
    """
    known = by_digest(manifests)
    return [_kept(folder, pool, rows, labelled_K, known) for folder in manifests]


def beside(kept: Sequence[Arm], labelled_K: RowArray) -> list[Arm]:
    """Returns what others are held against: for each number of samples a random arm, and everything."""
    sizes = sorted({arm.samples for arm in kept})
    return [*(_random(size, labelled_K) for size in sizes), _all(labelled_K)]


def unselected(name: str, label: str, samples: int) -> Arm:
    """Returns the arm of a selection that has not been made: its rows are not known."""
    return Arm(name, "manifest", label, samples, "", (), 0.0, lambda seed: np.empty(0, dtype=np.int64))


def arm_name(manifest: Path) -> str:
    """Returns what the results of a manifest are filed under."""
    return f"{manifest.absolute().name}-{manifest_digest(manifest)[:8]}"


def by_digest(manifests: Sequence[Path]) -> dict[str, Path]:
    """Returns manifests by their digests.

    Raises:
        UsageError: one manifest twice.
    """
    known = dict[str, Path]()
    for folder in manifests:
        digest = manifest_digest(folder)
        if digest in known:
            raise UsageError(f"{known[digest]} and {folder} are the same manifest.", hint="Name each once.")
        known[digest] = folder
    return known


def _kept(folder: Path, pool: Pool, rows: Rows, labelled_K: RowArray, known: Mapping[str, Path]) -> Arm:
    head = load_whole(folder)
    check_pool(pool, folder, head)
    rows_K = np.intersect1d(kept_rows(folder, rows), labelled_K, assume_unique=True)
    if len(rows_K) in (0, len(labelled_K)):
        what = "no labelled sample" if not len(rows_K) else "every labelled sample"
        raise UsageError(f"{folder} keeps {what}: there is nothing to compare.", hint="Prune with another --keep.")
    digest = manifest_digest(folder)
    return Arm(
        arm_name(folder), "manifest", _label(head), len(rows_K), digest,
        *_scored(folder, head, known), lambda seed: rows_K,
    )  # fmt: skip


def _scored(folder: Path, head: Head, known: Mapping[str, Path]) -> tuple[Scored, float]:
    """Returns what scored a manifest, nothing where one that it grew from is not found, and the seconds of choosing."""
    found: list[Scoring] = []
    seconds = choosing_seconds(folder)
    while head.selection.scheme == "build_up" and head.scored.recipe:
        found += recipes_of(head, head.selection.base, scores_named(folder))
        base = find_base(folder, head, known)
        if base is None:  # the first subset is drawn at random
            return (tuple(found) if head.selection.iteration == 1 else ()), seconds
        folder, head = base, load_head(base)
        seconds += choosing_seconds(folder)
    return (*found, *recipes_of(head, None, scores_named(folder))), seconds


def recipes_of(head: Head, trained_on: str | None, folders: Sequence[str] = ()) -> Scored:
    """Returns the runs whose scores a manifest combines, or its only one; `folders` are where they lay."""
    runs = (head.scored, *head.scored.combined_with)
    pairs = zip(runs, chain(folders, repeat("")), strict=False)  # of what was published it is not known where
    return tuple(Scoring(run.recipe, trained_on, folder) for run, folder in pairs if run.recipe)


def _label(head: Head) -> str:
    """Returns function and keep, and after commas whatever else made the choice another one."""
    chosen = head.selection
    special = {
        chosen.scheme.replace("_", "-"): chosen.scheme != "compress",
        f"outliers {chosen.outliers}": chosen.outlier_count,
        f"{chosen.order} first": chosen.order != "hardest",
        f"{chosen.per_class} classes": chosen.per_class,
        f"at least {chosen.min_per_class} a class": chosen.min_per_class,
        f"combined by {chosen.combine}": chosen.combine,
        f"never learned {chosen.never_learned}": chosen.never_learned == "last",
        f"seed {chosen.seed}": chosen.seed,
        f"{chosen.always} always": chosen.always,
        f"{chosen.never} never": chosen.never,
    }
    return ", ".join([f"{chosen.fn} {chosen.keep}", *(words for words, is_so in special.items() if is_so)])


def _random(size: int, labelled_K: RowArray) -> Arm:
    def draw(seed: int) -> RowArray:
        return np.sort(np.random.default_rng([seed, size]).choice(labelled_K, size, replace=False))

    return Arm(f"random-{size}", "random", "random", size, "", (), 0.0, draw)


def _all(labelled_K: RowArray) -> Arm:
    return Arm(ALL, "all", "all the data", len(labelled_K), "", (), 0.0, lambda seed: labelled_K)
