"""`curate pack`: folders, CSVs and torchvision datasets become shards, byte for byte, every time alike."""

import csv
import gzip
import hashlib
import io
import json
import os
import tarfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import webdataset as wds
from conftest import COLOURS, png
from PIL import Image

from curate.cli import run
from curate.workflows.pack import READERS


def write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """24 images of three classes with awkward names, and files that are no images."""
    folder = tmp_path / "images"
    for place in range(18):
        write(folder / f"class {place % 3}" / "deep" / f"image_{place:02d}.png", png(COLOURS[place % 3], place))
    awkward = ["a.b.jpg", "a_b.JPEG", "a%2Eb.png", "same.png", "same.jpg", "{x}::y#z?'\" é.png"]
    for number, name in enumerate(awkward):
        write(folder / "class 0" / name, png(COLOURS[0], 100 + number))
    write(folder / "class 1" / "notes.txt", b"no image")
    write(folder / "class 1" / ".hidden.png", b"hidden")
    (folder / "empty").mkdir()
    return folder


def entries(folder: Path) -> dict[str, bytes]:
    found = {}
    for path in sorted(folder.glob("*.tar*")):
        data = path.read_bytes()
        if path.suffix == ".zst":
            import zstandard

            data = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data)).read()
        with tarfile.open(fileobj=io.BytesIO(gzip.decompress(data) if path.suffix == ".gz" else data)) as tar:
            for entry in tar:
                assert entry.name not in found
                found[entry.name] = tar.extractfile(entry).read()  # type: ignore[union-attr]
    return found


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def report(words: list[str], capsys: pytest.CaptureFixture[str]) -> dict:  # type: ignore[type-arg]
    capsys.readouterr()
    assert run(["pack", *words, "--json"]) == 0
    document: dict = json.loads(capsys.readouterr().out)  # type: ignore[type-arg]
    return document


@pytest.mark.parametrize("codec", ["tar", "tar.gz", "tar.zst"])
def test_every_image_of_a_folder_arrives_as_it_is(
    images: Path, tmp_path: Path, codec: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "shards"
    words = ["pack", str(images), str(out), "--codec", codec, "--samples-per-shard", "10", "--json"]
    assert run(words) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["samples"], report["shards"], report["classes"]) == (24, 3, 4)
    assert report["skipped"] == {"hidden": 1, "not an image": 1}
    assert (out / "classes.txt").read_text() == "class 0\nclass 1\nclass 2\nempty\n"
    found = entries(out)
    originals = sorted(p.read_bytes() for p in images.rglob("*") if p.is_file() and b"PNG" in p.read_bytes()[:8])
    assert sorted(data for name, data in found.items() if not name.endswith(".cls")) == originals
    assert found["class 0/a%2Eb.jpg"] == (images / "class 0" / "a.b.jpg").read_bytes()
    assert found["class 0/a%252Eb.png"] == (images / "class 0" / "a%2Eb.png").read_bytes()
    assert found["class 0/same%2Epng.png"] == (images / "class 0" / "same.png").read_bytes()
    assert found["class 2/deep/image_02.cls"] == b"2"
    assert run(["index", str(out), "--json"]) == 0
    index = json.loads(capsys.readouterr().out)
    assert (index["samples"], index["bad"], index["unlabelled"]) == (24, 0, 0)
    assert [c["samples"] for c in index["classes"]] == [12, 6, 6, 0]


def test_webdataset_reads_what_was_packed(images: Path, tmp_path: Path) -> None:
    assert run(["pack", str(images), str(tmp_path / "shards")]) == 0
    # Through a pipe, because webdataset leaves plain files open for the collector to find.
    url = f"pipe:cat {tmp_path / 'shards' / 'shard-000000.tar'}"
    samples = list(wds.WebDataset(url, shardshuffle=False))
    assert len({sample["__key__"] for sample in samples}) == 24
    assert all(len([name for name in sample if not name.startswith("__")]) == 2 for sample in samples)


def test_equal_images_give_equal_bytes(images: Path, tmp_path: Path) -> None:
    assert run(["pack", str(images), str(tmp_path / "one")]) == 0
    for path in sorted(images.rglob("*"), reverse=True):
        os.utime(path, (1, 1))
    assert run(["pack", str(images), str(tmp_path / "two")]) == 0
    assert digests(tmp_path / "one") == digests(tmp_path / "two")
    assert run(["pack", str(images), str(tmp_path / "three"), "--seed", "1"]) == 0
    assert digests(tmp_path / "one") != digests(tmp_path / "three")
    assert entries(tmp_path / "one") == entries(tmp_path / "three")


def test_packing_again_is_a_no_op_and_other_files_are_left_alone(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "shards"
    assert run(["pack", str(images), str(out)]) == 0
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    assert run(["pack", str(images), str(out)]) == 0
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == before
    assert run(["pack", str(images), str(out), "--seed", "1"]) == 1
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == before
    assert not list(tmp_path.glob(".*"))


def test_links_are_followed_once(images: Path, tmp_path: Path) -> None:
    (images / "class 1" / "loop").symlink_to(images / "class 1")
    (images / "class 2" / "linked.png").symlink_to(images / "class 1" / "deep" / "image_01.png")
    assert run(["pack", str(images), str(tmp_path / "shards")]) == 0
    found = entries(tmp_path / "shards")
    assert len([name for name in found if name.endswith(".cls")]) == 25
    assert found["class 2/linked.png"] == found["class 1/deep/image_01.png"]


def test_a_class_that_is_a_link_to_another_is_packed_too(tmp_path: Path) -> None:
    write(tmp_path / "images" / "a" / "x.png", png(COLOURS[0], 0))
    (tmp_path / "images" / "b").symlink_to(tmp_path / "images" / "a")
    assert run(["pack", str(tmp_path / "images"), str(tmp_path / "shards")]) == 0
    found = entries(tmp_path / "shards")
    assert (found["a/x.cls"], found["b/x.cls"]) == (b"0", b"1")


def test_links_that_lead_to_each_other_end(tmp_path: Path) -> None:
    for one, other in (("a", "b"), ("b", "a")):
        write(tmp_path / "images" / one / "x.png", png(COLOURS[0], 0))
        (tmp_path / "images" / one / "to").symlink_to(tmp_path / "images" / other)
    assert run(["pack", str(tmp_path / "images"), str(tmp_path / "shards")]) == 0
    names = {name for name in entries(tmp_path / "shards") if name.endswith("png")}
    assert names == {"a/x.png", "a/to/x.png", "b/x.png", "b/to/x.png"}


def test_what_is_left_out_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "images" / "a"
    for name in ("x.png", ".hidden.png", ".cache/y.png", ".cache/z.txt", "z.txt"):
        write(folder / name, png(COLOURS[0], 0))
    (folder / "loop").symlink_to(tmp_path)
    os.mkfifo(folder / "pipe.png")
    result = report([str(tmp_path / "images"), str(tmp_path / "shards")], capsys)
    assert result["samples"] == 1
    assert result["skipped"] == {"hidden": 3, "link that leads back": 1, "not an image": 1, "pipe or device": 1}


def test_a_name_with_two_extensions_keeps_its_own_key(tmp_path: Path) -> None:
    names = ["a.jpg", "a.png", "a.jpg.png", "a.jpg.png.gif", "b.jpg"]
    for number, name in enumerate(names):
        write(tmp_path / "images" / "c" / name, png(COLOURS[0], number))
    assert run(["pack", str(tmp_path / "images"), str(tmp_path / "shards")]) == 0
    found = entries(tmp_path / "shards")
    assert len([name for name in found if name.endswith(".cls")]) == len(names)
    assert found["c/a%2Ejpg%2Epng.png"] == (tmp_path / "images" / "c" / "a.jpg.png").read_bytes()
    assert found["c/b.jpg"] == (tmp_path / "images" / "c" / "b.jpg").read_bytes()


def table(path: Path, rows: Iterable[Iterable[str]]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


def test_a_csv_names_files_labels_and_keys(images: Path, tmp_path: Path) -> None:
    rows = [["path", "label", "key"]]
    rows += [[f"class {n % 3}/deep/image_{n:02d}.png", ["cat", "dog", ""][n % 3], f"k{n}"] for n in range(18)]
    source = table(tmp_path / "files.csv", rows)
    assert run(["pack", str(source), str(tmp_path / "shards"), "--root", str(images)]) == 0
    found = entries(tmp_path / "shards")
    assert (tmp_path / "shards" / "classes.txt").read_text() == "cat\ndog\n"
    assert (found["k0.cls"], found["k1.cls"], "k2.cls" in found) == (b"0", b"1", False)
    assert found["k2.png"] == (images / "class 2" / "deep" / "image_02.png").read_bytes()


def test_whole_numbers_in_a_csv_stay_class_ids(images: Path, tmp_path: Path) -> None:
    rows = [["path", "label"], ["class 0/deep/image_00.png", "7"], ["class 1/deep/image_01.png", "3"]]
    assert run(["pack", str(table(images / "files.csv", rows)), str(tmp_path / "shards")]) == 0
    assert not (tmp_path / "shards" / "classes.txt").exists()
    assert entries(tmp_path / "shards")["class 0/deep/image_00.cls"] == b"7"


def test_a_csv_row_that_is_no_image_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "x.png", png(COLOURS[0], 0))
    write(tmp_path / "y.cls", b"no image")
    source = table(tmp_path / "files.csv", [["path", "label"], ["x.png", "0"], ["y.cls", "1"]])
    result = report([str(source), str(tmp_path / "shards")], capsys)
    assert (result["samples"], result["skipped"]) == (1, {"not an image": 1})


IDX = {"train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", 30), "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte", 10)}  # fmt: skip


def test_a_folder_of_texts_is_packed_like_one_of_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for place in range(6):
        write(tmp_path / "texts" / ("bad", "good")[place % 2] / f"{place}_7.TXT", f"film {place} \u00e9".encode())
    write(tmp_path / "texts" / "good" / "read.me", b"neither")
    found = report([str(tmp_path / "texts"), str(tmp_path / "out")], capsys)
    assert (found["samples"], found["classes"], found["skipped"]) == (6, 2, {"not a text": 1})
    assert entries(tmp_path / "out")["good/3_7.txt"] == "film 3 \u00e9".encode()
    assert run(["index", str(tmp_path / "out"), "--json"]) == 0
    index = json.loads(capsys.readouterr().out)
    assert (index["kind"], index["samples"], index["bad"]) == ("text", 6, 0)
    write(tmp_path / "texts" / "good" / "one.png", png(COLOURS[0], 0))  # now they are what lies beside an image
    found = report([str(tmp_path / "texts"), str(tmp_path / "with")], capsys)
    assert (found["samples"], found["skipped"]) == (1, {"not an image": 7})


def test_a_csv_can_hold_the_texts_themselves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    long = "word " * 40_000  # longer than csv's own limit
    rows = [["text", "label"], ["fine, really", "pos"], ['two\nlines and a "quote"', "neg"], [long, "pos"], ["so", ""]]
    found = report([str(table(tmp_path / "reviews.csv", rows)), str(tmp_path / "out"), "--keep-order"], capsys)
    assert (found["samples"], found["classes"], found["unlabelled"], found["skipped"]) == (4, 2, 1, {})
    packed = entries(tmp_path / "out")
    assert packed["00000001.txt"] == b'two\nlines and a "quote"'
    assert packed["00000002.txt"] == long.encode()
    assert (packed["00000000.cls"], packed["00000001.cls"]) == (b"1", b"0")
    assert (tmp_path / "out" / "classes.txt").read_text() == "neg\npos\n"
    table(tmp_path / "keys.csv", [["key", "text", "label"], ["a/b", "x", "0"], ["c", "y", "1"]])
    report([str(tmp_path / "keys.csv"), str(tmp_path / "keyed")], capsys)
    assert set(entries(tmp_path / "keyed")) == {"a/b.txt", "a/b.cls", "c.txt", "c.cls"}
    table(tmp_path / "both.csv", [["path", "text"], ["x", "y"]])
    assert run(["pack", str(tmp_path / "both.csv"), str(tmp_path / "no")]) == 2


def mnist(root: Path) -> dict[str, np.ndarray]:  # type: ignore[type-arg]
    pixels = {}
    for split, (images, labels, count) in IDX.items():
        pixels[split] = np.random.default_rng(count).integers(0, 256, (count, 28, 28), dtype=np.uint8)
        head = np.array([0x803, count, 28, 28], ">i4").tobytes()
        write(root / "MNIST" / "raw" / images, head + pixels[split].tobytes())
        ids = (np.arange(count) % 10).astype(np.uint8)
        write(root / "MNIST" / "raw" / labels, np.array([0x801, count], ">i4").tobytes() + ids.tobytes())
    return pixels


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_torchvision_dataset_is_packed_losslessly(tmp_path: Path, split: str) -> None:
    pixels = mnist(tmp_path / "root")[split]
    words = ["pack", str(tmp_path / "root"), str(tmp_path / "shards"), "--from", "mnist", "--split", split]
    assert run(words) == 0
    assert (tmp_path / "shards" / f"{split}-000000.tar").is_file()
    found = entries(tmp_path / "shards")
    for place, image in enumerate(pixels):
        key = f"{split}_{place:07d}"
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(found[f"{key}.png"]))), image)
        assert found[f"{key}.cls"] == str(place % 10).encode()
    assert (tmp_path / "shards" / "classes.txt").read_text().startswith("0 - zero\n")


@pytest.mark.parametrize("name", sorted(set(READERS) - {"folder", "csv"}))
def test_every_torchvision_row_says_what_is_missing(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["pack", str(tmp_path), str(tmp_path / "shards"), "--from", name]) == 2
    assert f"torchvision finds no {name} there" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["missing"], 2, "no such file or folder"),
        (["images", "--from", "cifar11"], 2, "Did you mean 'cifar10'?"),
        (["images", "--codec", "zip"], 2, "Unknown codec 'zip'"),
        (["flat"], 2, "1 files lie in no class folder"),
        (["empty"], 2, "no images"),
        (["root", "--from", "mnist", "--split", "val"], 2, "has no split 'val'"),
        (["missing.csv"], 2, "no file 'x.png'"),
        (["columns.csv"], 2, "expected the columns path or text, label"),
        (["twice.csv"], 2, "The key 'k' belongs to 2 samples"),
        (["climbs.csv"], 2, "leads out of the shard's folder"),
        (["torn.csv"], 2, "another number of columns"),
        (["dotted.csv"], 2, "is no name for an entry"),
        (["images", "--classes", "classes.txt"], 2, "'class 2' is no class of --classes"),
        (["x.tar"], 2, "is a shard already"),
        (["images", "--prefix", "../up"], 2, "expected a plain name"),
        (["images", "--prefix", ".hidden"], 2, "expected a plain name"),
        (["."], 2, "shards lies in"),
    ],
)
def test_what_cannot_be_packed_is_said(
    images: Path, tmp_path: Path, words: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    mnist(tmp_path / "root")
    write(tmp_path / "flat" / "x.png", png(COLOURS[0], 0))
    write(tmp_path / "flat" / "a" / "x.png", png(COLOURS[0], 0))
    write(tmp_path / "x.tar", b"")
    write(tmp_path / "classes.txt", b"class 0\nclass 1\n")
    (tmp_path / "empty").mkdir()
    one = "flat/x.png"
    table(tmp_path / "missing.csv", [["path", "label"], ["x.png", "1"]])
    table(tmp_path / "columns.csv", [["file", "label"], [one, "1"]])
    table(tmp_path / "twice.csv", [["path", "key"], [one, "k"], [one, "k"]])
    table(tmp_path / "climbs.csv", [["path", "key"], [one, "../k"]])
    table(tmp_path / "torn.csv", [["path", "label"], [one]])
    table(tmp_path / "dotted.csv", [["path", "key"], [one, "a.b"]])
    source, *options = words
    given = [str(tmp_path / word) if word.endswith(".txt") else word for word in options]
    assert run(["pack", str(tmp_path / source), str(tmp_path / "shards"), *given]) == code
    assert said in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "shards").exists()
    assert not list(tmp_path.glob(".*"))
