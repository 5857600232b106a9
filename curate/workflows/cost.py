"""What selection cost: wall time from a run's log, and arithmetic from its recipe."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from curate.errors import RunError
from curate.proxy.models import forward_flops
from curate.recipe import Recipe
from curate.scores import RUN, SUMMARY, read_record
from curate.workflows.run import LOG
from curate.workflows.setting import Setting, plan_for

BASE = "base"  # the event that says what the run took that this one grew from
TRAIN_PASSES = 3  # forward, and backward at twice its price


class Scoring(NamedTuple):
    """A run that scored a manifest, as that manifest records it.

    Attributes:
        recipe: the digest of its recipe.
        trained_on: the digest of the manifest that it was trained on, None where that does not matter.
        folder: where it lay then, empty where that is not known.
    """

    recipe: str
    trained_on: str | None
    folder: str = ""


def cost_of(folder: Path) -> dict[str, Any]:
    """Returns what a finished run of `score` cost: {recipe, proxy, members, seconds, flops}.

    Time is the sum over the executions that worked on it, so that a pause between them costs nothing. Of a run that
    grew both are of all of it, training included.

    Raises:
        RunError: no finished run.
    """
    record, summary = read_record(folder / RUN), read_record(folder / SUMMARY)
    recipe = Recipe.model_validate(record["recipe"])
    spec = plan_for(recipe, Setting(**record["setting"]), summary["classes"]).spec
    members = len(summary["members"])
    epochs = sum(summary.get("seed_epochs", [recipe.train.seeds * recipe.train.epochs]))
    passes = TRAIN_PASSES * epochs * summary["trained"] + members * summary["scored"]
    return {
        "recipe": summary["recipe_digest"],
        "proxy": recipe.proxy.name,
        "members": members,
        "seconds": round(seconds_spent(folder / LOG), 1),
        "flops": passes * forward_flops(spec),
    }


def selection_cost(
    runs: Sequence[Path], scored: Sequence[Scoring], choosing_seconds: float = 0.0
) -> dict[str, Any] | None:
    """Returns what a manifest cost, the runs that scored it together; None where not all of them are there.

    Args:
        runs: folders of runs.
        scored: those that are looked for, the last first.
        choosing_seconds: what choosing by the scores took.

    Raises:
        RunError: a folder holds no finished run.
    """
    found = [_found(one, runs) for one in scored]
    costs = [cost_of(folder) for folder in found if folder]
    if not costs or len(costs) < len(found):
        return None
    seconds, flops = (sum(cost[name] for cost in costs) for name in ("seconds", "flops"))
    return {**costs[0], "seconds": round(seconds + choosing_seconds, 1), "flops": flops}


def not_found(runs: Sequence[Path], scored: Sequence[Scoring]) -> list[Scoring]:
    """Returns those that are none of the runs."""
    return [one for one in scored if not _found(one, runs)]


def _found(one: Scoring, runs: Sequence[Path]) -> Path | None:
    """Returns the run that scored a manifest. Runs of one recipe may differ in members: then its place tells."""
    fitting = []
    for folder in runs:
        record = read_record(folder / RUN)
        if record["recipe_digest"] == one.recipe and one.trained_on in (None, record.get("within", "")):
            fitting.append(folder)
    named = [folder for folder in fitting if one.folder and folder.resolve() == Path(one.folder).resolve()]
    return named[0] if named else fitting[0] if len(fitting) == 1 else None


def costs_of(folders: Sequence[Path], names: Sequence[str], *, target: str | None) -> list[dict[str, Any]]:
    """Returns what each run cost, and its share of the arithmetic of one that is a target, if there is one."""
    costs = [{"run": name, **cost_of(folder)} for name, folder in zip(names, folders, strict=True)]
    whole = next((cost["flops"] for cost in costs if cost["run"] == target), None)
    return [{**cost, "share": cost["flops"] / whole if whole else None} for cost in costs]


def seconds_spent(log: Path, *, without: str = "") -> float:
    """Returns the time between the first and the last event of each execution in a log, summed.

    An execution begins with an event `start`, or where another process goes on; process numbers come again. What a
    run grew from counts too, as its event `base` says.

    Args:
        log: of a run.
        without: a kind of event that does not count.

    Raises:
        RunError: missing or damaged.
    """
    spans, process, before = list[list[float]](), None, 0.0
    try:
        for line in log.read_text().splitlines():
            event = _parsed(line)
            if event is None or event["event"] == without:
                continue
            if event["event"] == BASE:
                before = float(event["seconds"])
            if event["event"] == "start" or event["process"] != process:
                spans.append([event["time"], event["time"]])
            spans[-1][1], process = event["time"], event["process"]
    except (OSError, ValueError, KeyError) as error:
        raise RunError(f"{log}: cannot be read ({error}).", hint="Its run's cost is not known.") from error
    return before + sum(max(0.0, last - first) for first, last in spans)  # a clock may go back


def _parsed(line: str) -> dict[str, Any] | None:
    """Returns an event; None for a line that a kill cut off."""
    try:
        return dict(json.loads(line))
    except ValueError:
        return None
