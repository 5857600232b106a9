"""docs/reliability.md: its figures are those that the tests counted, and the tests it names exist."""

import json
import re
from pathlib import Path

from faults.figures import PATH, as_markdown, between_marks

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "reliability.md"


def test_the_figures_are_those_that_were_counted() -> None:
    page = PAGE.read_text()
    assert page == between_marks(page, as_markdown(json.loads(PATH.read_bytes())))


def test_every_test_that_the_page_names_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", PAGE.read_text()))
    defined = {name for path in ROOT.glob("tests/**/*.py") for name in re.findall(r"def (test_\w+)", path.read_text())}
    assert len(named) > 25
    assert named <= defined, named - defined
