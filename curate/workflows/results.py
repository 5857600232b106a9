"""The results of `evaluate` as tables in the papers' layout: from the files of single runs, nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curate import durable
from curate.errors import RunError, UsageError
from curate.statistics import mean_and_spread, paired_interval

JSON, MARKDOWN = "table.json", "table.md"
Run = dict[str, Any]
NOT_RUN = "not run"


@dataclass(frozen=True)
class Wanted:
    """A row that a table has also where nothing of it has run.

    Attributes:
        target, arm: whose runs it is of.
        label, kind, samples: as the results say them; None where the number of samples is not known.
        seeds: how many runs it is to be of, 0 where that is not known.
    """

    target: str
    arm: str
    label: str
    kind: str
    samples: int | None = None
    seeds: int = 0


def summarise(
    runs: Path, wanted: Iterable[Wanted] = (), selection: Mapping[str, dict[str, Any]] | None = None
) -> dict[str, Any]:
    """Returns the table of all results in a folder, random and all the data beside every manifest.

    Args:
        runs: the folder of results, TARGET/ARM/SEED.json.
        wanted: rows that are there also where nothing has run.
        selection: what selecting an arm cost, by its name, in place of what its results say.

    Returns:
        `rows`, each with: target, arm, label, kind, samples, n, asked (what n is to come to, 0 where that is not
        known) and, where something has run, accuracy and spread of the last epoch (not the best one), worst_class,
        gain over random of the same number and loss against all the data as paired differences over common seeds with
        their 95 % interval, seconds, selection, and total and speed_up, which are None where a manifest's selection is
        not known.

    Raises:
        RunError: a result is damaged.
    """
    results = [{**run, "selection": (selection or {}).get(run["arm"], run["selection"])} for run in results_in(runs)]
    asked = {(one.target, one.arm): one for one in wanted}
    pairs = list(dict.fromkeys([*((run["target"], run["arm"]) for run in results), *asked]))
    cells = {pair: {run["seed"]: run for run in results if (run["target"], run["arm"]) == pair} for pair in pairs}
    rows = [_row(*pair, cells) if cells[pair] else _not_run(asked[pair]) for pair in pairs]
    for row, pair in zip(rows, pairs, strict=True):
        row["asked"] = asked[pair].seeds if pair in asked else 0
    rows.sort(key=lambda row: (row["target"], row["samples"] or 0, row["kind"] == "random", row["arm"]))
    return {"rows": rows, "runs": len(results)}


def saved_rows(path: Path) -> list[dict[str, Any]]:
    """Returns the rows of a saved table: of `evaluate`'s folder or its `table.json`, or of what `demo --json` printed.

    Raises:
        UsageError: it is not there, or is something else.
    """
    file = path / JSON if path.is_dir() else path
    try:
        document = json.loads(file.read_bytes())
        rows: list[dict[str, Any]] = document["rows"] if "rows" in document else document["table"]
        return [row for row in rows if {"target", "arm", "kind"} <= row.keys()]
    except FileNotFoundError:
        raise UsageError(
            f"{file}: no such file.", hint="Expected a finished `curate evaluate`, or its table.json."
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"{file}: no table of accuracies on kept and random samples ({type(error).__name__}: {error}).",
            hint="Expected the folder of `curate evaluate`, its table.json, or what `curate demo --json` prints.",
        ) from error


def results_in(runs: Path) -> list[Run]:
    """Returns all results in a folder, in order of their paths.

    Raises:
        RunError: one is damaged.
    """
    return [_read(path) for path in sorted(runs.glob("*/*/*.json"))]


def _read(path: Path) -> Run:
    try:
        result: Run = json.loads(path.read_bytes())
        result["accuracy"], result["arm"], result["seed"], result["selection"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path}: damaged ({error}).", hint="Delete it; the run is repeated.") from error
    return result


def _not_run(row: Wanted) -> dict[str, Any]:
    return {
        "target": row.target, "arm": row.arm, "label": row.label, "kind": row.kind, "samples": row.samples, "n": 0
    }  # fmt: skip


def _row(target: str, arm: str, cells: dict[tuple[str, str], dict[int, Run]]) -> dict[str, Any]:
    runs = cells[target, arm]
    first = next(iter(runs.values()))
    samples = round(_mean(runs, "samples"))  # where each seed selects anew, and some are held out, they differ
    same_size = {seed: cells.get((target, f"random-{run['samples']}"), {}) for seed, run in runs.items()}
    random = {seed: drawn[seed] for seed, drawn in same_size.items() if seed in drawn}
    whole = cells.get((target, "all"), {})
    mean, spread = mean_and_spread([run["accuracy"] for run in runs.values()])
    seconds = _mean(runs, "seconds")
    return {
        "target": target, "arm": arm, "label": first["label"], "kind": first["kind"], "samples": samples,
        "share": samples / first["pool_samples"], "n": len(runs), "equal": first["equal"],
        "scheme": first.get("scheme", "scratch"), "anew": first.get("anew", False),
        "epochs": first["epochs"], "steps": first["steps"], "members": first["members"],
        "is_best": first.get("is_best", False),
        "accuracy": mean, "spread": spread,
        "worst_class": sum(min(run["per_class"]) for run in runs.values()) / len(runs),
        "gain": _difference(runs, random) if first["kind"] == "manifest" else None,
        "loss": _difference(runs, whole) if first["kind"] != "all" else None,
        "seconds": seconds, "flops": _mean(runs, "flops"), **_costs(runs, seconds, whole),
    }  # fmt: skip


def _mean(runs: dict[int, Run], name: str) -> float:
    return float(sum(run[name] for run in runs.values()) / len(runs))


def _difference(ours: dict[int, Run], theirs: dict[int, Run]) -> dict[str, Any] | None:
    common = sorted(ours.keys() & theirs.keys())
    if not common:
        return None
    values = [ours[seed]["accuracy"] - theirs[seed]["accuracy"] for seed in common]
    mean, low, high = paired_interval(values)
    return {"mean": mean, "low": low, "high": high, "n": len(common)}


def _costs(runs: dict[int, Run], seconds: float, whole: dict[int, Run]) -> dict[str, Any]:
    selections = [run["selection"] for run in runs.values() if run["selection"]]
    means = {
        name: sum(one[name] for one in selections) / len(selections) for name in ("seconds", "flops") if selections
    }
    selection = {**selections[0], **means} if selections else None
    # What selection cost is part of it: where that is not known, neither is the total.
    is_known = selection is not None or next(iter(runs.values()))["kind"] != "manifest"
    total = seconds + (selection["seconds"] if selection else 0.0) if is_known else None
    return {
        "selection": selection,
        "total": total,
        "speed_up": _mean(whole, "seconds") / total if whole and total else None,
        "selection_share": selection["flops"] / _mean(whole, "flops") if selection and whole else None,
    }


def told_apart(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns a target's rows; where manifests have one label, the arm's name follows it."""
    labels = [row["label"] for row in rows if row["kind"] == "manifest"]
    return [{**r, "label": f"{r['label']}, {r['arm']}"} if labels.count(r["label"]) > 1 else r for r in rows]


COLUMNS = (
    "trained on", "samples", "n", "accuracy", "worst class", "over random", "over all", "selection s", "target s",
    "total s", "speed-up", "selection, % of all",
)  # fmt: skip


def cells_of(row: dict[str, Any]) -> tuple[str, ...]:
    """Returns a row of the table as text, one cell for each of `COLUMNS`."""
    samples = "" if row["samples"] is None else f"{row['samples']:,}"
    n = f"{row['n']} of {row['asked']}" if row["n"] < row.get("asked", 0) else str(row["n"])
    if not row["n"]:
        return (row["label"], samples, n, NOT_RUN, *[""] * (len(COLUMNS) - 4))
    spread = "" if row["spread"] is None else f" ± {100 * row['spread']:.2f}"
    return (
        row["label"], samples, n, f"{100 * row['accuracy']:.2f}{spread}",
        f"{100 * row['worst_class']:.1f}", _points(row["gain"]), _points(row["loss"]),
        f"{row['selection']['seconds']:,.0f}" if row["selection"] else "",
        f"{row['seconds']:,.0f}", f"{row['total']:,.0f}" if row.get("total") else "",
        f"{row['speed_up']:.2f}" if row["speed_up"] else "",
        f"{100 * row['selection_share']:.1f}" if row.get("selection_share") else "",
    )  # fmt: skip


def _points(difference: dict[str, Any] | None) -> str:
    if difference is None:
        return ""
    half = "" if difference["low"] is None else f" ± {100 * (difference['high'] - difference['mean']):.2f}"
    return f"{100 * difference['mean']:+.2f}{half}"


def write_tables(out: Path, summary: dict[str, Any]) -> None:
    """Writes `table.json` and `table.md`."""
    durable.write_json(out / JSON, summary)
    durable.write_bytes(out / MARKDOWN, as_markdown(summary["rows"]).encode())


def as_markdown(rows: Sequence[dict[str, Any]]) -> str:
    """Returns the table as Markdown, a part for each target."""
    parts = []
    for target in dict.fromkeys(row["target"] for row in rows):
        own = told_apart([row for row in rows if row["target"] == target])
        body = "\n".join("| " + " | ".join(cells_of(row)) + " |" for row in own)
        head = "| " + " | ".join(COLUMNS) + " |\n|---" + "|---:" * (len(COLUMNS) - 1) + "|"
        parts.append(f"{title(target, own)}\n\n{head}\n{body}\n")
    return "\n".join(parts)


def title(target: str, rows: Sequence[dict[str, Any]]) -> str:
    """Returns what is said above a target's table."""
    run = next((row for row in rows if row["n"]), None)
    if run is None:
        return f"Target {target}: {NOT_RUN}."
    votes = f", {run['members']} of them voting" if run["members"] > 1 else ""
    start = ""
    if run["scheme"] == "pretrain":
        votes += ", fine-tuned from the model of all the data (whose time counts)"
        start = " (but for over all: the row of all the data is the model that they start from, not trained further)"
    drawn = (
        "each seed trains its own proxy, selects by it and trains its own targets"
        if run.get("anew")
        else "the selections are given, each seed trains its own targets"
    )
    when = "of the epoch that was best on --val" if run.get("is_best") else "after the last epoch"
    return (
        f"Target {target}{votes}, equal {run['equal']}{start}: accuracy in % on the test set {when}, mean ± std "
        f"over n seeds ({drawn}); differences in points, paired by seed, ± half of their 95 % interval; selection in % "
        "of the arithmetic of one target trained on all."
    )
