"""New shards beside those of a finished run: scored by its members, the old ones as they were."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import TOY, made_not_finite, png, write_tar

from curate.cli import run
from curate.errors import TimeUpError
from curate.scores import read_bad
from curate.workflows.cost import cost_of
from curate.workflows.growth import agreement

NEW = 24


def add_shard(folder: Path, *, colour: tuple[int, int, int] | None = None, label: str = "") -> None:
    """Puts a shard beside the others: samples like theirs, or of another colour or class."""
    colours = [(220, 30, 30), (30, 200, 40), (40, 60, 220)]
    members = []
    for place in range(NEW):
        image = png(colour or colours[place % 3], 900 + place)
        members.append((f"n_{place:02d}.png", b"no image" if place == 5 else image))
        members.append((f"n_{place:02d}.cls", (label or str(place % 3)).encode()))
    write_tar(folder / "toy-0009.tar", members)


@pytest.fixture
def grown_pool(pool_folder: Path, tmp_path: Path) -> Path:
    return shutil.copytree(pool_folder, tmp_path / "pool", copy_function=shutil.copy2)


def summary(out: Path) -> dict[str, object]:
    return dict(json.loads((out / "summary.json").read_bytes()))


def test_only_what_is_new_is_scored(
    toy_scores: Path, grown_pool: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same scores as the members would have given in the run itself; nothing is trained."""
    add_shard(grown_pool)
    out = tmp_path / "grown"
    words = ["score", str(grown_pool), "--base", str(toy_scores), "--out", str(out)]
    assert run(words) == 0
    shown = capsys.readouterr().out
    assert "47 old samples were scored again, to the same bytes." in shown
    assert "Drift: 23 samples added since training against 47 trained-on ones" in shown
    events = [json.loads(line)["event"] for line in (out / "log.jsonl").read_text().splitlines()]
    assert "epoch" not in events
    for path in (toy_scores / "tables").iterdir():
        assert (out / "tables" / path.name).read_bytes() == path.read_bytes()
    assert not list(out.rglob("*.tmp"))

    # Foreign to the base: a run over the new shard as a pool of its own, by the same members.
    new = pq.read_table(out / "tables" / "toy-0009.tar.parquet")
    assert (new.num_rows, new["aum"].null_count, new["entropy"].null_count) == (NEW - 1, NEW - 1, 0)
    assert new.schema.names == pq.read_schema(out / "tables" / "toy-0000.tar.parquet").names
    assert [bad.key for bad in read_bad(out / "bad.parquet")] == ["s1_07", "n_05"]
    found = summary(out)
    assert (found["samples"], found["scored"], found["failed"]) == (72, 70, 2)
    assert found["members"] == summary(toy_scores)["members"]

    cost, before_growth = cost_of(out), cost_of(toy_scores)  # of both the training is a part
    assert cost["flops"] > before_growth["flops"]
    assert cost["seconds"] >= before_growth["seconds"]

    before = {path: path.read_bytes() for path in sorted(out.rglob("*.parquet"))}
    assert run(words) == 0  # again: nothing changes
    assert {path: path.read_bytes() for path in sorted(out.rglob("*.parquet"))} == before
    for fn, code in (("entropy", 0), ("aum", 1)):  # what training alone reveals is not there
        words = ["prune", "--scores", str(out), "--keep", "0.5", "--fn", fn, "--out", str(tmp_path / fn)]
        assert run(words) == code
    assert run(["verify", str(tmp_path / "entropy")]) == 0
    assert run(["report", str(tmp_path / "entropy"), "--out", str(tmp_path / "r.html")]) == 0  # reads votes, too
    assert run(["compare", str(out), "--consensus"]) == 0
    assert run(["explain", "n_03", "--manifest", str(tmp_path / "entropy")]) == 0


def test_a_grown_run_grows_again(toy_scores: Path, grown_pool: Path, tmp_path: Path) -> None:
    """What was added is never taken for what was trained on."""
    add_shard(grown_pool)
    assert run(["score", str(grown_pool), "--base", str(toy_scores), "--out", str(tmp_path / "a")]) == 0
    shutil.copy(grown_pool / "toy-0009.tar", grown_pool / "toy-0010.tar")
    assert run(["score", str(grown_pool), "--base", str(tmp_path / "a"), "--out", str(tmp_path / "b")]) == 0
    growth = summary(tmp_path / "b")["growth"]
    assert (growth["shards"], growth["samples"], growth["old"]) == (  # type: ignore[index]
        ["toy-0009.tar", "toy-0010.tar"], 2 * (NEW - 1), 47,
    )  # fmt: skip


def test_where_nothing_was_added_the_scores_are_the_bases(
    toy_scores: Path, grown_pool: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A pipeline that runs on the data of yesterday keeps what it kept yesterday."""
    gates = tmp_path / "gates.toml"
    gates.write_text("[gates]\nmax_drift = 0.1\n")
    assert run(["score", str(grown_pool), "--base", str(toy_scores), "--out", str(tmp_path / "same")]) == 0
    assert "has scores of all these shards" in capsys.readouterr().err
    kept = {}
    for name, scores in (("before", toy_scores), ("now", tmp_path / "same")):
        words = ["--keep", "9", "--fn", "entropy", "--out", str(tmp_path / name)]
        assert run(["prune", "--scores", str(scores), *words]) == 0
        kept[name] = (tmp_path / name / "shards.jsonl.zst").read_bytes()
    assert kept["now"] == kept["before"]
    capsys.readouterr()
    assert run(["check", str(tmp_path / "now"), "--gates", str(gates)]) == 0
    assert "nothing was added" in capsys.readouterr().out
    assert run(["report", str(tmp_path / "now"), "--out", str(tmp_path / "r.html")]) == 0
    assert "trained without them" not in (tmp_path / "r.html").read_text()


def test_drift_is_gated(toy_scores: Path, grown_pool: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Samples like the old ones pass; those of a colour that no member has seen do not."""
    gates = tmp_path / "gates.toml"
    gates.write_text("[gates]\nmax_drift = 0.6\n")
    values = {}
    for name, colour in (("like", None), ("unlike", (250, 250, 10))):
        add_shard(grown_pool, colour=colour)
        scores, manifest = tmp_path / name, tmp_path / f"m-{name}"
        assert run(["score", str(grown_pool), "--base", str(toy_scores), "--out", str(scores)]) == 0
        assert run(["prune", "--scores", str(scores), "--keep", "9", "--fn", "entropy", "--out", str(manifest)]) == 0
        capsys.readouterr()
        code = run(["check", str(manifest), "--gates", str(gates), "--json"])
        (outcome,) = json.loads(capsys.readouterr().out)["gates"]
        values[name] = (code, outcome["value"] <= 0.6, "train again" in outcome["where"])
    assert values == {"like": (0, True, True), "unlike": (3, False, True)}
    manifest = tmp_path / "plain"
    assert (
        run(["prune", "--scores", str(toy_scores), "--keep", "9", "--fn", "entropy", "--out", str(manifest)]) == 0
    )  # fmt: skip
    assert run(["check", str(manifest), "--gates", str(gates)]) == 0
    assert "nothing was added" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "words", "said"),
    [
        ("class", [], "classes that the members"),
        ("gone", [], "toy-0001.tar of"),
        ("other", [], "changed since"),
        ("new", ["--proxy", "resnet18"], "Leave out --proxy"),
        ("new", ["--label-from", "folder"], "read its labels from 'cls'"),
        ("new", ["--text-field", "text"], "read its texts from no field of .json entries, not 'text'"),
        ("new", ["--base", "nowhere"], "no finished scores here"),
    ],
)
def test_what_is_no_growth_is_refused(
    change: str, words: list[str], said: str, toy_scores: Path, grown_pool: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    add_shard(grown_pool, label="7" if change == "class" else "")
    if change == "gone":
        (grown_pool / "toy-0001.tar").unlink()
    if change == "other":
        write_tar(grown_pool / "toy-0001.tar", [("a.png", png((0, 0, 0), 1)), ("a.cls", b"0")])
    given = ["score", str(grown_pool), "--base", str(toy_scores), "--out", str(tmp_path / "out"), *words]
    assert run(given) == (1 if "nowhere" in words else 2)
    assert said in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out" / "summary.json").exists()


def test_labels_of_old_and_new_shards_are_read_from_one_field(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    colours = [(220, 30, 30), (30, 200, 40), (40, 60, 220)]
    for shard in range(2):
        members = []
        for n in range(12):
            labels = json.dumps({"label": n % 3, "coarse": n % 2}).encode()
            members += [(f"s{shard}_{n}.png", png(colours[n % 3], n)), (f"s{shard}_{n}.json", labels)]
        write_tar(tmp_path / "pool" / f"s-{shard}.tar", members)
    words = ["score", str(tmp_path / "pool" / "s-0.tar"), "--out", str(tmp_path / "base"), *TOY]
    assert run([*words, "--label-field", "label"]) == 0
    words = ["score", str(tmp_path / "pool"), "--base", str(tmp_path / "base"), "--out", str(tmp_path / "grown")]
    assert run([*words, "--label-field", "coarse"]) == 2
    assert "read its labels from 'label', not 'coarse'" in capsys.readouterr().err
    assert run([*words, "--label-field", "label"]) == 0


def test_one_vote_that_differs_is_no_other_member() -> None:
    """Ranks of scores that are nearly all alike say little of whether the members are the same."""
    votes = np.zeros(512)
    one_more = votes.copy()
    one_more[7] = 0.25
    assert agreement(votes, one_more) == 511 / 512
    assert agreement(votes, np.full(512, np.nan)) == 0
    scores = np.random.default_rng(0).random(512)
    assert agreement(scores, np.nextafter(scores, 1)) == pytest.approx(1)
    assert abs(agreement(scores, np.random.default_rng(1).random(512))) < 0.2


def test_pictures_that_changed_under_the_same_names_are_noticed(
    toy_scores: Path, grown_pool: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Headers and sizes are the same, so that the scan sees nothing; the scores of old samples do."""
    add_shard(grown_pool)
    for path in sorted(grown_pool.glob("toy-000[012].tar")):
        data = bytearray(path.read_bytes())
        times = path.stat()
        first = [at for at in range(0, len(data), 512) if data[at : at + 8] == b"\x89PNG\r\n\x1a\n"]
        pictures = [bytes(data[at : at + 512]) for at in first]
        for at, other in zip(first, [*pictures[1:], pictures[0]], strict=True):
            data[at : at + 512] = other
        path.write_bytes(bytes(data))
        import os

        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    words = ["score", str(grown_pool), "--base", str(toy_scores), "--out", str(tmp_path / "out"), "--max-bad", "1"]
    assert run(words) == 1
    assert "other scores than before" in capsys.readouterr().err


@pytest.mark.parametrize(("folder", "part"), [("tables", 0.3), ("votes/tables", 0.1)])  # within pages, not the footer
def test_one_flipped_bit_in_a_table_of_the_base_is_found(
    toy_scores: Path, grown_pool: Path, tmp_path: Path, folder: str, part: float, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also in columns that growth itself does not need: damage is not copied on."""
    add_shard(grown_pool)
    base = shutil.copytree(toy_scores, tmp_path / "base")
    table = base / folder / "toy-0001.tar.parquet"
    data = bytearray(table.read_bytes())
    data[int(len(data) * part)] ^= 1
    table.write_bytes(bytes(data))
    assert run(["score", str(grown_pool), "--base", str(base), "--out", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().err
    assert "toy-0001.tar.parquet: cannot be read" in said
    assert "Traceback" not in said
    assert not (tmp_path / "out" / "summary.json").exists()


def test_a_run_that_grew_is_no_run_of_its_own(toy_scores: Path, grown_pool: Path, tmp_path: Path) -> None:
    add_shard(grown_pool)
    assert run(["score", str(grown_pool), "--base", str(toy_scores), "--out", str(tmp_path / "out")]) == 0
    assert run(["score", str(grown_pool), "--out", str(tmp_path / "out"), *TOY]) == 1


def test_a_run_of_given_members_grows_by_those(
    toy_scores: Path, pool_folder: Path, grown_pool: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And by no others; what they give the new samples is what the members' own run gives them."""
    given = ["--members", str(toy_scores), "--device", "cpu"]
    assert run(["score", str(grown_pool), *given, "--out", str(tmp_path / "old")]) == 0
    add_shard(grown_pool)
    grow = ["score", str(grown_pool), "--base"]
    assert run([*grow, str(tmp_path / "old"), *given, "--out", str(tmp_path / "new")]) == 0
    assert run([*grow, str(toy_scores), "--out", str(tmp_path / "own")]) == 0
    for fn in ("entropy", "variation_ratio", "prediction"):
        one, other = (pq.read_table(tmp_path / run / "tables/toy-0009.tar.parquet")[fn] for run in ("new", "own"))
        assert one.equals(other)
    assert "aum" not in pq.read_schema(tmp_path / "new/tables/toy-0009.tar.parquet").names
    assert not (tmp_path / "new" / "members").exists()
    growth = summary(tmp_path / "new")["growth"]
    assert (growth["samples"], growth["checked"]["equal"]) == (NEW - 1, True)  # type: ignore[index]
    capsys.readouterr()
    for base, members, said in (
        (tmp_path / "old", [], "Name them: --members DIR."),
        (toy_scores, given, "Leave out --members."),
        (tmp_path / "old", ["--members", str(one_member(toy_scores, tmp_path / "one"))], "by other members"),
    ):
        assert run([*grow, str(base), *members, "--out", str(tmp_path / "no")]) == 2
        assert said in " ".join(capsys.readouterr().err.split())
        assert not (tmp_path / "no" / "run.json").exists()


def test_a_seed_that_diverged_is_left_out_of_growth_too(
    pool_folder: Path, grown_pool: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its columns, kept for each seed, end with it: new shards get those of the seeds that remain."""
    base = tmp_path / "base"
    words = ["score", str(pool_folder), "--out", str(base), *TOY, "--checkpoints", "1", "--per-seed"]
    assert run(words) == 0
    made_not_finite(base / "members/seed-001/epoch-003.safetensors")
    (base / "summary.json").unlink()
    (base / "tables/toy-0002.tar.parquet").unlink()
    assert run(words) == 0
    add_shard(grown_pool)
    capsys.readouterr()
    assert run(["score", str(grown_pool), "--base", str(base), "--out", str(tmp_path / "grown")]) == 0
    assert "seed 1 is left out: " in capsys.readouterr().out
    found = summary(tmp_path / "grown")
    assert ([one["seed"] for one in found["members"]], [one["seed"] for one in found["diverged"]]) == ([0], [1])  # type: ignore[attr-defined]
    columns = pq.read_schema(tmp_path / "grown/tables/toy-0009.tar.parquet").names
    assert columns == pq.read_schema(base / "tables/toy-0000.tar.parquet").names
    assert "entropy@0" in columns
    assert not [name for name in columns if name.endswith("@1")]


def one_member(scores: Path, folder: Path) -> Path:
    folder.mkdir()
    shutil.copy(scores / "members/seed-000/epoch-002.safetensors", folder)
    return folder


@pytest.mark.slow
def test_growing_that_was_cut_off_goes_on_to_the_same_bytes(
    toy_scores: Path, grown_pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut off wherever it says how far it is, once at each place."""
    from curate import progress

    add_shard(grown_pool)
    words = ["score", str(grown_pool), "--base", str(toy_scores), "--out"]
    assert run([*words, str(tmp_path / "whole")]) == 0
    steps = 0

    def look(self: progress.Deadline) -> None:
        nonlocal steps
        steps += 1
        if steps > allowed:
            raise TimeUpError("over")

    monkeypatch.setattr(progress.Deadline, "_look", look)
    for allowed in range(0, 60, 3):  # noqa: B007  (read by look)
        steps = 0
        if run([*words, str(tmp_path / "cut"), "--max-time", "9h"]) == 0:
            break
    assert allowed > 6
    whole, cut = (
        {
            path.relative_to(folder): path.read_bytes()
            for path in folder.rglob("*")
            if path.suffix in (".parquet", ".json")
        }
        for folder in (tmp_path / "whole", tmp_path / "cut")
    )
    assert cut == whole
