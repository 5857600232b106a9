"""`curate compare`: correlations of runs, seeds and epochs, against scipy; cost."""

import json
import shutil
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import TOY
from scipy import stats

from curate.acquisition import ACQUISITIONS
from curate.acquisition.disagreement import checkpoint_agreement
from curate.cli import run
from curate.manifest.algebra import kept_mask
from curate.manifest.lines import read_lines
from curate.manifest.schema import load_head
from curate.workflows import consensus
from curate.workflows.arms import recipes_of
from curate.workflows.cost import cost_of, selection_cost

SMALL = [*TOY[:4], "--epochs", "2", *TOY[6:]]


@pytest.fixture(scope="session")
def two_runs(pool_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("runs")
    for name, seed in (("one", 0), ("two", 7)):
        words = ["--out", str(folder / name), *SMALL, "--set", f"train.seed={seed}", "--per-seed", "--trace"]
        assert run(["score", str(pool_folder), *words]) == 0
    return folder / "one", folder / "two"


def compared(capsys: pytest.CaptureFixture[str], *words: object) -> dict:  # type: ignore[type-arg]
    capsys.readouterr()
    assert run(["compare", *map(str, words), "--json"]) == 0
    return dict(json.loads(capsys.readouterr().out))


def column(folder: Path, name: str) -> np.ndarray:  # type: ignore[type-arg]
    tables = [pq.read_table(path, columns=[name]) for path in sorted((folder / "tables").glob("*.parquet"))]
    return np.concatenate([table[name].to_numpy() for table in tables])


def test_two_runs_are_correlated_as_scipy_does(two_runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    one, two = two_runs
    (row,) = compared(capsys, one, two, "--fn", "entropy", "--top", "0.25")["agreement"]
    a, b = column(one, "entropy"), column(two, "entropy")
    assert (row["a"], row["b"], row["n"]) == ("one", "two", 47)
    for name, function in (("spearman", stats.spearmanr), ("pearson", stats.pearsonr), ("kendall", stats.kendalltau)):
        assert row[name] == pytest.approx(function(a, b)[0], abs=1e-6)
    tops = [set(np.argsort(values)[-12:].tolist()) for values in (a, b)]
    assert row["overlap"]["0.25"] == pytest.approx(len(tops[0] & tops[1]) / 12)


def test_seeds_of_one_member_are_compared_by_what_one_member_can_be_asked(
    pool_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "scores"
    words = ["--out", str(out), *TOY[:4], "--epochs", "1", "--checkpoints", "1", *TOY[8:], "--per-seed"]
    assert run(["score", str(pool_folder), *words]) == 0
    found = {row["fn"] for row in compared(capsys, out, "--consensus")["agreement"]}
    assert {"entropy", "error_count", "aum"} <= found
    assert not found & {"mutual_information", "variation_ratio"}
    assert run(["compare", str(out), "--fn", "variation_ratio"]) == 1
    assert "keeps no 'variation_ratio' of single seeds, which have one member each" in capsys.readouterr().err


def test_a_target_is_held_against_runs_and_their_rank_combination(
    two_runs: tuple[Path, Path], toy_scores: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = compared(capsys, *two_runs, "--target", toy_scores, "--fn", "margin", "--cost")
    assert [(row["a"], row["b"]) for row in rows["agreement"]] == [
        ("one", "scores"), ("two", "scores"), ("rank combination", "scores"), ("random order", "scores"),
    ]  # fmt: skip
    mean = sum(stats.rankdata(-column(folder, "margin")) for folder in two_runs) / 2
    expected = stats.pearsonr(-mean, column(toy_scores, "margin"))[0]
    assert rows["agreement"][2]["pearson"] == pytest.approx(expected, abs=1e-6)
    one, _, target = rows["cost"]
    # Two epochs instead of three: two thirds of the training, all of the scoring.
    assert one["share"] == pytest.approx((3 * 2 * 2 + 4) / (3 * 2 * 3 + 4), rel=0.02)
    assert target["share"] == 1


def test_several_targets_are_held_against_each_other_too(
    two_runs: tuple[Path, Path], toy_scores: Path, pool_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The slides' figure 3: proxies, their rank combination and several targets; what targets have counts as one's."""
    one, two = two_runs
    three = tmp_path / "three"
    words = ["--out", str(three), *SMALL, "--seeds", "1", "--set", "train.seed=20"]
    assert run(["score", str(pool_folder), *words]) == 0
    words = [one, toy_scores, "--target", two, "--target", three, "--fn", "entropy", "--cost"]
    found = compared(capsys, *words)
    assert [(row["a"], row["b"]) for row in found["agreement"]] == [
        ("one", "two"), ("one", "three"), ("scores", "two"), ("scores", "three"),
        ("rank combination", "two"), ("rank combination", "three"), ("random order", "two"), ("random order", "three"),
        ("two", "three"),
    ]  # fmt: skip
    expected = stats.pearsonr(column(two, "entropy"), column(three, "entropy"))[0]
    assert found["agreement"][-1]["pearson"] == pytest.approx(expected, abs=1e-6)
    # Two seeds of one target and the only seed of the other are three runs of the target.
    single = {row["run"]: row for row in found["single_runs"]}
    assert {name: row["pairs"] for name, row in single.items()} == {"one": 6, "targets": 3}
    runs = [column(two, "entropy@7"), column(two, "entropy@8"), column(three, "entropy")]
    own = [stats.spearmanr(runs[a], runs[b])[0] for a, b in ((0, 1), (0, 2), (1, 2))]
    assert single["targets"]["spearman"] == pytest.approx(np.mean(own), abs=1e-6)
    assert [row["share"] for row in found["cost"] if row["run"] == "two"] == [1]


def test_without_single_runs_there_is_nothing_to_hold_against(
    two_runs: tuple[Path, Path], toy_scores: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Runs of several seeds that keep their scores only together; and a run whose folder has the name of a row."""
    other = tmp_path / "targets"
    shutil.copytree(toy_scores, other)
    found = compared(capsys, toy_scores, "--target", other, "--fn", "entropy")
    assert [(row["a"], row["b"], row["n"]) for row in found["agreement"]] == [
        ("scores", str(other), 47), ("random order", str(other), 47),
    ]  # fmt: skip
    assert found["single_runs"] == []
    # One pair has no spread, and none is made up.
    (proxy, target) = compared(capsys, two_runs[0], "--target", two_runs[1], "--fn", "entropy")["single_runs"]
    assert (proxy["pairs"], target["pairs"], target["spread"]) == (4, 1, None)
    assert proxy["spread"] > 0


def test_orders_of_centers_are_compared(
    pool_folder: Path, toy_scores: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Coleman et al. 2020, figures 5 (left) and 7: the order in which k-centers take what is beside the start."""
    runs = [tmp_path / name for name in ("a", "b", "c")]
    for seed, out in enumerate(runs):
        words = ["--out", str(out), *SMALL, "--seeds", "1", "--embeddings", "--set", f"train.seed={seed}"]
        assert run(["score", str(pool_folder), *words]) == 0
    words = [runs[0], "--target", runs[1], "--target", runs[2], "--fn", "k_centers"]
    found = compared(capsys, *words)
    place: list[dict[str, int]] = []
    for out in runs:
        chosen = ["--scores", str(out), "--fn", "k_centers", "--keep", "47", "--out", str(out / "m")]
        assert run(["prune", *chosen, "--start-size", "4"]) == 0
        rows = [line.split("\t") for line in (out / "m" / "centers.tsv").read_text().splitlines()]
        place.append({key: n for n, (radius, _, key) in enumerate(rows) if radius != "start"})
    keys = sorted(place[0])
    assert len(keys) == 43
    assert sorted(place[1]) == keys
    ranks = [np.array([own[key] for key in keys]) for own in place]
    expected = {(a, b): stats.spearmanr(ranks["abc".index(a)], ranks["abc".index(b)])[0] for a, b in ("ab", "ac", "bc")}
    agreement = [row for row in found["agreement"] if row["a"] != "random order"]
    assert {(row["a"], row["b"]): row["spearman"] for row in agreement} == pytest.approx(expected, abs=1e-6)
    assert all(row["n"] == 43 for row in found["agreement"])
    (proxy, target) = found["single_runs"]
    assert (proxy["run"], proxy["pairs"], target["run"], target["pairs"]) == ("a", 2, "targets", 1)
    assert proxy["gap"] == pytest.approx(expected["b", "c"] - (expected["a", "b"] + expected["a", "c"]) / 2, abs=1e-6)
    assert run(["compare", str(runs[0]), "--fn", "k_centers"]) == 2
    assert "has embeddings of one member" in capsys.readouterr().err
    assert run(["compare", str(runs[0]), str(toy_scores), "--fn", "k_centers"]) == 1
    assert "holds no embeddings" in capsys.readouterr().err


def test_the_combination_shares_with_a_target_what_prune_would_keep_by_both(
    two_runs: tuple[Path, Path], toy_scores: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ties of a combined score are decided as `prune --combine rank` decides them."""
    one, two = two_runs
    kept = []
    for name, words in (("c", [one, "--scores", toy_scores, "--combine", "rank"]), ("t", [two])):
        out = tmp_path / name
        words = ["prune", "--scores", *words, "--fn", "variation_ratio", "--keep", "12", "--out", out]
        assert run([str(word) for word in words]) == 0
        kept.append(np.concatenate([kept_mask(line) for line in read_lines(out)]))
    words = [one, toy_scores, "--target", two, "--fn", "variation_ratio", "--top", "12"]
    row = next(row for row in compared(capsys, *words)["agreement"] if row["a"] == "rank combination")
    assert row["overlap"]["12"] == pytest.approx((kept[0] & kept[1]).sum() / 12)
    twice = ["prune", "--scores", str(one), "--scores", str(one), "--combine", "rank", "--fn", "entropy", "--keep", "5"]
    assert run(twice) == 2
    assert "is named twice" in capsys.readouterr().err


def test_epochs_are_held_against_the_target(
    two_runs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Coleman et al. 2020, figures 9 and 10: from which epoch on a proxy ranks as the target does."""
    one, two = two_runs
    words = [one, "--target", two, "--fn", "entropy", "--epochs", "--plot", tmp_path / "epochs.svg"]
    rows = compared(capsys, *words)["epochs"]
    epochs = sorted({r["epoch"] for r in rows})
    assert [(row["seed"], row["epoch"], row["with"]) for row in rows] == [
        (s, e, other) for s in (0, 1) for e in epochs for other in ("one", "two")
    ]
    traced = [pq.read_table(p) for p in sorted((one / "trace" / "seed-000" / "epoch-001" / "tables").glob("*.parquet"))]
    first_N = np.concatenate([table["entropy"].to_numpy() for table in traced])
    for name, function in (("spearman", stats.spearmanr), ("kendall", stats.kendalltau), ("pearson", stats.pearsonr)):
        assert rows[1][name] == pytest.approx(function(first_N, column(two, "entropy"))[0], abs=1e-6)
    assert set(rows[1]["overlap"]) == {"0.1", "0.5"}
    assert "Spearman of each epoch with two" in (tmp_path / "epochs.svg").read_text()


def test_the_functions_that_a_trace_holds_are_compared_and_named_beside_others(
    two_runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """What is counted so far is, after the last epoch, what the seed's own score is."""
    one = two_runs[0]
    traced = ("entropy", "correctness", "forgetting")
    rows = compared(capsys, one, "--epochs", *(word for fn in traced for word in ("--fn", fn)))["epochs"]
    assert {row["fn"] for row in rows} == set(traced)
    tables = [pq.read_table(p) for p in sorted((one / "trace" / "seed-001" / "epoch-002" / "tables").glob("*.parquet"))]
    so_far = np.concatenate([table["correctness"].to_numpy() for table in tables])
    assert np.array_equal(so_far, column(one, "correctness@1"))
    (row,) = (r for r in rows if (r["fn"], r["seed"], r["epoch"]) == ("correctness", 1, 2))
    assert row["spearman"] == pytest.approx(stats.spearmanr(so_far, column(one, "correctness"))[0], abs=1e-6)
    assert set(traced) == set(tables[0].column_names) & set(ACQUISITIONS)
    assert run(["compare", str(one), "--epochs", "--fn", "aum"]) == 1
    out, err = capsys.readouterr()
    assert (out, "trace of aum" in err, "holds entropy, correctness and forgetting" in err) == ("", True, True)


def test_single_runs_are_held_against_the_targets_own(
    two_runs: tuple[Path, Path], toy_scores: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The figure that says whether a proxy ranks as the target does: run by run, beside the target with itself."""
    one, two = two_runs
    picture = tmp_path / "agreement.svg"
    words = [one, toy_scores, "--target", two, "--fn", "entropy", "--fn", "forgetting", "--plot", picture]
    rows = compared(capsys, *words)["single_runs"]
    # toy_scores does not keep single seeds: it has no row.
    assert [(row["fn"], row["run"], row["is_target"], row["pairs"]) for row in rows] == [
        ("entropy", "one", False, 4), ("entropy", "two", True, 1),
        ("forgetting", "one", False, 4), ("forgetting", "two", True, 1),
    ]  # fmt: skip
    a, b = ([column(folder, f"entropy@{seed}") for seed in seeds] for folder, seeds in ((one, (0, 1)), (two, (7, 8))))
    against = [stats.spearmanr(x, y)[0] for x in a for y in b]
    itself = stats.spearmanr(*b)[0]
    assert rows[0]["spearman"] == pytest.approx(np.mean(against), abs=1e-6)
    assert rows[0]["spread"] == pytest.approx(np.std(against, ddof=1), abs=1e-6)
    assert (rows[1]["spearman"], rows[1]["gap"]) == (pytest.approx(itself, abs=1e-6), None)
    assert rows[0]["gap"] == pytest.approx(itself - np.mean(against), abs=1e-6)
    assert rows[0]["kendall"] == pytest.approx(np.mean([stats.kendalltau(x, y)[0] for x in a for y in b]), abs=1e-6)
    halves = [[set(np.argsort(-values, kind="stable")[:24].tolist()) for values in own] for own in (a, b)]
    shares = [len(x & y) / 24 for x in halves[0] for y in halves[1]]
    assert rows[0]["overlap"]["0.5"] == pytest.approx(np.mean(shares))
    titles = [node.text for node in ElementTree.parse(picture).iter() if node.tag.endswith("title")]  # noqa: S314
    assert f"one, entropy: {rows[0]['spearman']:.3f} ± {rows[0]['spread']:.3f}" in titles


def test_epochs_and_votes_are_drawn(
    two_runs: tuple[Path, Path], toy_scores: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = two_runs
    page = tmp_path / "agreement.html"
    words = [one, two, "--fn", "entropy", "--epochs", "--consensus", "--plot", page]
    found = compared(capsys, *words)
    svg = page.read_text().partition("<body>")[2].partition("</body>")[0]
    root = ElementTree.fromstring(svg)  # noqa: S314  (written by this test)
    titles = [node.text or "" for node in root.iter() if node.tag.endswith("title")]
    for epoch in (1, 2):
        values = [r["spearman"] for r in found["epochs"] if (r["run"], r["epoch"]) == ("one", epoch)]
        assert f"one, epoch {epoch}: {np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}" in titles
    last = [row["last"] for row in found["consensus"][1]["checkpoints"]]
    assert f"two: last n, n 2: {100 * np.mean(last):.2f} ± {100 * np.std(last, ddof=1):.2f}" in titles
    every = compared(capsys, one, "--target", two, "--plot", tmp_path / "all.svg")["single_runs"]
    drawn = (tmp_path / "all.svg").read_text()
    assert len({row["fn"] for row in every}) > 8
    assert all(
        f">two, {row['fn']}: " in drawn for row in every if row["is_target"] and row["spearman"] == row["spearman"]
    )
    assert run(["compare", *map(str, two_runs), "--fn", "entropy", "--plot", str(tmp_path / "a.png")]) == 2
    assert not list(tmp_path.glob("a.*"))


def test_the_agreement_is_drawn_where_nothing_else_is_asked_for(
    two_runs: tuple[Path, Path], toy_scores: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = two_runs
    fns = ["--fn", "entropy", "--fn", "aum"]
    for words, charts in (
        ([one, two], {"Spearman with two"}),
        ([one], {"Spearman with seed 1"}),
        ([one, two, "--target", toy_scores], {"Spearman with scores"}),
        ([one, two, toy_scores], {"Spearman with two", "Spearman with scores"}),
        ([one, two, "--cost"], {"Spearman with two"}),
    ):
        rows = compared(capsys, *words, *fns, "--plot", tmp_path / "pairs.svg")["agreement"]
        nodes = list(ElementTree.parse(tmp_path / "pairs.svg").iter())  # noqa: S314
        assert charts == {node.text for node in nodes if (node.text or "").startswith("Spearman")}
        titles = [node.text for node in nodes if node.tag.endswith("title")]
        assert sorted(titles) == sorted(f"{row['a']}, {row['fn']}: {row['spearman']:.3f}" for row in rows)


def test_what_has_nothing_to_draw_is_refused_before_it_is_compared(
    toy_scores: Path, two_runs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plot = tmp_path / "a.svg"
    capsys.readouterr()
    assert run(["compare", str(toy_scores), "--cost", "--plot", str(plot)]) == 2
    out, err = capsys.readouterr()
    assert (out, plot.exists(), "keeps no scores of single seeds" in err) == ("", False, True)
    assert run(["compare", str(toy_scores), "--consensus", "--plot", str(plot)]) == 0


def test_one_run_is_its_seeds_and_its_epochs(two_runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    one = two_runs[0]
    found = compared(capsys, one, "--fn", "entropy", "--fn", "forgetting", "--epochs")
    assert [(row["a"], row["b"]) for row in found["agreement"]] == [("seed 0", "seed 1")] * 2
    assert {(row["seed"], row["epoch"]) for row in found["epochs"]} == {(0, 1), (0, 2), (1, 1), (1, 2)}
    assert all(-1 <= row["spearman"] <= 1 for row in found["epochs"] if row["spearman"] == row["spearman"])
    assert run(["compare", str(one)]) == 0
    assert "mutual_information" in capsys.readouterr().out


def test_runs_of_one_name_are_told_apart_and_seeds_are_named_in_full(
    pool_folder: Path, two_runs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "one"
    words = ["--out", str(out), *SMALL, "--set", "train.seed=1999", "--per-seed", "--trace"]
    assert run(["score", str(pool_folder), *words]) == 0
    found = compared(capsys, out, two_runs[0], "--fn", "entropy", "--epochs", "--consensus", "--cost")
    names = [str(out), str(two_runs[0])]
    assert [(row["a"], row["b"]) for row in found["agreement"]] == [tuple(names)]
    assert {(row["run"], row["seed"]) for row in found["epochs"]} == {
        (names[0], 1999), (names[0], 2000), (names[1], 0), (names[1], 1),
    }  # fmt: skip
    assert [row["run"] for row in found["consensus"]] == [row["run"] for row in found["cost"]] == names
    assert run(["compare", str(out), str(out)]) == 2
    assert "is named twice" in capsys.readouterr().err


def test_samples_without_a_score_are_left_out(
    pool_folder: Path, two_runs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Some were held out, so that they have no dynamics; of what no two runs were trained on nothing can be said."""
    assert run(["score", str(pool_folder), "--out", str(tmp_path / "held"), *SMALL, "--val", "0.2"]) == 0
    (*_, row, random) = compared(capsys, tmp_path / "held", two_runs[0], "--target", two_runs[1], "--fn", "aum")[
        "agreement"
    ]
    assert (random["a"], random["n"]) == ("random order", 47)
    assert row["a"] == "rank combination"
    aum = [column(folder, "aum") for folder in (tmp_path / "held", *two_runs)]
    in_all = np.isfinite(aum[0])
    assert row["n"] == in_all.sum() < 47
    mean = stats.rankdata(aum[0][in_all]) + stats.rankdata(aum[1][in_all])
    assert row["pearson"] == pytest.approx(stats.pearsonr(mean, aum[2][in_all])[0], abs=1e-6)
    for number in range(2):
        part = tmp_path / f"part-{number}"
        words = ["--scores", str(two_runs[0]), "--fn", "random", "--keep", "0.5", "--out", str(part)]
        invert = ["manifest", "invert", str(tmp_path / "part-0"), "--out", str(part)]
        assert run(invert if number else ["prune", *words]) == 0
        within = ["--within", str(part), "--out", str(tmp_path / f"within-{number}")]
        assert run(["score", str(pool_folder), *SMALL, *within]) == 0
    (row,) = compared(capsys, tmp_path / "within-0", tmp_path / "within-1", "--fn", "aum")["agreement"]
    assert (row["n"], row["spearman"], row["overlap"]) == (0, None, {"0.1": None, "0.5": None})
    words = ["compare", *(str(tmp_path / f"within-{number}") for number in range(2)), "--fn", "aum"]
    assert run([*words, "--plot", str(tmp_path / "a.svg")]) == 1
    assert "no correlation is known" in capsys.readouterr().err


def test_votes_are_counted_the_same_in_any_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    votes = [np.random.default_rng(n).integers(0, 9, 100) for n in range(4)]
    label = np.random.default_rng(4).integers(-1, 12, 100)  # some have none, some one that nobody votes for
    whole = consensus.right_by_plurality(votes, label)
    assert np.array_equal(np.isnan(whole), label < 0)
    monkeypatch.setattr(consensus, "CELLS", 30)
    assert np.array_equal(consensus.right_by_plurality(votes, label), whole, equal_nan=True)


def test_what_cannot_be_compared_is_refused(
    two_runs: tuple[Path, Path], toy_scores: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for code, words, said in (
        (2, [str(toy_scores)], "several seeds"),
        (2, [*map(str, two_runs), "--fn", "entropi"], "Did you mean 'entropy'"),
        (1, [str(tmp_path)], ""),
        (1, [str(toy_scores), str(two_runs[0]), "--epochs", "--fn", "aum"], "trace"),
    ):
        capsys.readouterr()
        assert run(["compare", *words]) == code
        assert said in capsys.readouterr().err


def test_consensus_counts_the_votes_of_single_members(
    toy_scores: Path, two_runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    found = compared(capsys, toy_scores, "--consensus")["consensus"][0]
    tables = [pq.read_table(path) for path in sorted((toy_scores / "votes" / "tables").glob("*.parquet"))]
    votes = {name: np.concatenate([t[name].to_numpy() for t in tables]) for name in tables[0].column_names}
    label = column(toy_scores, "label")
    assert list(votes) == ["ordinal", "vote@0/2", "vote@0/3", "vote@1/2", "vote@1/3"]
    for row in found["checkpoints"]:
        same = votes[f"vote@{row['seed']}/2"] == votes[f"vote@{row['seed']}/3"]
        assert row["last"] == row["pair"] == pytest.approx(same.mean())
    rows = {row["ensemble"]: row for row in found["ensembles"]}
    members = [votes[name] for name in list(votes)[1:]]
    assert rows["single"]["trained"] == pytest.approx(np.mean([(v == label).mean() for v in members]))
    counts = np.array([np.bincount(sample, minlength=9) for sample in np.stack(members, 1)])
    most = counts == counts.max(1, keepdims=True)
    assert rows["combined"]["trained"] == pytest.approx((most / most.sum(1, keepdims=True))[range(47), label].mean())
    # Two members that disagree tie: they are as right as their mean.
    assert rows["seeds"]["trained"] == pytest.approx(((members[1] == label).mean() + (members[3] == label).mean()) / 2)
    assert rows["checkpoints"]["trained"] == pytest.approx(rows["single"]["trained"])
    assert [row["members"] for row in rows.values()] == [1, 2, 2, 4]
    assert all(row["untrained"] is None for row in rows.values())
    # What the votes say is what the scores of the ensemble say.
    against = np.array([4 - np.bincount(sample).max() for sample in np.stack(members, 1)]) / 4
    assert np.allclose(against, column(toy_scores, "variation_ratio"))


def test_the_last_five_checkpoints_are_an_ensemble_beside_all(
    pool_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Chitta et al. 2021, tables 2 and 3: checkpoints (5) and checkpoints (20)."""
    out = tmp_path / "six"
    words = ["--out", str(out), *TOY[:4], "--epochs", "6", "--checkpoints", "6", *TOY[8:]]
    assert run(["score", str(pool_folder), *words]) == 0
    rows = compared(capsys, out, "--consensus")["consensus"][0]["ensembles"]
    assert [(row["ensemble"], row["members"], row["of"]) for row in rows] == [
        ("single", 1, 12), ("seeds", 2, 1), ("checkpoints", 5, 2), ("checkpoints", 6, 2), ("combined", 12, 1),
    ]  # fmt: skip
    tables = [pq.read_table(path) for path in sorted((out / "votes" / "tables").glob("*.parquet"))]
    label, right = column(out, "label"), []
    for seed in (0, 1):
        names = [f"vote@{seed}/{epoch}" for epoch in range(2, 7)]
        votes = np.stack([np.concatenate([table[name].to_numpy() for table in tables]) for name in names], 1)
        counts = np.array([np.bincount(sample, minlength=9) for sample in votes])
        most = counts == counts.max(1, keepdims=True)
        right.append((most / most.sum(1, keepdims=True))[range(47), label].mean())
    assert rows[2]["all"] == pytest.approx(np.mean(right))
    assert run(["compare", str(out), "--consensus"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "accuracy by plurality of votes; of k classes that tie each counts 1/k" in said
    assert "checkpoints (5)" in said


def test_consensus_is_counted_on_what_was_not_trained_on_too(
    pool_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As the paper's figure 2 of the appendix does: there the selected samples are left out."""
    half, out = tmp_path / "half", tmp_path / "within"
    index = ["index", str(pool_folder), "--out", str(tmp_path / "index")]
    assert run(index) == 0
    words = ["--index", str(tmp_path / "index"), "--fn", "random", "--keep", "0.5", "--out", str(half)]
    assert run(["prune", *words]) == 0
    assert run(["score", str(pool_folder), *SMALL, "--within", str(half), "--out", str(out)]) == 0
    found = compared(capsys, out, "--consensus", "--plot", tmp_path / "votes.svg")["consensus"][0]
    tables = [pq.read_table(path) for path in sorted((out / "votes" / "tables").glob("*.parquet"))]
    first, second = (np.concatenate([table[name].to_numpy() for table in tables]) for name in ("vote@0/1", "vote@0/2"))
    trained = np.isfinite(column(out, "mean_loss").astype(float))
    same = first == second
    row = found["checkpoints"][0]
    assert 0 < trained.sum() < len(trained)
    assert row["last"] == pytest.approx(same.mean())
    assert row["last_untrained"] == row["pair_untrained"] == pytest.approx(same[~trained].mean())
    assert "Samples not trained on to which checkpoints" in (tmp_path / "votes.svg").read_text()


def test_checkpoints_that_agree_all_along_are_fewer_the_more_they_are() -> None:
    votes = [np.array(v) for v in ([0, 1, 1], [0, 0, 0], [0, 1, 0], [0, 0, 1])]
    last, pair = checkpoint_agreement(votes)
    assert last.tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 3])
    assert pair.tolist() == pytest.approx([1 / 3, 2 / 3, 1 / 3])


def test_a_label_that_ties_counts_by_its_share_however_classes_are_numbered() -> None:
    votes = [np.array(v) for v in ([2, 1, 1, 0], [2, 1, 0, 1], [0, 0, 0, 2], [1, 0, 1, 0])]
    label = np.array([2, 1, 1, 1])
    assert consensus.right_by_plurality(votes, label).tolist() == [1, 0.5, 0.5, 0]
    assert consensus.right_by_plurality([2 - v for v in votes], 2 - label).tolist() == [1, 0.5, 0.5, 0]


def test_what_is_in_common_is_what_prune_would_keep_by_both(
    two_runs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of variation_ratio most samples are tied at zero: mutual_information decides, as in prune."""
    for folder in two_runs:
        words = ["--scores", str(folder), "--fn", "variation_ratio", "--keep", "0.5"]
        assert run(["prune", *words, "--out", str(tmp_path / folder.name)]) == 0
    (row,) = compared(capsys, *two_runs, "--fn", "variation_ratio", "--top", "0.5")["agreement"]
    assert run(["diff", str(tmp_path / "one"), str(tmp_path / "two"), "--json"]) == 0
    added = json.loads(capsys.readouterr().out)["added"]
    assert row["overlap"]["0.5"] == pytest.approx(1 - added / 24)


def test_a_manifest_of_several_runs_is_checked_by_what_ranked_it_and_costs_them_all(
    two_runs: tuple[Path, Path], pool_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = two_runs
    both, limits = tmp_path / "both", tmp_path / "gates.toml"
    words = ["--scores", str(one), "--scores", str(two), "--combine", "rank", "--fn", "entropy", "--keep", "0.5"]
    assert run(["prune", *words, "--out", str(both)]) == 0
    limits.write_text("[gates]\nmin_rank_agreement = 0\n")
    capsys.readouterr()
    assert run(["check", str(both), "--gates", str(limits), "--earlier", str(one), "--json"]) == 0
    ranks = [stats.rankdata(column(folder, "entropy")) for folder in two_runs]
    wanted = stats.spearmanr(ranks[0] + ranks[1], ranks[0])[0]
    (gate,) = json.loads(capsys.readouterr().out)["gates"]
    assert gate["value"] == pytest.approx(wanted, abs=1e-6) != 1
    scored = load_head(both).scored
    costs = [cost_of(folder) for folder in two_runs]
    found = selection_cost(two_runs, recipes_of(load_head(both), None))
    assert found is not None
    assert (found["flops"], found["recipe"]) == (sum(cost["flops"] for cost in costs), scored.recipe)


def test_earlier_scores_that_a_sample_lacks_are_left_out_by_the_gate(
    two_runs: tuple[Path, Path], pool_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    held, limits = tmp_path / "held", tmp_path / "gates.toml"
    assert run(["score", str(pool_folder), "--out", str(held), *SMALL, "--val", "0.3"]) == 0
    words = ["--scores", str(two_runs[0]), "--fn", "forgetting", "--keep", "0.5", "--out", str(tmp_path / "m")]
    assert run(["prune", *words]) == 0
    limits.write_text("[gates]\nmin_rank_agreement = -1\n")
    capsys.readouterr()
    run(["check", str(tmp_path / "m"), "--gates", str(limits), "--earlier", str(held), "--json"])
    (gate,) = json.loads(capsys.readouterr().out)["gates"]
    assert "of 32 samples scored both times" in gate["where"]
