"""Writes docs/cli.md, docs/consumers.md, docs/manifest.schema.json, docs/performance.md and docs/tables.md anew: python -m tests.regenerate"""

from pathlib import Path

from benchmarks.page import page
from curate.cli.reference import reference
from curate.manifest.guide import guide
from curate.manifest.schema import json_schema
from tests.tables import tables

DOCS = Path(__file__).parent.parent / "docs"

if __name__ == "__main__":
    (DOCS / "cli.md").write_text(reference())
    (DOCS / "consumers.md").write_text(guide())
    (DOCS / "manifest.schema.json").write_text(json_schema())
    (DOCS / "performance.md").write_text(page())
    (DOCS / "tables.md").write_text(tables())
