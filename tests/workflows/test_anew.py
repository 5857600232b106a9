"""`curate evaluate --proxy-recipe`: each seed trains a proxy and selects; the table says so."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from test_evaluate import TARGET, TWO_EPOCHS
from test_score_and_prune import events

from curate.cli import run
from curate.manifest.lines import manifest_digest

PROXY = """
[proxy]
name = "preact_resnet20"
[augment]
translate_px = 1
[train]
seeds = 1
epochs = 2
checkpoints = 1
batch_size = 16
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "proxy.toml"
    path.write_text(PROXY)
    return path


def test_each_seed_has_its_own_proxy_and_selection(
    pool_folder: Path, toy_scores: Path, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    test = tmp_path / "test"
    test.mkdir()
    (test / "test-0000.tar").write_bytes((pool_folder / "toy-0002.tar").read_bytes())
    pool = [str(pool_folder / f"toy-000{n}.tar") for n in range(2)]
    out = tmp_path / "evaluation"
    words = ["evaluate", "--proxy-recipe", str(recipe), "--shards", *pool, "--fn", "entropy", "--keep", "0.5"]
    words += ["--test", str(test), "--out", str(out), *TARGET, *TWO_EPOCHS, "--seeds", "2"]
    capsys.readouterr()
    assert run([*words, "--md"]) == 0
    assert "each seed trains its own proxy, selects by it" in capsys.readouterr().out
    folders = [out / "anew" / f"{number:03d}" for number in range(2)]
    digests = [manifest_digest(folder / "entropy-0.5") for folder in folders]
    assert digests[0] != digests[1]
    recipes = [json.loads((folder / "scores" / "run.json").read_bytes())["recipe"]["train"] for folder in folders]
    assert [train["seed"] for train in recipes] == [1_000_000, 2_000_000]  # far from each other's, and from targets'
    runs = [json.loads((out / f"runs/preact_resnet20/entropy-0.5/00{n}.json").read_bytes()) for n in range(2)]
    assert [one["digest"] for one in runs] == digests
    assert all(one["anew"] and one["selection"]["members"] == 1 for one in runs)
    assert run([*words, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [(row["label"], row["n"]) for row in rows] == [("entropy 0.5", 2), ("random", 2), ("all the data", 2)]
    # One proxy of all and a target of half: 2 epochs each, and one pass over the pool to score it.
    assert rows[0]["selection_share"] == pytest.approx((3 * 2 + 1) / (3 * 2), rel=0.01)
    assert all(len(events(folder / "scores", "epoch")) == 2 for folder in folders)
    assert run([*words, "--keep", "0.5,0.25", "--seeds", "3", "--dry-run", "--json"]) == 0
    table = json.loads(capsys.readouterr().out)
    assert (table["done"], table["asked"]) == (6, 15)
    assert {(row["label"], row["samples"], row["n"], row["asked"]) for row in table["rows"]} == {
        ("entropy 0.5", 16, 2, 3), ("random", 16, 2, 3), ("all the data", 31, 2, 3),
        ("entropy 0.25", 8, 0, 3), ("random", 8, 0, 3),
    }  # fmt: skip
    recipe.write_text(PROXY.replace("epochs = 2", "epochs = 3"))
    for dry in ([], ["--dry-run"]):
        assert run([*words, *dry]) == 1
        assert "another --proxy-recipe" in capsys.readouterr().err


def test_sizes_that_differ_by_seed_are_held_against_random_of_their_own_size(
    pool_folder: Path, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is held out is never kept for training, and how much of the kept that is differs by seed."""
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "test-0000.tar").write_bytes((pool_folder / "toy-0002.tar").read_bytes())
    pool = [str(pool_folder / f"toy-000{n}.tar") for n in range(2)]
    out = tmp_path / "evaluation"
    words = ["evaluate", "--proxy-recipe", str(recipe), "--shards", *pool, "--fn", "random", "--keep", "0.5"]
    words += ["--val", "0.4", "--test", str(tmp_path / "test"), "--out", str(out), *TARGET, "--seeds", "2", "--json"]
    capsys.readouterr()
    assert run(words) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    [kept] = [row for row in rows if row["kind"] == "manifest"]
    folder = out / "runs" / "preact_resnet20"
    own = [json.loads((folder / "random-0.5" / f"00{n}.json").read_bytes()) for n in range(2)]
    assert len({one["samples"] for one in own}) > 1
    drawn = [
        json.loads((folder / f"random-{one['samples']}" / f"00{n}.json").read_bytes()) for n, one in enumerate(own)
    ]
    gains = [one["accuracy"] - other["accuracy"] for one, other in zip(own, drawn, strict=True)]
    assert kept["gain"]["n"] == 2
    assert kept["gain"]["mean"] == pytest.approx(sum(gains) / 2)
    # A proxy holds out just what the targets do.
    trained = {
        int(pq.read_table(path).num_rows - pq.read_table(path)["mean_loss"].null_count)
        for path in out.glob("anew/*/scores/tables/toy-0000*")
    }
    assert len(trained) == 1
    spent = [one["selection"]["seconds"] for one in own]
    assert kept["selection"]["seconds"] == pytest.approx(sum(spent) / 2)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--fn", "entropy"], "needs --shards, --fn and --keep"),
        (["--fn", "variation_ratio", "--keep", "0.5"], "needs 2 members"),
        (["--fn", "k_centres", "--keep", "0.5"], "Did you mean 'k_centers'"),
        (["--fn", "entropy", "--keep", "1.5"], "out of range"),
        (["--fn", "entropy", "--keep", "0.5,1.0"], "--keep 1.0 keeps everything"),
        (["--fn", "entropy", "--keep", "48"], "--keep 48 keeps all 48 samples"),
        (["--fn", "entropy", "--keep", "900"], "--keep '900'"),
        (["--fn", "forgetting", "--keep", "0.5", "--val", "0.2"], "--val holds some out"),
        (["--fn", "entropy", "--curve", "0.3,0.5"], "prunes one run"),
        (["somewhere", "--fn", "entropy", "--keep", "0.5"], "takes no manifests"),
    ],
)
def test_what_could_only_fail_after_a_proxy_was_trained_is_refused(
    pool_folder: Path, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    given = ["--proxy-recipe", str(recipe), "--shards", str(pool_folder), "--test", str(pool_folder)]
    assert run(["evaluate", *words, *given, "--out", str(tmp_path / "e"), *TARGET]) == 2
    assert said in capsys.readouterr().err
    assert not list((tmp_path / "e").rglob("*.safetensors"))
    assert not (tmp_path / "e" / "run.json").exists()
