"""The manifests that are published in manifests/: whole, listed with their digests, and of the shards they name."""

import csv
import io
import tarfile
from pathlib import Path

import pytest
import zstandard

from curate.cli import run
from curate.manifest.lines import manifest_digest

MANIFESTS = Path(__file__).parents[2] / "manifests"
PUBLISHED = sorted(path.parent for path in MANIFESTS.glob("*/*/manifest.json"))


@pytest.mark.parametrize("folder", PUBLISHED, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_it_is_whole_and_listed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["verify", str(folder), "--no-sources"]) == 0
    assert f"| {folder.name} | {manifest_digest(folder)} |" in (folder.parent / "README.md").read_text()
    assert not (folder / "source.json").exists()
    assert run(["verify", str(folder)]) == 1
    assert "--root" in capsys.readouterr().err


@pytest.mark.data
@pytest.mark.parametrize("folder", PUBLISHED[:1], ids=lambda p: f"{p.parent.name}/{p.name}")
def test_its_shards_are_those_it_names(folder: Path, real_data: Path) -> None:
    assert run(["verify", str(folder), "--root", str(real_data / folder.parent.name)]) == 0


@pytest.mark.data
@pytest.mark.parametrize("name", ["cifar10", "cifar100", "imagenette"])
def test_its_listed_files_pack_into_its_shards(name: str, real_data: Path, tmp_path: Path) -> None:
    listed = zstandard.decompress((MANIFESTS / name / "shards.csv.zst").read_bytes()).decode()
    rows = list(csv.DictReader(io.StringIO(listed)))
    first, *_ = sorted((real_data / name).glob("train-*"))
    packed = first.read_bytes()
    whole = packed if first.suffix == ".tar" else zstandard.ZstdDecompressor().stream_reader(packed).read()
    with tarfile.open(fileobj=io.BytesIO(whole)) as source:
        members = {member.name: source.extractfile(member).read() for member in source}  # type: ignore[union-attr]
    mine = [row for row in rows if f"{row['key']}.jpg" in members]
    assert mine == rows[: len(mine)]
    assert 2 * len(mine) == len(members)
    for row in mine:
        (tmp_path / row["path"]).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / row["path"]).write_bytes(members[f"{row['key']}.jpg"])
    with (tmp_path / "shards.csv").open("w") as file:
        csv.DictWriter(file, rows[0]).writeheader()
        csv.DictWriter(file, rows[0]).writerows(mine)
    words = [
        str(tmp_path / "shards.csv"),
        str(tmp_path / "out"),
        "--root",
        str(tmp_path),
        "--keep-order",
        "--prefix",
        "train",
    ]
    assert run(["pack", *words]) == 0
    assert (tmp_path / "out" / "train-000000.tar").read_bytes() == whole


@pytest.mark.data
def test_the_keys_of_a_list_are_read_without_its_shards(
    real_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the block of the README, up to where it needs a download."""
    folder = MANIFESTS / "cifar10"
    block = (folder / "README.md").read_text().split("```python\n")[1].split("\nfrom torchvision")[0]
    monkeypatch.chdir(folder)
    found: dict[str, list[str]] = {}
    exec(block, found)  # noqa: S102  (the README's own)
    words = ["--root", str(real_data / "cifar10"), "--to", "keys", "--out", str(tmp_path / "keys")]
    assert run(["export", str(folder / "entropy-0.5"), *words]) == 0
    listed = (tmp_path / "keys" / "keys.txt").read_text().splitlines()
    assert found["keys"] == [line.split("\t")[1] for line in listed]
    torchvision_names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    assert {key.split("_")[1] for key in found["keys"]} == set(torchvision_names)
    assert {int(key.split("_")[2]) for key in found["keys"]} <= set(range(5000))
