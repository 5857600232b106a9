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
