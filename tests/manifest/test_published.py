"""The manifests that are published in manifests/: whole, listed with their digests, and of the shards they name."""

from pathlib import Path

import pytest

from curate.cli import run
from curate.manifest.lines import manifest_digest

PUBLISHED = sorted(path.parent for path in (Path(__file__).parents[2] / "manifests").glob("*/*/manifest.json"))


@pytest.mark.parametrize("folder", PUBLISHED, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_it_is_whole_and_listed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["verify", str(folder), "--no-sources"]) == 0
    assert f"| {folder.name} | {manifest_digest(folder)} |" in (folder.parent / "README.md").read_text()
    assert not (folder / "source.json").exists()
    assert run(["verify", str(folder)]) == 1
    assert "--root" in capsys.readouterr().err


@pytest.mark.data
@pytest.mark.parametrize("folder", PUBLISHED[:1], ids=lambda p: f"{p.parent.name}/{p.name}")
def test_its_shards_are_those_it_names(folder: Path, real_data: Path) -> None:
    assert run(["verify", str(folder), "--root", str(real_data / folder.parent.name)]) == 0
