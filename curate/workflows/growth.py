"""`curate score --base RUN`: new shards beside those of a finished run are scored by its members alone.

Nothing is trained. The old shards keep their scores to the byte; some of them are scored again, which must
give the same. How far the new samples' scores lie from the old ones' is measured and recorded: past some
drift the members say little of the new samples, and it is time to train again.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate import durable
from curate.acquisition import ACQUISITIONS
from curate.embeddings import FOLDER as EMBEDDINGS
from curate.embeddings import RECORD
from curate.errors import RunError, UsageError
from curate.pool.index import bad_samples, load_pool
from curate.progress import Progress, Silent
from curate.proxy.members import Member, Members
from curate.proxy.pixels import Pixels
from curate.proxy.training import member_path
from curate.scores import (
    BAD,
    INDEX,
    SUMMARY,
    VOTES,
    BadSample,
    check_counts,
    column_names,
    read_columns,
    table_path,
    write_bad,
    write_record,
)
from curate.statistics import dominance, kolmogorov_smirnov, kolmogorov_smirnov_by_chance, spearman
from curate.tables import read_schema, read_table
from curate.workflows.base_run import AGAIN, BaseRun, open_base_run, take
from curate.workflows.cost import BASE, seconds_spent
from curate.workflows.embed import embed
from curate.workflows.run import DIVERGED, LOG, Request, Run, open_run
from curate.workflows.score import bad_path, check_bad, score_columns, score_shards, undecodable
from curate.workflows.setting import open_pixels

CHECKED = 512  # old samples that are scored again, whole shards
AGREEMENT = 0.99  # of both scores, where another machine gives other last bits
REFERENCE = 100  # held-out samples from which on they alone are what new ones are compared with
UNTRAINED = "forgetting"  # null where a sample was not trained on
GROWTH = "growth"


def grow(request: Request, progress: Progress | None = None) -> dict[str, Any]:
    """Scores what was added to the pool of `request.base`, if anything; returns the summary that it also writes.

    Raises:
        UsageError: the pool lacks shards of the base, has changed ones, or other classes.
        RunError: the base is not finished, or its members do not give its scores.
        TooMuchBadDataError: more bad samples than `max_bad`.

    Cost: members x (new samples + some hundred) forward passes; old score tables are copied.
    """
    progress = progress or Silent()
    assert request.base is not None
    base = open_base_run(request.base)
    with durable.lock(request.out):
        base.take_index(tuple(request.shards), request.labels, request.out / INDEX)
        run = open_run(request, progress)
        run.log(event="start", setting=run.setting.record())
        with suppress(RunError):  # a base whose log is gone
            run.log(event=BASE, seconds=round(seconds_spent(base.folder / LOG), 1))
        started, new = time.monotonic(), [scan.name for scan in run.pool.scans if scan.name not in base.shards]
        if not new:
            progress.note(f"{base.folder} has scores of all these shards: they are taken as they are.")
        _take_scores(base, request.out)
        part = _part_of(run, new, base)
        pixels = open_pixels(part.pool, run.setting, request.recipe, request.out / "pixels", progress)
        scan_bad = [BadSample(*sample) for sample in bad_samples(run.pool)]
        check_bad(len(scan_bad) + len(pixels.bad), run)
        members = _members(run, base)
        checked = _check_old(part, pixels, members, base)
        score_shards(part, pixels, members, _not_learned)
        _embed(part, pixels, members, base)
        bad = scan_bad + undecodable(run)
        check_bad(len(bad), run)
        write_bad(request.out / BAD, bad)
        check_counts(request.out, run.pool)
        summary = _summary(run, base, bad, _growth(run, base, new, bad, checked))
        write_record(request.out / SUMMARY, summary)
        run.log(event="done", seconds=round(time.monotonic() - started, 1))
        return summary


def _take_scores(base: BaseRun, out: Path) -> None:
    for name in sorted(base.shards):
        for run in ("", VOTES):
            table = table_path(base.folder / run, name)
            if table.exists():  # damage is found before it spreads
                read_table(table, read_schema(table)[0].names)
            take(base.folder / run, out / run, str(table_path(Path(), name)))
        take(base.folder / EMBEDDINGS, out / EMBEDDINGS, f"{name}.npy")
        take(bad_path(base.folder, name).parent, bad_path(out, name).parent, bad_path(out, name).name)


def _members(run: Run, base: BaseRun) -> Members:
    for one in base.summary.get("diverged", []):
        take(base.folder, run.request.out, str(Path("members", f"seed-{one['seed']:03d}", DIVERGED)))
    if run.given:
        return Members(run.plan, [member for member in run.given.members if member.seed in run.seeds])
    members = []
    for one in base.summary["members"]:
        path = member_path(run.folder(one["seed"]), one["epoch"])
        name = str(path.relative_to(run.request.out))
        if not (base.folder / name).exists():
            raise UsageError(f"{base.folder} has no {name}: its members lie elsewhere.", hint=AGAIN)
        take(base.folder, run.request.out, name)
        members.append(Member(one["seed"], one["epoch"], path))
    return Members(run.plan, members)


def _part_of(run: Run, new: Sequence[str], base: BaseRun) -> Run:
    """Returns the run over the new shards and some old ones, whose pixels alone are decoded."""
    again, samples = set[str](), 0
    for scan in sorted(base.pool.scans, key=lambda scan: hashlib.blake2b(scan.name.encode()).digest()):
        if samples < CHECKED and scan.samples > scan.bad:
            again.add(scan.name)
            samples += scan.samples
    wanted = {*new, *again}
    pool = replace(run.pool, scans=tuple(scan for scan in run.pool.scans if scan.name in wanted))
    return replace(run, pool=pool)


def _check_old(part: Run, pixels: Pixels, members: Members, base: BaseRun) -> dict[str, Any]:
    """Scores old shards again: the members must give the scores that they gave before.

    Raises:
        RunError: they do not.
    """
    old = [index for index, scan in enumerate(part.pool.scans) if scan.name in base.shards]
    part.progress.stage("score old samples again", part.pool.total, part.setting.unit)
    same, least, samples = True, 1.0, 0
    for index, columns in score_columns(part, pixels, members, old):
        name = part.pool.scans[index].name
        names = _of_a_pass(read_schema(table_path(base.folder, name))[0].names)
        before = read_table(table_path(base.folder, name), names)
        samples += before.num_rows
        for fn in before.column_names:
            one, other = before[fn].to_numpy(), np.asarray(columns[fn], dtype=np.float32)
            if len(one) != len(other):
                least = 0.0
            elif not np.array_equal(one, other, equal_nan=True):
                same, least = False, min(least, agreement(one, other))
    if least < AGREEMENT:
        raise RunError(
            f"The members of {base.folder} give {samples:,} old samples other scores than before: "
            f"they agree by {least:.3f} only.",
            hint=f"Pictures or members changed. {AGAIN}",
        )
    return {"samples": samples, "equal": same, "agreement": least}


def _of_a_pass(names: Sequence[str]) -> list[str]:
    """Returns the scores among a table's columns that a forward pass gives."""
    return [name for name, row in ACQUISITIONS.items() if name in names and "ensemble" in row.needs]


def agreement(one_N: NDArray[np.floating[Any]], other_N: NDArray[np.floating[Any]]) -> float:
    """Returns the correlation of ranks or, of scores that are few values, the share that is the same."""
    both_N = np.isfinite(one_N) & np.isfinite(other_N)
    same = float(((one_N == other_N) | (np.isnan(one_N) & np.isnan(other_N))).mean())
    correlation = spearman(one_N[both_N], other_N[both_N]) if both_N.any() else np.nan
    return same if np.isnan(correlation) else max(same, correlation)


def _not_learned(run: Run, _pixels: Pixels, _index: int, ordinal_N: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    """Returns empty columns for what training would have revealed, had it seen the samples."""
    assert run.request.base is not None
    names = column_names(run.request.base, load_pool(run.request.base / INDEX))
    measured = {name for name, row in ACQUISITIONS.items() if "dynamics" in row.needs} | {
        "never_learned",
        "first_learned",
    }
    learned = [name for name in names if name.partition("@")[0] in measured] if len(ordinal_N) else []
    return {name: np.full(len(ordinal_N), np.nan, dtype=np.float32) for name in learned}


def _embed(part: Run, pixels: Pixels, members: Members, base: BaseRun) -> None:
    if (base.folder / EMBEDDINGS / RECORD).exists():
        last = [member for member in members.members if member.seed == members.members[0].seed][-1]
        embed(part, pixels, members.load(last), seed=last.seed, epoch=last.epoch)


def _summary(run: Run, base: BaseRun, bad: Sequence[BadSample], growth: dict[str, Any]) -> dict[str, Any]:
    """Returns the base's summary with the counts of the whole pool: members and their accuracies are the same."""
    counts = {
        "pool": run.pool.fingerprint, "samples": run.pool.total, "scored": run.pool.total - len(bad),
        "failed": len(bad), "unlabelled": run.pool.unlabelled,
    }  # fmt: skip
    return {**base.summary, **counts, GROWTH: growth}


def _growth(
    run: Run, base: BaseRun, new: Sequence[str], bad: Sequence[BadSample], checked: dict[str, Any]
) -> dict[str, Any]:
    """Returns what was added since the members were trained, and how far its scores lie from the others."""
    before = base.summary.get(GROWTH, {}).get("shards", [])
    shards = sorted({*before, *new})
    columns = read_columns(run.request.out, run.pool, ["label", "prediction"], bad=bad)
    added = set(shards)
    sizes = [len(ordinal_N) for ordinal_N in columns.ordinals]
    new_N = np.repeat([scan.name in added for scan in run.pool.scans], sizes)
    old_N, is_held_out = _reference(run, new_N, bad)
    right_N = columns.values["prediction"] == columns.values["label"]
    has_label_N = columns.values["label"] >= 0
    accuracy = {
        name: float(right_N[mask_N & has_label_N].mean()) if (mask_N & has_label_N).any() else None
        for name, mask_N in (("new", new_N), ("old", old_N))
    }
    return {
        "base": base.digest, "shards": shards, "samples": int(new_N.sum()), "old": int(old_N.sum()),
        "held_out": is_held_out, "checked": checked, "accuracy": accuracy,
        "drift": dict(_drift(run, new_N, old_N, bad)),
    }  # fmt: skip


def _reference(run: Run, new_N: NDArray[np.bool_], bad: Sequence[BadSample]) -> tuple[NDArray[np.bool_], bool]:
    """Returns what new samples are compared with: old ones held out of training, where there are enough, else all."""
    if UNTRAINED in column_names(run.request.out, run.pool):
        learned_N = read_columns(run.request.out, run.pool, [UNTRAINED], bad=bad, null_is_nan=True).values[UNTRAINED]
        held_N = ~new_N & np.isnan(learned_N)
        if held_N.sum() >= REFERENCE:
            return held_N, True
    return ~new_N, False


def _drift(
    run: Run, new_N: NDArray[np.bool_], old_N: NDArray[np.bool_], bad: Sequence[BadSample]
) -> Iterator[tuple[str, dict[str, float]]]:
    for name in _of_a_pass(column_names(run.request.out, run.pool)):
        score_N = read_columns(run.request.out, run.pool, [name], bad=bad, null_is_nan=True).values[name]
        new, old = (score_N[mask_N & np.isfinite(score_N)] for mask_N in (new_N, old_N))
        if len(new) and len(old):
            yield (
                name,
                {
                    "distance": kolmogorov_smirnov(new, old),
                    "shift": dominance(new, old),
                    "chance": kolmogorov_smirnov_by_chance(len(new), len(old)),
                },
            )
