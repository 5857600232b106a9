"""Scores that something else computed: any Parquet of (shard, ordinal, score), beside an index."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import PER_SHARD, SHARDS, toy_members, write_tar

from curate.cli import run
from curate.manifest.lines import read_lines
from curate.manifest.schema import load_head

TOTAL = SHARDS * PER_SHARD


@pytest.fixture
def index(pool_folder: Path, tmp_path: Path) -> Path:
    assert run(["index", str(pool_folder), "--out", str(tmp_path / "index")]) == 0
    return tmp_path / "index"


def rows(seed: int = 0) -> dict[str, list[object]]:
    order = np.random.default_rng(seed).permutation(TOTAL)
    return {
        "shard": [f"toy-{place // PER_SHARD:04d}.tar" for place in order.tolist()],
        "ordinal": [place % PER_SHARD for place in order.tolist()],
        "score": order.astype(float).tolist(),
        "text": ["x"] * TOTAL,
    }


def write(path: Path, columns: dict[str, list[object]]) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def prune(scores: Path, index: Path, out: Path, *words: str) -> int:
    return run(["prune", "--scores", str(scores), "--index", str(index), "--out", str(out), *words])


def kept(out: Path) -> list[int]:
    places = []
    for number, line in enumerate(read_lines(out)):
        edges = np.cumsum(line.runs).tolist()
        for begin, end in zip(edges[::2], edges[1::2], strict=True):
            places += [number * PER_SHARD + place for place in range(begin, end)]
    return places


def test_the_highest_scores_are_kept(index: Path, tmp_path: Path) -> None:
    scores = write(tmp_path / "s.parquet", rows())
    assert prune(scores, index, tmp_path / "m", "--fn", "score", "--keep", "10") == 0
    assert kept(tmp_path / "m") == list(range(TOTAL - 10, TOTAL))
    head = load_head(tmp_path / "m")
    assert (head.selection.fn, head.scored.members, head.scored.recipe) == ("score", 0, None)
    assert sum(head.classes.after) == 10
    assert run(["verify", str(tmp_path / "m")]) == 0


def test_the_order_of_rows_and_files_does_not_matter(index: Path, tmp_path: Path) -> None:
    one = write(tmp_path / "one.parquet", rows(0))
    parts = tmp_path / "parts"
    parts.mkdir()
    whole = rows(1)
    for number, cut in enumerate((slice(0, 20), slice(20, None))):
        write(parts / f"{number}.parquet", {name: values[cut] for name, values in whole.items()})
    for scores, out in ((one, tmp_path / "a"), (parts, tmp_path / "b")):
        assert prune(scores, index, out, "--fn", "score", "--keep", "0.5") == 0
    assert (tmp_path / "a" / "manifest.json").read_bytes() == (tmp_path / "b" / "manifest.json").read_bytes()


def test_a_bad_sample_needs_no_score_and_is_counted(tmp_path: Path) -> None:
    members = [*toy_members(0), ("unlabelled.txt", b"no image")]
    write_tar(tmp_path / "pool" / "toy-0000.tar", members)
    assert run(["index", str(tmp_path / "pool"), "--out", str(tmp_path / "index")]) == 0
    columns = {name: [v for v, s in zip(values, rows()["shard"], strict=True) if s == "toy-0000.tar"]
               for name, values in rows().items()}  # fmt: skip
    scores = write(tmp_path / "s.parquet", columns)
    assert prune(scores, tmp_path / "index", tmp_path / "m", "--fn", "score", "--keep", "0.5") == 0
    totals = json.loads((tmp_path / "m" / "manifest.json").read_bytes())["totals"]
    assert (totals["kept"], totals["samples"], totals["failed"]) == (8, 17, {"no image entry": 1})


def change(name: str, at: int, value: object) -> dict[str, list[object]]:
    columns = rows()
    columns[name][at] = value
    return columns


@pytest.mark.parametrize(
    ("columns", "fn", "said"),
    [
        (rows(), "scores", "no column 'scores'"),
        (rows(), "text", "holds string"),
        (change("score", 3, None), "score", "1 scores are null"),
        (change("score", 3, float("inf")), "score", "not finite"),
        (change("shard", 3, "other.tar"), "score", "'other.tar' is no shard of the index"),
        (change("ordinal", 3, 99), "score", "is outside the shard"),
        ({name: [*values, values[0]] for name, values in rows().items()}, "score", "is repeated"),
        ({name: values[1:] for name, values in rows().items()}, "score", "1 of 48 samples of the index have no score"),
    ],
)
def test_scores_that_do_not_fit_are_refused(
    index: Path,
    tmp_path: Path,
    columns: dict[str, list[object]],
    fn: str,
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    scores = write(tmp_path / "s.parquet", columns)
    assert prune(scores, index, tmp_path / "m", "--fn", fn, "--keep", "0.5") == 1
    assert said in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "m").exists()


def test_a_run_of_curate_has_its_own_index(toy_scores: Path, index: Path, tmp_path: Path) -> None:
    assert prune(toy_scores, index, tmp_path / "m", "--fn", "entropy", "--keep", "0.5") == 2
