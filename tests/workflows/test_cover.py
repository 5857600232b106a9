"""k-centers through the command line: embeddings stored and resumed, a manifest with its radius, what is refused."""

import hashlib
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import BAD_KEY, TOY, toy_members, write_tar
from test_score_and_prune import digests, events

from curate.cli import run
from curate.manifest.schema import load_head
from curate.workflows import cover

SCORED = 47


@pytest.fixture(scope="module")
def embedded(toy_scores: Path, pool_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy run, scored again with embeddings."""
    out = tmp_path_factory.mktemp("embedded") / "scores"
    shutil.copytree(toy_scores, out)
    assert run(["score", str(pool_folder), "--out", str(out), *TOY, "--embeddings"]) == 0
    return out


def prune(scores: Path, out: Path, *words: str) -> int:
    return run(["prune", "--scores", str(scores), "--out", str(out), "--fn", "k_centers", *words])


def embeddings(scores: Path) -> np.ndarray:
    return np.concatenate([np.load(path) for path in sorted((scores / "embeddings").glob("*.npy"))]).astype(np.float64)


def column(scores: Path, name: str) -> list[object]:
    return [v for path in sorted(scores.glob("tables/*.parquet")) for v in pq.read_table(path)[name].to_pylist()]


def centers(manifest: Path) -> list[tuple[str, str]]:
    """The lines of the sidecar: radius and key."""
    lines = (manifest / "centers.tsv").read_text().splitlines()
    return [(radius, key) for radius, _, key in (line.split("\t") for line in lines)]


def keys(manifest: Path) -> list[str]:
    return [line.split("\t")[1] for line in (manifest / "keep.txt").read_text().splitlines()]


def of_embeddings(folder: Path) -> dict[str, str]:
    paths = (folder / "embeddings").rglob("*.*")
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def test_embeddings_are_made_by_saved_members_and_leave_scores_as_they_are(toy_scores: Path, embedded: Path) -> None:
    assert digests(embedded) == digests(toy_scores)
    assert len(events(embedded, "epoch")) == len(events(toy_scores, "epoch"))
    assert len(events(embedded, "shard")) == len(events(toy_scores, "shard"))
    parts = [np.load(path) for path in sorted((embedded / "embeddings").glob("*.npy"))]
    assert [part.shape for part in parts] == [(16, 64), (15, 64), (16, 64)]
    assert {part.dtype for part in parts} == {np.dtype(np.float16)}
    assert json.loads((embedded / "embeddings" / "record.json").read_bytes()) == {"epoch": 3, "format": 1, "seed": 0}


def test_embeddings_are_what_the_classifier_of_the_last_member_is_given(embedded: Path, pool_folder: Path) -> None:
    from safetensors.torch import load_file

    head = load_file(embedded / "members" / "seed-000" / "epoch-003.safetensors")
    weight, bias = (head[f"head.fc.{name}"].numpy().astype(np.float64) for name in ("weight", "bias"))
    logits = embeddings(embedded) @ weight.reshape(3, 64).T + bias
    alone = embedded.parent / "alone"
    words = [*TOY, "--seeds", "1", "--checkpoints", "1"]
    assert run(["score", str(pool_folder), "--out", str(alone), *words]) == 0
    shutil.copytree(embedded / "members" / "seed-000", alone / "members" / "seed-000", dirs_exist_ok=True)
    shutil.rmtree(alone / "tables")
    assert run(["score", str(pool_folder), "--out", str(alone), *words]) == 0
    probability = np.exp(logits - logits.max(1, keepdims=True))
    probability /= probability.sum(1, keepdims=True)
    np.testing.assert_allclose(column(alone, "least_confidence"), 1 - probability.max(1), atol=0.02)


@pytest.mark.slow
def test_killed_in_mid_embedding_it_ends_with_the_same_bytes(
    toy_scores: Path, embedded: Path, pool_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "scores"
    shutil.copytree(toy_scores, out)
    words = ["score", str(pool_folder), "--out", str(out), *TOY, "--embeddings"]
    code = (
        "import os, signal, sys\nfrom curate.workflows import embed\nplain, done = embed.write_embeddings, []\n"
        "def write(*words):\n    plain(*words)\n    done.append(1)\n"
        "    len(done) < 2 or os.kill(os.getpid(), signal.SIGKILL)\n"
        "embed.write_embeddings = write\nfrom curate.cli import run\nrun(sys.argv[1:])"
    )
    process = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, check=False)
    assert process.returncode == -signal.SIGKILL
    assert len(of_embeddings(out)) == 2
    assert prune(out, tmp_path / "m", "--keep", "10") == 1
    assert run(words) == 0
    assert of_embeddings(out) == of_embeddings(embedded)
    assert len(events(out, "embeddings")) == 2


def test_a_run_without_embeddings_says_how_to_get_them(toy_scores: Path, tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    assert prune(toy_scores, tmp_path / "m", "--keep", "10") == 1
    error = capsys.readouterr().err
    assert "holds no embeddings" in error
    assert "--embeddings" in error


def test_the_manifest_holds_the_greedy_order_its_radii_and_the_bound(embedded: Path, tmp_path: Path) -> None:
    assert prune(embedded, tmp_path / "m", "--keep", "20", "--start-size", "4", "--seed", "3", "--keep-list") == 0
    lines = centers(tmp_path / "m")
    x, key = embeddings(embedded), column(embedded, "key")
    assert len(x) == SCORED
    gap = np.sqrt(((x[:, None] - x) ** 2).sum(2))
    start = [key.index(name) for radius, name in lines if radius == "start"]
    nearest, order = gap[start].min(0), []
    for _ in range(16):
        order.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, gap[order[-1]])
    assert [key[row] for row in order] == [name for _, name in lines[4:]]
    radii = [float(radius) for radius, _ in lines[4:]]
    assert radii == sorted(radii, reverse=True)
    head = load_head(tmp_path / "m")
    assert head.selection.cover is not None
    assert head.selection.cover.radius == pytest.approx(nearest.max())
    assert head.selection.cover.lower_bound == head.selection.cover.radius / 2
    assert (head.selection.cover.member_seed, head.selection.cover.member_epoch) == (0, 3)
    assert (head.selection.seed, head.selection.cover.start_size) == (3, 4)
    assert "centers.tsv" in head.files
    assert sorted(name for _, name in lines) == sorted(keys(tmp_path / "m"))
    assert run(["verify", str(tmp_path / "m")]) == 0
    (tmp_path / "m" / "centers.tsv").write_text("")
    assert run(["verify", str(tmp_path / "m")]) == 1


def test_a_random_start_is_what_random_keeps_and_the_rest_is_the_same_anywhere(embedded: Path, tmp_path: Path) -> None:
    words = ["prune", "--scores", str(embedded), "--keep", "7", "--keep-list", "--fn", "random", "--out"]
    assert run([*words, str(tmp_path / "r")]) == 0
    assert prune(embedded, tmp_path / "m", "--keep", "30", "--start-size", "7") == 0
    assert sorted(key for radius, key in centers(tmp_path / "m") if radius == "start") == sorted(keys(tmp_path / "r"))
    before = (tmp_path / "m" / "manifest.json").read_bytes()
    assert prune(embedded, tmp_path / "m", "--keep", "30", "--start-size", "7") == 0
    assert (tmp_path / "m" / "manifest.json").read_bytes() == before
    assert prune(embedded, tmp_path / "d", "--keep", "30") == 0
    assert sum(radius == "start" for radius, _ in centers(tmp_path / "d")) == 3


def test_a_start_from_a_manifest_is_kept_and_named(embedded: Path, tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    words = ["prune", "--scores", str(embedded), "--keep", "5", "--keep-list", "--fn", "entropy", "--out"]
    assert run([*words, str(tmp_path / "base")]) == 0
    assert prune(embedded, tmp_path / "m", "--keep", "12", "--start", str(tmp_path / "base"), "--keep-list") == 0
    head = load_head(tmp_path / "m")
    assert head.selection.cover is not None
    assert (head.selection.cover.start, head.selection.cover.start_size, head.selection.seed) == ("manifest", 5, None)
    assert head.selection.base is not None
    assert set(keys(tmp_path / "base")) < set(keys(tmp_path / "m"))
    assert prune(embedded, tmp_path / "n", "--keep", "4", "--start", str(tmp_path / "base")) == 2
    assert "the start has 5 samples, but the budget is 4" in capsys.readouterr().err


def test_lists_and_classes_are_kept_to(embedded: Path, tmp_path: Path) -> None:
    (tmp_path / "always").write_text("s0_00\n")
    (tmp_path / "never").write_text("s0_01\n")
    lists = ["--always", str(tmp_path / "always"), "--never", str(tmp_path / "never")]
    words = ["--keep", "15", "--per-class", "equal", "--start-size", "2", "--keep-list"]
    assert prune(embedded, tmp_path / "m", *words, *lists) == 0
    head = load_head(tmp_path / "m")
    assert head.classes.after == (5, 5, 5)
    assert head.totals.dropped == {"rank": SCORED - 16, "never": 1}
    assert "s0_00" in keys(tmp_path / "m")
    assert "s0_01" not in keys(tmp_path / "m")
    assert BAD_KEY not in keys(tmp_path / "m")


def test_explain_names_the_file_of_the_order(embedded: Path, tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    assert prune(embedded, tmp_path / "m", "--keep", "12", "--keep-list") == 0
    capsys.readouterr()
    for key in {keys(tmp_path / "m")[0], "s0_01"}:
        assert run(["explain", key, "--manifest", str(tmp_path / "m")]) == 0
        assert "its order is in centers.tsv" in capsys.readouterr().out


def test_two_rounds_say_so_and_keep_to_the_budget(embedded: Path, tmp_path: Path) -> None:
    assert prune(embedded, tmp_path / "m", "--keep", "6", "--start-size", "1", "--partitions", "3") == 0
    cover = load_head(tmp_path / "m").selection.cover
    assert cover is not None
    assert cover.partitions == 3
    assert cover.radius is not None
    assert cover.lower_bound is not None
    assert cover.lower_bound <= cover.radius <= 8 * cover.lower_bound
    assert prune(embedded, tmp_path / "e", "--keep", "6", "--start-size", "1") == 0
    exact = load_head(tmp_path / "e").selection.cover
    assert exact is not None
    assert exact.radius is not None
    assert cover.lower_bound <= exact.radius


@pytest.fixture(scope="module")
def partly(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pool in which every third sample has a label."""
    folder = tmp_path_factory.mktemp("partly")
    members = [entry for entry in toy_members(0) if entry[0].endswith("png") or int(entry[0][3:5]) % 2 == 0]
    write_tar(folder / "pool" / "a.tar", members)
    assert run(["score", str(folder / "pool"), "--out", str(folder / "scores"), *TOY, "--embeddings"]) == 0
    return folder / "scores"


def test_a_start_from_what_is_labelled(partly: Path, embedded: Path, tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    assert prune(partly, tmp_path / "m", "--keep", "10", "--start", "labelled") == 0
    labelled = [
        key for key, label in zip(column(partly, "key"), column(partly, "label"), strict=True) if label is not None
    ]
    assert [key for radius, key in centers(tmp_path / "m") if radius == "start"] == labelled
    assert prune(partly, tmp_path / "n", "--keep", "10", "--per-class", "equal") == 2
    assert "8 of 16 samples have none" in capsys.readouterr().err
    assert prune(embedded, tmp_path / "n", "--keep", "10", "--start", "labelled") == 2
    assert "the start has 47 samples" in capsys.readouterr().err


def test_a_start_of_another_pool_is_refused(partly: Path, embedded: Path, tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    assert prune(partly, tmp_path / "m", "--keep", "5") == 0
    assert prune(embedded, tmp_path / "n", "--keep", "9", "--start", str(tmp_path / "m")) == 1
    assert "is of another pool: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--fn", "k_centers", "--start", "nowhere"], "expected random, labelled, or a manifest's folder"),
        (["--fn", "k_centers", "--start", "labelled", "--start-size", "3"], "--start-size is of --start random"),
        (["--fn", "k_centers", "--start-size", "48"], "a start of 48 samples was asked for, but there are 47"),
        (["--fn", "k_centers", "--start-size", "20"], "the start has 20 samples, but the budget is 12"),
        (["--fn", "k_centers", "--outliers", "0.1"], "--outliers cannot be with --fn k_centers"),
        (["--fn", "k_centers", "--order", "easiest"], "--order easiest cannot be with --fn k_centers"),
        (["--fn", "k_centers", "--min-per-class", "1"], "--min-per-class cannot be"),
        (["--fn", "k_centers", "--per-class", "equal", "--partitions", "2"], "--partitions cannot be with --per-class"),
        (["--fn", "k_centers", "--combine", "mean"], "--combine cannot be with --fn k_centers"),
        (["--fn", "entropy", "--partitions", "2"], "are of --fn k_centers, not of 'entropy'"),
        (["--fn", "k_centers", "--keep", "48"], "keep '48': 48 samples were asked for, but there are 47"),
    ],
)
def test_what_cannot_be_is_said(embedded: Path, tmp_path: Path, capsys, words, said) -> None:  # type: ignore[no-untyped-def]
    assert run(["prune", "--scores", str(embedded), "--out", str(tmp_path / "m"), "--keep", "12", *words]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize("damage", ["short", "text", "gone", "a bit"])
def test_damaged_embeddings_are_an_error(embedded: Path, tmp_path: Path, capsys, damage: str) -> None:  # type: ignore[no-untyped-def]
    shutil.copytree(embedded, tmp_path / "s")
    path = tmp_path / "s" / "embeddings" / "toy-0001.tar.npy"
    if damage == "short":
        np.save(path, np.load(path)[:-1])
    elif damage == "text":
        path.write_text("no array")
    elif damage == "a bit":
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    else:
        path.unlink()
    assert prune(tmp_path / "s", tmp_path / "m", "--keep", "10") == 1
    assert "toy-0001.tar.npy" in capsys.readouterr().err


def test_k_centers_do_not_import_torch(embedded: Path, tmp_path: Path) -> None:
    words = ["prune", "--scores", str(embedded), "--keep", "10", "--fn", "k_centers", "--out", str(tmp_path / "m")]
    code = "import sys\nfrom curate.cli import run\nassert run(sys.argv[1:]) == 0\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code, *words], check=True)


def test_a_name_that_is_nearly_k_centers_is_guessed(
    embedded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["prune", "--scores", str(embedded), "--out", str(tmp_path / "m"), "--keep", "0.5", "--fn", "k_centres"]
    assert run(given) == 2
    assert "Did you mean 'k_centers'" in capsys.readouterr().err


def test_a_device_that_cannot_be_is_refused(embedded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, said in (
        (["--device", "tpu"], "--device tpu: expected cpu"),
        (["--device", "cuda", "--per-class", "equal"], "without --per-class"),
    ):
        assert prune(embedded, tmp_path / "m", "--keep", "0.5", *words) == 2
        assert said in capsys.readouterr().err


def test_partitions_are_proposed_where_memory_is_short(
    embedded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """47 embeddings of 64 numbers are 12,032 bytes, half as much again to cover; the machine says that it has less."""

    class Memory:
        available = 0

    monkeypatch.setattr(cover.psutil, "virtual_memory", lambda: Memory)
    for available, words, said in (
        (7000, [], "--partitions 4` holds a part"),
        (7000, ["--partitions", "2"], "The embeddings of 24 samples take"),
        (1000, [], "Keep less"),
        (1000, ["--per-class", "equal"], "The embeddings of 16 samples take"),
    ):
        Memory.available = available
        assert prune(embedded, tmp_path / "m", "--keep", "4", *words) == 1
        printed = capsys.readouterr().err
        assert "of memory to cover" in printed
        assert said in printed
    assert not (tmp_path / "m").exists()
    assert run(["compare", str(embedded), str(tmp_path / "x"), "--fn", "k_centers"]) == 1
    shutil.copytree(embedded, tmp_path / "other")
    capsys.readouterr()
    assert run(["compare", str(embedded), str(tmp_path / "other"), "--fn", "k_centers"]) == 1
    assert "the order is that of the whole pool" in capsys.readouterr().err
    Memory.available = 7000
    assert prune(embedded, tmp_path / "m", "--keep", "4", "--partitions", "4") == 0
    assert prune(embedded, tmp_path / "c", "--keep", "4", "--per-class", "equal") == 0


def test_embeddings_that_are_not_finite_are_named(
    embedded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "scores"
    shutil.copytree(embedded, out)
    path = out / "embeddings" / "toy-0001.tar.npy"
    half_ND = np.load(path)
    half_ND[3, 2] = np.nan
    np.save(path, half_ND)
    path.write_bytes(path.read_bytes() + hashlib.blake2b(path.read_bytes(), digest_size=16).digest())
    assert prune(out, tmp_path / "m", "--keep", "0.5") == 1
    assert "toy-0001.tar.npy: scored sample 3 is not finite" in capsys.readouterr().err
    assert not (tmp_path / "m").exists()


def test_a_list_that_fills_the_budget_needs_no_random_start(embedded: Path, tmp_path: Path) -> None:
    (tmp_path / "always.txt").write_text("s0_01\ns0_02\ns1_01\n")
    words = ["--keep", "3", "--always", str(tmp_path / "always.txt"), "--keep-list"]
    assert prune(embedded, tmp_path / "m", *words) == 0
    assert sorted(keys(tmp_path / "m")) == ["s0_01", "s0_02", "s1_01"]
