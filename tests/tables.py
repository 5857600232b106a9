"""docs/tables.md, made from the results of single runs that lie in docs/results."""

import json
from pathlib import Path

from curate.workflows.results import as_markdown, summarise

RESULTS = Path(__file__).parent.parent / "docs" / "results"
HEAD = """# Tables

Generated from the runs in `docs/results`, one file each; do not edit. `curate evaluate` made them and goes on with
them: what is missing says so.
"""


def tables() -> str:
    """Returns the page: for each folder what it is about, then its table."""
    parts = [HEAD]
    for folder in sorted(path.parent for path in RESULTS.glob("*/about.md")):
        wanted = json.loads((folder / "wanted.json").read_bytes())
        pairs = [(target, arm) for target, arms in wanted.items() for arm in arms]
        summary = summarise(folder / "runs", pairs)
        parts += [(folder / "about.md").read_text(), as_markdown(summary["rows"])]
    return "\n".join(parts)
