"""What would give fewer samples, other labels or other files without a word: each is refused, and says why."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import TOY, toy_members, write_tar

import curate
from curate.cli import run
from curate.errors import ManifestError, UsageError
from curate.manifest.lines import manifest_digest
from curate.workflows.fingerprint import fingerprint

SMALL = [*TOY[:2], "--seeds", "1", "--epochs", "1", "--checkpoints", "1", *TOY[8:]]


def said(capsys: pytest.CaptureFixture[str], words: list[object], code: int = 2) -> str:
    capsys.readouterr()
    assert run([str(word) for word in words]) == code
    return capsys.readouterr().err


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Two shards of 24 samples; their labels are in a CSV."""
    rows = ["shard,key,label"]
    for number in (0, 1):
        members = [(name, data) for name, data in toy_members(number) if not name.endswith(".cls")]
        write_tar(tmp_path / "pool" / f"s{number}.tar", members)
        rows += [f"s{number}.tar,{name[:-4]},{place % 3}" for place, (name, _) in enumerate(members)]
    (tmp_path / "labels.csv").write_text("\n".join(rows) + "\n")
    return tmp_path / "pool"


def test_a_quote_that_nobody_closes_takes_no_rows_with_it(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = (tmp_path / "labels.csv").read_text().splitlines()
    (tmp_path / "cut.csv").write_text("\n".join([*lines[:5], lines[5].replace(",s", ',"s'), *lines[6:]]) + "\n")
    words = ["index", shards, "--out", tmp_path / "i", "--labels"]
    assert "cut.csv: cannot be read as CSV" in said(capsys, [*words, tmp_path / "cut.csv"])
    (tmp_path / "twice.csv").write_text("key,label,label\na,0,1\n")
    assert "the column 'label' is there twice" in said(capsys, [*words, tmp_path / "twice.csv"])
    (tmp_path / "texts.csv").write_text('label,text\n0,"aaa"\n1,"fff\n0,ggg\n')
    assert "texts.csv: cannot be read as CSV" in said(capsys, ["pack", tmp_path / "texts.csv", tmp_path / "packed"])


def test_a_key_of_several_samples_is_labelled_by_shard_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a.tar", "b.tar"):
        write_tar(tmp_path / "pool" / name, [(f"{n}.png", data) for n, (_, data) in enumerate(toy_members(0)[:4])])
    (tmp_path / "l.csv").write_text("key,label\n0,0\n1,1\n2,0\n3,1\n")
    words = ["index", tmp_path / "pool", "--labels", tmp_path / "l.csv"]
    assert "l.csv: '0' is the key of several samples" in said(capsys, words)
    (tmp_path / "l.csv").write_text("shard,key,label\na.tar,0,0\nb.tar,0,1\n,1,1\n")
    assert "'1' is the key of several samples" in said(capsys, words)


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["--labels", "l.csv", "--label-field", "x"], "from two places"),
        (["--label-from", "folder", "--label-field", "x"], "from two places"),
        (["--label-from", "none", "--labels", "l.csv"], "from two places"),
        (["--label-from", "json"], "does not say where labels are"),
    ],
)
def test_labels_come_from_one_place(
    words: list[str], what: str, pool_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "l.csv").write_text("key,label\ns0_00,0\n")
    given = [tmp_path / word if word == "l.csv" else word for word in words]
    assert what in said(capsys, ["index", pool_folder, *given])


def test_labels_of_test_shards_that_changed_are_noticed(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "test").mkdir()
    (shards / "s1.tar").rename(tmp_path / "test" / "s1.tar")
    words = ["score", shards, "--test", tmp_path / "test", "--labels", tmp_path / "labels.csv"]
    words += ["--out", tmp_path / "scores", *SMALL]
    assert run([str(word) for word in words]) == 0
    lines = (tmp_path / "labels.csv").read_text().splitlines()
    changed = [line[:-1] + "0" if line.startswith("s1") else line for line in lines]
    (tmp_path / "labels.csv").write_text("\n".join(changed) + "\n")
    assert "another label than it had" in said(capsys, words, code=1)


def test_a_copy_of_a_shard_of_the_pool_tests_nothing(
    pool_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "test").mkdir()
    shutil.copy(pool_folder / "toy-0001.tar", tmp_path / "test" / "other.tar")
    words = ["score", pool_folder, "--test", tmp_path / "test", "--out", tmp_path / "scores", *SMALL]
    assert "other.tar holds the samples of toy-0001.tar" in said(capsys, words)


def test_names_of_classes_that_come_later_are_another_pool(
    pool_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(pool_folder, tmp_path / "pool", copy_function=shutil.copy2)
    words = ["score", tmp_path / "pool", "--out", tmp_path / "scores", *SMALL]
    assert run([str(word) for word in words]) == 0
    before = fingerprint([str(tmp_path / "pool")], recipe="r").key
    (tmp_path / "pool" / "classes.txt").write_text("\ufeffa\nb\nc\nd\n\n", encoding="utf-8")
    assert fingerprint([str(tmp_path / "pool")], recipe="r").key != before
    assert "holds scores of another set of classes" in said(capsys, words, code=1)
    assert run(["index", str(tmp_path / "pool"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["num_classes"] == 4


def test_a_page_or_a_list_replaces_no_shard_and_no_manifest(
    toy_manifest: Path, pool_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shard = Path(shutil.copy(pool_folder / "toy-0000.tar", tmp_path / "toy-0000.tar"))
    before = shard.read_bytes(), (toy_manifest / "manifest.json").read_bytes()
    for words in (
        ["report", toy_manifest, "--out", shard],
        ["report", toy_manifest, "--out", toy_manifest / "manifest.json"],
        ["diff", toy_manifest, toy_manifest, "--list", shard],
    ):
        assert "is no page or list that this would replace" in said(capsys, words)
    assert (shard.read_bytes(), (toy_manifest / "manifest.json").read_bytes()) == before


@pytest.mark.parametrize("closed", ["2>&-", ">&-"])
def test_a_closed_stream_is_no_reason_to_fail(closed: str, toy_manifest: Path) -> None:
    command = f'"{sys.executable}" -m curate verify "{toy_manifest}" {closed}'
    found = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert (found.returncode, "Traceback" in found.stderr) == (0, False)


def test_integers_past_a_floats_are_scores_and_what_is_no_text_names_no_shard(
    pool_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["index", str(pool_folder), "--out", str(tmp_path / "i")]) == 0
    places = [(f"toy-{shard:04d}.tar", n) for shard in range(3) for n in range(16)]
    table = {"shard": [shard for shard, _ in places], "ordinal": [n for _, n in places]}
    path = tmp_path / "s.parquet"
    words = [
        "prune",
        "--scores",
        path,
        "--index",
        tmp_path / "i",
        "--fn",
        "s",
        "--keep",
        "0.5",
        "--out",
        tmp_path / "m",
    ]
    pq.write_table(pa.table({**table, "s": pa.array([2**63 + 7 * n for n in range(48)], pa.uint64())}), path)
    assert run([str(word) for word in words]) == 0
    pq.write_table(pa.table({**table, "shard": [[name] for name in table["shard"]], "s": list(range(48))}), path)
    assert "column 'shard' holds list" in said(capsys, words, code=1)
    assert "--fn ordinal says where a sample is" in said(capsys, [*words[:6], "ordinal", *words[7:]])
    assert "s.parquet is a file" in said(capsys, [*words[:3], *words[5:]])


def test_a_stream_goes_on_in_its_own_manifest_and_in_the_shards_that_it_knows(
    toy_manifest: Path, toy_scores: Path, pool_folder: Path, tmp_path: Path
) -> None:
    pool = shutil.copytree(pool_folder, tmp_path / "pool")
    other = tmp_path / "other"
    assert run(["prune", "--scores", str(toy_scores), "--keep", "0.3", "--fn", "margin", "--out", str(other)]) == 0
    stream = curate.KeptStream(toy_manifest, root=pool)
    with pytest.raises(ManifestError, match="of another manifest"):
        curate.KeptStream(other, root=pool).load_state_dict(stream.state_dict())
    with pytest.raises(UsageError, match="size of a buffer"):
        curate.KeptStream(toy_manifest, root=pool, shuffle=True)
    samples = curate.KeptSamples(toy_manifest, root=pool)
    assert len(list(stream)) == len(samples) == len([samples[n] for n in range(len(samples))])
    for path in pool.iterdir():  # in place, of the same size, with other keys
        data = path.read_bytes()
        path.write_bytes(data.replace(b"s0_", b"x0_").replace(b"s1_", b"x1_"))
        os.utime(path, (1, 1))
    with pytest.raises(ManifestError, match="is not the shard that was pruned"):
        samples[0]
    stream.set_epoch(1)
    with pytest.raises(ManifestError, match="is not the shard that was pruned"):
        list(stream)


def test_what_to_do_next_fits_what_was_packed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "t.csv").write_text("label,text\n0,good day\n1,bad day\n")
    assert "--proxy fasttext" in said(capsys, ["pack", tmp_path / "t.csv", tmp_path / "texts"], code=0)
    assert "--proxy fasttext" in said(capsys, ["index", tmp_path / "texts"], code=0)
    (tmp_path / "u.csv").write_text("text\ngood day\nbad day\n")
    assert "Next: curate acquire" in said(capsys, ["pack", tmp_path / "u.csv", tmp_path / "unlabelled"], code=0)


def test_the_list_of_a_round_and_other_words_for_a_shard(toy_manifest: Path) -> None:
    command = [sys.executable, "-m", "curate", "cat", str(toy_manifest), "--", "toy-0000.tar"]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_a_manifest_behind_a_link_is_replaced_there(toy_manifest: Path, toy_scores: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(toy_manifest)
    words = ["prune", "--scores", str(toy_scores), "--keep", "0.3", "--fn", "margin", "--out", str(link), "--force"]
    before = manifest_digest(toy_manifest)
    assert run(words) == 0
    assert link.is_symlink()
    assert manifest_digest(toy_manifest) != before
    assert not list(tmp_path.glob(".*.tmp"))


def test_a_mount_point_is_no_place_for_a_whole_folder(toy_scores: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["prune", "--scores", toy_scores, "--keep", "0.3", "--fn", "margin", "--out", "/proc"]
    assert "/proc is a mount point" in said(capsys, words, code=1)


def test_a_line_ends_where_we_end_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Python ends lines at more signs than a list does."""
    write_tar(tmp_path / "pool" / "a\u2028b.tar", toy_members(0))
    words = ["score", str(tmp_path / "pool"), "--out", str(tmp_path / "s"), *SMALL]
    assert run(words) == 0
    words = ["prune", "--scores", str(tmp_path / "s"), "--fn", "entropy", "--keep-list"]
    assert run([*words, "--keep", "4", "--out", str(tmp_path / "one")]) == 0
    assert run([*words, "--keep", "6", "--out", str(tmp_path / "two"), "--base", str(tmp_path / "one")]) == 0
    assert run([*words, "--keep", "8", "--out", str(tmp_path / "three"), "--base", str(tmp_path / "two")]) == 0
    listed = ["--always", str(tmp_path / "two" / "keep.txt")]
    assert run([*words, "--keep", "8", "--out", str(tmp_path / "four"), *listed]) == 0


def test_a_taken_port_is_named(toy_manifest: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"127.0.0.1, port {port}" in said(capsys, ["serve", toy_manifest, "--port", port])


def test_options_that_say_nothing_here_are_named(
    toy_scores: Path, pool_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["prune", "--scores", toy_scores, "--fn", "entropy", "--keep", "0.5", "--out", tmp_path / "m"]
    assert "--curve and --tolerance are of --keep auto" in said(capsys, [*words, "--tolerance", "0.1"])
    words = ["score", pool_folder, "--base", toy_scores, "--out", tmp_path / "s", "--dry-run"]
    assert "Leave out --dry-run." in said(capsys, words)


def test_a_shard_whose_name_is_no_text_is_named(
    pool_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pool").mkdir()
    shutil.copy(pool_folder / "toy-0000.tar", os.fsencode(tmp_path / "pool") + b"/raw\xff.tar")
    assert "the shard's name is not UTF-8" in said(capsys, ["index", tmp_path / "pool"])
