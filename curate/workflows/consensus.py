"""What the votes of single members say: agreement of checkpoints, accuracy of ensembles of several kinds.

Source: Chitta et al. 2021, figure 2 of the appendix (checkpoint consensus) and table 2 (accuracy of single
models, seeds, five checkpoints, all checkpoints and both, on selected and unselected samples).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.acquisition.disagreement import checkpoint_agreement
from curate.errors import UsageError
from curate.manifest.origin import Origin, open_origin
from curate.scores import RUN, SUMMARY, VOTE, VOTES, read_columns, read_record

VoteArray = NDArray[np.integer[Any]]
CELLS = 1 << 24  # counted at a time: 80 MB
FEW = 5  # checkpoints, in the paper's tables beside all twenty
TRAINED = "mean_loss"  # has a value for just those samples that were trained on


def consensus(folder: Path) -> dict[str, Any]:
    """Returns {checkpoints: rows, ensembles: rows} of a run.

    `checkpoints`: for each seed and n, the share of samples to which its last n checkpoints give one class (`last`),
    and for which checkpoint n agrees with the one before (`pair`); both also of the samples that were not trained on
    alone, as the paper counts them (`last_untrained`, `pair_untrained`; None where there are none).
    `ensembles`: accuracy of one member, of one checkpoint of each seed, of the checkpoints of one seed (its last five
    too, where it has more), and of all, on labelled samples that were trained on, on those that were not, and on all;
    means over what there is several of. By plurality of votes: a label that ties with others counts by its share, 1/k
    among k classes with the most votes, so that two members are as right as their mean. Of members that were trained
    elsewhere only `all` is known.

    Raises:
        UsageError: the run keeps no votes.

    Cost: one byte or two for each sample and member, read once.
    """
    origin = open_origin(folder)
    names = vote_names(folder)
    if not names:
        raise UsageError(f"{folder} keeps no votes.", hint="Score with score.votes = true in another --out.")
    columns = read_columns(folder / VOTES, origin.pool, names, bad=origin.bad)
    votes: dict[str, VoteArray] = {name: columns.values[name] for name in names}  # as narrow as they were written
    seeds = {seed: [name for name in names if name.startswith(f"{VOTE}{seed}/")] for seed in _seeds(names)}
    label_N, trained_N = _learned(origin)
    checkpoints = [
        row for seed, own in seeds.items() for row in _checkpoints(seed, [votes[name] for name in own], trained_N)
    ]
    return {"checkpoints": checkpoints, "ensembles": _ensembles(votes, list(seeds.values()), label_N, trained_N)}


def _learned(origin: Origin) -> tuple[NDArray[np.int32], NDArray[np.bool_] | None]:
    """Returns labels, and which samples were trained on; None of members that were trained elsewhere."""
    learned = [TRAINED] if read_record(origin.scores / SUMMARY)["trained"] else []
    values = origin.columns(["label", *learned], null_is_nan=True).values
    return values["label"], np.isfinite(values[TRAINED]) if learned else None


def vote_names(folder: Path) -> list[str]:
    """Returns the members' columns of votes, in their order; none where a run keeps no votes."""
    if not read_record(folder / RUN)["recipe"]["score"].get("votes"):
        return []
    members = read_record(folder / SUMMARY)["members"]
    return [vote_column(member["seed"], member["epoch"]) for member in members]


def keeps_checkpoints(folder: Path) -> bool:
    """Says whether a run keeps the votes of several checkpoints of a seed, which can agree."""
    names = vote_names(folder)
    return len(names) > len(_seeds(names))


def vote_column(seed: int, epoch: int) -> str:
    """Returns the name of the column that holds a member's votes."""
    return f"{VOTE}{seed}/{epoch}"


def _seeds(names: Sequence[str]) -> list[int]:
    return sorted({int(name[len(VOTE) :].split("/")[0]) for name in names})


def _checkpoints(seed: int, votes: Sequence[VoteArray], trained_N: NDArray[np.bool_] | None) -> list[dict[str, Any]]:
    last, pair = checkpoint_agreement(votes)
    rows: list[dict[str, Any]] = [
        {"seed": seed, "n": n, "last": float(last[n - 2]), "pair": float(pair[n - 2]),
         "last_untrained": None, "pair_untrained": None}
        for n in range(2, len(votes) + 1)
    ]  # fmt: skip
    if trained_N is None or trained_N.all():
        return rows
    last, pair = checkpoint_agreement([vote_N[~trained_N] for vote_N in votes])
    return [
        {**row, "last_untrained": float(last[row["n"] - 2]), "pair_untrained": float(pair[row["n"] - 2])}
        for row in rows
    ]


def _ensembles(
    votes: dict[str, VoteArray],
    seeds: Sequence[Sequence[str]],
    label_N: NDArray[np.int32],
    trained_N: NDArray[np.bool_] | None,
) -> list[dict[str, Any]]:
    masks = {"all": label_N >= 0}
    if trained_N is not None:
        masks |= {"trained": trained_N, "untrained": ~trained_N & masks["all"]}
    several = [list(own) for own in seeds if len(own) > 1]
    groups = [
        ("single", [[name] for name in votes]),
        ("seeds", [[own[-1] for own in seeds]] if len(seeds) > 1 else []),
        ("checkpoints", [own[-FEW:] for own in several if len(own) > FEW]),
        ("checkpoints", several),
        ("combined", [list(votes)] if len(seeds) > 1 and len(votes) > len(seeds) else []),
    ]
    rows = []
    for kind, ensembles in groups:
        if not ensembles:
            continue
        found = [_accuracy([votes[name] for name in members], label_N, masks) for members in ensembles]
        means = {where: float(np.mean([one[where] for one in found])) for where in found[0]}
        row = {"ensemble": kind, "members": len(ensembles[0]), "of": len(ensembles)}
        rows.append({**row, **dict.fromkeys(("trained", "untrained", "all")), **means})
    return rows


def _accuracy(
    votes: Sequence[VoteArray], label_N: NDArray[np.int32], masks: dict[str, NDArray[np.bool_]]
) -> dict[str, float]:
    right_N = right_by_plurality(votes, label_N)
    return {where: float(right_N[mask_N].mean()) for where, mask_N in masks.items() if mask_N.any()}


def right_by_plurality(votes: Sequence[VoteArray], label_N: NDArray[np.integer[Any]]) -> NDArray[np.float64]:
    """Returns the probability that a plurality of votes is the label, where a fair draw decides ties.

    The lowest of tied classes would make accuracy depend on how classes are numbered, and two members worse than one.

    Args:
        votes: the class that each member gives, each of shape (N,).
        label_N: the label, negative where there is none.

    Returns:
        Shape (N,), float64: 1/k where the label is one of k classes with the most votes, else 0; NaN without a label.

    Cost: O(N (M + C)) for M members and C classes; CELLS counts are in memory at a time.
    """
    classes = 1 + max(int(v.max(initial=0)) for v in (*votes, label_N))
    step = max(1, CELLS // classes)
    return np.concatenate(
        [
            _right([v[at : at + step] for v in votes], label_N[at : at + step], classes)
            for at in range(0, len(label_N), step)
        ]
    )


def _right(votes: Sequence[VoteArray], label_B: NDArray[np.integer[Any]], classes: int) -> NDArray[np.float64]:
    row_B = np.arange(len(label_B))
    counts_BC = np.zeros((len(label_B), classes), dtype=np.int32)
    for vote_B in votes:
        counts_BC[row_B, vote_B] += 1
    is_most_BC = counts_BC == counts_BC.max(axis=1, keepdims=True)
    return np.where(label_B < 0, np.nan, is_most_BC[row_B, label_B] / is_most_BC.sum(axis=1))
