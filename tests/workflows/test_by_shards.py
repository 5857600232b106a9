"""A run that is too large to hold is pruned shard by shard, to the same bytes."""

from pathlib import Path

import pytest

from benchmarks.prune import make_scores
from curate.errors import ScoreError
from curate.manifest.lines import manifest_digest
from curate.selection import radix
from curate.workflows import by_shards
from curate.workflows.prune import Request, prune

CASES = [
    {"fn": "variation_ratio", "keep": "0.8"},
    {"fn": "variation_ratio", "keep": "0.31", "outliers": "0.05"},
    {"fn": "variation_ratio", "keep": "1500", "outliers": "700", "order": "easiest"},
    {"fn": "entropy", "keep": "0.5", "outliers": "3"},
    {"fn": "random", "keep": "0.3", "seed": 4},
    {"fn": "entropy", "keep": "1.0"},
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("made") / "scores"
    make_scores(run, 5000)
    return run


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_manifest_is_the_same_to_the_byte(
    case: dict[str, str], made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = prune(Request(made, out=tmp_path / "held", **case))
    monkeypatch.setattr(by_shards, "LARGE", 0)
    monkeypatch.setattr(radix, "GATHERED", 50)
    monkeypatch.setattr("curate.workflows.prune.gather", None)
    read = prune(Request(made, out=tmp_path / "read", **case))
    assert manifest_digest(tmp_path / "read") == manifest_digest(tmp_path / "held") == read.digest
    assert (read.kept, read.dropped, read.scored) == (held.kept, held.dropped, held.scored)


def test_bad_samples_count_alike(toy_scores: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = prune(Request(toy_scores, "entropy", "0.5", tmp_path / "held"))
    monkeypatch.setattr(by_shards, "LARGE", 0)
    assert prune(Request(toy_scores, "entropy", "0.5", tmp_path / "read")).digest == held.digest
    assert held.failed > 0


def test_a_table_that_is_short_ends_it(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(by_shards, "LARGE", 0)
    shards = by_shards.open_shards(made, "entropy", 0)
    shards.sizes[2] -= 1
    with pytest.raises(ScoreError, match="1,000 scored and 1 bad of 1,000"):
        shards.select(budget=10, outliers=0, order="hardest")
