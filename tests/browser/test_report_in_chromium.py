"""The report in a real browser: CURATE_BROWSER names a Python with playwright, CHROMIUM the browser on PATH."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from curate.cli import run

LOOK = Path(__file__).parent / "look.py"


@pytest.mark.browser
def test_the_report_works_in_both_themes_at_both_widths(toy_manifest: Path, tmp_path: Path) -> None:
    chromium = shutil.which(os.environ.get("CHROMIUM", "chromium"))
    if "CURATE_BROWSER" not in os.environ or chromium is None:
        pytest.skip("CURATE_BROWSER names no Python with playwright, or there is no chromium")
    page = tmp_path / "report.html"
    assert run(["report", str(toy_manifest), "--out", str(page)]) == 0
    words = [os.environ["CURATE_BROWSER"], str(LOOK), str(page), str(tmp_path), chromium]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    result = subprocess.run(words, capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr
    seen = json.loads(result.stdout)
    assert len(seen) == 4
    for name, one in seen.items():
        assert one["said"] == [], name
        assert set(one["asked"]) <= {"data", "file"}, name
        assert one["overflow"] <= 0, name
        assert one["first"] == "skip", name
        assert one["opened"] == "ARTICLE", name
        assert one["returned"], name
        assert one["labels"] == ["1"], name
        assert one["pictures"], name
        assert (tmp_path / f"{name.replace(' ', '-')}-sample.png").stat().st_size > 1000
    assert seen["light desktop"]["back"] != seen["dark desktop"]["back"]
