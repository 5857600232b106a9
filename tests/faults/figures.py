"""What the marked tier counted, kept in one JSON file that docs/reliability.md is checked against."""

import json
from pathlib import Path
from typing import Any

PATH = Path(__file__).parents[2] / "docs" / "results" / "faults.json"


def record(name: str, value: dict[str, Any]) -> None:
    """Adds what one test counted under a name; what the same keys had before is replaced."""
    figures = json.loads(PATH.read_bytes()) if PATH.exists() else {}
    figures[name] = {**figures.get(name, {}), **value}
    PATH.write_text(json.dumps(figures, indent=1, sort_keys=True) + "\n")
