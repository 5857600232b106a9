"""docs/results.md, made from the files in docs/results: what single runs, rounds and comparisons wrote."""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from curate.report.agreement import agreement_svg
from curate.workflows.results import Wanted, as_markdown, summarise

RESULTS = Path(__file__).parent.parent / "docs" / "results"
NOT_RUN = "**not run**"
LAST_N = (2, 3, 4, 5, 10, 20)
SEEDS = 3  # behind each figure of a table of targets, where time allows
Json = dict[str, Any]


def results_page() -> str:
    """Returns the page: for each folder what it is about, its tables, and the paper's beside them."""
    parts = [(RESULTS / "about.md").read_text()]
    for folder in sorted(path.parent for path in RESULTS.glob("*/about.md")):
        parts.append((folder / "about.md").read_text())
        parts += [table for pattern, make in TABLES.items() if (table := make(sorted(folder.glob(pattern))))]
        if (folder / "paper.md").exists():
            parts.append((folder / "paper.md").read_text())
    return "\n".join(part.rstrip() + "\n" for part in parts)


def consensus_picture() -> str:
    """Returns the agreement of checkpoints of both networks on CIFAR-100, as `compare --consensus --plot` draws it."""
    paths = sorted(RESULTS.glob("ensemble-al-members-cifar100-gpu/consensus-*.json"))
    return agreement_svg({"consensus": [{**_read(path), "run": _name(path)} for path in paths]})


def _read(path: Path) -> Any:
    return json.loads(path.read_bytes())


def _name(path: Path) -> str:
    return path.stem.partition("-")[2]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in (head, *rows)]
    return "\n".join([lines[0], "|---" + "|---:" * (len(head) - 1) + "|", *lines[1:]]) + "\n"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2f}"


def _evaluated(paths: Sequence[Path]) -> str:
    """Accuracy of targets: `curate evaluate`."""
    if not paths:
        return ""
    wanted = [_wanted(target, arm) for target, arms in _read(paths[0]).items() for arm in arms]
    return as_markdown(summarise(paths[0].parent / "runs", wanted)["rows"])


def _wanted(target: str, arm: str) -> Wanted:
    """Returns the row of an arm, called what its name alone tells; a manifest's without its digest."""
    if arm == "all":
        return Wanted(target, arm, "all the data", arm, seeds=SEEDS)
    if drawn := re.fullmatch(r"random-(\d+)", arm):
        return Wanted(target, arm, "random", "random", int(drawn[1]), seeds=SEEDS)
    return Wanted(target, arm, re.sub(r"-[0-9a-f]{8}$", "", arm), "manifest", seeds=SEEDS)


def _rounds(paths: Sequence[Path]) -> str:
    """Accuracy by what was labelled, and the seconds that choosing took up to there: `rounds.json` of `acquire`."""
    curves = {_name(path): {row["labelled"]: row for row in _read(path)["rounds"]} for path in paths}
    rows = []
    for size in sorted({size for curve in curves.values() for size in curve}):
        row = [f"{size:,}"]
        for curve in curves.values():
            found = curve.get(size)
            seconds = found["selection_seconds"] if found else None
            took = f", {round(seconds, 1):,} s" if seconds and seconds >= 1 else ""  # as exactly as it was noted
            row.append(_percent(found["accuracy"]) + took if found else NOT_RUN)
        rows.append(row)
    return _table(["labelled", *curves], rows) if curves else ""


def _seeds(paths: Sequence[Path]) -> str:
    """How alike seeds rank: means of the pairs of `curate compare RUN`."""
    if not paths:
        return ""
    rows = sorted(_read(paths[0])["rows"], key=lambda row: -row["spearman"])
    body = [
        [row["fn"], *(f"{row[name]:.3f}" for name in ("spearman", "pearson", "kendall")),
         *(f"{share:.3f}" for share in row["overlap"].values())]
        for row in rows
    ]  # fmt: skip
    shares = [f"top {float(top):.0%} in common" for top in rows[0]["overlap"]]
    return _table(["score", "Spearman", "Pearson", "Kendall", *shares], body)


def _agreement(paths: Sequence[Path]) -> str:
    """Single runs of a proxy with those of a target: `curate compare --target`, its single runs."""
    parts = []
    for one in _read(paths[0]) if paths else ():
        rows = sorted(one["spearman"], key=lambda row: -row["proxy_with_target"])
        body = []
        for row in rows:
            gap = row["target_with_itself"] - row["proxy_with_target"]
            shown = f"{round(gap, 3) + 0.0:.3f}"  # no minus zero
            both = (f"{row[name]:.3f}" for name in ("proxy_with_target", "target_with_itself"))
            body.append([row["fn"], *both, f"**{shown}**" if round(gap, 3) > 0.05 else shown])
        title = f"Proxy: {one['proxy']}; target: {one['target']}, {one['seeds_of_target']} seeds:\n\n"
        parts.append(title + _table(["score", "with proxy", "with itself", "gap"], body))
    return "\n".join(parts)


def _figure3(paths: Sequence[Path]) -> str:
    """Runs, their combination and a random order with each target: `curate compare` with several targets."""
    rows = _read(paths[0])["agreement"] if paths else []
    parts = []
    for fn in dict.fromkeys(row["fn"] for row in rows):
        found = {
            (row["a"], row["b"]): f"{row['spearman']:.3f} ({row['pearson']:.3f})" for row in rows if row["fn"] == fn
        }
        targets = list(dict.fromkeys(b for _, b in found))
        body = [[a, *(found.get((a, b), "") for b in targets)] for a in dict.fromkeys(a for a, _ in found)]
        parts.append(_table([fn, *targets], body))
    return "\n".join(parts)


def _consensus(paths: Sequence[Path]) -> str:
    """How far checkpoints of one run agree, means over seeds: `curate compare --consensus`."""
    runs = {_name(path): _read(path) for path in paths}
    body = []
    for n in LAST_N:
        found = [[row for row in run["checkpoints"] if row["n"] == n] for run in runs.values()]
        if any(found):
            means = [_means(rows, name) for rows in found for name in ("last", "last_untrained", "pair")]
            body.append([str(n), *means])
    said = ("last n", "last n, not trained on", "n and the next")
    head = [f"{name}: {what}" for name in runs for what in said]
    knows = _known(runs, {"trained": "trained on", "untrained": "not trained on"})
    return _table(["n", *head], body) + "\n" + knows if runs else ""


def _means(rows: Sequence[Json], name: str) -> str:
    if any(name not in row for row in rows):
        return NOT_RUN
    values = [row[name] for row in rows if row[name] is not None]
    return _percent(sum(values) / len(values) if values else None)


def _ensembles(paths: Sequence[Path]) -> str:
    """What ensembles of members know."""
    runs = {_name(path): _read(path) for path in paths}
    return _known(runs, {"test": "on the test set"}) if runs else ""


def _known(runs: dict[str, Json], where: dict[str, str]) -> str:
    kinds = {(row["ensemble"], row["members"]): None for run in runs.values() for row in run["ensembles"]}
    body = []
    for kind, members in sorted(kinds, key=lambda kind: kind[1]):
        rows = [
            next((row for row in run["ensembles"] if (row["ensemble"], row["members"]) == (kind, members)), {})
            for run in runs.values()
        ]
        body.append(
            [kind, str(members), *(_percent(row[one]) if one in row else NOT_RUN for row in rows for one in where)]
        )
    return _table(["right, %", "members", *(f"{name}, {what}" for name in runs for what in where.values())], body)


TABLES: dict[str, Callable[[Sequence[Path]], str]] = {
    "wanted.json": _evaluated,
    "rounds-*.json": _rounds,
    "seeds.json": _seeds,
    "agreement.json": _agreement,
    "figure3.json": _figure3,
    "consensus-*.json": _consensus,
    "ensembles-*.json": _ensembles,
}
