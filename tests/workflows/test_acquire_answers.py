"""`curate acquire` with people: what they are given, what they answer, and what is refused of it."""

import csv
import io
import json
import shutil
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from conftest import png, toy_members, write_tar
from PIL import Image

from curate.cli import run
from curate.manifest.algebra import kept_mask
from curate.manifest.lines import read_lines
from curate.manifest.schema import load_head

NAMES = ("a red", "b green", "c blue")  # sorted as their ids are
RECIPE = [
    "--proxy", "preact_resnet20", "--device", "cpu", "--set", "train.seeds=1", "--set", "train.epochs=2",
    "--set", "train.checkpoints=1", "--set", "train.batch_size=16", "--set", "augment.translate_px=1",
]  # fmt: skip
ROUNDS = ["--initial", "12", "--schedule", "20", *RECIPE]


def truth(key: str) -> str:
    shard, place = int(key[1]), int(key[3:])
    return NAMES[(place + shard) % 3]


@pytest.fixture(scope="session")
def unlabelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unlabelled")
    for shard in range(3):
        members = [(name, data) for name, data in toy_members(shard) if name.endswith(".png")]
        write_tar(folder / f"toy-{shard:04d}.tar", members)
    return folder


@pytest.fixture(scope="session")
def partly(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first shard has labels, the others have none."""
    folder = tmp_path_factory.mktemp("partly")
    for shard in range(3):
        members = [(name, data) for name, data in toy_members(shard) if shard == 0 or name.endswith(".png")]
        write_tar(folder / f"toy-{shard:04d}.tar", members)
    return folder


@pytest.fixture
def waiting(unlabelled: Path, tmp_path: Path) -> list[str]:
    """A command whose first round waits for labels."""
    words = ["acquire", str(unlabelled), "--out", str(tmp_path / "a"), "--fn", "random", *ROUNDS]
    assert run(words) == 0
    return words


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write_rows(path: Path, rows: list[dict[str, str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def answered(out: Path, number: int) -> list[dict[str, str]]:
    return [{**row, "label": truth(row["key"])} for row in rows_of(out / f"round-{number}" / "to_label.csv")]


def fill_in(out: Path, number: int) -> None:
    write_rows(out / f"round-{number}" / "to_label.csv", answered(out, number))


def kept(out: Path, number: int) -> np.ndarray:  # type: ignore[type-arg]
    return np.concatenate([kept_mask(line) for line in read_lines(out / f"round-{number}" / "manifest")])


def test_people_who_answer_as_the_oracle_does_choose_what_it_chooses(
    unlabelled: Path, pool_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, oracle = tmp_path / "a", tmp_path / "oracle"
    words = ["--fn", "entropy", *ROUNDS]
    assert run(["acquire", str(pool_folder), "--out", str(oracle), "--oracle", *words]) == 0
    capsys.readouterr()
    assert run(["acquire", str(unlabelled), "--out", str(out), *words, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["rounds"], document["waiting"]["number"], document["waiting"]["questions"]) == ([], 0, 12)
    assert not (out / "round-0" / "scores").exists()
    fill_in(out, 0)
    assert run(["acquire", str(unlabelled), "--out", str(out), *words]) == 0
    printed = capsys.readouterr()
    assert "round 1: 8 samples to label" in printed.out
    assert "the same command again" in printed.err
    assert len(rows_of(out / "round-1" / "to_label.csv")) == 8
    fill_in(out, 1)
    assert run(["acquire", str(unlabelled), "--out", str(out), *words]) == 0
    for number in (0, 1):
        assert np.array_equal(kept(out, number), kept(oracle, number))
    head = load_head(out / "round-1" / "manifest")
    assert (head.classes.kind, head.classes.names, sum(head.classes.before)) == ("name", NAMES, 12)
    assert {row["key"]: row["label"] for row in rows_of(out / "labels.csv")} == {
        row["key"]: truth(row["key"]) for n in (0, 1) for row in rows_of(out / f"round-{n}" / "to_label.csv")
    }
    rounds = json.loads((out / "rounds.json").read_bytes())["rounds"]
    assert [record["labelled"] for record in rounds] == [12, 20]
    assert run(["verify", str(out / "round-1" / "manifest")]) == 0
    # Measured later, on shards that have names too: every round's members knew that round's labels.
    test = [(n, d if n.endswith(".png") else NAMES[int(d)].encode()) for n, d in toy_members(3)]
    write_tar(tmp_path / "test" / "test.tar", test)
    assert run(["acquire", str(unlabelled), "--out", str(out), *words, "--test", str(tmp_path / "test")]) == 0
    rounds = json.loads((out / "rounds.json").read_bytes())["rounds"]
    assert all(0 <= record["accuracy"] <= 1 for record in rounds)
    # The run says by which labels it was trained: with others it is another run.
    record = json.loads((out / "round-0" / "scores" / "run.json").read_bytes())
    assert len(record["answers"]) == 32


def test_what_shards_say_already_is_not_asked(partly: Path, tmp_path: Path) -> None:
    words = ["--fn", "random", "--schedule", "30", *RECIPE]
    out = tmp_path / "a"
    assert run(["acquire", str(partly), "--out", str(out), "--initial", "20", *words]) == 0
    assert kept(out, 0)[:16].all()
    questions = rows_of(out / "round-0" / "to_label.csv")
    assert len(questions) == 4
    assert not any(row["shard"] == "toy-0000.tar" for row in questions)
    # More labels than the initial subset would have: nothing to ask, on to the next round.
    more = tmp_path / "b"
    assert run(["acquire", str(partly), "--out", str(more), "--initial", "5", *words]) == 0
    assert (int(kept(more, 0).sum()), rows_of(more / "round-0" / "to_label.csv")) == (16, [])
    assert len(rows_of(more / "round-1" / "to_label.csv")) == 14


def test_members_learn_from_the_shards_labels_and_from_peoples(
    partly: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a"
    words = [
        "acquire",
        str(partly),
        "--out",
        str(out),
        "--fn",
        "margin",
        "--initial",
        "20",
        "--schedule",
        "24",
        *RECIPE,
    ]
    assert run(words) == 0
    rows = [{**row, "label": str(NAMES.index(row["label"]))} for row in answered(out, 0)]
    write_rows(out / "round-0" / "to_label.csv", rows)
    capsys.readouterr()
    assert run(words) == 0
    assert f"48 samples of 3 classes, {32 - len(rows)} without a label" in capsys.readouterr().err
    summary = json.loads((out / "round-0" / "scores" / "summary.json").read_bytes())
    assert (summary["trained"], summary["classes"]) == (20, 3)
    assert len(rows_of(out / "round-1" / "to_label.csv")) == 4


def test_answers_may_come_in_several_files_with_what_else_an_export_holds(waiting: list[str], tmp_path: Path) -> None:
    out = tmp_path / "a"
    first = answered(out, 0)
    rows = [{"annotator": "7", "image": "data:image/jpeg;base64," + "A" * 30_000, **row} for row in first]
    one, two = write_rows(tmp_path / "1.csv", rows[:5]), write_rows(tmp_path / "2.csv", rows[4:])
    assert run([*waiting, "--answers", str(one), "--answers", str(two)]) == 0
    second = answered(out, 1)
    # An export holds all rounds; what is known is compared, not asked again.
    every = write_rows(tmp_path / "3.csv", [*first, *second])
    assert run([*waiting, "--answers", str(every)]) == 0
    assert len(rows_of(out / "labels.csv")) == 20
    assert [row["label"] for row in rows_of(out / "round-0" / "to_label.csv")] == [""] * 12


def test_a_slip_is_shown_and_can_be_mended(
    waiting: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    round_0 = tmp_path / "a" / "round-0"
    rows = answered(tmp_path / "a", 0)
    write_rows(round_0 / "to_label.csv", [{**rows[0], "label": rows[0]["label"] + "d"}, *rows[1:]])
    entropy = ["entropy" if word == "random" else word for word in waiting]
    shutil.rmtree(tmp_path / "a" / "index")
    (tmp_path / "a" / "acquire.json").unlink()
    capsys.readouterr()
    assert run(entropy) == 0
    said = capsys.readouterr().err
    assert "4 classes were answered: " in said
    assert f"'{rows[0]['label']}d' 1" in said
    (round_0 / "labels.csv").unlink()
    for folder in (round_0 / "scores", tmp_path / "a" / "round-1"):
        shutil.rmtree(folder)
    write_rows(round_0 / "to_label.csv", rows)
    assert run(entropy) == 0
    assert json.loads((round_0 / "scores" / "summary.json").read_bytes())["classes"] == 3


def test_a_round_answered_in_part_says_how_many_are_left_and_loses_nothing(
    waiting: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a" / "round-0" / "to_label.csv"
    rows = answered(tmp_path / "a", 0)
    rows[3]["label"] = ""
    write_rows(path, rows[:-1])
    before = path.read_bytes()
    assert run(waiting) == 1
    said = capsys.readouterr().err
    assert "Round 0: 2 of 12 samples are left to label, 1 of them are in no file" in said
    assert f"'{rows[3]['key']}' of {rows[3]['shard']}" in said
    assert path.read_bytes() == before
    rest = write_rows(tmp_path / "rest.csv", [{**row, "label": truth(row["key"])} for row in (rows[3], rows[-1])])
    assert run([*waiting, "--answers", str(rest)]) == 0
    assert (tmp_path / "a" / "round-1" / "to_label.csv").exists()


def broken(rows: list[dict[str, str]], how: str) -> list[dict[str, str]]:
    if how == "unknown":
        return [*rows, {**rows[0], "key": "s9_99"}]
    if how == "shard":
        return [{**rows[0], "shard": "toy-0009.tar"}, *rows[1:]]
    if how == "repeated":
        return [*rows, rows[2]]
    if how == "class":
        return [{**rows[0], "label": "a rad"}, *rows[1:]]
    return [{name: value for name, value in row.items() if name != "label"} for row in rows]


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("unknown", "line 14: 's9_99' of 'toy-"),
        ("shard", "of 'toy-0009.tar' was not asked for"),
        ("repeated", "line 14: 's"),
        ("class", "line 2: unknown class 'a rad'.\n  Did you mean 'a red'?"),
        ("column", "expected the columns 'key' and 'label'"),
    ],
)
def test_answers_that_do_not_fit_are_refused_by_line(
    how: str, said: str, waiting: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "classes").write_text("\n".join(NAMES))
    path = write_rows(tmp_path / "a" / "round-0" / "to_label.csv", broken(answered(tmp_path / "a", 0), how))
    before = path.read_bytes()
    capsys.readouterr()
    assert run([*waiting, "--classes", str(tmp_path / "classes")]) == 2
    assert said in capsys.readouterr().err
    assert path.read_bytes() == before
    assert not (tmp_path / "a" / "round-0" / "labels.csv").exists()


def test_a_label_that_contradicts_another_is_refused(
    partly: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a"
    words = ["acquire", str(partly), "--out", str(out), "--fn", "random", "--initial", "20", "--schedule", "24,28"]
    assert run([*words, *RECIPE]) == 0
    own = {"shard": "toy-0000.tar", "key": "s0_00", "label": "1"}  # it is 0
    rows = [{**row, "label": str(NAMES.index(row["label"]))} for row in answered(out, 0)]
    write_rows(out / "round-0" / "to_label.csv", rows)
    capsys.readouterr()
    assert run([*words, *RECIPE, "--answers", str(write_rows(tmp_path / "x.csv", [own]))]) == 2
    assert "'s0_00' is '1' here, but its label is '0' already" in capsys.readouterr().err
    other = {**rows[0], "label": str((int(rows[0]["label"]) + 1) % 3)}
    assert run([*words, *RECIPE, "--answers", str(write_rows(tmp_path / "y.csv", [other]))]) == 2
    assert "has another label in another file" in capsys.readouterr().err
    agrees = write_rows(tmp_path / "z.csv", [{**own, "label": "00"}])
    assert run([*words, *RECIPE, "--answers", str(agrees)]) == 0
    # An earlier round's label stays too.
    late = [*({**row, "label": "0"} for row in answered(out, 1)), other]
    capsys.readouterr()
    assert run([*words, *RECIPE, "--answers", str(write_rows(tmp_path / "l.csv", late))]) == 2
    assert f"'{other['key']}' is '{other['label']}' here" in capsys.readouterr().err


def test_a_class_that_nobody_saw_is_named_before_anything_is_trained(
    unlabelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a"
    (tmp_path / "classes").write_text("\n".join((*NAMES, "d black")))
    words = ["acquire", str(unlabelled), "--out", str(out), "--fn", "entropy", *ROUNDS]
    assert run([*words, "--classes", str(tmp_path / "classes")]) == 0
    fill_in(out, 0)
    capsys.readouterr()
    assert run([*words, "--classes", str(tmp_path / "classes")]) == 2
    assert "No sample of the initial subset is of class 'd black'" in capsys.readouterr().err
    assert not list(out.rglob("*.safetensors"))
    # A larger draw begins with the same samples, and takes what was answered.
    larger = ["acquire", str(unlabelled), "--out", str(tmp_path / "b"), "--fn", "entropy", *RECIPE]
    larger += ["--initial", "15", "--schedule", "20", "--answers", str(out / "round-0" / "to_label.csv")]
    assert run(larger) == 1
    assert "3 of 15 samples are left to label" in capsys.readouterr().err


def test_a_class_that_is_tested_and_that_nobody_saw_is_named_before_answers_are_taken_over(
    waiting: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a"
    labels = [*NAMES, "d black"]
    members = [
        (f"t{n}.{e}", d) for n in range(8) for e, d in (("cls", labels[n % 4].encode()), ("png", png((9, n, 9), n)))
    ]
    write_tar(tmp_path / "test.tar", members)
    fill_in(out, 0)
    capsys.readouterr()
    words = [*waiting, "--test", str(tmp_path / "test.tar")]
    assert run(words) == 2
    said = capsys.readouterr().err
    assert "No sample of the initial subset is of class 'd black', which --test measures" in said
    assert "Leave out --test; or draw more: a larger --initial in another --out" in said
    assert not (out / "round-0" / "labels.csv").exists()
    # The picture that a row names is the one that the row is about.
    first = rows_of(out / "round-0" / "to_label.csv")[0]
    assert (out / "round-0" / first["picture"]).is_file()
    # Where no class is known yet, people write it; the answers are then choices.
    config = ElementTree.parse(out / "round-0" / "pictures" / "label_studio.xml")  # noqa: S314  (our own)
    assert [node.get("name") for node in config.findall(".//TextArea")] == ["label"]
    ids = [(f"u{n}.{e}", d) for n in range(8) for e, d in (("cls", str(n % 3).encode()), ("png", png((9, n, 9), n)))]
    write_tar(tmp_path / "ids.tar", ids)
    assert run(waiting) == 0
    # A test set may join later, if its classes were seen; what is refused leaves nothing behind.
    shutil.rmtree(out / "test")
    json_path = out / "acquire.json"
    json_path.write_text(json.dumps({**json.loads(json_path.read_bytes()), "test": ""}))
    for shards, said in (
        ("test.tar", "'d black', which --test measures"),
        ("ids.tar", "are ids, those of the initial"),
    ):
        capsys.readouterr()
        assert run([*waiting, "--test", str(tmp_path / shards)]) == 2
        assert said in capsys.readouterr().err
        assert not (out / "test").exists()
    config = ElementTree.parse(out / "round-1" / "pictures" / "label_studio.xml")  # noqa: S314
    assert [node.get("value") for node in config.findall(".//Choice")] == list(NAMES)


def test_a_class_that_appears_late_and_labels_of_two_kinds_are_refused(
    waiting: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a"
    rows = answered(out, 0)
    path = write_rows(out / "round-0" / "to_label.csv", [{**rows[0], "label": "3"}, *rows[1:]])
    assert run(waiting) == 2
    assert "1 of the 4 classes in the answers are ids" in capsys.readouterr().err
    write_rows(path, rows)
    assert run(waiting) == 0
    late = answered(out, 1)
    write_rows(out / "round-1" / "to_label.csv", [{**late[0], "label": "d black"}, *late[1:]])
    assert run(waiting) == 2
    assert "unknown class 'd black'" in (said := capsys.readouterr().err)
    assert "is known by a list alone: --classes FILE" in said
    (tmp_path / "classes.txt").write_text("\n".join([*NAMES, "d black"]))
    assert run([*waiting, "--classes", str(tmp_path / "classes.txt")]) == 0


def test_a_key_that_two_shards_have_needs_its_shard(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for shard in range(2):
        members = [(f"{n}.png", png((200, 10 * n, 10), shard * 10 + n)) for n in range(6)]
        write_tar(tmp_path / "pool" / f"{shard}.tar", members)
    out = tmp_path / "a"
    words = ["acquire", str(tmp_path / "pool"), "--out", str(out), "--fn", "random", *RECIPE]
    words += ["--initial", "11", "--schedule", "12"]
    assert run(words) == 0
    rows = [{**row, "label": "abc"[int(row["key"]) % 3]} for row in rows_of(out / "round-0" / "to_label.csv")]
    capsys.readouterr()
    bare = write_rows(tmp_path / "bare.csv", [{"key": row["key"], "label": row["label"]} for row in rows])
    assert run([*words, "--answers", str(bare)]) == 2
    assert "is the key of 2 samples" in capsys.readouterr().err
    assert run([*words, "--answers", str(write_rows(tmp_path / "whole.csv", rows))]) == 0


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.images = list[str]()
        self.names = set[str]()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        if tag == "img":
            assert {name for name, _ in attrs} == {"src", "alt", "loading"}
            self.images.append(str(dict(attrs)["src"]))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_what_a_person_is_given_is_whole_and_harmless(tmp_path: Path) -> None:
    keys = ["<script>alert(1)<|script>", '"onload="x', "a\tb", "=1+1", "a\rb", "é,ü"]
    members = [(f"{key}.png", png((200, 20 * n, 90), n)) for n, key in enumerate(keys)]
    write_tar(tmp_path / "pool" / "<b>.tar", members)
    (tmp_path / "classes").write_text('<b>\n"x" & y\n')
    out = tmp_path / "a"
    words = ["acquire", str(tmp_path / "pool"), "--out", str(out), "--fn", "random", "--initial", "4", *RECIPE]
    words += ["--schedule", "6", "--classes", str(tmp_path / "classes")]
    assert run(words) == 0
    for number, size in ((0, 4), (1, 2)):
        folder = out / f"round-{number}" / "pictures"
        page = Tags()
        page.feed((folder / "index.html").read_text(encoding="utf-8"))
        assert page.names == {
            "html", "head", "meta", "title", "style", "body", "h1", "p", "main", "figure", "img", "figcaption", "br"
        }  # fmt: skip
        rows = rows_of(out / f"round-{number}" / "to_label.csv")
        assert [len(rows), len(page.images)] == [size, size]
        tasks = json.loads((folder / "label_studio.json").read_bytes())
        assert [(task["data"]["shard"], task["data"]["key"]) for task in tasks] == [
            (row["shard"], row["key"]) for row in rows
        ]
        assert [row["picture"] for row in rows] == [f"pictures/{name}" for name in page.images]
        for name, task in zip(page.images, tasks, strict=True):
            assert Image.open(io.BytesIO((folder / name).read_bytes())).size == (8, 8)
            assert task["data"]["image"].startswith("data:image/jpeg;base64,")
        choices = ElementTree.parse(folder / "label_studio.xml").findall(".//Choice")  # noqa: S314  (our own)
        assert [choice.get("value") for choice in choices] == ["<b>", '"x" & y']
        labels = ["<b>", '"x" & y'] * 2
        filled = [{**row, "label": label} for row, label in zip(rows, labels, strict=False)]
        write_rows(out / f"round-{number}" / "to_label.csv", filled)
        assert run(words) == 0
    assert sorted(row["key"] for row in rows_of(out / "labels.csv")) == sorted(keys)


def test_killed_while_it_asks_it_asks_again_and_keeps_what_people_wrote(
    unlabelled: Path, waiting: list[str], tmp_path: Path
) -> None:
    folder = tmp_path / "a" / "round-0"
    before = (folder / "to_label.csv").read_bytes()
    # As a kill leaves it: pictures half-written, no CSV yet.
    (folder / "to_label.csv").unlink()
    shutil.move(folder / "pictures", folder / ".pictures.999999999-00000000.tmp")
    assert run(waiting) == 0
    assert (folder / "to_label.csv").read_bytes() == before
    assert not list(folder.glob(".*"))
    fill_in(tmp_path / "a", 0)
    written = (folder / "to_label.csv").read_bytes()
    assert run(waiting) == 0
    (tmp_path / "a" / "labels.csv").unlink()
    assert run(waiting) == 0
    assert (folder / "to_label.csv").read_bytes() == written
    assert len(rows_of(tmp_path / "a" / "labels.csv")) == 12


def test_without_a_question_there_is_no_round(
    pool_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["acquire", str(pool_folder), "--out", str(tmp_path / "a"), "--fn", "random", *ROUNDS]
    assert run(words) == 2
    assert "Every sample has a label in the shards" in capsys.readouterr().err
    assert run([*words, "--oracle", "--answers", "x.csv"]) == 2
    assert "are for people" in capsys.readouterr().err


def test_a_correction_after_the_round_is_refused_and_not_lost(
    waiting: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    to_label = tmp_path / "a" / "round-0" / "to_label.csv"
    rows = answered(tmp_path / "a", 0)
    write_rows(to_label, rows)
    assert run(waiting) == 0
    assert run(waiting) == 0  # again: it still waits for the next one
    other = next(name for name in NAMES if name != rows[0]["label"])
    write_rows(to_label, [{**rows[0], "label": other}, *rows[1:]])
    capsys.readouterr()
    assert run(waiting) == 2
    assert f"is '{other}' here, and round 0 was done with '{rows[0]['label']}'" in capsys.readouterr().err
    assert rows_of(to_label)[0]["label"] == other
