import json
from pathlib import Path

import pytest

from curate.cli import run


def test_the_demo_tells_its_story_in_numbers(capsys: pytest.CaptureFixture[str], tmp_path) -> None:  # type: ignore[no-untyped-def]
    assert run(["demo", "--seeds", "1", "--json", "--out", str(tmp_path)]) == 0
    story = json.loads(capsys.readouterr().out)
    assert [row["samples"] for row in story["table"]] == [719, 719, 1437]
    assert all(row["accuracy"] > 0.8 for row in story["table"])
    assert (story["members"], story["test_samples"], story["kept"]) == (8, 360, 719)
    assert run(["verify", str(tmp_path / "manifest")]) == 0
    (tmp_path / "story.json").write_text(json.dumps(story))
    (tmp_path / "gates.toml").write_text("[gates]\nmin_margin_over_random = -1\n")
    words = ["--gates", str(tmp_path / "gates.toml"), "--evaluation", str(tmp_path / "story.json")]
    assert run(["check", str(tmp_path / "manifest"), *words]) == 0


@pytest.mark.slow
@pytest.mark.data
def test_cifar10_is_scored_and_half_of_it_kept(
    real_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pool, test, out = f"{real_data}/cifar10/train-*.tar.zst", f"{real_data}/cifar10/test-*.tar.zst", str(tmp_path / "s")
    assert run(["score", pool, "--test", test, "--recipe", "recipes/cifar10-cpu.toml", "--out", out]) == 0
    assert (
        run(["prune", "--scores", out, "--keep", "0.5", "--fn", "mutual_information", "--out", str(tmp_path / "m")])
        == 0
    )
    assert "25,000 kept" in capsys.readouterr().out
