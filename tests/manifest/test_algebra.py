"""Manifests as sets: Python's own sets are the oracle, real pools and the command line are the way."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import png, write_tar
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.cli import run
from curate.manifest.algebra import kept_mask
from curate.manifest.lines import manifest_digest, read_lines
from curate.manifest.schema import load_head

PER_SHARD = 6
BAD = ("b.tar", 3)
SAMPLES = [(shard, ordinal) for shard in ("a.tar", "b.tar") for ordinal in range(PER_SHARD)]
SCORED = {sample for sample in SAMPLES if sample != BAD}
Sets = st.sets(st.sampled_from(sorted(SCORED)), min_size=2)
ORACLE = {
    "merge": lambda a, b: a | b,
    "intersect": lambda a, b: a & b,
    "subtract": lambda a, b: a - b,
    "invert": lambda a, b: SCORED - a,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pool of two shards, one sample of it without an image, and its index."""
    folder = tmp_path_factory.mktemp("sets")
    for shard in ("a.tar", "b.tar"):
        members = []
        for place in range(PER_SHARD):
            image = [] if (shard, place) == BAD else [(f"{place}.png", png((place, 2, 3), place))]
            members += [*image, (f"{place}.cls", str(place % 3).encode())]
        write_tar(folder / "pool" / shard, members)
    assert run(["index", str(folder / "pool"), "--out", str(folder / "index")]) == 0
    return folder


def keep(folder: Path, chosen: set[tuple[str, int]], out: Path) -> Path:
    """Writes the manifest that keeps exactly these samples."""
    rows = sorted(SCORED)
    columns = {"shard": [s for s, _ in rows], "ordinal": [o for _, o in rows], "s": [float(r in chosen) for r in rows]}
    out.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), out / "scores.parquet")
    words = ["--scores", str(out / "scores.parquet"), "--index", str(folder / "index"), "--fn", "s", "--force"]
    assert run(["prune", *words, "--keep", str(len(chosen)), "--out", str(out / "m")]) == 0
    return out / "m"


def kept(manifest: Path) -> set[tuple[str, int]]:
    return {(line.name, place) for line in read_lines(manifest) for place in np.flatnonzero(kept_mask(line)).tolist()}


def words_of(operation: str, a: Path, b: Path) -> list[str]:
    return ["manifest", operation, str(a), *([] if operation == "invert" else [str(b)])]


@given(st.sampled_from(sorted(ORACLE)), Sets, Sets)
@settings(max_examples=20, deadline=None)
def test_the_kept_samples_are_those_of_the_sets(
    folder: Path, operation: str, a: set[tuple[str, int]], b: set[tuple[str, int]]
) -> None:
    one, other, out = keep(folder, a, folder / "a"), keep(folder, b, folder / "b"), folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    expected = ORACLE[operation](a, b)
    code = run([*words_of(operation, one, other), "--out", str(out)])
    assert code == (0 if expected else 2)
    assert out.exists() == bool(expected)
    if not expected:
        return
    assert kept(out) == expected
    head = load_head(out)
    dropped = len(SCORED) - len(expected)
    assert head.totals.dropped == ({operation: dropped} if dropped else {})
    assert sum(head.totals.failed.values()) == 1
    assert head.classes.after == tuple(sum(place % 3 == c for _, place in expected) for c in range(3))
    assert head.classes.before == (3, 4, 4) or head.classes.before == load_head(one).classes.before
    assert run(["verify", str(out)]) == 0


def test_the_record_names_what_it_was_made_of_and_equal_input_gives_equal_bytes(folder: Path, tmp_path: Path) -> None:
    samples = sorted(SCORED)
    a, b = keep(folder, set(samples[:5]), tmp_path / "a"), keep(folder, set(samples[3:8]), tmp_path / "b")
    digests = []
    for name in ("one", "two"):
        assert run(["manifest", "merge", str(a), str(b), "--out", str(tmp_path / name)]) == 0
        digests.append(manifest_digest(tmp_path / name))
    selection = load_head(tmp_path / "one").selection
    assert digests[0] == digests[1]
    assert (selection.fn, selection.keep, selection.budget) == ("merge", "8", 8)
    assert selection.of == (manifest_digest(a), manifest_digest(b))
    assert "of" not in json.loads((a / "manifest.json").read_bytes())["selection"]


def test_a_result_can_be_combined_again_and_inverting_twice_gives_the_samples_back(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = keep(folder, set(sorted(SCORED)[::2]), tmp_path / "a")
    assert run(["manifest", "invert", str(a), "--out", str(tmp_path / "not")]) == 0
    assert run(["manifest", "invert", str(tmp_path / "not"), "--out", str(tmp_path / "again")]) == 0
    assert kept(tmp_path / "again") == kept(a)
    assert run(["diff", str(a), str(tmp_path / "again"), "--exit-code"]) == 0


def test_a_sample_that_could_not_be_scored_stays_failed_with_its_reason(
    toy_manifest: Path, tmp_path: Path, pool_folder: Path
) -> None:
    assert run(["manifest", "invert", str(toy_manifest), "--out", str(tmp_path / "not")]) == 0
    before, after = load_head(toy_manifest).totals, load_head(tmp_path / "not").totals
    assert after.failed == before.failed
    assert (before.kept + after.kept, sum(after.failed.values())) == (47, 1)
    assert run(["verify", str(tmp_path / "not")]) == 0


def test_manifests_of_different_pools_are_refused(
    folder: Path, toy_manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a = keep(folder, set(sorted(SCORED)[:4]), tmp_path / "a")
    assert run(["manifest", "merge", str(a), str(toy_manifest), "--out", str(tmp_path / "out")]) == 1
    assert "different pools" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_scores_that_moved_must_be_named_and_be_the_right_ones(
    folder: Path, toy_scores: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a = keep(folder, set(sorted(SCORED)[:4]), tmp_path / "a")
    (tmp_path / "a" / "scores.parquet").rename(tmp_path / "moved.parquet")
    words = ["manifest", "invert", str(a), "--out", str(tmp_path / "out")]
    assert run(words) == 1
    assert "--scores" in capsys.readouterr().err
    assert run([*words, "--scores", str(toy_scores)]) == 1
    assert "fingerprint" in capsys.readouterr().err
    given = ["--scores", str(tmp_path / "moved.parquet"), "--index", str(folder / "index")]
    assert run([*words, *given]) == 0


def test_a_damaged_manifest_is_refused(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = keep(folder, set(sorted(SCORED)[:4]), tmp_path / "a")
    b = keep(folder, set(sorted(SCORED)[2:6]), tmp_path / "b")
    shutil.copy(b / "shards.jsonl.zst", a / "shards.jsonl.zst")
    assert run(["manifest", "merge", str(a), str(b), "--out", str(tmp_path / "out")]) == 1
    assert "shards.jsonl.zst: has digest" in capsys.readouterr().err
    assert run(["diff", str(a), str(b)]) == 1
