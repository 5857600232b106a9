"""What a target is trained on: what a manifest keeps, random samples of the same number, everything."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from curate.errors import UsageError
from curate.manifest.lines import manifest_digest
from curate.manifest.origin import check_pool
from curate.manifest.schema import Head
from curate.manifest.verify import load_whole
from curate.pool.index import Pool
from curate.proxy.pixels import Rows
from curate.workflows.held_out import RowArray, kept_rows

ALL = "all"


@dataclass(frozen=True)
class Arm:
    """One way to choose what is trained on.

    Attributes:
        name: unique; also the folder of its results.
        kind: `manifest`, `random` or `all`.
        label: what tables call it.
        samples: how many are trained on, all labelled.
        digest: of the manifest, else empty.
        recipe: digest of the recipe that scored the manifest, else empty.
        rows: returns the rows by the seed of a run; a manifest's do not depend on it.
    """

    name: str
    kind: str
    label: str
    samples: int
    digest: str
    recipe: str
    rows: Callable[[int], RowArray]


def arms_of(manifests: Sequence[Path], pool: Pool, rows: Rows, labelled_K: RowArray) -> list[Arm]:
    """Returns the manifests' arms, for each number of samples a random one, and everything.

    Args:
        manifests: of the pool.
        pool, rows: what is trained on.
        labelled_K: the rows that may be trained on: labelled, and not held out.

    Raises:
        ManifestError: a manifest of another pool.
        UsageError: a manifest that keeps no labelled sample, or all of them; one manifest twice.
    """
    kept = [_kept(folder, pool, rows, labelled_K) for folder in manifests]
    first = dict[str, Path]()
    for folder, arm in zip(manifests, kept, strict=True):
        if arm.digest in first:
            raise UsageError(f"{first[arm.digest]} and {folder} are the same manifest.", hint="Name each once.")
        first[arm.digest] = folder
    sizes = sorted({arm.samples for arm in kept})
    return [*kept, *(_random(size, labelled_K) for size in sizes), _all(labelled_K)]


def _kept(folder: Path, pool: Pool, rows: Rows, labelled_K: RowArray) -> Arm:
    head = load_whole(folder)
    check_pool(pool, folder, head)
    rows_K = np.intersect1d(kept_rows(folder, rows), labelled_K, assume_unique=True)
    if len(rows_K) in (0, len(labelled_K)):
        what = "no labelled sample" if not len(rows_K) else "every labelled sample"
        raise UsageError(f"{folder} keeps {what}: there is nothing to compare.", hint="Prune with another --keep.")
    digest = manifest_digest(folder)
    return Arm(
        f"{folder.absolute().name}-{digest[:8]}", "manifest", _label(head), len(rows_K), digest,
        head.scored.recipe or "", lambda seed: rows_K,
    )  # fmt: skip


def _label(head: Head) -> str:
    chosen = head.selection
    outliers = f", outliers {chosen.outliers}" if chosen.outlier_count else ""
    order = "" if chosen.order == "hardest" else f", {chosen.order} first"
    scheme = "" if chosen.scheme == "compress" else f", {chosen.scheme.replace('_', '-')}"
    return f"{chosen.fn} {chosen.keep}{scheme}{outliers}{order}"


def _random(size: int, labelled_K: RowArray) -> Arm:
    def draw(seed: int) -> RowArray:
        return np.sort(np.random.default_rng([seed, size]).choice(labelled_K, size, replace=False))

    return Arm(f"random-{size}", "random", "random", size, "", "", draw)


def _all(labelled_K: RowArray) -> Arm:
    return Arm(ALL, "all", "all the data", len(labelled_K), "", "", lambda seed: labelled_K)
