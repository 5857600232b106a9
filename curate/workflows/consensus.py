"""What the votes of single members say: agreement of checkpoints, accuracy of ensembles of several kinds.

Source: Chitta et al. 2021, figure 2 of the appendix (checkpoint consensus) and table 2 (accuracy of single
models, seeds, checkpoints and both, on selected and unselected samples).
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
CELLS = 1 << 24  # counted at a time: 64 MB
TRAINED = "mean_loss"  # has a value for just those samples that were trained on


def consensus(folder: Path) -> dict[str, Any]:
    """Returns {checkpoints: rows, ensembles: rows} of a run.

    `checkpoints`: for each seed and n, the share of samples to which its last n checkpoints give one class (`last`),
    and for which checkpoint n agrees with the one before (`pair`); both also of the samples that were not trained on
    alone, as the paper counts them (`last_untrained`, `pair_untrained`; None where there are none).
    `ensembles`: accuracy of one member, of one checkpoint of each seed, of the checkpoints of one seed, and of all,
    by plurality of votes, on labelled samples that were trained on, on those that were not, and on all; means over
    what there is several of. Of members that were trained elsewhere only the last is known.

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
    groups = {
        "single": [[name] for name in votes],
        "seeds": [[own[-1] for own in seeds]] if len(seeds) > 1 else [],
        "checkpoints": [list(own) for own in seeds if len(own) > 1],
        "combined": [list(votes)] if len(seeds) > 1 and len(votes) > len(seeds) else [],
    }
    rows = []
    for kind, ensembles in groups.items():
        if not ensembles:
            continue
        right = [plurality([votes[name] for name in members]) == label_N for members in ensembles]
        accuracy = dict.fromkeys(("trained", "untrained", "all")) | {
            where: float(np.mean([r[mask_N].mean() for r in right])) for where, mask_N in masks.items() if mask_N.any()
        }
        rows.append({"ensemble": kind, "members": len(ensembles[0]), "of": len(ensembles), **accuracy})
    return rows


def plurality(votes: Sequence[VoteArray]) -> VoteArray:
    """Returns the class with the most votes for each sample, the lowest of equals."""
    classes = int(max(v.max(initial=0) for v in votes)) + 1
    winners = []
    step = max(1, CELLS // classes)
    for at in range(0, len(votes[0]), step):
        chunk = np.stack([v[at : at + step] for v in votes], axis=1)
        counts = np.zeros((len(chunk), classes), dtype=np.int32)
        for member in range(chunk.shape[1]):
            counts[np.arange(len(chunk)), chunk[:, member]] += 1
        winners.append(counts.argmax(1))
    return np.concatenate(winners)
