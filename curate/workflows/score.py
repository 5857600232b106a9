"""`curate score`: index, decode, train the members, score every sample. Resumes by itself."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate import durable
from curate.acquisition.columns import dynamics_columns, ensemble_columns
from curate.errors import DivergedError, TooMuchBadDataError
from curate.pool.index import bad_samples, bad_samples_of
from curate.progress import Progress, Silent
from curate.proxy.members import Member, Members
from curate.proxy.models import check_fits
from curate.proxy.pixels import Pixels, with_labels_of
from curate.proxy.predict import Predicted, measured, predict
from curate.proxy.training import dynamics_of, history_of, member_path, settled_members
from curate.samples import IdentityArray
from curate.scores import (
    BAD,
    SUMMARY,
    TABLES,
    VOTES,
    BadSample,
    check_counts,
    table_path,
    write_bad,
    write_record,
    write_scores,
    write_votes,
)
from curate.tables import damaged
from curate.workflows.consensus import vote_column
from curate.workflows.embed import embed
from curate.workflows.held_out import HeldOut, check_others, other_shards
from curate.workflows.run import Request, Run, described, open_run, settled_if_accepted
from curate.workflows.setting import open_pixels
from curate.workflows.train import train_seeds

Learned = Callable[[Run, Pixels, int, NDArray[np.int64]], dict[str, NDArray[Any]]]


def score(request: Request, progress: Progress | None = None, *, pixels: Pixels | None = None) -> dict[str, Any]:
    """Scores a pool into `request.out`; returns the summary that it also writes there.

    Args:
        request: what to score, and how.
        progress: who listens.
        pixels: the pool's where they are decoded already; None to decode them.

    Raises:
        RunError: the folder belongs to another pool or recipe, or is in use.
        UsageError: the pool cannot be trained on.
        TooMuchBadDataError: more bad samples than `max_bad`.
    """
    progress = progress or Silent()
    with durable.lock(request.out):
        with settled_if_accepted(request.out):
            run = open_run(request, progress)
            check_fits(run.plan.spec)
            check_others(run)
        run.log(event="start", setting=run.setting.record())
        progress.note(described(run))
        started = time.monotonic()
        pixels = pixels or open_pixels(run.pool, run.setting, run.request.recipe, request.out / "pixels", progress)
        pixels.rows = with_labels_of(run.pool, pixels.rows)
        bad = [BadSample(*sample) for sample in bad_samples(run.pool)]
        check_bad(len(bad) + len(pixels.bad), run)
        trained, val = (0, None) if run.given else train_seeds(run, pixels)
        members = _score_all(run, pixels, _nothing_learned if run.given else learned_of)
        if request.embeddings:
            # The last member of the first seed: the end of one whole training.
            last = [member for member in members.members if member.seed == run.seeds[0]][-1]
            embed(run, pixels, members.load(last), seed=last.seed, epoch=last.epoch)
        bad += undecodable(run)
        check_bad(len(bad), run)
        write_bad(request.out / BAD, bad)
        check_counts(request.out, run.pool)
        summary = _summary(run, members, bad, val, trained=trained)
        write_record(request.out / SUMMARY, summary)
        run.log(event="done", seconds=round(time.monotonic() - started, 1))
        return summary


def check_bad(count: int, run: Run) -> None:
    """Raises TooMuchBadDataError where more samples are bad than the request allows."""
    if count > run.request.max_bad * run.pool.total:
        raise TooMuchBadDataError(
            f"{count:,} of {run.pool.total:,} samples are bad, more than --max-bad {run.request.max_bad:g} allows.",
            hint=f"`curate index --decode` lists them with reasons. {run.request.out} keeps what is done so far.",
        )


def _score_all(run: Run, pixels: Pixels, learned: Learned) -> Members:
    """Scores every shard with the members whose predictions are finite; returns them."""
    while True:
        members = Members(run.plan, _members(run))
        try:
            score_shards(run, pixels, members, learned)
            return members
        except DivergedError as error:
            for name in (TABLES, VOTES):  # it has voted in them; before the marker, so that a kill forgets none
                shutil.rmtree(run.request.out / name, ignore_errors=True)
            run.exclude(error.seed, error)


def _members(run: Run) -> list[Member]:
    if run.given:
        return [member for member in run.given.members if member.seed in run.seeds]
    return [
        Member(seed, epoch, member_path(run.folder(seed), epoch))
        for seed in run.seeds
        for epoch in settled_members(run.folder(seed), run.plan.train)
    ]


def _nothing_learned(*_: object) -> dict[str, NDArray[Any]]:
    return {}


def score_shards(run: Run, pixels: Pixels, members: Members, learned: Learned) -> None:
    """Scores every shard that has no table yet; `learned` gives the columns of what training revealed of one."""
    run.progress.stage(f"score with {len(members)} members", run.pool.total, run.setting.unit)
    todo = [index for index, scan in enumerate(run.pool.scans) if not _is_scored(run, scan.name)]
    for index, columns in score_columns(run, pixels, members, todo):
        name = run.pool.scans[index].name
        columns |= learned(run, pixels, index, columns["ordinal"])
        before = {ordinal for _, ordinal, _, _ in bad_samples_of(run.pool, index)}
        bad = [b for b in pixels.bad if b.shard == name and b.ordinal not in before]
        # The list of bad samples first: the table is the marker that the shard is done.
        marker = bad_path(run.request.out, name)
        marker.parent.mkdir(parents=True, exist_ok=True)
        durable.write_json(marker, [vars(sample) for sample in bad])
        write_votes(run.request.out, name, columns)
        write_scores(run.request.out, name, columns)
        run.log(event="shard", shard=name, rows=len(columns["ordinal"]))
    run.progress.at(run.pool.total, "")


def _is_scored(run: Run, shard: str) -> bool:
    return table_path(run.request.out, shard).exists() and bad_path(run.request.out, shard).exists()


def bad_path(out: Path, shard: str) -> Path:
    """Returns where it is said which samples of a shard had no score."""
    return out / "bad" / f"{shard}.json"


def undecodable(run: Run) -> list[BadSample]:
    """Returns what was found bad while every shard was scored, beside what the scan found."""
    files = (bad_path(run.request.out, scan.name) for scan in run.pool.scans)
    return [sample for path in files for sample in _read_bad(path)]


def _read_bad(path: Path) -> list[BadSample]:
    try:
        return [BadSample(**sample) for sample in json.loads(path.read_bytes())]
    except (ValueError, TypeError) as error:
        raise damaged(path, error) from error


def score_columns(
    run: Run, pixels: Pixels, members: Members, shards: Iterable[int]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields each shard with the columns of its score table: identity, prediction, every acquisition function.

    A shard of bad samples alone has an empty table without scores.
    """
    options = run.request.recipe.score
    predicted = predict(
        run.plan, members, pixels, shards, batch_size=options.batch_size,
        seeds=run.seeds if options.per_seed else (), progress=run.progress.at,
    )  # fmt: skip
    parts: dict[str, list[NDArray[Any]]] = {}
    votes = [vote_column(member.seed, member.epoch) for member in members.members if options.votes]
    known = -1
    for index, part in predicted:
        if index != known:
            table, known = run.pool.read(index, ["key", "identity"]), index
            identity_S = table["identity"].to_numpy()
        if part:
            columns = _batch_columns(run, part, int(pixels.rows.offset_S[index]), identity_S)
            for name, values in [*columns.items(), *zip(votes, part.votes_MB, strict=False)]:
                parts.setdefault(name, []).append(values)
            continue
        whole = {name: np.concatenate(values) for name, values in parts.items()}
        parts = {}
        ordinal_N = whole.pop("ordinal", np.array([], dtype=np.int64))
        key = table["key"].take(ordinal_N).combine_chunks()
        yield index, {"ordinal": ordinal_N, "key": key, "identity": identity_S[ordinal_N], **whole}


def _batch_columns(run: Run, part: Predicted, first: int, identity_S: IdentityArray) -> dict[str, NDArray[Any]]:
    ordinal_B = part.rows_B - first
    columns: dict[str, NDArray[Any]] = {"ordinal": ordinal_B, "label": np.asarray(part.whole.labels_B)}
    columns["prediction"] = part.whole.mean_probs_BC.argmax(1).astype(np.int32)
    columns |= ensemble_columns(part.whole, identity_S[ordinal_B], seed=run.plan.train.seed)
    for seed, ensemble in part.by_seed.items():
        columns |= {f"{name}@{seed}": values for name, values in ensemble_columns(ensemble).items()}
    return columns


def learned_of(run: Run, pixels: Pixels, index: int, ordinal_N: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    """Returns what training itself revealed of one shard's samples: over all seeds and, if asked for, of each."""
    if not len(ordinal_N):
        return {}
    first, last = pixels.rows.offset_S[index : index + 2].tolist()
    by_seed = {seed: dynamics_of(run.folder(seed), first, last) for seed in run.seeds}
    columns = dynamics_columns(list(by_seed.values()))
    if run.request.recipe.score.per_seed:
        for seed, dynamics in by_seed.items():
            columns |= {f"{name}@{seed}": values for name, values in dynamics_columns([dynamics]).items()}
    return {name: values[ordinal_N] for name, values in columns.items()}


def _summary(
    run: Run, members: Members, bad: Sequence[BadSample], val: HeldOut | None, *, trained: int
) -> dict[str, Any]:
    """Returns what the run came to: counts, members and their accuracies. No times: equal runs are equal."""
    records: list[dict[str, float]] = [{"seed": one.seed, "epoch": one.epoch} for one in members.members]
    ensemble: dict[str, float] = {}
    epochs = [] if run.given else [len(history_of(run.folder(seed))) for seed in run.seeds]
    test = other_shards(run, "test") if run.request.test else None
    for name, held in (("val", val), ("test", test)):
        if held is None:
            continue
        run.progress.note(f"Measuring accuracy on {len(held.good_K):,} {name} samples.")
        batch_size = run.request.recipe.score.batch_size
        accuracy = measured(run.plan, members, held.pixels, held.good_K, batch_size=batch_size)
        ensemble[name] = accuracy.together
        for record, value in zip(records, accuracy.each, strict=True):
            record[name] = value
    return {
        "recipe_digest": run.request.recipe.digest,
        "proxy": run.plan.spec.name,
        "pool": run.pool.fingerprint,
        "samples": run.pool.total,
        "scored": run.pool.total - len(bad),
        "failed": len(bad),
        "unlabelled": run.pool.unlabelled,
        "classes": run.plan.spec.num_classes,
        "trained": trained,
        "held_out": len(val.rows_K) if val else 0,
        "epochs": max(epochs, default=0),
        "seed_epochs": epochs,
        "members": records,
        "ensemble": ensemble,
        **({"diverged": run.diverged} if run.diverged else {}),
    }
