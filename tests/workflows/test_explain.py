"""Why a sample was kept or not: every sample of a real run, against an order that Python sorts itself."""

import base64
import io
import json
import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import BAD_KEY, COLOURS, TOY
from PIL import Image
from tars import kept_keys, make_manifest

from curate.cli import run


def explained(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, object]:
    capsys.readouterr()
    assert run(["explain", *words, "--json"]) == 0
    return dict(json.loads(capsys.readouterr().out))


def rows_of(scores: Path) -> list[dict[str, object]]:
    """Returns every scored sample, hardest first by variation ratio."""
    table = pa.concat_tables([pq.read_table(path) for path in sorted(scores.glob("tables/*.parquet"))])
    rows = table.to_pylist()
    return sorted(rows, key=lambda r: (-r["variation_ratio"], -r["mutual_information"], r["identity"]))


def test_every_sample_has_the_rank_and_the_reason_that_sorting_gives(
    toy_scores: Path, pool_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = tmp_path / "m"
    words = ["--scores", str(toy_scores), "--fn", "variation_ratio", "--keep", "20", "--outliers", "3"]
    assert run(["prune", *words, "--out", str(manifest)]) == 0
    kept, rows = kept_keys(manifest, pool_folder), rows_of(toy_scores)
    for rank, row in [*enumerate(rows, 1)][:4] + [*enumerate(rows, 1)][21:26] + [*enumerate(rows, 1)][-2:]:
        found = explained(capsys, str(row["key"]), "--manifest", str(manifest))
        decision = found["decision"]
        assert decision["state"] == ("kept" if row["key"] in kept else "dropped")  # type: ignore[index]
        assert decision["reason"] == ("outlier" if rank <= 3 else "" if rank <= 23 else "rank")  # type: ignore[index]
        cut = decision["cut"]  # type: ignore[index]
        assert (decision["rank"], cut["rank"], cut["places"]) == (rank, 23, rank - 23)  # type: ignore[index]
        assert cut["gap"] == pytest.approx(abs(row["variation_ratio"] - rows[22]["variation_ratio"]))  # type: ignore[operator]
        scores = {score["name"]: score for score in found["scores"]}  # type: ignore[attr-defined]
        assert scores["variation_ratio"]["rank"] == rank
        assert scores["entropy"]["rank"] == 1 + sum(other["entropy"] > row["entropy"] for other in rows)  # type: ignore[operator]
        assert scores["entropy"]["value"] == pytest.approx(row["entropy"])
        assert (found["members"], found["against_majority"]) == (4, round(4 * row["variation_ratio"]))  # type: ignore[operator]
        assert found["label"] == str(row["label"])


def test_a_sample_that_failed_says_why(toy_manifest: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = explained(capsys, BAD_KEY, "--manifest", str(toy_manifest))
    assert found["decision"]["state"] == "failed"  # type: ignore[index]
    assert found["decision"]["reason"] == "is not an image that can be read"  # type: ignore[index]
    assert run(["explain", BAD_KEY, "--manifest", str(toy_manifest)]) == 0
    assert "Failed: is not an image that can be read." in capsys.readouterr().out


def test_without_a_manifest_the_scores_alone_are_said(toy_scores: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = explained(capsys, "s0_01", "--scores", str(toy_scores))
    assert found["decision"] is None
    assert found["scores"]


def test_a_cut_of_its_own_for_every_class(toy_scores: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--scores", str(toy_scores), "--fn", "variation_ratio", "--keep", "12", "--per-class", "equal"]
    assert run(["prune", *words, "--out", str(tmp_path / "m")]) == 0
    ranked = [row for row in rows_of(toy_scores) if row["label"] == 2]
    found = explained(capsys, str(ranked[4]["key"]), "--manifest", str(tmp_path / "m"))
    assert found["decision"]["reason"] == "rank"  # type: ignore[index]
    assert found["decision"]["cut"]["within"] == "2"  # type: ignore[index]
    last = explained(capsys, str(ranked[3]["key"]), "--manifest", str(tmp_path / "m"))
    assert last["decision"]["cut"]["places"] == 0  # type: ignore[index]
    assert found["decision"]["cut"]["rank"] == last["decision"]["rank"]  # type: ignore[index]


def test_the_easiest_first_and_a_random_order(
    toy_scores: Path, tmp_path: Path, pool_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, words in (
        ("easy", ["--fn", "entropy", "--order", "easiest"]), ("random", ["--fn", "random", "--seed", "4"]),
    ):  # fmt: skip
        out = tmp_path / name
        assert run(["prune", "--scores", str(toy_scores), "--keep", "10", *words, "--out", str(out)]) == 0
        kept = kept_keys(out, pool_folder)
        for key in ("s0_00", "s1_01", "s2_02", sorted(kept)[0]):
            decision = explained(capsys, key, "--manifest", str(out))["decision"]
            assert (decision["rank"] <= 10, decision["state"]) == (key in kept, "kept" if key in kept else "dropped")  # type: ignore[index]
            assert decision["cut"]["rank"] == 10  # type: ignore[index]


def test_a_manifest_with_lists_does_not_pretend_to_know(
    toy_scores: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "never").write_text("s0_00\n")
    words = ["--scores", str(toy_scores), "--fn", "entropy", "--keep", "46", "--never", str(tmp_path / "never")]
    assert run(["prune", *words, "--out", str(tmp_path / "m")]) == 0
    found = explained(capsys, "s0_00", "--manifest", str(tmp_path / "m"))
    assert "lists of keys are not saved" in found["decision"]["reason"]  # type: ignore[index]


def test_a_manifest_that_grew_from_another_says_so(
    toy_scores: Path, tmp_path: Path, pool_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["prune", "--scores", str(toy_scores), "--fn"]
    assert run([*words, "random", "--keep", "8", "--out", str(tmp_path / "base")]) == 0
    assert run([*words, "entropy", "--keep", "20", "--base", str(tmp_path / "base"), "--out", str(tmp_path / "m")]) == 0
    kept = kept_keys(tmp_path / "m", pool_folder)
    for key in (sorted(kept)[0], *[r["key"] for r in rows_of(toy_scores) if r["key"] not in kept][:1]):
        decision = explained(capsys, str(key), "--manifest", str(tmp_path / "m"))["decision"]
        assert decision["state"] == ("kept" if key in kept else "dropped")  # type: ignore[index]
        assert ("base manifest" in decision["reason"], decision["cut"]) == (key not in kept, None)  # type: ignore[index]


def test_what_a_manifest_brought_from_its_base_says_since_when(
    toy_scores: Path, tmp_path: Path, pool_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, grown = tmp_path / "base", tmp_path / "grown"
    words = ["prune", "--scores", str(toy_scores), "--fn", "random"]
    assert run([*words, "--keep", "6", "--out", str(base)]) == 0
    words[-1] = "entropy"
    assert run([*words, "--keep", "12", "--base", str(base), "--out", str(grown)]) == 0
    before, now = kept_keys(base, pool_folder), kept_keys(grown, pool_folder)
    for key, said in (
        (sorted(before)[0], "in the base since iteration 0"),
        (sorted({*now} - {*before})[0], "added by iteration 1"),
    ):
        assert explained(capsys, key, "--manifest", str(grown))["decision"]["reason"] == said  # type: ignore[index]


def test_scores_that_changed_since_are_refused(
    toy_manifest: Path, toy_scores: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "scores"
    shutil.copytree(toy_scores, other)
    for path in other.glob("tables/*.parquet"):
        table = pq.read_table(path)
        swapped = pa.array(1 - np.asarray(table["variation_ratio"]), pa.float32())
        pq.write_table(table.set_column(table.column_names.index("variation_ratio"), "variation_ratio", swapped), path)
    dropped = next(r["key"] for r in reversed(rows_of(toy_scores)))
    assert run(["explain", str(dropped), "--manifest", str(toy_manifest), "--scores", str(other)]) == 1
    assert "do not give this manifest" in capsys.readouterr().err


def test_keys_that_are_nowhere_or_in_several_shards(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = make_manifest(tmp_path, {"a.tar": ["k1", "k2"], "b.tar": ["k1", "k3"]}, ["k1", "k1"])
    assert run(["explain", "k9", "--manifest", str(manifest)]) == 2
    assert run(["explain", "k1", "--manifest", str(manifest)]) == 2
    assert "in a.tar, b.tar" in capsys.readouterr().err
    found = explained(capsys, "k1", "--shard", "b.tar", "--manifest", str(manifest))
    assert (found["shard"], found["decision"]["state"]) == ("b.tar", "kept")  # type: ignore[index]
    assert [(score["name"], score["rank"] <= 2) for score in found["scores"]] == [("s", True)]  # type: ignore[attr-defined]


def test_a_terminal_that_shows_images_is_shown_the_sample(toy_manifest: Path) -> None:
    """The image comes back out of what a terminal was sent."""
    words = [sys.executable, "-m", "curate", "explain", "s0_01", "--manifest", str(toy_manifest)]
    master, slave = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-kitty"}
    with subprocess.Popen(words, stdout=slave, stderr=subprocess.PIPE, env=environment) as process:
        os.close(slave)
        sent = b""
        try:
            while chunk := os.read(master, 1 << 16):
                sent += chunk
        except OSError:  # a terminal's end, on Linux
            pass
        os.close(master)
        process.wait()
    assert process.returncode == 0
    parts = [part.split(b"\x1b\\")[0].split(b";", 1) for part in sent.split(b"\x1b_G")[1:]]
    assert [control.split(b"m=")[1] for control, _ in parts] == [b"1"] * (len(parts) - 1) + [b"0"]
    image = Image.open(io.BytesIO(base64.b64decode(b"".join(data for _, data in parts))))
    assert image.size == (256, 256)
    assert np.allclose(np.asarray(image).mean((0, 1)), COLOURS[1], atol=20)
    assert b"s0_01: ordinal 1 of toy-0000.tar" in sent


def test_the_votes_and_the_nearest_kept_ones_are_said(
    toy_scores: Path, pool_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Votes add up to the scores that count them; neighbours are those that a search over everything finds."""
    scores = tmp_path / "scores"
    shutil.copytree(toy_scores, scores)
    assert run(["score", str(pool_folder), "--out", str(scores), *TOY, "--embeddings"]) == 0
    manifest = tmp_path / "m"
    assert run(["prune", "--scores", str(scores), "--fn", "entropy", "--keep", "12", "--out", str(manifest)]) == 0
    kept = kept_keys(manifest, pool_folder)
    rows = [row for path in sorted(scores.glob("tables/*.parquet")) for row in pq.read_table(path).to_pylist()]
    parts = [np.load(path).astype(np.float32) for path in sorted(scores.glob("embeddings/*.npy"))]
    embedding_ND = np.concatenate(parts)
    for place in (0, 20, 46):
        found = explained(capsys, rows[place]["key"], "--manifest", str(manifest))
        votes = [vote for _, vote in found["votes"]]  # type: ignore[attr-defined]
        assert len(votes) == 4
        assert sum(vote != str(rows[place]["label"]) for vote in votes) == found["against_label"]
        distance_N = np.linalg.norm(embedding_ND - embedding_ND[place], axis=1)
        others = [n for n in np.argsort(distance_N) if rows[n]["key"] in kept and n != place][:5]
        neighbours = found["neighbours"]
        assert [one["distance"] for one in neighbours] == pytest.approx(distance_N[others].tolist(), rel=1e-4)  # type: ignore[attr-defined]
        assert {one["key"] for one in neighbours} <= kept - {rows[place]["key"]}  # type: ignore[attr-defined]
    assert run(["explain", rows[0]["key"], "--manifest", str(manifest)]) == 0
    shown = capsys.readouterr().out
    assert "seed 1, epoch 3" in shown
    assert "Nearest kept" in shown
