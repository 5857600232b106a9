"""A pool of texts goes the way of images: the same commands, tables and manifests."""

import csv
import json
import shutil
import threading
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import write_tar
from tars import contents, kept_keys

from curate.cli import run
from curate.errors import TimeUpError
from curate.manifest.schema import load_head
from curate.progress import Silent
from curate.recipe import Recipe
from curate.workflows.run import Request
from curate.workflows.score import score

MARKUP = "<script>alert(1)</script> green grass and leaves"
BAD = {"t0_05": (b" \n", "empty"), "t0_06": (b"red \xff", "not UTF-8"), "t1_05": (b"re\0d", "NUL")}
WORDS = (("red", "blood", "roses", "fire"), ("green", "grass", "leaves", "moss"), ("blue", "sky", "sea", "ink"))
FAST = [
    "--proxy", "fasttext", "--seeds", "2", "--epochs", "12", "--checkpoints", "2", "--device", "cpu",
    "--set", "text.buckets=512", "--set", "train.batch_size=8", "--set", "train.rate=8",
]  # fmt: skip


def text_of(key: str, label: int, place: int) -> bytes:
    if key in BAD:
        return BAD[key][0]
    if key == "t0_03":
        return b"red fire " * 200_000  # one line, far longer than what is read
    draw = np.random.default_rng(place)
    return MARKUP.encode() if key in ("t1_00", "t1_03") else " ".join(draw.choice(WORDS[label], 6)).encode()


def write_texts(folder: Path, *, shards: int = 2, first: int = 0, as_json: bool = False) -> Path:
    for shard in range(first, first + shards):
        members = []
        for place in range(18):
            key, label = f"t{shard}_{place:02d}", (place + shard) % 3
            text = text_of(key, label, place + 100 * shard)
            if as_json:
                entry = {"review": {"body": text.decode("utf-8", "replace"), "stars": label}}
                members.append((f"{key}.json", json.dumps(entry).encode()))
            else:
                members += [(f"{key}.txt", text), (f"{key}.cls", str(label).encode())]
        write_tar(folder / f"text-{shard:04d}.tar", members)
    return folder


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_texts(tmp_path_factory.mktemp("texts"))


@pytest.fixture(scope="session")
def test_texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_texts(tmp_path_factory.mktemp("test-texts"), shards=1, first=7)


@pytest.fixture(scope="session")
def text_scores(texts: Path, test_texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("text-run") / "scores"
    words = ["--test", str(test_texts), "--embeddings", "--out", str(out)]
    assert run(["score", str(texts), *FAST, *words]) == 0
    return out


def tables(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(folder.glob("tables/*.parquet"))]


def test_index_says_what_is_bad_and_why(texts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["index", str(texts), "--decode", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["kind"], found["samples"], found["decoded"]) == ("text", 36, 33)
    assert {sample["key"]: True for sample in found["bad_samples"]} == dict.fromkeys(BAD, True)
    for sample in found["bad_samples"]:
        assert BAD[sample["key"]][1] in sample["reason"]


def test_every_good_text_is_scored_and_the_members_have_learned(text_scores: Path) -> None:
    summary = json.loads((text_scores / "summary.json").read_bytes())
    assert (summary["samples"], summary["scored"], summary["failed"]) == (36, 33, 3)
    assert summary["ensemble"]["test"] > 0.9
    for path in text_scores.glob("tables/*.parquet"):
        table = pq.read_table(path)
        for name in ("entropy", "mutual_information", "forgetting", "el2n", "grand", "aum"):
            assert np.isfinite(table[name].to_numpy()).all(), name


THREE = ["--seeds", "3", "--epochs", "3", "--set", "train.threads=2"]


def members(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.glob("members/*/epoch-*")}


@pytest.fixture(scope="module")
def side_by_side(texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("side-by-side") / "scores"
    assert run(["score", str(texts), *FAST, *THREE, "--out", str(out)]) == 0
    return out


def test_seeds_that_train_side_by_side_come_to_the_same(
    side_by_side: Path, texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["score", str(texts), *FAST, *THREE, "--set", "train.threads=1", "--out", str(tmp_path / "one")]) == 0
    assert "train seed 1" in capsys.readouterr().err
    assert run(["score", str(texts), *FAST, *THREE, "--out", str(tmp_path / "two")]) == 0
    assert "train seeds 0, 1" in capsys.readouterr().err
    for other in ("one", "two"):
        assert tables(tmp_path / other) == tables(side_by_side)
        assert members(tmp_path / other) == members(side_by_side)
    assert len(members(side_by_side)) == 6


class EndsAt(Silent):
    """Ends the work the n-th time that it hears of, as --max-time does."""

    def __init__(self, call: int) -> None:
        self.left = call

    def at(self, done: int, detail: str = "") -> None:
        self.left -= 1
        if self.left <= 0:
            raise TimeUpError("over")


@pytest.mark.parametrize("call", [3, 12, 20])
def test_seeds_that_are_stopped_side_by_side_go_on(side_by_side: Path, texts: Path, tmp_path: Path, call: int) -> None:
    recipe = Recipe.model_validate(json.loads((side_by_side / "run.json").read_bytes())["recipe"])
    request = Request(shards=[str(texts)], out=tmp_path / "scores", recipe=recipe, device="cpu")
    with pytest.raises(TimeUpError):
        score(request, EndsAt(call))
    assert not any("seed" in thread.name or "ThreadPool" in thread.name for thread in threading.enumerate())
    score(request)
    assert (tables(request.out), members(request.out)) == (tables(side_by_side), members(side_by_side))


def test_seeds_that_all_diverge_side_by_side_are_said(
    texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--set", "train.rate=1e30", "--out", str(tmp_path / "scores")]
    assert run(["score", str(texts), *FAST, *THREE, *words]) == 1
    assert "not finite" in capsys.readouterr().err


@pytest.mark.parametrize("store", ["disk", "stream"])
def test_scores_do_not_depend_on_where_tokens_are_kept(store: str, texts: Path, tmp_path: Path) -> None:
    one_epoch = [*FAST, "--epochs", "1", "--checkpoints", "1", "--seeds", "1", "--set", "pixels.workers=0"]
    known = tmp_path / "memory"
    assert run(["score", str(texts), *one_epoch, "--pixels", "memory", "--out", str(known)]) == 0
    assert run(["score", str(texts), *one_epoch, "--pixels", store, "--out", str(tmp_path / store)]) == 0
    if store == "disk":
        assert tables(known) == tables(tmp_path / store)
    else:  # another order of training, the same samples
        counts = [[pq.read_table(p).num_rows for p in sorted(f.glob("tables/*"))] for f in (known, tmp_path / store)]
        assert counts[0] == counts[1]
        assert json.loads((tmp_path / store / "summary.json").read_bytes())["failed"] == 3


@pytest.mark.parametrize("fn", ["least_confidence", "variation_ratio", "forgetting", "k_centers"])
def test_texts_are_pruned_and_cut_out_of_their_shards(fn: str, text_scores: Path, texts: Path, tmp_path: Path) -> None:
    out = tmp_path / fn
    assert run(["prune", "--scores", str(text_scores), "--keep", "0.5", "--fn", fn, "--out", str(out)]) == 0
    assert load_head(out).totals.kept == 17
    assert run(["materialize", str(out), str(tmp_path / "cut")]) == 0
    entries = {name: data for shard in tmp_path.glob("cut/*.tar") for name, data in contents(shard).items()}
    kept = kept_keys(out, texts)
    assert set(entries) == {f"{key}.{kind}" for key in kept for kind in ("txt", "cls")}
    for key in kept:
        assert contents(texts / f"text-000{key[1]}.tar")[f"{key}.txt"] == entries[f"{key}.txt"]


def test_members_score_texts_that_they_have_not_seen(text_scores: Path, test_texts: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = ["--members", str(text_scores), "--label-from", "none", "--device", "cpu", "--out", str(out)]
    assert run(["score", str(test_texts), *words]) == 0
    assert json.loads((out / "summary.json").read_bytes())["scored"] == 18


def test_a_text_is_shown_and_its_markup_does_not_run(text_scores: Path, tmp_path: Path) -> None:
    manifest, page = tmp_path / "m", tmp_path / "report.html"
    words = ["--scores", str(text_scores)]
    assert run(["prune", *words, "--keep", "0.5", "--fn", "entropy", "--out", str(manifest)]) == 0
    assert run(["report", str(manifest), *words, "--out", str(page)]) == 0
    html = page.read_text()
    assert "&lt;script&gt;alert(1)&lt;/script&gt; green grass" in html
    assert "<script>alert(1)" not in html


def test_explain_shows_the_words(text_scores: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["explain", "t1_00", "--scores", str(text_scores)]) == 0
    assert MARKUP in capsys.readouterr().out
    assert run(["explain", "t0_03", "--scores", str(text_scores)]) == 0
    assert len(capsys.readouterr().out) < 4000


def test_words_and_labels_come_from_fields_of_json(tmp_path: Path) -> None:
    pool = write_texts(tmp_path / "pool", as_json=True)
    out, fields = tmp_path / "run", ["--text-field", "review.body", "--label-field", "review.stars"]
    assert run(["score", str(pool), *FAST, *fields, "--seeds", "1", "--out", str(out)]) == 0
    summary = json.loads((out / "summary.json").read_bytes())
    assert (summary["scored"], summary["failed"]) == (33, 3)  # empty, NUL, and one too long to be parsed
    assert run(["score", str(pool), *FAST, "--label-field", "review.stars", "--out", str(out)]) != 0


def test_rounds_of_build_up_and_of_acquire_and_targets(texts: Path, test_texts: Path, tmp_path: Path) -> None:
    words = [
        word for word in FAST if word not in ("--proxy", "fasttext", "--seeds", "2", "--checkpoints", "--epochs", "12")
    ]
    sets = ["--set", "proxy.name=fasttext", "--set", "train.epochs=2", *words[words.index("--set") :]]
    grown, asked, table = (tmp_path / name for name in ("grown", "asked", "table"))
    schedule = ["--fn", "entropy", "--device", "cpu", *sets]
    assert run(["build-up", str(texts), "--schedule", "0.3,0.6", "--out", str(grown), *schedule]) == 0
    rounds = ["--initial", "0.3", "--schedule", "0.6", "--oracle", "--out", str(asked)]
    assert run(["acquire", str(texts), *rounds, *schedule]) == 0
    manifest = next(grown.rglob("manifest.json")).parent
    common = ["--test", str(test_texts), "--seeds", "1", "--out", str(table), "--device", "cpu", *sets]
    assert run(["evaluate", str(manifest), *common]) == 0
    assert len(list(table.glob("runs/fasttext/*/000.json"))) == 3


def test_people_are_asked_about_texts(texts: Path, tmp_path: Path) -> None:
    out, words = tmp_path / "asked", ["--label-from", "none", "--device", "cpu", "--fn", "entropy", *FAST[:2]]
    classes = tmp_path / "classes.txt"
    classes.write_text("red\ngreen\nblue\n")
    rounds = ["--initial", "32", "--schedule", "33", "--classes", str(classes), "--out", str(out)]
    assert run(["acquire", str(texts), *rounds, *words]) == 0
    pictures = next(out.rglob("pictures"))
    page, tasks = (pictures / "index.html").read_text(), json.loads((pictures / "label_studio.json").read_bytes())
    assert "&lt;script&gt;alert(1)&lt;/script&gt; green grass" in page
    assert "<script>alert" not in page
    assert MARKUP in {task["data"]["text"] for task in tasks}
    with next(out.rglob("to_label.csv")).open(newline="", encoding="utf-8") as file:
        shown = [row["text"] for row in csv.DictReader(file)]
    assert f"“{MARKUP}”" in shown
    assert all(text[0] == "“" and "\n" not in text and len(text) <= 303 for text in shown)
    assert '<Text name="text" value="$text" />' in (pictures / "label_studio.xml").read_text()


def test_characters_are_scored_and_compared_with_words(
    texts: Path, text_scores: Path, test_texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, words = tmp_path / "run", ["--proxy", "vdcnn9", "--set", "text.length=64", "--set", "train.batch_size=8"]
    once = ["--seeds", "1", "--epochs", "1", "--embeddings", "--device", "cpu", "--out", str(out)]
    assert run(["score", str(texts), *words, *once]) == 0
    capsys.readouterr()
    assert run(["compare", str(text_scores), str(out), "--json"]) == 0
    assert "entropy" in capsys.readouterr().out
    manifest = tmp_path / "m"
    chosen = ["--scores", str(out), "--keep", "0.5", "--fn", "k_centers", "--out", str(manifest)]
    assert run(["prune", *chosen]) == 0
    targets = ["--target", "fasttext", "--target", "vdcnn9", "--test", str(test_texts), "--out", str(tmp_path / "t")]
    assert run(["evaluate", str(manifest), *targets]) == 2
    assert "'vdcnn9' reads characters, and fasttext reads words" in capsys.readouterr().err
    assert run(["evaluate", str(manifest), "--target", "convnet3", *targets[4:]]) == 2
    assert "'convnet3' is a network for images, and the pool holds texts" in capsys.readouterr().err


def test_a_vocabulary_of_one_word_is_scored(tmp_path: Path) -> None:
    members = [(f"k{n}.{kind}", data) for n in range(8) for kind, data in (("txt", b"same"), ("cls", b"%d" % (n % 2)))]
    write_tar(tmp_path / "pool" / "a.tar", members)
    assert run(["score", str(tmp_path / "pool"), *FAST, "--out", str(tmp_path / "run")]) == 0
    table = pq.read_table(next((tmp_path / "run").glob("tables/*.parquet")))
    assert len(set(table["entropy"].to_pylist())) == 1


def test_a_test_set_of_other_classes_is_refused(
    texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tar(tmp_path / "other" / "a.tar", [("k.txt", b"what"), ("k.cls", b"9")])
    assert run(["score", str(texts), *FAST, "--test", str(tmp_path / "other"), "--out", str(tmp_path / "run")]) == 2
    assert "10 classes" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--proxy", "resnet18"], "'resnet18' is a network for images, and the pool holds texts"),
        ([*FAST, "--set", "pixels.size_px=32"], "pixels.size_px is for images"),
        ([*FAST, "--set", "augment.cutout_px=4"], "augment.cutout_px is for images"),
        ([*FAST, "--set", "proxy.width=0.5"], "proxy.width is for images"),
        ([*FAST, "--proxy", "vdcnn9", "--set", "text.length=63"], "needs 64 characters"),
    ],
)
def test_what_is_for_images_is_refused(
    words: list[str], said: str, texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["score", str(texts), *words, "--out", str(tmp_path / "run")]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--proxy", "fasttext"], "'fasttext' is a network for texts, and the pool holds images"),
        (["--set", "text.ngrams=1"], "text.ngrams is for texts"),
    ],
)
def test_what_is_for_texts_is_refused(
    words: list[str], said: str, pool_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["score", str(pool_folder), *words, "--out", str(tmp_path / "run")]) == 2
    assert said in capsys.readouterr().err


def test_texts_among_images_are_bad_samples(
    pool_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_texts(tmp_path / "pool", shards=1)
    (folder / "toy.tar").write_bytes((pool_folder / "toy-0000.tar").read_bytes())
    for _ in range(2):  # built, and read again
        assert run(["index", str(folder), "--out", str(tmp_path / "index"), "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert (found["kind"], found["samples"], found["bad"]) == ("image", 34, 18)
        assert {sample["reason"] for sample in found["bad_samples"]} == {"no image entry"}


def test_texts_that_are_added_are_scored_by_the_same_members(
    texts: Path, text_scores: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a run over all of them by these members scores them; bad ones are listed, embeddings kept."""
    pool, out, whole = tmp_path / "pool", tmp_path / "out", tmp_path / "whole"
    shutil.copytree(texts, pool, copy_function=shutil.copy2)
    write_texts(pool, shards=1, first=2)
    assert run(["score", str(pool), "--base", str(text_scores), "--out", str(out)]) == 0
    assert "Drift: 18 samples added since training" in capsys.readouterr().out
    assert run(["score", str(pool), "--members", str(text_scores), "--out", str(whole), "--device", "cpu"]) == 0
    name = "tables/text-0002.tar.parquet"
    for fn in ("entropy", "variation_ratio", "prediction"):
        assert pq.read_table(out / name)[fn].equals(pq.read_table(whole / name)[fn])
    for path in sorted(text_scores.glob("tables/*.parquet")):
        assert (out / "tables" / path.name).read_bytes() == path.read_bytes()
    assert len(np.load(out / "embeddings" / "text-0002.tar.npy")) == 18
    manifest = tmp_path / "m"
    assert run(["prune", "--scores", str(out), "--keep", "0.5", "--fn", "entropy", "--out", str(manifest)]) == 0
    assert load_head(manifest).totals.samples == 54
