"""What the samples of a pool score: one run's columns, a column from elsewhere, or several combined."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.acquisition import acquisition
from curate.acquisition.difficulty import NeverLearned, never_learned_last
from curate.errors import ScoreError, UsageError
from curate.foreign import PLACE, read_foreign, unscored
from curate.manifest.schema import Scored
from curate.pool.index import Pool, load_pool
from curate.samples import IdentityArray, shuffled, uniform
from curate.scores import BAD, INDEX, RUN, SUMMARY, BadSample, Columns, read_bad, read_columns, read_record
from curate.selection.combine import Combine, combined

FORGETTING, NEVER = "forgetting", "never_learned"


@dataclass(frozen=True)
class Scores:
    """A pool with its scored samples, whoever scored them.

    Attributes:
        columns: identities, labels and, where they are asked for, keys of the scored samples.
        score_N: the scores, higher = keep first.
        tie_N: what decides between equal scores, None for the identity alone.
        tie: its name.
        bad: the samples that have no score, with reasons.
        scored: what the manifest records of the scoring.
    """

    pool: Pool
    columns: Columns
    score_N: NDArray[Any]
    tie_N: NDArray[Any] | None
    tie: str | None
    bad: Sequence[BadSample]
    scored: Scored


def gather(
    folders: Sequence[Path],
    index: Path | None,
    fn: str,
    *,
    combine: Combine | None = None,
    never_learned: NeverLearned = "first",
    seed: int = 0,
    with_keys: bool = False,
    undecodable: Sequence[BadSample] = (),
) -> Scores:
    """Returns the scores to select by; of an index alone, a random order.

    Args:
        folders: of runs over the same pool; with `index`, what holds scores from elsewhere.
        index: the index of the pool that foreign scores are of.
        fn: an acquisition function; with `index`, the column that holds the scores.
        combine: how several runs become one score, or the seeds of one run.
        never_learned: where `forgetting` puts what a seed never learned.
        seed: of a random order.
        with_keys: also read the keys.
        undecodable: beside the bad samples of an index alone.

    Raises:
        UsageError: an unknown function, or one that these scores do not hold; what cannot be combined.
        ScoreError: the scores are incomplete, a sample has none, or the runs are of different samples.
    """
    _check(folders, index, fn, combine, never_learned)
    if index and not folders:
        parts = [_unscored(index, fn, undecodable, seed=seed, with_keys=with_keys)]
    elif index:
        parts = [_foreign(folder, index, fn, seed=seed, with_keys=with_keys) for folder in folders]
    else:
        seeds = _seeds(folders[0]) if combine and len(folders) == 1 else [None]
        parts = [
            _own(folder, fn, one, never_learned=never_learned, seed=seed, with_keys=with_keys)
            for folder in folders
            for one in seeds
        ]
    return parts[0] if combine is None else _joined(parts, folders, combine)


def _check(
    folders: Sequence[Path], index: Path | None, fn: str, combine: Combine | None, never_learned: NeverLearned
) -> None:
    if len(folders) > 1 and combine is None:
        raise UsageError(f"{len(folders)} --scores.", hint="Say how they become one: --combine mean or rank.")
    if index and fn in PLACE:
        raise UsageError(f"--fn {fn} says where a sample is.", hint="Name the column that holds the scores.")
    if combine and fn == "random":
        raise UsageError("--combine and --fn random: there is nothing to combine in a random order.")
    if combine:
        check_named_once(folders)
    if combine and index and len(folders) == 1:
        raise UsageError("--combine needs several --scores where they are from elsewhere.")
    if never_learned != "first" and (index or fn != FORGETTING):
        raise UsageError(f"--never-learned {never_learned} is for --fn {FORGETTING}.", hint="Leave it out.")


def check_named_once(runs: Sequence[Path]) -> None:
    """Refuses one run twice.

    Raises:
        UsageError: naming it.
    """
    places = [run.absolute() for run in runs]
    for number, place in enumerate(places):
        if place in places[:number]:
            raise UsageError(f"{runs[number]} is named twice.", hint="Name each run once.")


def _own(folder: Path, fn: str, one: int | None, *, never_learned: NeverLearned, seed: int, with_keys: bool) -> Scores:
    """Returns what `curate score` wrote, of all seeds together or of one."""
    row, opened = acquisition(fn), open_run(folder, fn, one)
    pool, bad = opened.pool, opened.bad
    suffix = "" if one is None else f"@{one}"
    asked = [] if fn == "random" else [fn, *([row.tie] if row.tie else [])]
    asked += [NEVER] if never_learned == "last" else []
    names = {name: name + suffix for name in asked}
    keys = ["key"] if with_keys else []
    columns = read_columns(folder, pool, ["identity", "label", *names.values(), *keys], bad=bad)
    values = {name: columns.values[column] for name, column in names.items()}
    score_N = random_order(columns.values["identity"], seed) if fn == "random" else values[fn]
    if never_learned == "last":
        score_N = never_learned_last(score_N, values[NEVER], opened.epochs)
    return Scores(pool, columns, score_N, values.get(row.tie or ""), row.tie, bad, opened.scored)


@dataclass(frozen=True)
class Opened:
    """A run of `curate score` whose columns are not read yet.

    Attributes:
        epochs: of its training.
        bad, scored: as in `Scores`.
    """

    pool: Pool
    epochs: int
    bad: Sequence[BadSample]
    scored: Scored


def open_run(folder: Path, fn: str, one: int | None = None) -> Opened:
    """Returns what `curate score` wrote, if it has the members that a function needs; of all seeds or of one.

    Raises:
        UsageError: too few members.
        ScoreError: the index is not that of the scores.
    """
    row = acquisition(fn)
    summary = read_record(folder / SUMMARY)
    pool = load_pool(folder / INDEX)
    if pool.fingerprint != summary["pool"]:
        raise ScoreError(f"{folder}: the index is not that of the scores.", hint="Score again.")
    members = sum(one is None or member["seed"] == one for member in summary["members"])
    if members < row.members:
        whose = "these scores have" if one is None else f"seed {one} has"
        raise UsageError(
            f"'{fn}' needs at least {row.members} members and {whose} {members}.",
            hint="Score with --seeds 2 or --checkpoints 2, or choose another function.",
        )
    scored = Scored(
        recipe=summary["recipe_digest"],
        proxy=summary["proxy"],
        members=len(summary["members"]),
        test_accuracy=summary["ensemble"].get("test"),
    )
    return Opened(pool, summary.get("epochs", 0), read_bad(folder / BAD), scored)


def _foreign(path: Path, index: Path, fn: str, *, seed: int, with_keys: bool) -> Scores:
    """Returns what something else wrote, checked against an index."""
    if (path / SUMMARY).exists():
        raise UsageError(f"{path} has an index of its own.", hint="Leave out --index.")
    pool = load_pool(index)
    columns, bad = read_foreign(path, pool, None if fn == "random" else fn, with_keys=with_keys)
    score_N = random_order(columns.values["identity"], seed) if fn == "random" else columns.values[fn]
    scored = Scored(recipe=None, proxy="", members=0, test_accuracy=None)
    return Scores(pool, columns, score_N, None, None, bad, scored)


def _unscored(index: Path, fn: str, undecodable: Sequence[BadSample], *, seed: int, with_keys: bool) -> Scores:
    """Returns an index in a random order, for which nothing needs to be scored."""
    if fn != "random":
        raise UsageError(f"--fn {fn} needs --scores.", hint="An index alone can be pruned with --fn random.")
    pool = load_pool(index)
    columns, bad = unscored(pool, undecodable, with_keys=with_keys)
    scored = Scored(recipe=None, proxy="", members=0, test_accuracy=None)
    return Scores(pool, columns, random_order(columns.values["identity"], seed), None, None, bad, scored)


def random_order(identity_N: IdentityArray, seed: int) -> NDArray[np.float64]:
    """Returns the scores of a random order."""
    return uniform(shuffled(identity_N, seed=seed))


def _seeds(folder: Path) -> list[int]:
    """Returns the seeds of a run whose tables keep each one's own columns."""
    seeds = sorted({member["seed"] for member in read_record(folder / SUMMARY)["members"]})
    if len(seeds) < 2:
        raise UsageError(f"{folder}: one seed, nothing to combine.", hint="Name several runs: --scores A --scores B.")
    if not read_record(folder / RUN)["recipe"]["score"]["per_seed"]:
        raise UsageError(
            f"{folder} does not keep the scores of single seeds.",
            hint="Score with --per-seed in another --out, or name several runs: --scores A --scores B.",
        )
    return seeds


def _joined(parts: Sequence[Scores], folders: Sequence[Path], how: Combine) -> Scores:
    """Returns one score of several, of the same samples in the same order."""
    first = parts[0]
    for part in parts[1:]:
        same = part.pool.fingerprint == first.pool.fingerprint and len(part.score_N) == len(first.score_N)
        if not same or not np.array_equal(part.columns.values["identity"], first.columns.values["identity"]):
            raise ScoreError(
                f"{folders[parts.index(part)]} has not scored the samples that {folders[0]} has.",
                hint="Scores of the same pool can be combined, with the same samples bad.",
            )
    ties = [part.tie_N for part in parts if part.tie_N is not None]
    others = tuple(part.scored for part in parts[1:]) if len(folders) > 1 else ()
    return replace(
        first,
        score_N=combined([part.score_N for part in parts], how),
        tie_N=combined(ties, how) if ties else None,
        scored=first.scored.model_copy(update={"combined_with": others}),
    )
