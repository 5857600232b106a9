"""What a consumer is handed: exactly the kept samples, or a failure that cannot be missed."""

import os
import resource
import shlex
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import BAD_KEY, write_tar
from tars import contents, kept_keys, prune_by

from curate.cli import run
from curate.manifest.lines import find_line, find_rows, write_lines
from curate.manifest.schema import json_schema, load_head

CAT = [sys.executable, "-m", "curate", "cat"]


def test_webdataset_reads_exactly_the_kept_samples(toy_manifest: Path, pool_folder: Path) -> None:
    import webdataset as wds

    command = " ".join(shlex.quote(part) for part in [*CAT, str(toy_manifest)])
    urls = [f"pipe:{command} {path.name}" for path in sorted(pool_folder.glob("*.tar"))]
    found = {s["__key__"]: (s["png"], s["cls"]) for s in wds.WebDataset(urls, shardshuffle=False)}
    source = {}
    for path in pool_folder.glob("*.tar"):
        source |= contents(path)
    expected = kept_keys(toy_manifest, pool_folder)
    assert len(expected) == load_head(toy_manifest).totals.kept == 24
    assert BAD_KEY not in expected
    assert found == {key: (source[f"{key}.png"], source[f"{key}.cls"]) for key in expected}


def cat(manifest: Path, shard: str, *more: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([*CAT, str(manifest), shard, *more], capture_output=True, check=False)


def is_refused(result: subprocess.CompletedProcess[bytes], path: Path) -> bool:
    """Says whether a reader of the stream fails, and the exit code tells too."""
    path.write_bytes(result.stdout)
    with pytest.raises(tarfile.ReadError), tarfile.open(fileobj=path.open("rb"), mode="r|*") as tar:
        list(tar)
    return result.returncode != 0


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("damage", ["missing", "longer", "first header", "kept header", "unknown shard", "no manifest"])
def test_every_fault_ends_in_an_entry_whose_data_never_comes(
    toy_manifest: Path, pool_folder: Path, tmp_path: Path, damage: str
) -> None:
    root = tmp_path / "moved"
    root.mkdir()
    data = bytearray((pool_folder / "toy-0000.tar").read_bytes())
    line = find_line(toy_manifest, "toy-0000.tar")
    if damage == "longer":
        data += bytes(512)
    elif damage in ("first header", "kept header"):
        at = 0 if damage == "first header" else line.ranges[0] * 512
        block = bytearray(data[at : at + 512])
        block[100:107] = b"0000777"  # another mode, with a checksum that fits
        block[148:156] = b" " * 8
        block[148:156] = f"{sum(block):06o}\0 ".encode()
        data[at : at + 512] = block
    if damage != "missing":
        (root / "toy-0000.tar").write_bytes(data)
    shard = "other.tar" if damage == "unknown shard" else "toy-0000.tar"
    manifest = tmp_path / "none" if damage == "no manifest" else toy_manifest
    assert is_refused(cat(manifest, shard, "--root", str(root)), tmp_path / "out.tar")


def test_a_pipe_and_a_file_are_given_the_same_bytes(tmp_path: Path) -> None:
    """Long entries go into a pipe another way than into a file, short ones alike."""
    sizes = [100_001, 0, 1, 16_383, 16_384, 16_385, 511, 512, 700_000]
    random = np.random.default_rng(0)
    members = [(f"k{n}.{kind}", data) for n, size in enumerate(sizes) for kind, data in (("bin", random.bytes(size)),)]
    write_tar(tmp_path / "pool" / "x.tar", members)
    prune_by([1.0, 1, 1, 1, 0, 1, 1, 0, 1], tmp_path / "pool", "x.tar", 7, tmp_path)
    piped = cat(tmp_path / "manifest", "x.tar")
    with (tmp_path / "kept.tar").open("wb") as file:
        assert subprocess.run([*CAT, tmp_path / "manifest", "x.tar"], stdout=file, check=False).returncode == 0
    assert (piped.returncode, piped.stdout) == (0, (tmp_path / "kept.tar").read_bytes())
    assert contents(tmp_path / "kept.tar") == {name: data for name, data in members if name[:2] not in ("k4", "k7")}


def test_a_slow_reader_is_given_everything(tmp_path: Path) -> None:
    """A full pipe makes the writer pause, whether it is read at once or after a while."""
    random = np.random.default_rng(0)
    write_tar(tmp_path / "pool" / "x.tar", [(f"k{n}.bin", random.bytes(200_000)) for n in range(10)])
    prune_by([float(n % 2) for n in range(10)], tmp_path / "pool", "x.tar", 5, tmp_path)
    whole = cat(tmp_path / "manifest", "x.tar").stdout
    with subprocess.Popen([*CAT, str(tmp_path / "manifest"), "x.tar"], stdout=subprocess.PIPE, bufsize=0) as process:
        assert process.stdout
        found = b""
        while chunk := process.stdout.read(100_001):
            found += chunk
            time.sleep(0.02)
    assert process.returncode == 0
    assert found == whole


def test_from_storage_only_the_kept_samples_are_read(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    write_tar(tmp_path / "pool" / "x.tar", [(f"k{n}.bin", random.bytes(1 << 18)) for n in range(100)])
    prune_by([float(n % 10 == 5) for n in range(100)], tmp_path / "pool", "x.tar", 10, tmp_path)
    source = tmp_path / "pool" / "x.tar"
    size = source.stat().st_size
    if read_from_storage(source, ["cat", str(source)]) < size:
        pytest.skip("the file stays in memory here")
    assert read_from_storage(source, [*CAT, str(tmp_path / "manifest"), "x.tar"]) < 0.3 * size


def read_from_storage(path: Path, command: list[str]) -> int:
    """Returns the bytes that a command has the storage read, after the pages of a file were dropped."""
    with path.open("rb") as file:
        os.fdatasync(file.fileno())  # pages that are not on the disk yet cannot be dropped; os.fsync does not wait here
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_inblock
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        process.communicate()
    assert process.returncode == 0
    return 512 * (resource.getrusage(resource.RUSAGE_CHILDREN).ru_inblock - before)


def test_the_moved_pool_is_found_through_root(toy_manifest: Path, pool_folder: Path, tmp_path: Path) -> None:
    here, there = cat(toy_manifest, "toy-0001.tar"), cat(toy_manifest, "x/y/toy-0001.tar", f"--root={pool_folder}")
    assert here.returncode == there.returncode == 0
    assert here.stdout == there.stdout


def test_the_longest_unique_suffix_names_a_shard(toy_manifest: Path, tmp_path: Path) -> None:
    line = find_line(toy_manifest, "toy-0000.tar")
    names = [f"{a}/{b}/{c:05d}.tar" for a in ("x", "y") for b in ("u", "v%", "w\t") for c in range(40)]
    write_lines(tmp_path, [line._replace(name=name) for name in names])
    for name in names:
        assert [row[0] for row in find_rows(tmp_path, name)] == [name]
        assert find_line(tmp_path, f"/mnt/data/{name}").name == name
    assert len(find_rows(tmp_path, "u/00007.tar")) == 2
    assert find_rows(tmp_path, "99999.tar") == []
    write_lines(tmp_path, [line._replace(name=name) for name in ("b/t.tar", "t.tar")])
    for asked, name in (("t.tar", "t.tar"), ("/kept/t.tar", "t.tar"), ("/kept/b/t.tar", "b/t.tar")):
        assert find_line(tmp_path, asked).name == name  # all of a name is more than the end of another


def test_verify_says_which_shard_differs(toy_manifest: Path, pool_folder: Path, tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    assert run(["verify", str(toy_manifest)]) == 0
    for path in pool_folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    with (tmp_path / "toy-0002.tar").open("ab") as file:
        file.write(b"\0")
    capsys.readouterr()
    assert run(["verify", str(toy_manifest), "--root", str(tmp_path)]) == 1
    assert "toy-0002.tar: is not the shard that was pruned" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["shards.jsonl.zst", "shards.idx"])
def test_verify_finds_a_changed_file(toy_manifest: Path, name: str) -> None:
    data = bytearray((toy_manifest / name).read_bytes())
    data[len(data) // 2] ^= 1
    (toy_manifest / name).write_bytes(data)
    assert run(["verify", str(toy_manifest)]) == 1


def test_the_published_schema_is_the_models(toy_manifest: Path) -> None:
    import json

    import jsonschema

    docs = Path(__file__).parent.parent.parent / "docs" / "manifest.schema.json"
    assert docs.read_text() == json_schema()
    jsonschema.validate(json.loads((toy_manifest / "manifest.json").read_bytes()), json.loads(docs.read_text()))


def test_a_manifest_holds_no_path_and_no_time(toy_manifest: Path, pool_folder: Path) -> None:
    for name in ("manifest.json", "shards.idx"):
        assert os.fsencode(pool_folder) not in (toy_manifest / name).read_bytes()
