import json
import os
from pathlib import Path

import pytest
from conftest import PER_SHARD, SHARDS, png, write_tar

from curate.cli import run
from curate.errors import RunError, ShardError, UsageError
from curate.pool.index import Pool, build_index
from curate.pool.labels import MAX_LABEL_BYTES, LabelSource, read_label_table
from curate.pool.shards import find_shards

IMAGE = png((9, 9, 9), 0)


def index(folder: Path, out: Path, labels: LabelSource | None = None) -> Pool:
    return build_index([str(folder)], out, labels or LabelSource())


def test_a_pool_is_counted(pool_folder: Path, tmp_path: Path) -> None:
    pool = index(pool_folder, tmp_path)
    assert (pool.total, len(pool.scans), pool.classes.counts) == (SHARDS * PER_SHARD, SHARDS, (16, 16, 16))


def test_the_fingerprint_does_not_depend_on_where_the_pool_lies(pool_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "moved").mkdir()
    for path in pool_folder.iterdir():
        (tmp_path / "moved" / path.name).write_bytes(path.read_bytes())
    assert index(tmp_path / "moved", tmp_path / "a").fingerprint == index(pool_folder, tmp_path / "b").fingerprint


def test_a_list_a_glob_a_brace_pattern_and_a_folder_name_the_same_shards(pool_folder: Path) -> None:
    paths = sorted(str(path) for path in pool_folder.glob("*.tar"))
    ways = [[str(pool_folder)], paths, [f"{pool_folder}/*.tar"], [f"{pool_folder}/toy-{{0000..0002}}.tar"]]
    assert len({find_shards(way).shards for way in ways}) == 1


def test_a_path_over_its_parents_names_what_it_leads_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name with `..` in it would lead out of every folder that is made by it."""
    for name in ("shards/a.tar", "other/b.tar"):
        write_tar(tmp_path / name, [(f"{name[-5]}.png", IMAGE)])
    (tmp_path / "run").mkdir()
    monkeypatch.chdir(tmp_path / "run")
    found = find_shards(["../shards/a.tar", "../shards/../other/b.tar"])
    assert [shard.name for shard in found.shards] == ["other/b.tar", "shards/a.tar"]
    assert (found.root, find_shards([".."]).root) == (tmp_path, tmp_path)
    with pytest.raises(UsageError, match="named twice"):
        find_shards(["../shards/a.tar", "../run/../shards/a.tar"])


def test_links_in_a_folder_are_followed_and_none_is_left_out(tmp_path: Path) -> None:
    write_tar(tmp_path / "elsewhere" / "b.tar", [("b.png", IMAGE)])
    write_tar(tmp_path / "pool" / "a.tar", [("a.png", IMAGE)])
    (tmp_path / "pool" / "more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "pool" / "loop").symlink_to(tmp_path / "pool")
    for passed_over in (".hidden", "lost+found"):
        write_tar(tmp_path / "pool" / passed_over / "c.tar", [("c.png", IMAGE)])
    assert [shard.name for shard in find_shards([str(tmp_path / "pool")]).shards] == ["a.tar", "more/b.tar"]
    (tmp_path / "pool" / "d.tar").symlink_to(tmp_path / "gone.tar")
    with pytest.raises(UsageError, match=r"d.tar: a link that leads nowhere"):
        find_shards([str(tmp_path / "pool")])


def test_padded_class_ids_are_the_same_classes(tmp_path: Path) -> None:
    for shard, ids in (("a.tar", "01"), ("b.tar", ["00", "01", "01"])):
        write_tar(
            tmp_path / "p" / shard,
            [
                (f"{n}.{kind}", data)
                for n, one in enumerate(ids)
                for kind, data in (("png", IMAGE), ("cls", one.encode()))
            ],
        )
    pool = index(tmp_path / "p", tmp_path / "i")
    assert (pool.classes.kind, pool.classes.counts) == ("id", (2, 3))


def test_labels_of_json_that_are_empty_are_none_and_half_a_character_is_bad(tmp_path: Path) -> None:
    members = []
    for n, label in enumerate(['"cat"', '" cat "', '""', '" "', "null", '"\\ud83d"', '"\\ud83d\\ude00"']):
        members += [(f"{n}.png", IMAGE), (f"{n}.json", b'{"label": ' + label.encode() + b"}")]
    write_tar(tmp_path / "p" / "x.tar", members)
    pool = index(tmp_path / "p", tmp_path / "i", LabelSource("json", "label"))
    assert pool.classes.names == ("cat", "\N{GRINNING FACE}")
    assert pool.labels(0).tolist() == [0, 0, -1, -1, -1, -1, 1]
    assert pool.reasons(0) == [None] * 5 + ["the label holds half a character", None]


def test_a_label_whose_entry_is_too_large_is_bad_and_says_so(tmp_path: Path) -> None:
    large = b'{"label": "cat", "more": "' + b"x" * MAX_LABEL_BYTES + b'"}'
    members = [("a.png", IMAGE), ("a.json", large), ("b.png", IMAGE), ("b.json", b'{"label": "cat"}')]
    write_tar(tmp_path / "p" / "x.tar", members)
    pool = index(tmp_path / "p", tmp_path / "i", LabelSource("json", "label"))
    assert pool.reasons(0) == ["the label's entry has more than 1,048,576 bytes", None]


def test_a_shard_with_a_fault_is_refused_after_it_was_skipped(tmp_path: Path) -> None:
    write_tar(tmp_path / "p" / "a.tar", [("a.png", IMAGE), ("b.png", IMAGE), ("a.cls", b"0")])
    build_index([str(tmp_path / "p")], tmp_path / "i", LabelSource(), skip_faults=True)
    with pytest.raises(ShardError, match="appears twice"):
        index(tmp_path / "p", tmp_path / "i")


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ([("a.png", IMAGE), ("b.png", IMAGE), ("a.cls", b"0")], "'a' appears twice, at bytes 0"),
        ([("a.png", IMAGE), ("a.png", IMAGE)], "a.png"),
        ([("README", b"x")], "no samples"),
    ],
)
def test_a_structural_fault_fails_the_shard(tmp_path: Path, members: list[tuple[str, bytes]], said: str) -> None:
    write_tar(tmp_path / "p" / "x.tar", members)
    with pytest.raises(ShardError, match=said):
        index(tmp_path / "p", tmp_path / "i")


def test_skipping_a_bad_shard_counts_its_samples_as_failed(tmp_path: Path) -> None:
    write_tar(tmp_path / "p" / "a.tar", [("a.png", IMAGE), ("a.cls", b"0")])
    write_tar(tmp_path / "p" / "b.tar", [("b.png", IMAGE), ("b.cls", b"0"), ("c.png", IMAGE)])
    data = (tmp_path / "p" / "b.tar").read_bytes()
    (tmp_path / "p" / "b.tar").write_bytes(data[: 512 + 1024 + 512])
    pool = build_index([str(tmp_path / "p")], tmp_path / "i", LabelSource(), skip_faults=True)
    assert (pool.total, pool.bad) == (2, 1)


@pytest.mark.parametrize(
    ("labels", "entry"),
    [
        (LabelSource("json", "a.b"), ("k.json", json.dumps({"a": {"b": 1}}).encode())),
        (LabelSource("cls"), ("k.cls", b" 1\n")),
        (LabelSource("csv", table={("", "d/k"): "1"}), ("k.txt", b"")),
        (LabelSource("csv", table={("x.tar", "d/k"): "1"}), ("k.txt", b"")),
    ],
)
def test_labels_come_from_where_they_are_said_to(tmp_path: Path, labels: LabelSource, entry: tuple[str, bytes]) -> None:
    write_tar(tmp_path / "p" / "x.tar", [("d/k.png", IMAGE), (f"d/{entry[0]}", entry[1])])
    assert index(tmp_path / "p", tmp_path / "i", labels).labels(0).tolist() == [1]


def test_names_of_folders_become_ids_in_sorted_order(tmp_path: Path) -> None:
    write_tar(tmp_path / "p" / "x.tar", [("dog/1.png", IMAGE), ("cat/1.png", IMAGE), ("dog/2.png", IMAGE)])
    pool = index(tmp_path / "p", tmp_path / "i", LabelSource("folder"))
    assert (pool.classes.names, pool.labels(0).tolist()) == (("cat", "dog"), [1, 0, 1])


@pytest.mark.parametrize(
    ("labels", "name", "text"),
    [
        (LabelSource(), "a.cls", b"1 4"),
        (LabelSource(), "a.cls", b"1,4"),
        (LabelSource("json", "label"), "a.json", b'{"label": [1, 4]}'),
    ],
)
def test_multi_label_data_is_refused(tmp_path: Path, labels: LabelSource, name: str, text: bytes) -> None:
    write_tar(tmp_path / "p" / "x.tar", [("a.png", IMAGE), (name, text)])
    with pytest.raises(UsageError, match="more than one label"):
        index(tmp_path / "p", tmp_path / "i", labels)


def test_a_label_table_names_the_wrong_line(tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text("key,label\na,1\nb,2,3\n")
    with pytest.raises(UsageError, match="line 3"):
        read_label_table(tmp_path / "l.csv")


def test_an_empty_label_in_a_table_is_none(tmp_path: Path) -> None:
    write_tar(tmp_path / "p" / "x.tar", [("a.png", IMAGE), ("b.png", IMAGE)])
    (tmp_path / "l.csv").write_text("key,label\na,cat\nb,\n")
    pool = index(tmp_path / "p", tmp_path / "i", LabelSource("csv", table=read_label_table(tmp_path / "l.csv")))
    assert (pool.classes.names, pool.labels(0).tolist(), pool.unlabelled) == (("cat",), [0, -1], 1)


def test_answers_fill_in_what_has_no_label_and_leave_the_fingerprint_as_it_is(tmp_path: Path) -> None:
    write_tar(tmp_path / "p" / "x.tar", [("a.png", IMAGE), ("a.cls", b"cat"), ("b.png", IMAGE), ("c.png", IMAGE)])
    before = index(tmp_path / "p", tmp_path / "i")
    answers = {("x.tar", "a"): "dog", ("x.tar", "b"): "dog", ("y.tar", "c"): "dog"}
    pool = build_index([str(tmp_path / "p")], tmp_path / "j", LabelSource(), answers=answers)
    assert (pool.classes.names, pool.classes.counts) == (("cat", "dog"), (1, 1))
    assert (pool.labels(0).tolist(), pool.unlabelled) == ([0, 1, -1], 1)
    assert pool.fingerprint == before.fingerprint


def test_a_shard_that_changed_since_the_scan_is_refused(tmp_path: Path) -> None:
    write_tar(tmp_path / "p" / "x.tar", [("a.png", IMAGE), ("a.cls", b"0")])
    index(tmp_path / "p", tmp_path / "i")
    os.utime(tmp_path / "p" / "x.tar", (1, 1))
    with pytest.raises(RunError, match="changed"):
        index(tmp_path / "p", tmp_path / "i")


def test_a_shard_that_was_copied_is_scanned_again_if_asked_for(tmp_path: Path) -> None:
    write_tar(tmp_path / "p" / "x.tar", [("a.png", IMAGE), ("a.cls", b"0"), ("b.png", IMAGE), ("b.cls", b"1")])
    first = index(tmp_path / "p", tmp_path / "i")
    os.utime(tmp_path / "p" / "x.tar", (1, 1))
    again = build_index([str(tmp_path / "p")], tmp_path / "i", LabelSource(), copied=True)
    assert again.fingerprint == first.fingerprint
    assert index(tmp_path / "p", tmp_path / "i").scans[0].mtime_ns == 10**9  # its new time is the known one
    write_tar(tmp_path / "p" / "x.tar", [("a.png", IMAGE), ("a.cls", b"1"), ("b.png", IMAGE), ("b.cls", b"0")])
    for _ in range(2):  # what was refused is refused again
        with pytest.raises(RunError, match="its samples are others"):
            build_index([str(tmp_path / "p")], tmp_path / "i", LabelSource(), copied=True)


def test_every_command_that_scans_can_be_told_of_copies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_tar(tmp_path / "p" / "x.tar", [("a.png", IMAGE), ("a.cls", b"0"), ("b.png", IMAGE), ("b.cls", b"1")])
    command = ["index", str(tmp_path / "p"), "--out", str(tmp_path / "i")]
    assert run(command) == 0
    os.utime(tmp_path / "p" / "x.tar", (1, 1))
    assert run(command) != 0
    assert "written at another time" in capsys.readouterr().err
    assert run([*command, "--copied"]) == 0
    for name in ("index", "score", "build-up", "acquire", "evaluate"):
        capsys.readouterr()
        assert run([name, "--help"]) == 0
        assert "--copied" in capsys.readouterr().out, name


@pytest.mark.parametrize("source", ["nowhere/", "nowhere/{0..2}.tar", "https://host/x.tar", "pipe:cat x.tar"])
def test_a_source_that_is_not_there_is_refused(source: str) -> None:
    with pytest.raises(UsageError):
        find_shards([source])


@pytest.mark.data
def test_every_odd_image_is_accounted_for(real_data: Path, tmp_path: Path) -> None:
    from curate.progress import Silent
    from curate.workflows.index import index_pool

    report = index_pool(
        [str(real_data / "odd_images")], tmp_path, LabelSource(), decode=True, skip_faults=False, progress=Silent()
    )
    broken = {sample["key"] for sample in report["bad_samples"]}
    pool = build_index([str(real_data / "odd_images")], tmp_path, LabelSource())
    keys = pool.read(0, ["key"])["key"].to_pylist()
    expected = {key for key, label in zip(keys, pool.labels(0).tolist(), strict=True) if label == 1}
    assert (report["samples"], broken) == (48, expected)


def test_names_that_are_not_utf8_are_escaped(tmp_path: Path) -> None:
    write_tar(tmp_path / "pool" / "x.tar", [("k\udcff.p\udcfeng", b"1"), ("k\udcff.png", b"1")])
    pool = build_index([str(tmp_path / "pool")], tmp_path / "index", LabelSource())
    assert pool.read(0, ["key", "extensions"]).to_pylist() == [{"key": "k\\xff", "extensions": ["p\\xfeng", "png"]}]


def table(path: Path, *rows: str) -> list[str]:
    path.write_text("\n".join(["shard,key,label", *rows, ""]))
    return ["--labels", str(path)]


def test_rows_of_a_label_table_that_name_no_sample_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In any case they are said; where no row fits, the table is another pool's."""
    write_tar(tmp_path / "p" / "x.tar", [("a.png", IMAGE), ("b.png", IMAGE)])
    words = ["index", str(tmp_path / "p"), *table(tmp_path / "l.csv", ",a,0", "y.tar,b,1", ",\x1b[1m,1")]
    assert run([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["unmatched_labels"], found["unlabelled"]) == (2, 1)
    assert run(words) == 0
    said = capsys.readouterr().err
    assert "l.csv: 2 of 3 rows name no sample of the pool, such as 'b' of 'y.tar'." in " ".join(said.split())
    table(tmp_path / "l.csv", ",a.png,0", ",b.png,1")
    for command in (words, ["score", *words[1:], "--out", str(tmp_path / "s")]):
        assert run(command) == 2
        said = " ".join(capsys.readouterr().err.split())
        assert "none of its 2 rows names a sample of the pool. Expected keys such as 'a'" in said
    assert not (tmp_path / "s" / "run.json").exists()


def test_a_label_table_that_changed_since_the_scan_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tar(tmp_path / "p" / "x.tar", [("a.png", IMAGE), ("b.png", IMAGE)])
    words = ["index", str(tmp_path / "p"), "--out", str(tmp_path / "i"), *table(tmp_path / "l.csv", ",a,0", ",b,1")]
    assert run(words) == run(words) == 0
    for rows in ([",a,0", ",b,0"], [",a,0"]):
        table(tmp_path / "l.csv", *rows)
        assert run(words) == 1
        assert "gives 'b' of x.tar another label than it had" in " ".join(capsys.readouterr().err.split())


def test_keys_that_are_no_text_have_labels_too(tmp_path: Path) -> None:
    """By folder and by table: what is no UTF-8 goes by its escaped form."""
    entries = [(b"caf\xe9/a.png".decode("utf-8", "surrogateescape"), IMAGE), ("tea/b.png", IMAGE)]
    write_tar(tmp_path / "p" / "x.tar", entries)
    pool = index(tmp_path / "p", tmp_path / "i", LabelSource("folder"))
    assert pool.classes.names == ("caf\\xe9", "tea")
    pool = index(tmp_path / "p", tmp_path / "j", LabelSource("csv", "l.csv", {("", "caf\\xe9/a"): "1"}))
    assert pool.labels(0).tolist() == [1, -1]
