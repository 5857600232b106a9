"""What the marked tier counted, kept in one JSON file that docs/reliability.md is checked against."""

import fcntl
import json
from pathlib import Path
from typing import Any

PATH = Path(__file__).parents[2] / "docs" / "results" / "faults.json"


def record(name: str, value: dict[str, Any]) -> None:
    """Adds what one test counted under a name; what the same keys had before is replaced."""
    with PATH.open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # tests may run in several processes
        file.seek(0)
        figures = json.loads(file.read() or "{}")
        figures[name] = {**figures.get(name, {}), **value}
        file.truncate(0)
        file.write(json.dumps(figures, indent=1, sort_keys=True) + "\n")


def as_markdown(figures: dict[str, Any]) -> str:
    """Returns what tests that passed have counted, as it stands in docs/reliability.md."""
    names = ("kills", "mutations", "refused changes", "damaged files", "guided")
    kills, mutations, refused, damaged, guided = (figures.get(name, {}) for name in names)
    lines = [
        f"Struck down and run again: {_listed(kills)}.",
        "",
        f"Changes to files that failed, and the command run again: {_listed(refused)}.",
        "",
        f"Commands on damaged files of runs, manifests and results: {_listed(damaged)}.",
        "",
        *(
            f"Coverage-guided, {name}: {run['executions']:,} executions in {run['seconds']} seconds, "
            f"{run['wrong']} wrong outcomes.\n"
            for name, run in sorted(guided.items())
        ),
        "| mutated | mutations | changed what is parsed | bytes read | refused or found wrong | accepted |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    totals = [0] * 5
    for name, counts in sorted(mutations.items()):
        accepted = sum(count for outcome, count in counts["outcomes"].items() if outcome.startswith("accepted"))
        row = [counts["mutations"], counts["changed"], counts["bytes"], counts["mutations"] - accepted, accepted]
        totals = [total + value for total, value in zip(totals, row, strict=True)]
        lines.append(f"| {name} | " + " | ".join(f"{value:,}" for value in row) + " |")
    lines.append("| all | " + " | ".join(f"{value:,}" for value in totals) + " |")
    return "\n".join([*lines, ""])


def _listed(counts: dict[str, int]) -> str:
    if not counts:
        return "not run"
    each = ", ".join(f"{name.removesuffix(', failing')} {count:,}" for name, count in sorted(counts.items()))
    return f"{sum(counts.values()):,} ({each})"


def between_marks(page: str, text: str) -> str:
    """Returns a page with other figures."""
    before, begin, rest = page.partition("<!-- figures -->\n")
    _, end, after = rest.partition("<!-- end of figures -->")
    return before + begin + text + end + after
