"""`curate compare`: do runs, proxies, seeds or epochs rank a pool alike? Correlations, overlap, cost.

Source: Coleman et al. 2020, figures 5 and 7 to 10 (Spearman between proxy and target, and over epochs);
the rank combination of proxies and its Pearson correlation with a target: the slides of the same authors, figure 3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from curate.acquisition import ACQUISITIONS
from curate.errors import RunError, ScoreError, UsageError, did_you_mean
from curate.manifest.origin import Origin, open_origin
from curate.scores import RUN, SUMMARY, column_names, read_columns, read_record
from curate.selection.budget import parse_keep
from curate.selection.combine import combined
from curate.statistics import kendall, pearson, spearman, top_overlap
from curate.workflows.gather import check_named_once
from curate.workflows.single_runs import single_runs, spearman_of_both

TRACE = "trace"
COMBINATION = "rank combination"
FloatArray = NDArray[np.float64]


class Ranked(NamedTuple):
    """The scores of samples, and what decides between equal ones; None for their identity alone."""

    score_N: FloatArray
    tie_N: FloatArray | None = None

    def of(self, rows: NDArray[Any]) -> Ranked:
        """Returns those of some samples."""
        return Ranked(self.score_N[rows], None if self.tie_N is None else self.tie_N[rows])


@dataclass(frozen=True)
class Request:
    """What `compare` is asked to do.

    Attributes:
        runs: folders of `score` over one pool; of one alone, its seeds are compared.
        target: a run that the others, and their rank combination, are held against.
        fns: acquisition functions; empty for all that every run has.
        tops: fractions or counts of the highest scores whose overlap is asked for.
        epochs: also hold every traced epoch against the end of its run, and against the target's where one is named.
    """

    runs: Sequence[Path]
    target: Path | None = None
    fns: Sequence[str] = ()
    tops: Sequence[str] = ("0.1", "0.5")
    epochs: bool = False


def compare(request: Request) -> dict[str, Any]:
    """Returns {agreement: rows, epochs: rows, single_runs: rows}; each row names what is compared.

    Raises:
        UsageError: an unknown function, one run without the scores of single seeds.
        ScoreError: runs of different pools, a function that a run has not.

    Cost: O(N log N) for each function and pair; one function in memory at a time, of epochs those that are traced.
    """
    folders = [*request.runs, *([request.target] if request.target else [])]
    origins = [open_origin(folder) for folder in folders]
    if len({origin.pool.fingerprint for origin in origins}) > 1:
        raise ScoreError("The runs are of different pools.", hint="Compare runs over the same shards.")
    fns, names = _functions(request, origins), run_names(folders)
    agreement = [row for fn in fns for row in _agreement(request, names, origins, fn)]
    named = zip(names, request.runs, strict=False)  # the target has the last name
    target = origins[-1] if request.target else None
    epochs = [row for name, folder in named for row in _epochs(name, folder, fns, target)] if request.epochs else []
    if request.epochs and not epochs:
        raise RunError("None of the runs has a trace.", hint="Score with --trace in another --out.")
    return {
        "agreement": agreement, "epochs": epochs,
        "single_runs": single_runs(names, origins, fns) if request.target else [],
    }  # fmt: skip


def _functions(request: Request, origins: Sequence[Origin]) -> list[str]:
    unknown = [fn for fn in request.fns if fn not in ACQUISITIONS]
    if unknown:
        raise UsageError(f"Unknown function '{unknown[0]}'.", hint=did_you_mean(unknown[0], ACQUISITIONS))
    present = [set(column_names(origin.scores, origin.pool)) for origin in origins]
    if len(origins) == 1 and keeps_seeds(origins[0].scores):  # what one member cannot be asked, its seed has not
        present = [{name.partition("@")[0] for name in present[0] if "@" in name}]
        for fn in [fn for fn in request.fns if fn not in present[0]]:
            raise ScoreError(
                f"{origins[0].scores} keeps no '{fn}' of single seeds, which have one member each.",
                hint=f"It has: {', '.join(fn for fn in ACQUISITIONS if fn in present[0])}.",
            )
    if request.fns:
        return list(request.fns)
    return [fn for fn in ACQUISITIONS if fn != "random" and all(fn in names for names in present)]


def run_names(folders: Sequence[Path]) -> list[str]:
    """Returns what tables call runs: the folder's name, and where several have the same, all of its path.

    Raises:
        UsageError: one run twice.
    """
    check_named_once(folders)
    names = [folder.absolute().name for folder in folders]
    return [name if names.count(name) == 1 else str(folder) for name, folder in zip(names, folders, strict=True)]


def _agreement(request: Request, names: Sequence[str], origins: Sequence[Origin], fn: str) -> list[dict[str, Any]]:
    if len(origins) == 1:
        rankings, identity_N = _of_seeds(origins[0], fn)
    else:
        rankings, identity_N = _of_runs(names, origins, fn)
    names = list(rankings)
    pairs = list(combinations(names, 2))
    if request.target:
        target = names[-1]
        if len(names) > 2:
            single = [rankings[name] for name in names[:-1]]
            ties = [one.tie_N for one in single if one.tie_N is not None]
            rankings[COMBINATION] = Ranked(
                _rank_combination([one.score_N for one in single]), _rank_combination(ties) if ties else None
            )
        pairs = [(name, target) for name in rankings if name != target]
    return [
        {"fn": fn, "a": a, "b": b, **correlations(rankings[a], rankings[b], identity_N, request.tops)} for a, b in pairs
    ]


def _rank_combination(scores: Sequence[FloatArray]) -> FloatArray:
    """Returns the combination of what all have a score of; NaN for the other samples."""
    in_all_N = np.logical_and.reduce([np.isfinite(score_N) for score_N in scores])
    combined_N = np.full(len(in_all_N), np.nan)
    combined_N[in_all_N] = combined([score_N[in_all_N] for score_N in scores], "rank")
    return combined_N


def correlations(a: Ranked, b: Ranked, identity_N: NDArray[np.uint64], tops: Sequence[str]) -> dict[str, Any]:
    """Returns {n, spearman, pearson, kendall, overlap: {top: share}} of the samples that have both scores.

    All but n are NaN where fewer than two have.
    """
    both_N = np.isfinite(a.score_N) & np.isfinite(b.score_N)
    if both_N.sum() < 2:
        nothing = dict.fromkeys(("spearman", "pearson", "kendall"), np.nan)
        return {"n": int(both_N.sum()), **nothing, "overlap": dict.fromkeys(tops, np.nan)}
    (a_K, tie_a_K), (b_K, tie_b_K), identity_K = a.of(both_N), b.of(both_N), identity_N[both_N]
    budgets = {top: parse_keep(top, what="--top").budget(len(a_K)) for top in tops}
    overlap = {top: top_overlap(a_K, b_K, count, identity_K, ties=(tie_a_K, tie_b_K)) for top, count in budgets.items()}
    return {
        "n": len(a_K), "spearman": spearman(a_K, b_K), "pearson": pearson(a_K, b_K), "kendall": kendall(a_K, b_K),
        "overlap": overlap,
    }  # fmt: skip


def keeps_seeds(folder: Path) -> bool:
    """Says whether a run keeps the scores of several seeds, which can be compared among themselves."""
    seeds = {member["seed"] for member in read_record(folder / SUMMARY)["members"]}
    return len(seeds) > 1 and bool(read_record(folder / RUN)["recipe"]["score"]["per_seed"])


def _of_seeds(origin: Origin, fn: str) -> tuple[dict[str, Ranked], NDArray[np.uint64]]:
    if not keeps_seeds(origin.scores):
        raise UsageError(
            f"{origin.scores} does not keep the scores of several seeds.",
            hint="Name two runs, or score with --seeds 2 --per-seed.",
        )
    seeds = sorted({member["seed"] for member in read_record(origin.scores / SUMMARY)["members"]})
    values = origin.columns([f"{name}@{seed}" for seed in seeds for name in _with_tie(fn)], null_is_nan=True).values
    return {f"seed {seed}": _ranked(values, fn, f"@{seed}") for seed in seeds}, values["identity"]


def _with_tie(fn: str) -> list[str]:
    tie = ACQUISITIONS[fn].tie
    return [fn, tie] if tie else [fn]


def _ranked(values: Mapping[str, NDArray[Any]], fn: str, suffix: str = "") -> Ranked:
    return Ranked(*(values[name + suffix].astype(np.float64) for name in _with_tie(fn)))


def _of_runs(names: Sequence[str], origins: Sequence[Origin], fn: str) -> tuple[dict[str, Ranked], NDArray[np.uint64]]:
    """Returns the scores of the samples that every run has scored, in one order."""
    parts = [origin.columns(_with_tie(fn), null_is_nan=True).values for origin in origins]
    common = parts[0]["identity"]
    for part in parts[1:]:
        common = np.intersect1d(common, part["identity"])
    rankings: dict[str, Ranked] = {}
    for name, part in zip(names, parts, strict=True):
        order = np.argsort(part["identity"])
        rows = order[np.searchsorted(part["identity"], common, sorter=order)]
        rankings[name] = _ranked(part, fn).of(rows)
    return rankings, common


def _epochs(name: str, folder: Path, fns: Sequence[str], target: Origin | None) -> list[dict[str, Any]]:
    """Returns the rank correlation of every traced epoch with the end of its run and of a target's, for each seed."""
    origin = open_origin(folder)
    if target:
        own_N, other_N = (one.columns([]).values["identity"] for one in (origin, target))
        _, own_K, target_K = np.intersect1d(own_N, other_N, assume_unique=True, return_indices=True)
    rows, ends, held = [], dict[str, NDArray[Any]](), dict[str, NDArray[Any]]()
    for seed, epoch, path in sorted(_traced(folder)):
        traced = set(column_names(path, origin.pool))
        for fn in [fn for fn in fns if fn in traced]:
            # Both tables hold the same samples in the same order: those of the index that are not bad.
            epoch_N = read_columns(path, origin.pool, [fn], bad=origin.bad, null_is_nan=True).values[fn]
            if fn not in ends:
                ends[fn] = origin.columns([fn], null_is_nan=True).values[fn]
            row = {"run": name, "fn": fn, "seed": seed, "epoch": epoch, "spearman": spearman_of_both(epoch_N, ends[fn])}
            if target:
                if fn not in held:
                    held[fn] = target.columns([fn], null_is_nan=True).values[fn][target_K]
                row["with_target"] = spearman_of_both(epoch_N[own_K], held[fn])
            rows.append(row)
    return rows


def _traced(folder: Path) -> list[tuple[int, int, Path]]:
    """Returns (seed, epoch, folder of its tables) of every epoch that a run has traced."""
    paths = (folder / TRACE).glob("seed-*/epoch-*")
    return [(int(p.parent.name.removeprefix("seed-")), int(p.name.removeprefix("epoch-")), p) for p in paths]
