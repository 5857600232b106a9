"""`prune --combine` over seeds and over runs, and `--never-learned`."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import TOY, write_tar

from curate.cli import run
from curate.manifest.lines import read_source
from curate.manifest.schema import load_head
from curate.samples import uniform
from curate.statistics import average_ranks
from curate.workflows.explain import explain


@pytest.fixture(scope="module")
def by_seed(pool_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("seeds") / "scores"
    assert run(["score", str(pool_folder), "--out", str(out), *TOY, "--per-seed"]) == 0
    return out


BAD_PLACE = {"shard": "toy-0001.tar", "ordinal": 7, "score": -9.0}  # who decodes it can score it


def rows(scores: Path) -> dict[str, np.ndarray]:
    """Returns every column over all shards, and `place`: shard TAB key."""
    tables = {path.name.removesuffix(".parquet"): pq.read_table(path) for path in sorted(scores.glob("tables/*"))}
    whole = pa.concat_tables(tables.values())
    columns = {name: whole[name].to_numpy() for name in whole.column_names}
    names = [name for name, table in tables.items() for _ in range(len(table))]
    return {**columns, "place": np.array([f"{name}\t{key}" for name, key in zip(names, columns["key"], strict=True)])}


def kept(out: Path, *words: str) -> set[str]:
    assert run(["prune", *words, "--keep", "20", "--keep-list", "--out", str(out)]) == 0
    return set((out / "keep.txt").read_text().splitlines())


def best(columns: dict[str, np.ndarray], score: np.ndarray) -> set[str]:
    """Returns the places of the 20 highest, ties to the identity."""
    order = np.lexsort((columns["identity"], -score))
    return set(columns["place"][order[:20]].tolist())


def test_the_seeds_of_a_run_are_combined(by_seed: Path, tmp_path: Path) -> None:
    columns = rows(by_seed)
    one, two = (columns[f"entropy@{seed}"].astype(np.float64) for seed in (0, 1))
    words = ["--scores", str(by_seed), "--fn", "entropy", "--combine"]
    assert kept(tmp_path / "mean", *words, "mean") == best(columns, (one + two) / 2)
    assert kept(tmp_path / "rank", *words, "rank") == best(columns, average_ranks(one) + average_ranks(two))
    head = load_head(tmp_path / "rank")
    assert (head.selection.combine, head.selection.never_learned, head.scored.combined_with) == ("rank", None, ())


@pytest.fixture
def other_run(toy_scores: Path, tmp_path: Path) -> Path:
    """A run over the same pool whose entropy has another order and another scale."""
    other = shutil.copytree(toy_scores, tmp_path / "other")
    for path in sorted(other.glob("tables/*")):
        table = pq.read_table(path)
        place = table.column_names.index("entropy")
        changed = pa.array(1000 * uniform(table["identity"].to_numpy()), pa.float32())
        pq.write_table(table.set_column(place, "entropy", changed), path)
    return other


def test_runs_are_combined_by_mean_or_rank(toy_scores: Path, other_run: Path, tmp_path: Path) -> None:
    columns, others = rows(toy_scores), rows(other_run)
    one, two = (table["entropy"].astype(np.float64) for table in (columns, others))
    words = ["--scores", str(toy_scores), "--scores", str(other_run), "--fn", "entropy", "--combine"]
    by_mean, by_rank = kept(tmp_path / "mean", *words, "mean"), kept(tmp_path / "rank", *words, "rank")
    assert by_mean == best(columns, one + two)
    assert by_rank == best(columns, average_ranks(one) + average_ranks(two))
    assert by_mean != by_rank
    head = load_head(tmp_path / "rank")
    assert [scored.proxy for scored in head.scored.combined_with] == ["preact_resnet20"]
    assert read_source(tmp_path / "rank")["combined_with"] == [str(other_run)]
    assert run(["verify", str(tmp_path / "rank")]) == 0
    states = {
        place: explain(place.partition("\t")[2], manifest=tmp_path / "rank").decision for place in columns["place"]
    }
    assert {place for place, decision in states.items() if decision.state == "kept"} == by_rank
    assert {decision.reason for decision in states.values() if decision.state == "dropped"} == {"rank"}
    assert sorted(decision.rank for decision in states.values()) == list(range(1, 48))


def test_ties_are_combined_too(toy_scores: Path, other_run: Path, tmp_path: Path) -> None:
    words = ["--fn", "variation_ratio", "--scores", str(toy_scores)]
    twice = kept(tmp_path / "twice", *words, "--scores", str(other_run), "--combine", "mean")
    assert twice == kept(tmp_path / "once", *words)


def test_scores_from_elsewhere_are_combined(toy_scores: Path, tmp_path: Path) -> None:
    columns = rows(toy_scores)
    for name in ("entropy", "loss"):
        shards = [place.partition("\t")[0] for place in columns["place"]]
        table = {"shard": shards, "ordinal": columns["ordinal"].tolist(), "score": columns[name].tolist()}
        table = {column: [*table[column], value] for column, value in BAD_PLACE.items()}
        pq.write_table(pa.table(table), tmp_path / f"{name}.parquet")
    words = ["--index", str(toy_scores / "index"), "--fn", "score", "--combine", "rank"]
    words += ["--scores", str(tmp_path / "entropy.parquet"), "--scores", str(tmp_path / "loss.parquet")]
    expected = best(columns, average_ranks(columns["entropy"]) + average_ranks(columns["loss"]))
    assert kept(tmp_path / "m", *words) == expected


def test_what_was_never_learned_is_kept_first_or_last(toy_scores: Path, tmp_path: Path) -> None:
    """Two samples are made out to have been learned by one seed and by none; all others by both."""
    made_up = shutil.copytree(toy_scores, tmp_path / "scores")
    for path in made_up.glob("tables/*"):
        table = pq.read_table(path)
        never = np.zeros(len(table))
        never[:2] = (1, 2) if path.name.startswith("toy-0000") else (0, 0)
        forgetting = np.where(never > 0, 3 * never, 1)  # T = 3 epochs
        for name, values in (("never_learned", never), ("forgetting", forgetting)):
            table = table.set_column(table.column_names.index(name), name, pa.array(values, pa.float32()))
        pq.write_table(table, path)
    columns = rows(made_up)
    words = ["--scores", str(made_up), "--fn", "forgetting", "--keep-list"]
    orders = {}
    for policy in ("first", "last"):
        for count in (2, 45, 46):
            out = tmp_path / f"{policy}-{count}"
            assert run(["prune", *words, "--never-learned", policy, "--keep", str(count), "--out", str(out)]) == 0
            orders[policy, count] = set((out / "keep.txt").read_text().splitlines())
        assert load_head(tmp_path / f"{policy}-2").selection.never_learned == policy
    half, never = columns["place"][:2].tolist()
    assert explain(never.partition("\t")[2], manifest=tmp_path / "last-46").decision.rank == 47
    assert explain(never.partition("\t")[2], manifest=tmp_path / "first-2").decision.rank == 1
    assert orders["first", 2] == {never, half}
    assert set(columns["place"]) - orders["last", 46] == {never}
    assert set(columns["place"]) - orders["last", 45] == {never, half}


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--scores", "A", "--scores", "A"], 2, "2 --scores"),
        (["--scores", "A", "--combine", "median"], 2, "--combine median"),
        (["--scores", "A", "--combine", "rank"], 2, "--per-seed"),
        (["--scores", "A", "--scores", "A", "--combine", "rank", "--fn", "random"], 2, "random order"),
        (["--scores", "A", "--scores", "B", "--combine", "rank"], 1, "has not scored the samples"),
        (["--scores", "A", "--scores", "C", "--combine", "rank"], 1, "no finished scores"),
        (["--scores", "A", "--never-learned", "last"], 2, "--never-learned last is for --fn forgetting"),
        (["--scores", "A", "--never-learned", "never", "--fn", "forgetting"], 2, "--never-learned never"),
    ],
)
def test_what_cannot_be_combined_is_said(
    toy_scores: Path,
    by_seed: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    code: int,
    said: str,
) -> None:
    if "B" in words:
        shutil.copytree(by_seed, tmp_path / "B")
        tables = sorted((tmp_path / "B").glob("tables/*"))
        table = pq.read_table(tables[0])
        changed = pa.array(table["identity"].to_numpy()[::-1])
        pq.write_table(table.set_column(table.column_names.index("identity"), "identity", changed), tables[0])
    places = {"A": str(toy_scores), "B": str(tmp_path / "B"), "C": str(tmp_path / "C")}
    given = [places.get(word, word) for word in words]
    fn = [] if "--fn" in words else ["--fn", "entropy"]
    assert run(["prune", *given, *fn, "--keep", "0.5", "--out", str(tmp_path / "m")]) == code
    assert said in capsys.readouterr().err
    assert not (tmp_path / "m").exists()


def test_one_seed_has_nothing_to_combine(pool_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--seeds", "1", "--epochs", "2", "--per-seed"]
    assert run(["score", str(pool_folder), "--out", str(tmp_path / "s"), *TOY, *words]) == 0
    words = ["--scores", str(tmp_path / "s"), "--fn", "entropy", "--keep", "0.5", "--out", str(tmp_path / "m")]
    assert run(["prune", *words, "--combine", "rank"]) == 2
    assert "one seed, nothing to combine" in capsys.readouterr().err


def test_runs_over_different_pools_are_not_combined(
    toy_scores: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from conftest import toy_members

    write_tar(tmp_path / "p" / "toy-0000.tar", toy_members(0))
    assert run(["score", str(tmp_path / "p"), "--out", str(tmp_path / "s"), *TOY, "--epochs", "2"]) == 0
    words = ["--scores", str(toy_scores), "--scores", str(tmp_path / "s"), "--combine", "mean", "--fn", "entropy"]
    assert run(["prune", *words, "--keep", "5", "--out", str(tmp_path / "m")]) == 1
    assert "Scores of the same pool" in capsys.readouterr().err
