"""The images of a packed folder, by links: torchvision and timm see the kept ones, under the ids they had."""

import csv
import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import COLOURS, png

from curate.cli import run
from curate.manifest.exports import export
from curate.pool.packed import read_files

PER_CLASS, CLASSES = 6, ("ant", "bee", "cat")


def make(folder: Path, names: tuple[str, ...] = CLASSES) -> Path:
    """Images in class folders, some deeper, one name with dots; of the second class all scores are low."""
    for label, name in enumerate(names):
        for place in range(PER_CLASS):
            path = folder / "images" / name / ("deep/er" if place == 1 else "") / f"i.{place}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(png(COLOURS[label], 10 * label + place))
    return folder / "images"


def pruned(folder: Path, *words: str, source: str = "images") -> Path:
    """Packs what lies at `folder/source` and keeps seven samples: six and one of the first and the third class."""
    pool = folder / "pool"
    assert run(["pack", str(folder / source), str(pool), "--samples-per-shard", "5", *words]) == 0
    rows = [
        (name, place, float(file.label == 0 or (file.label != 1 and place == 0)))
        for name, files in read_files(pool)
        for place, file in enumerate(files)
    ]
    columns = dict(zip(("shard", "ordinal", "score"), map(list, zip(*rows, strict=True)), strict=True))
    pq.write_table(pa.table(columns), folder / "s.parquet")
    assert run(["index", str(pool), "--out", str(folder / "i")]) == 0
    keep = str(sum(score > 0 for _, _, score in rows))
    prune = ["prune", "--scores", str(folder / "s.parquet"), "--index", str(folder / "i"), "--fn", "score"]
    assert run([*prune, "--keep", keep, "--out", str(folder / "m")]) == 0
    return folder / "m"


def kept_files(manifest: Path, folder: Path) -> list[tuple[bytes, int]]:
    """Returns bytes and class id of the kept images, by the keys that another export names."""
    export(manifest, "keys", folder / "keys")
    keys = {tuple(line.split("\t")) for line in (folder / "keys" / "keys.txt").read_text().splitlines()}
    found = []
    for name, files in read_files(folder / "pool"):
        found += [(folder / "images" / f.path, f.label or 0) for f in files if (name, f.key) in keys]
    return sorted((path.read_bytes(), label) for path, label in found)


def test_image_folders_hold_the_kept_images(tmp_path: Path) -> None:
    from timm.data import create_dataset
    from torchvision.datasets import ImageFolder

    make(tmp_path)
    manifest = pruned(tmp_path)
    result = export(manifest, "imagefolder", tmp_path / "out")
    expected = kept_files(manifest, tmp_path)
    assert (result.samples, result.classes, result.classes_kept) == (len(expected), 3, 2)
    dataset = ImageFolder(tmp_path / "out" / "images", allow_empty=True)
    assert f'ImageFolder("{tmp_path / "out" / "images"}", allow_empty=True)' in result.lines[1]
    assert dataset.classes == list(CLASSES)
    assert sorted((Path(path).read_bytes(), label) for path, label in dataset.samples) == expected
    words = result.lines[2].split()
    root, class_map = words[words.index("--data-dir") + 1], words[words.index("--class-map") + 1]
    reader = create_dataset("", root=root, split="", class_map=class_map).reader
    assert sorted((Path(path).read_bytes(), label) for path, label in reader.samples) == expected
    rows = list(csv.DictReader((tmp_path / "out" / "files.csv").read_text().splitlines()))
    assert sorted((Path(row["path"]).read_bytes(), int(row["label"])) for row in rows) == expected


def test_a_table_of_files_with_ids_is_a_tree_in_the_order_of_the_ids(tmp_path: Path) -> None:
    from torchvision.datasets import ImageFolder

    make(tmp_path)
    files = sorted((tmp_path / "images").rglob("*.png"))
    lines = [f"{path.relative_to(tmp_path / 'images')},{(0, 11, 2)[n % 3]},k{n}\n" for n, path in enumerate(files)]
    (tmp_path / "images" / "list.csv").write_text("path,label,key\n" + "".join(lines))
    manifest = pruned(tmp_path, source="images/list.csv")
    export(manifest, "imagefolder", tmp_path / "out")
    dataset = ImageFolder(tmp_path / "out" / "images", allow_empty=True)
    assert dataset.classes == [f"{n:02d}" for n in range(12)]
    assert sorted((Path(path).read_bytes(), label) for path, label in dataset.samples) == kept_files(manifest, tmp_path)


def test_classes_in_another_order_are_not_offered_to_readers_that_sort_them(tmp_path: Path) -> None:
    make(tmp_path)
    (tmp_path / "classes.txt").write_text("cat\nbee\nant\n")
    manifest = pruned(tmp_path, "--classes", str(tmp_path / "classes.txt"))
    lines = export(manifest, "imagefolder", tmp_path / "out").lines
    assert not any("torchvision" in line for line in lines)
    assert (tmp_path / "out" / "classes.txt").read_text() == "cat\nbee\nant\n"
    assert any("--class-map" in line for line in lines)


@pytest.mark.parametrize(
    "damage", ["gone", "longer", "no record", "another record", "damaged record", "no label", "gif"]
)
def test_a_tree_that_would_mislead_is_refused(tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]) -> None:
    images = make(tmp_path)
    if damage == "gif":
        (images / "ant" / "i.0.png").rename(images / "ant" / "i.0.gif")
    manifest = pruned(tmp_path, *(["--unlabelled"] if damage == "no label" else []))
    chosen = images / "ant" / "deep" / "er" / "i.1.png"
    if damage == "gone":
        chosen.unlink()
    elif damage == "longer":
        chosen.write_bytes(chosen.read_bytes() + b"x")
    elif damage == "no record":
        (tmp_path / "pool" / "source.json").unlink()
    elif damage == "damaged record":
        (tmp_path / "pool" / "files.jsonl.zst").write_bytes(b"no zstandard")
    elif damage == "another record":
        shutil.rmtree(images / "cat")
        assert run(["pack", str(images), str(tmp_path / "other"), "--samples-per-shard", "50"]) == 0
        shutil.copy(tmp_path / "other" / "files.jsonl.zst", tmp_path / "pool" / "files.jsonl.zst")
    capsys.readouterr()
    assert run(["export", str(manifest), "--to", "imagefolder", "--out", str(tmp_path / "out")]) in (1, 2)
    said = capsys.readouterr().err
    told = {"gone": "i.1.png", "longer": "i.1.png", "no record": "source.json", "damaged record": "files.jsonl.zst"}
    told |= {"another record": "record of what was packed", "no label": "no classes", "gif": "i.0.gif"}
    assert told[damage] in said.replace("\n", " ")
    assert not (tmp_path / "out").exists()


def test_packing_moved_images_again_records_where_they_are(tmp_path: Path) -> None:
    make(tmp_path)
    manifest = pruned(tmp_path)
    (tmp_path / "images").rename(tmp_path / "moved")
    assert run(["pack", str(tmp_path / "moved"), str(tmp_path / "pool"), "--samples-per-shard", "5"]) == 0
    assert json.loads((tmp_path / "pool" / "source.json").read_text()) == {"folder": str(tmp_path / "moved")}
    export(manifest, "imagefolder", tmp_path / "out")
    assert all(path.resolve().is_file() for path in (tmp_path / "out" / "images").rglob("*.png"))
