"""Nested keep lists from one scoring run: what `curate evaluate --curve` measures."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from curate.errors import UsageError
from curate.manifest.algebra import kept_mask
from curate.manifest.lines import read_lines
from curate.selection.budget import parse_keep
from curate.workflows.prune import Request, prune

CURVE = "curve"


def keep_lists(scores: Path, fns: Sequence[str], fractions: Sequence[str], out: Path) -> list[Path]:
    """Prunes one run to several sizes and returns the manifests, each of which holds the smaller ones.

    Args:
        scores: the run's folder.
        fns: acquisition functions.
        fractions: as `--keep` takes them.
        out: manifests are written to `out/curve/FN-KEEP`; an equal one that is there stays.

    Raises:
        UsageError: no fractions, one twice, counts among them, or a function whose lists are not nested.
        RunError, ScoreError: as `prune` raises them.
    """
    keeps = [parse_keep(word, what="--curve") for word in fractions]
    sizes = sorted((keep.value, keep.text) for keep in keeps)
    if len({keep.is_fraction for keep in keeps}) > 1:
        raise UsageError(f"--curve {','.join(fractions)} mixes fractions and counts.", hint="Such as 0.3,0.5,0.7,0.9.")
    if len({value for value, _ in sizes}) < max(2, len(sizes)):
        raise UsageError(
            f"--curve {','.join(fractions)}: expected two or more different fractions.", hint="Such as 0.3,0.5,0.7,0.9."
        )
    found = []
    for fn in fns:
        folders = [out / CURVE / f"{fn}-{word}" for _, word in sizes]
        for folder, (_, word) in zip(folders, sizes, strict=True):
            prune(Request(scores, fn, word, out=folder))
        for small, large in pairwise(folders):
            if not _holds(large, small):
                raise UsageError(
                    f"{large} does not hold all that {small} keeps: '{fn}' gives no nested lists.",
                    hint="Choose a function that ranks every sample by a score.",
                )
        found += folders
    return found


def _holds(large: Path, small: Path) -> bool:
    lines = zip(read_lines(large), read_lines(small), strict=True)
    return all(bool(np.all(kept_mask(one) >= kept_mask(other))) for one, other in lines)
