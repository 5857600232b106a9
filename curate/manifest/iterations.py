"""Which iteration added which samples: `iterations.jsonl` beside a manifest that grew from another.

One line a shard and iteration: {"name", "iteration", "runs"}, runs as in the manifest: [skip, take, …] ordinals.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from curate.errors import ManifestError
from curate.manifest.algebra import kept_mask
from curate.manifest.lines import read_lines
from curate.manifest.schema import Head
from curate.manifest.write import runs
from curate.pool.index import Pool

ITERATIONS = "iterations.jsonl"
IterationArray = NDArray[np.int16]
NOT_KEPT = -1


def iterations_of(folder: Path, head: Head) -> list[IterationArray]:
    """Returns for each shard, in order, which iteration added each ordinal; −1 for what is not kept.

    A manifest that grew from no other is an iteration of its own.

    Raises:
        ManifestError: the file does not fit the manifest.
    """
    masks = [kept_mask(line) for line in read_lines(folder)]
    added = [np.where(kept_N, head.selection.iteration, NOT_KEPT).astype(np.int16) for kept_N in masks]
    if (folder / ITERATIONS).exists():
        place = {line.name: number for number, line in enumerate(read_lines(folder))}
        with (folder / ITERATIONS).open(encoding="utf-8") as file:
            for line in file:  # which ends at a newline alone
                try:
                    record = json.loads(line)
                    edges = np.cumsum(record["runs"]).tolist()
                    for begin, end in zip(edges[::2], edges[1::2], strict=True):
                        added[place[record["name"]]][begin:end] = record["iteration"]
                except (ValueError, KeyError, TypeError) as error:
                    raise ManifestError(f"{folder / ITERATIONS}: damaged ({error}).", hint="Prune again.") from error
    return added


def iteration_counts(folder: Path, head: Head) -> tuple[tuple[int, int], ...]:
    """Returns (iteration, samples that it added) of a manifest that grew, empty for others.

    Raises:
        ManifestError: the file does not fit the manifest.
    """
    if not (folder / ITERATIONS).exists():
        return ()
    counts = Counter[int]()
    for added_N in iterations_of(folder, head):
        values, sizes = np.unique(added_N, return_counts=True)
        counts.update(dict(zip(values.tolist(), sizes.tolist(), strict=True)))
    if sum(counts.values()) - counts[NOT_KEPT] != head.totals.kept:
        raise ManifestError(f"{folder / ITERATIONS}: does not fit the manifest.", hint="Prune again.")
    return tuple((number, counts[number]) for number in sorted(counts) if number != NOT_KEPT)


def iteration_lines(pool: Pool, added: list[IterationArray]) -> Iterator[str]:
    """Yields the lines of the file, shards in order of the pool."""
    for scan, added_N in zip(pool.scans, added, strict=True):
        for number in np.unique(added_N[added_N != NOT_KEPT]).tolist():
            record = {"name": scan.name, "iteration": number, "runs": runs(added_N == number)}
            yield json.dumps(record, ensure_ascii=False) + "\n"
