"""What is changed, missing, tampered with or meant to do harm: an error that names it, and nothing half-written."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import webdataset as wds
import zstandard
from conftest import PER_SHARD, write_tar
from tars import contents, kept_keys, prune_by

from curate.cli import run
from curate.errors import CurateError
from curate.manifest.kept import KeptReader
from curate.manifest.lines import find_line, manifest_digest, read_lines
from curate.manifest.serve import Served
from curate.pool.tar import BLOCK

Way = Callable[[Path, Path, Path], int]


def cat(manifest: Path, root: Path, out: Path) -> int:
    """Returns the exit code; a reader of the stream must fail whenever that is not 0."""
    command = [sys.executable, "-m", "curate", "cat", str(manifest), "toy-0001.tar", "--root", str(root)]
    done = subprocess.run(command, capture_output=True, check=False)
    sys.stderr.write(done.stderr.decode())
    streamed = out.with_name("streamed.tar")
    streamed.write_bytes(done.stdout)
    if done.returncode:
        with (
            pytest.raises(tarfile.ReadError),
            streamed.open("rb") as file,
            tarfile.open(fileobj=file, mode="r|*") as tar,
        ):
            list(tar)
    return done.returncode


def command(*words: str) -> Way:
    def way(manifest: Path, root: Path, out: Path) -> int:
        return run([words[0], str(manifest), *words[1:], "--root", str(root), "--out", str(out)])

    return way


def materialize(manifest: Path, root: Path, out: Path) -> int:
    return run(["materialize", str(manifest), str(out), "--root", str(root)])


def verify(manifest: Path, root: Path, out: Path) -> int:
    return run(["verify", str(manifest), "--root", str(root), "--json"])


def serve(manifest: Path, root: Path, out: Path) -> int:
    try:
        served = Served(manifest, root)
        for name in served.names:
            served.check(name)
    except (CurateError, OSError) as error:
        sys.stderr.write(str(error))
        return 1
    return 0


def in_code(manifest: Path, root: Path, out: Path) -> int:
    try:
        kept = KeptReader(manifest, root)
        for number in range(len(kept)):
            kept.read(number)
    except (CurateError, OSError) as error:
        sys.stderr.write(str(error))
        return 1
    return 0


WAYS: dict[str, Way] = {
    "cat": cat, "materialize": materialize, "verify": verify, "serve": serve, "in code": in_code,
    **{name: command("export", "--to", name) for name in ("dali", "energon", "keys", "parquet")},
}  # fmt: skip


def damage(kind: str, root: Path, manifest: Path) -> None:
    path = root / "toy-0001.tar"
    data = path.read_bytes()
    if kind in ("missing", "renamed"):
        path.rename(root / "toy-9999.tar") if kind == "renamed" else path.unlink()
    elif kind == "truncated":
        path.write_bytes(data[: len(data) // 2 // BLOCK * BLOCK])
    elif kind == "longer":
        path.write_bytes(data + bytes(BLOCK))
    elif kind == "another in its place":
        other = (root / "toy-0002.tar").read_bytes()
        path.write_bytes((other + bytes(len(data)))[: len(data)])
    elif kind == "a kept entry renamed":
        (line,) = (line for line in read_lines(manifest) if line.name == path.name)
        at = line.ranges[0] * BLOCK
        block = bytearray(data[at : at + BLOCK])
        block[0:1], block[148:156] = b"z", b" " * 8
        block[148:156] = f"{sum(block):06o}\0 ".encode()
        path.write_bytes(data[:at] + block + data[at + BLOCK :])


@pytest.mark.parametrize("way", list(WAYS))
@pytest.mark.parametrize(
    "kind", ["missing", "renamed", "truncated", "longer", "another in its place", "a kept entry renamed"]
)
def test_another_source_is_refused_whatever_reads_it(
    toy_manifest: Path, pool_folder: Path, tmp_path: Path, kind: str, way: str, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(pool_folder, tmp_path / "root")
    damage(kind, tmp_path / "root", toy_manifest)
    capfd.readouterr()
    assert WAYS[way](toy_manifest, tmp_path / "root", tmp_path / "out") == 1
    said = capfd.readouterr()
    assert "toy-0001.tar" in said.out + said.err
    assert not list(tmp_path.rglob("toy-0001-*.tar"))
    assert way == "materialize" or not (tmp_path / "out").exists()


def rewritten(manifest: Path, change: str) -> None:
    """Changes a manifest as someone would who knows its format, but not what makes it whole."""
    head = json.loads((manifest / "manifest.json").read_bytes())
    if change == "version":
        (manifest / "manifest.json").write_text(json.dumps({**head, "format_version": 2}))
    elif change == "no head":
        (manifest / "manifest.json").unlink()
    elif change == "no json":
        (manifest / "manifest.json").write_text("{")
    elif change == "line":  # keeps what was dropped: another take, its ranges and all
        path = manifest / "shards.jsonl.zst"
        frames = zstandard.ZstdDecompressor().stream_reader(path.read_bytes(), read_across_frames=True).read()
        lines = [json.loads(text) for text in frames.splitlines()]
        lines[1]["runs"], lines[1]["ranges"] = lines[2]["runs"], lines[2]["ranges"]
        compress = zstandard.ZstdCompressor(write_checksum=True).compress
        path.write_bytes(b"".join(compress(json.dumps(line).encode() + b"\n") for line in lines))
    elif change == "index":
        (manifest / "shards.idx").write_bytes((manifest / "shards.idx").read_bytes()[:-30])


@pytest.mark.parametrize("way", list(WAYS))
@pytest.mark.parametrize("change", ["version", "no head", "no json", "line", "index"])
def test_another_manifest_is_refused_whatever_reads_it(
    toy_manifest: Path, pool_folder: Path, tmp_path: Path, change: str, way: str, capfd: pytest.CaptureFixture[str]
) -> None:
    rewritten(toy_manifest, change)
    if (change, way) == ("index", "cat"):
        return  # the rows of the other shards are as they were; `test_a_cut_index_names_no_other_shard`
    capfd.readouterr()
    assert WAYS[way](toy_manifest, pool_folder, tmp_path / "out") == 1
    said = capfd.readouterr()
    told = {"version": "version 2", "no head": "manifest.json", "no json": "manifest.json", "index": "shards.idx"}
    assert told.get(change, "") in (said.out + said.err).replace("\n", " ")
    assert not (tmp_path / "out").exists()


def test_a_cut_index_names_no_other_shard(toy_manifest: Path, pool_folder: Path, tmp_path: Path) -> None:
    rewritten(toy_manifest, "index")
    for shard in ("toy-0000.tar", "toy-0001.tar", "toy-0002.tar"):
        command = [sys.executable, "-m", "curate", "cat", str(toy_manifest), shard]
        done = subprocess.run(command, capture_output=True, check=False)
        if done.returncode == 0:
            (tmp_path / shard).write_bytes(done.stdout)
            assert set(contents(tmp_path / shard)) <= set(contents(pool_folder / shard))
        else:
            assert b"__curate_error__" in done.stdout


@pytest.mark.parametrize("rows", [b"toy-0000.tar/\t6\t0", b"toy-0000.tar/\t6\t0\ntoy-0000.tar/\t6", b"toy-0000.tar/\n"])
def test_an_index_without_an_end_is_an_error_and_no_hang(toy_manifest: Path, rows: bytes) -> None:
    (toy_manifest / "shards.idx").write_bytes(rows)
    with pytest.raises(CurateError, match=r"shards\.idx: damaged or unreadable"):
        find_line(toy_manifest, "toy-0000.tar")


@pytest.mark.parametrize("row", [b"toy-0000.tar/\t%d0\t160\n" % 6**60, b"toy-0000.tar/%fffffffffff;/\t0\t1\n"])
def test_a_number_beyond_all_files_is_an_error(toy_manifest: Path, row: bytes) -> None:
    (toy_manifest / "shards.idx").write_bytes(row)
    with pytest.raises(CurateError, match=r"shards\.(idx|jsonl\.zst): damaged or unreadable"):
        find_line(toy_manifest, "toy-0000.tar")


HARMFUL = ["../../up", "/absolute", "a/../../b"]


def harmful_pool(folder: Path) -> Path:
    """Names that climb or are absolute, and links and devices beside them."""
    folder.mkdir(parents=True)
    with tarfile.open(folder / "x.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
        kinds = {
            "l": tarfile.SYMTYPE,
            "h": tarfile.LNKTYPE,
            "c": tarfile.CHRTYPE,
            "b": tarfile.BLKTYPE,
            "f": tarfile.FIFOTYPE,
        }
        for name, kind in kinds.items():
            entry = tarfile.TarInfo(f"{name}.png")
            entry.type, entry.linkname = kind, str(folder / "secret")
            tar.addfile(entry)
    (folder / "secret").write_bytes(b"secret")
    with tarfile.open(folder / "x.tar", "a", format=tarfile.USTAR_FORMAT) as tar:
        for name in [*HARMFUL, "plain"]:
            for kind in ("png", "cls"):
                tar.addfile(tarfile.TarInfo(f"{name}.{kind}"))
    return folder


def test_names_links_and_devices_of_a_tar_touch_nothing_outside(tmp_path: Path) -> None:
    pool = harmful_pool(tmp_path / "deep" / "down" / "pool")
    prune_by([1.0] * 4, pool, "x.tar", 4, tmp_path / "deep" / "down")
    manifest = tmp_path / "deep" / "down" / "manifest"
    before = {path for path in tmp_path.rglob("*") if "down" not in path.parts}
    for name in ("dali", "energon", "wids", "urls", "keys", "parquet", "indices", "timm", "hf"):
        assert run(["export", str(manifest), "--to", name, "--out", str(tmp_path / "deep" / "down" / name)]) == 0
    out = tmp_path / "deep" / "down" / "out"
    assert run(["materialize", str(manifest), str(out)]) == 0
    assert {path for path in tmp_path.rglob("*") if "down" not in path.parts} == before
    assert not Path("/absolute.png").exists()
    (shard,) = out.glob("*.tar")
    with tarfile.open(shard) as tar:
        assert all(entry.isreg() for entry in tar)
    found = {sample["__key__"] for sample in wds.WebDataset([f"pipe:cat {shard}"], shardshuffle=False)}
    assert found == {*HARMFUL, "plain"}
    assert b"secret" not in shard.read_bytes()


def test_keys_of_any_kind_reach_readers_or_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    keys = [
        "a b",
        "{0,3}",
        "c::d",
        "e#f?",
        "q'u\"o`te",
        "new\nline",
        "tab\t",
        "ü",
        "$(touch ran)",
        "%41",
        "back\\slash",
    ]
    write_tar(tmp_path / "pool" / "x.tar", [(f"{key}.{kind}", b"1") for key in keys for kind in ("png", "cls")], tar_format=tarfile.PAX_FORMAT)  # fmt: skip
    prune_by([1.0] * len(keys), tmp_path / "pool", "x.tar", len(keys), tmp_path)
    manifest = tmp_path / "manifest"
    found = [s["__key__"] for s in wds.WebDataset([f"pipe:curate cat {manifest} x.tar"], shardshuffle=False)]
    assert found == keys
    assert run(["materialize", str(manifest), str(tmp_path / "out")]) == 0
    (shard,) = (tmp_path / "out").glob("*.tar")
    assert [s["__key__"] for s in wds.WebDataset([f"pipe:cat {shard}"], shardshuffle=False)] == keys
    assert run(["export", str(manifest), "--to", "parquet", "--out", str(tmp_path / "parquet")]) == 0
    assert pq.read_table(tmp_path / "parquet" / "kept.parquet")["key"].to_pylist() == keys
    assert run(["export", str(manifest), "--to", "dali", "--out", str(tmp_path / "dali")]) == 0
    lines = (tmp_path / "dali" / "x.idx").read_text().splitlines()
    assert [len(line.split(" ")) for line in lines[1:]] == [8] * len(keys)
    assert run(["export", str(manifest), "--to", "keys", "--out", str(tmp_path / "keys")]) == 2
    assert not (tmp_path / "keys").exists()


def test_energon_is_handed_no_name_that_it_would_expand_to_another(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tar(tmp_path / "pool" / "x.tar", [(f"{key}.png", b"1") for key in ("a", "b", "{0,3}")])
    prune_by([1.0, 1.0, 0.0], tmp_path / "pool", "x.tar", 2, tmp_path)
    assert run(["export", str(tmp_path / "manifest"), "--to", "energon", "--out", str(tmp_path / "out")]) == 2
    assert "would expand the name" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_class_that_is_pruned_away_keeps_the_ids_of_the_others(
    pool_folder: Path, toy_scores: Path, tmp_path: Path
) -> None:
    """Class 0 is on the list of those never kept."""
    never = [
        f"{path.name}\t{name.removesuffix('.cls')}\n"
        for path in pool_folder.glob("*.tar")
        for name, data in contents(path).items()
        if name.endswith(".cls") and data == b"0"
    ]
    (tmp_path / "never.txt").write_text("".join(never))
    words = ["prune", "--scores", str(toy_scores), "--keep", str(PER_SHARD), "--fn", "entropy"]
    assert run([*words, "--never", str(tmp_path / "never.txt"), "--out", str(tmp_path / "m")]) == 0
    assert run(["materialize", str(tmp_path / "m"), str(tmp_path / "out")]) == 0
    assert run(["export", str(tmp_path / "m"), "--to", "keys", "--out", str(tmp_path / "keys")]) == 0
    for folder in ("out", "keys"):
        rows = json.loads((tmp_path / folder / "class_map.json").read_text())["classes"]
        assert [row["id"] for row in rows] == [0, 1, 2]
        assert (rows[0]["kept"], rows[0]["samples"] > 0) == (0, True)
    files = {name: data for path in (tmp_path / "out").glob("*.tar") for name, data in contents(path).items()}
    assert {data for name, data in files.items() if name.endswith(".cls")} <= {b"1", b"2"}
    assert {name.split(".")[0] for name in files} == kept_keys(tmp_path / "m", pool_folder)
    assert all(manifest_digest(tmp_path / "m")[:8] in path.name for path in (tmp_path / "out").glob("*.tar"))
