"""Numbers that can be trusted: selection does not depend on order or workers; how far scores depend on shapes."""

import hashlib
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from conftest import COLOURS, TOY, png, write_tar
from tars import prune_by

from curate.cli import run
from curate.manifest.lines import manifest_digest, read_lines
from curate.scores import read_bad

# Of a score in float32, where batches have other sizes or torch other threads: what docs/reliability.md states.
TOLERANCE = 1e-4
EXACT = ["--set", "train.precision=float32", "--epochs", "2", "--checkpoints", "1"]


def scored(pool: list[str], out: Path, *words: str) -> dict[str, np.ndarray]:
    """Returns the scores of all samples by name, shards in order of their names."""
    assert run(["score", *pool, "--out", str(out), *TOY, *EXACT, *words]) == 0
    return columns(out)


def columns(out: Path) -> dict[str, np.ndarray]:
    tables = [pq.read_table(path) for path in sorted((out / "tables").iterdir())]
    names = ("entropy", "mutual_information", "variation_ratio", "least_confidence", "margin")
    return {name: np.concatenate([table[name].to_numpy() for table in tables]) for name in names}


def table_digests(out: Path) -> list[str]:
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted((out / "tables").iterdir())]


@pytest.mark.faults
def test_scores_are_equal_to_the_byte_at_one_batch_size_and_close_at_others(pool_folder: Path, tmp_path: Path) -> None:
    shards = sorted(map(str, pool_folder.iterdir()))
    first = scored(shards, tmp_path / "a", "--set", "score.batch_size=16")
    scored(shards[::-1], tmp_path / "b", "--set", "score.batch_size=16", "--set", "pixels.workers=3")
    assert table_digests(tmp_path / "a") == table_digests(tmp_path / "b")
    for number, size in enumerate((1, 5, 256)):
        other = scored(shards, tmp_path / f"c{number}", "--set", f"score.batch_size={size}")
        for name, values in first.items():
            assert np.abs(values - other[name]).max() <= TOLERANCE, (name, size)


@pytest.mark.faults
def test_the_same_members_score_alike_with_other_threads(
    pool_folder: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Equal to the byte with as many, close with twice as many."""
    request.addfinalizer(partial(torch.set_num_threads, torch.get_num_threads()))
    first = scored([str(pool_folder)], tmp_path / "a", "--set", "train.threads=1")
    words = ["score", str(pool_folder), "--members", str(tmp_path / "a"), "--device", "cpu"]
    for name, threads in (("same", 1), ("more", 2)):
        more = ["--set", "train.precision=float32", "--set", f"train.threads={threads}", "--set", "train.batch_size=16"]
        assert run([*words, *more, "--out", str(tmp_path / name)]) == 0
        other = columns(tmp_path / name)
        for fn, values in first.items():
            assert np.abs(values - other[fn]).max() <= (0 if threads == 1 else TOLERANCE), (fn, threads)


@pytest.mark.faults
def test_the_selection_is_the_same_in_any_order_of_shards_and_with_any_workers(
    pool_folder: Path, tmp_path: Path
) -> None:
    shards, manifests = sorted(map(str, pool_folder.iterdir())), set()
    for number, (order, workers) in enumerate(((shards, 1), (shards[::-1], 4), (shards[1:] + shards[:1], 2))):
        out = tmp_path / str(number)
        scored(order, out, "--set", f"pixels.workers={workers}")
        words = ["prune", "--scores", str(out), "--keep", "0.5", "--fn", "entropy", "--out", str(out / "m")]
        assert run(words) == 0
        manifests.add(manifest_digest(out / "m"))
    # The recipe's digest is in a manifest, and the workers are in the recipe: what is kept is compared.
    kept = {
        str([(line.name, line.runs, line.dropped, line.failed) for line in read_lines(tmp_path / str(n) / "m")])
        for n in range(3)
    }
    assert len(kept) == 1
    assert len(manifests) <= 3


def test_equal_scores_are_told_apart_by_identity_and_not_by_place(tmp_path: Path) -> None:
    """The same samples in another order in their shard: the same keys are kept."""
    keys = [f"k{n:02d}" for n in range(20)]
    kept = []
    for name, order in (("a", keys), ("b", keys[::-1])):
        folder = tmp_path / name
        members = [
            (f"{key}.{kind}", data) for key in order for kind, data in (("png", png(COLOURS[0], 0)), ("cls", b"0"))
        ]
        write_tar(folder / "pool" / "x.tar", members)
        prune_by([0.5] * 20, folder / "pool", "x.tar", 7, folder)
        (line,) = read_lines(folder / "manifest")
        edges = np.cumsum(line.runs).tolist()
        kept.append({order[n] for begin, end in zip(edges[::2], edges[1::2], strict=True) for n in range(begin, end)})
    assert kept[0] == kept[1]
    assert len(kept[0]) == 7


def test_every_command_leaves_counts_that_add_up_on_the_disk(
    toy_scores: Path, toy_manifest: Path, tmp_path: Path
) -> None:
    """Counted here by other means than curate's own: rows of tables, headers of tars."""
    total = sum(pq.read_metadata(path).num_rows for path in (toy_scores / "index").glob("*.parquet"))
    rows = sum(pq.read_metadata(path).num_rows for path in (toy_scores / "tables").glob("*.parquet"))
    assert total == rows + len(read_bad(toy_scores / "bad.parquet")) == 48
    lines = list(read_lines(toy_manifest))
    kept, dropped, failed = (sum(values) for values in zip(*((line.kept, sum(line.dropped.values()), sum(line.failed.values())) for line in lines), strict=True))  # fmt: skip
    assert kept + dropped + failed == total
    assert run(["materialize", str(toy_manifest), str(tmp_path / "out")]) == 0
    from tars import contents

    keys = {name.split(".")[0] for path in (tmp_path / "out").glob("*.tar") for name in contents(path)}
    assert len(keys) == kept
