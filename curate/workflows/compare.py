"""`curate compare`: do runs, proxies, seeds or epochs rank a pool alike? Correlations, overlap, cost.

Source: Coleman et al. 2020, figures 5 and 7 to 10 (Spearman between proxy and target, and over epochs);
the rank combination of proxies and its Pearson correlation with targets: the slides of the same authors, figure 3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from pathlib import Path
from typing import Any

from curate.acquisition import ACQUISITIONS
from curate.errors import RunError, ScoreError, UsageError, did_you_mean
from curate.manifest.origin import Origin, open_origin
from curate.scores import column_names
from curate.workflows.cover import K_CENTERS
from curate.workflows.gather import check_named_once, random_order
from curate.workflows.rankings import (
    Ranking,
    aligned,
    correlations,
    keeps_seeds,
    rank_combination,
    ranking,
    seeds_of,
    traced_ranking,
)
from curate.workflows.single_runs import TARGETS, single_runs

TRACE = "trace"
COMBINATION, RANDOM_ORDER = "rank combination", "random order"
FUNCTIONS = (*ACQUISITIONS, K_CENTERS)


@dataclass(frozen=True)
class Request:
    """What `compare` is asked to do.

    Attributes:
        runs: folders of `score` over one pool; of one alone, its seeds are compared.
        targets: runs that the others, their rank combination and a random order are held against.
        fns: acquisition functions, or `k_centers`; empty for all acquisition functions that every run has.
        tops: fractions or counts of the highest scores whose overlap is asked for.
        epochs: also hold every traced epoch against the end of its run, and against each target's.
    """

    runs: Sequence[Path]
    targets: Sequence[Path] = ()
    fns: Sequence[str] = ()
    tops: Sequence[str] = ("0.1", "0.5")
    epochs: bool = False


def compare(request: Request) -> dict[str, Any]:
    """Returns {agreement: rows, epochs: rows, single_runs: rows}; each row names what is compared.

    Raises:
        UsageError: an unknown function, one run without the scores of single seeds.
        ScoreError: runs of different pools, a function that a run has not.
        RunError: no run beside the targets has a trace of a function.

    Cost: O(N log² N) for each function and pair; one function in memory at a time. `k_centers` orders the whole pool
        once for each run.
    """
    folders = [*request.runs, *request.targets]
    origins = [open_origin(folder) for folder in folders]
    if len({origin.pool.fingerprint for origin in origins}) > 1:
        raise ScoreError("The runs are of different pools.", hint="Compare runs over the same shards.")
    fns, named = _functions(request, origins), dict(zip(run_names(folders), origins, strict=True))
    targets = list(named)[len(request.runs) :]
    if request.epochs:
        _check_traced(origins[: len(request.runs)], fns)
    found: dict[str, Any] = {"agreement": [], "epochs": [], "single_runs": []}
    for fn in fns:
        rankings = _of_runs(named, fn) if len(named) > 1 else _of_seeds(origins[0], fn)
        if targets:
            found["single_runs"] += single_runs(fn, named, rankings, targets, request.tops)
        found["agreement"] += _agreement(request, rankings, targets, fn)
    if request.epochs:
        found["epochs"] = [row for name in named if name not in targets for row in _epochs(request, name, named, fns)]
    return found


def _functions(request: Request, origins: Sequence[Origin]) -> list[str]:
    unknown = [fn for fn in request.fns if fn not in FUNCTIONS]
    if unknown:
        raise UsageError(f"Unknown function '{unknown[0]}'.", hint=did_you_mean(unknown[0], FUNCTIONS))
    present = [set(column_names(origin.scores, origin.pool)) for origin in origins]
    if len(origins) == 1 and K_CENTERS in request.fns:
        raise UsageError(
            f"{origins[0].scores} has embeddings of one member, not of each seed.",
            hint=f"--fn {K_CENTERS} compares runs: name two that were scored with --embeddings.",
        )
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
    """Returns what tables call runs: the folder's name; all of its path where it is another's, or a word of the tables.

    Raises:
        UsageError: one run twice.
    """
    check_named_once(folders)
    names = [folder.absolute().name for folder in folders]
    taken = (COMBINATION, RANDOM_ORDER, TARGETS)
    return [
        str(folder.absolute()) if name in taken else name if names.count(name) == 1 else str(folder)
        for name, folder in zip(names, folders, strict=True)
    ]


def _agreement(
    request: Request, rankings: Mapping[str, Ranking], targets: Sequence[str], fn: str
) -> list[dict[str, Any]]:
    pairs = list(combinations(rankings, 2))
    if targets:
        others = {name: one for name, one in rankings.items() if name not in targets}
        if len(others) > 1:
            others[COMBINATION] = rank_combination(list(others.values()))
        identity_N = rankings[targets[0]].identity_N
        others[RANDOM_ORDER] = Ranking(identity_N, random_order(identity_N, 0))
        rankings = {**others, **{name: rankings[name] for name in targets}}
        pairs = [*product(others, targets), *combinations(targets, 2)]
    return [{"fn": fn, "a": a, "b": b, **correlations(rankings[a], rankings[b], request.tops)} for a, b in pairs]


def _of_seeds(origin: Origin, fn: str) -> dict[str, Ranking]:
    if not keeps_seeds(origin.scores):
        raise UsageError(
            f"{origin.scores} does not keep the scores of several seeds.",
            hint="Name two runs, or score with --seeds 2 --per-seed.",
        )
    return {f"seed {seed}": ranking(origin, fn, seed) for seed in seeds_of(origin.scores)}


def _of_runs(origins: Mapping[str, Origin], fn: str) -> dict[str, Ranking]:
    """Returns how runs rank the samples that every run has scored, in one order."""
    return dict(zip(origins, aligned([ranking(origin, fn) for origin in origins.values()]), strict=True))


def _epochs(request: Request, name: str, named: Mapping[str, Origin], fns: Sequence[str]) -> list[dict[str, Any]]:
    """Returns how alike every traced epoch of each seed is to the end of its run, and to each target."""
    origin, against = named[name], [name, *list(named)[len(request.runs) :]]
    rows, ends = list[dict[str, Any]](), dict[str, list[Ranking]]()
    for seed, epoch, path in sorted(_traced(origin.scores)):
        traced = set(column_names(path, origin.pool))
        for fn in [fn for fn in fns if fn in traced]:
            if fn not in ends:
                ends[fn] = [ranking(named[other], fn) for other in against]
            here = traced_ranking(origin, path, fn, ends[fn][0].identity_N)
            for other, end in zip(against, ends[fn], strict=True):
                epoch_K, end_K = aligned([here, end])
                alike = correlations(epoch_K, end_K, request.tops)
                rows.append({"run": name, "fn": fn, "seed": seed, "epoch": epoch, "with": other, **alike})
    return rows


def _check_traced(origins: Sequence[Origin], fns: Sequence[str]) -> None:
    last = [(one, path) for one in origins for *_, path in sorted(_traced(one.scores))[-1:]]
    if not any(fn in column_names(path, one.pool) for one, path in last for fn in fns):
        raise RunError(
            f"None of the runs beside the targets has a trace of {', '.join(fns)}.",
            hint="A trace holds entropy, correctness and forgetting: score with --trace in another --out.",
        )


def _traced(folder: Path) -> list[tuple[int, int, Path]]:
    """Returns (seed, epoch, folder of its tables) of every epoch that a run has traced."""
    paths = (folder / TRACE).glob("seed-*/epoch-*")
    return [(int(p.parent.name.removeprefix("seed-")), int(p.name.removeprefix("epoch-")), p) for p in paths]
