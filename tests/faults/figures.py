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
    kills, mutations, refused = (figures.get(name, {}) for name in ("kills", "mutations", "refused changes"))
    lines = [
        f"Struck down and run again: {sum(kills.values()):,} times "
        f"({', '.join(f'{name} {count:,}' for name, count in sorted(kills.items()))}).",
        "",
        f"Changes to files that the system refused: {sum(refused.values()):,}."
        if refused
        else "Refused changes: not run.",
        "",
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


def between_marks(page: str, text: str) -> str:
    """Returns a page with other figures."""
    before, begin, rest = page.partition("<!-- figures -->\n")
    _, end, after = rest.partition("<!-- end of figures -->")
    return before + begin + text + end + after
