"""Writes docs/cli.md, docs/consumers.md, docs/manifest.schema.json, docs/performance.md, docs/results.md, docs/pictures/consensus-cifar100.svg and the figures of docs/reliability.md anew: python -m tests.regenerate"""

import json
from pathlib import Path

from benchmarks.page import page
from curate.cli.reference import reference
from curate.manifest.guide import guide
from curate.manifest.schema import json_schema
from tests.faults.figures import PATH, as_markdown, between_marks
from tests.tables import consensus_picture, results_page

DOCS = Path(__file__).parent.parent / "docs"

if __name__ == "__main__":
    (DOCS / "cli.md").write_text(reference())
    (DOCS / "consumers.md").write_text(guide())
    (DOCS / "manifest.schema.json").write_text(json_schema())
    (DOCS / "performance.md").write_text(page())
    (DOCS / "results.md").write_text(results_page())
    (DOCS / "pictures" / "consensus-cifar100.svg").write_text(consensus_picture())
    reliability = DOCS / "reliability.md"
    figures = as_markdown(json.loads(PATH.read_bytes()))
    reliability.write_text(between_marks(reliability.read_text(), figures))
