"""Every export leads its reader to exactly the kept samples of the unchanged shards."""

import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset as wds
from conftest import png, write_tar
from PIL import Image
from tars import prune_by
from test_stream import contents, kept_keys
from webdataset.gopen import rewrite_url

from curate.cli import run
from curate.manifest.exports import EXPORTS
from curate.manifest.guide import CONSUMERS
from curate.manifest.lines import manifest_digest, read_lines
from curate.manifest.writers import braces


@pytest.fixture(autouse=True)
def curate_on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")


def export(manifest: Path, name: str, out: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    capsys.readouterr()
    assert run(["export", str(manifest), "--to", name, "--out", str(out), "--json"]) == 0
    return dict(json.loads(capsys.readouterr().out))


def keys_through(urls: object) -> list[str]:
    return [sample["__key__"] for sample in wds.WebDataset(urls, shardshuffle=False)]


def test_urls_lead_webdataset_to_the_kept_samples(
    toy_manifest: Path, pool_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = export(toy_manifest, "urls", tmp_path / "out", capsys)
    expected = sorted(kept_keys(toy_manifest, pool_folder))
    assert (report["samples"], report["shards"]) == (24, 3)
    assert sorted(keys_through((tmp_path / "out" / "urls.txt").read_text().splitlines())) == expected
    braced = next(line for line in report["lines"] if "as one text" in line).partition(": ")[2]  # type: ignore[attr-defined]
    assert braced.endswith("toy-{0000..0002}.tar")
    assert sorted(keys_through(braced)) == expected


def test_a_published_manifest_is_exported_by_the_folder_of_its_shards(
    toy_manifest: Path, pool_folder: Path, tmp_path: Path
) -> None:
    bare = shutil.copytree(toy_manifest, tmp_path / "bare", ignore=shutil.ignore_patterns("source.json"))
    root = ["--root", str(pool_folder)]
    codes = {
        name: [
            run(["export", str(m), "--to", name, "--out", str(tmp_path / m.name / name), *root])
            for m in (toy_manifest, bare)
        ]
        for name in EXPORTS
    }
    assert all(whole == without for whole, without in codes.values()), codes
    assert sum(without == 0 for _, without in codes.values()) > 5


def test_rewriting_leads_timms_and_open_clips_reader_to_the_kept_samples(
    toy_manifest: Path, pool_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Their pipelines open every URL through gopen, which rewrites paths; in a process that was told so."""
    export(toy_manifest, "urls", tmp_path / "out", capsys)
    name, _, value = (tmp_path / "out" / "environment.txt").read_text().partition("=")
    reader = (
        "import sys, webdataset as wds\n"
        "pipe = wds.DataPipeline(wds.SimpleShardList(sys.argv[1:]), wds.tarfile_to_samples())\n"
        "print(*(sample['__key__'] for sample in pipe))"
    )
    shards = [str(path) for path in sorted(pool_folder.glob("*.tar"))]
    environment = {**os.environ, name: shlex.split(value)[0]}
    done = subprocess.run(
        [sys.executable, "-c", reader, *shards], env=environment, capture_output=True, text=True, check=True
    )
    assert sorted(done.stdout.split()) == sorted(kept_keys(toy_manifest, pool_folder))


@pytest.mark.parametrize("name", ["coco+vg", "snap=3;b", "a (1) [x]*", "back\\slash"])
def test_rewriting_takes_a_folder_by_its_name_whatever_that_is(
    name: str, toy_manifest: Path, pool_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """A rule is a regular expression: one that does not fit leaves the reader with every sample."""
    pool, out = tmp_path / name, tmp_path / "m"
    shutil.copytree(pool_folder, pool)
    shutil.copytree(toy_manifest, out)
    source = json.loads((out / "source.json").read_bytes())
    (out / "source.json").write_text(json.dumps({**source, "root": str(pool)}))
    export(out, "urls", tmp_path / "out", capsys)
    variable, _, value = (tmp_path / "out" / "environment.txt").read_text().partition("=")
    monkeypatch.setenv(variable, shlex.split(value)[0])
    urls = [rewrite_url(str(path)) for path in sorted(pool.glob("*.tar"))]
    assert urls == [f"pipe:curate cat {out} {path.name}" for path in sorted(pool.glob("*.tar"))]


@pytest.mark.filterwarnings("ignore::UserWarning")  # timm's own, of a loader without workers
def test_timm_reads_the_kept_samples_through_its_data_dir(
    toy_manifest: Path, pool_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from timm.data import create_dataset

    report = export(toy_manifest, "timm", tmp_path / "out", capsys)
    words = shlex.split(report["lines"][0])  # type: ignore[index]
    root = words[words.index("--data-dir") + 1]
    dataset = create_dataset("wds/kept", root=root, split="train", is_training=False, batch_size=1)
    assert len(dataset) == 24
    found = [(np.asarray(image).tobytes(), label) for image, label in dataset]
    files = {name: data for path in pool_folder.glob("*.tar") for name, data in contents(path).items()}
    expected = [
        (np.asarray(Image.open(io.BytesIO(files[f"{key}.png"]))).tobytes(), int(files[f"{key}.cls"]))
        for key in kept_keys(toy_manifest, pool_folder)
    ]
    assert sorted(found) == sorted(expected)


def test_a_shard_may_be_called_anything_and_no_shell_runs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """timm joins a name to the command of its data dir, and a shell runs that."""
    shards = ["a b.tar", "q'uote.tar", "x{0..1}.tar", "h#sh.tar", "c::d.tar", "$(touch ran).tar", "`touch ran`;.tar"]
    for number, name in enumerate(shards):
        write_tar(tmp_path / "pool" / name, [(f"{number}.png", b"x"), (f"{number}.cls", b"0")])
    pq.write_table(pa.table({"shard": shards, "ordinal": [0] * 7, "score": [1.0] * 7}), tmp_path / "s.parquet")
    assert run(["index", str(tmp_path / "pool"), "--out", str(tmp_path / "i")]) == 0
    words = ["prune", "--scores", str(tmp_path / "s.parquet"), "--index", str(tmp_path / "i"), "--fn", "score"]
    assert run([*words, "--keep", "7", "--out", str(tmp_path / "m")]) == 0
    monkeypatch.chdir(tmp_path)
    root = f"pipe:{sys.executable} -m curate cat {tmp_path / 'm'} /kept"
    with wds.gopen(os.path.join(root, "_info.json")) as stream:  # noqa: PTH118  (as timm does)
        split = json.load(stream)["splits"]["train"]
    urls = [os.path.join(root, name) for name in split["filenames"]]  # noqa: PTH118
    found = [sample["__key__"] for sample in wds.WebDataset(urls, shardshuffle=False)]
    assert sorted(found) == [str(number) for number in range(7)]
    assert not (tmp_path / "ran").exists()


def test_the_dali_index_names_the_bytes_of_the_kept_entries(
    toy_manifest: Path, pool_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export(toy_manifest, "dali", tmp_path / "out", capsys)
    found = {}
    for index in sorted((tmp_path / "out").glob("*.idx")):
        data = index.with_suffix(".tar").read_bytes()
        assert index.with_suffix(".tar").is_symlink()
        head, *lines = index.read_text().splitlines()
        assert head == f"v1.2 {len(lines)}"
        for line in lines:
            words = line.split(" ")
            for start, size, name in zip(words[1::4], words[2::4], words[3::4], strict=True):
                found[name] = data[int(start) : int(start) + int(size)]
    kept = kept_keys(toy_manifest, pool_folder)
    source = {name: data for path in pool_folder.glob("*.tar") for name, data in contents(path).items()}
    assert found == {name: data for name, data in source.items() if name.split(".")[0] in kept}


def test_wids_is_handed_commands_that_fill_its_cache(
    toy_manifest: Path, pool_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export(toy_manifest, "wids", tmp_path / "out", capsys)
    index = json.loads((tmp_path / "out" / "wids.json").read_text())
    found = []
    for number, shard in enumerate(index["shardlist"]):
        local = tmp_path / f"{number}.tar"
        command = shard["url"].removeprefix("pipe:").format(local=local)
        subprocess.run(command, shell=True, check=True)  # noqa: S602  (as wids does)
        assert len(contents(local)) == 2 * shard["nsamples"]
        found += [name.split(".")[0] for name in contents(local) if name.endswith(".cls")]
    assert sorted(found) == sorted(kept_keys(toy_manifest, pool_folder))


def test_indices_keys_and_parquet_name_the_same_samples(
    toy_manifest: Path, pool_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("indices", "keys", "parquet"):
        export(toy_manifest, name, tmp_path / name, capsys)
    order = [
        (p.name, name.split(".")[0])
        for p in sorted(pool_folder.glob("*.tar"))
        for name in contents(p)
        if ".cls" in name
    ]
    chosen = [order[place] for place in np.load(tmp_path / "indices" / "indices.npy")]
    listed = [tuple(line.split("\t")) for line in (tmp_path / "keys" / "keys.txt").read_text().splitlines()]
    table = pq.read_table(tmp_path / "parquet" / "kept.parquet").to_pylist()
    assert chosen == listed == [(row["shard"], row["key"]) for row in table]
    assert {key for _, key in chosen} == kept_keys(toy_manifest, pool_folder)
    classes = json.loads((tmp_path / "keys" / "class_map.json").read_text())["classes"]
    assert sum(row["kept"] for row in classes) == 24


def test_datacomp_is_handed_sorted_uids(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    uids = [f"{n * 0x9E3779B97F4A7C15F39CC0605CEDC834 % 2**128:032x}" for n in range(1, 9)]
    members = [(f"{uid}.{kind}", data) for uid in uids for kind, data in (("png", png((1, 2, 3), 0)), ("cls", b"0"))]
    write_tar(tmp_path / "pool" / "x.tar", members)
    prune_by([float(n) for n in range(8)], tmp_path / "pool", "x.tar", 5, tmp_path)
    export(tmp_path / "manifest", "datacomp", tmp_path / "out", capsys)
    found = [f"{high:016x}{low:016x}" for high, low in np.load(tmp_path / "out" / "uids.npy").tolist()]
    assert found == sorted(uids[3:])


@pytest.mark.parametrize("name", sorted(EXPORTS))
def test_an_export_is_written_once_and_refuses_other_files(
    name: str, toy_manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = ["export", str(toy_manifest), "--to", name, "--out", str(out)]
    code = run(words)
    refused = {"datacomp": (2, "is no uid"), "imagefolder": (1, "no source.json")}
    if name in refused:
        assert (code, out.exists()) == (refused[name][0], False)
        assert refused[name][1] in capsys.readouterr().err
        return
    assert code == 0
    before = {path.name: path.lstat().st_mtime_ns for path in out.iterdir()}
    assert run(words) == 0
    assert {path.name: path.lstat().st_mtime_ns for path in out.iterdir()} == before
    (out / "mine.txt").write_text("mine")
    assert run(words) == 1
    assert (out / "mine.txt").read_text() == "mine"


def test_what_cannot_be_exported_is_said(
    toy_manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["export", str(toy_manifest), "--to", "dalli", "--out", str(tmp_path / "x")]) == 2
    assert "Did you mean 'dali'?" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert (
        run(
            [
                "export",
                str(toy_manifest),
                "--to",
                "keys",
                "--root",
                str(tmp_path / "empty"),
                "--out",
                str(tmp_path / "x"),
            ]
        )
        == 1
    )
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    "shard", ["a b.tar", "{x}.tar", "a::b.tar", "q'uo\"te.tar", "per%cent.tar", "new\nline.tar", "ü.tar"]
)
def test_awkward_names_reach_the_reader_or_are_refused(
    shard: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    members = [(f"k {n}.{kind}", data) for n in range(6) for kind, data in (("png", png((1, 2, 3), n)), ("cls", b"0"))]
    write_tar(tmp_path / "pool" / shard, members)
    prune_by([float(n) for n in range(6)], tmp_path / "pool", shard, 3, tmp_path)
    code = run(["export", str(tmp_path / "manifest"), "--to", "urls", "--out", str(tmp_path / "out")])
    if "\n" in shard:
        assert (code, (tmp_path / "out").exists()) == (2, False)
        return
    urls = (tmp_path / "out" / "urls.txt").read_text().splitlines()
    assert "as one text" not in capsys.readouterr().out
    assert keys_through(urls) == ["k 3", "k 4", "k 5"]


def test_every_row_of_the_guide_names_a_test_and_every_export_is_in_the_help() -> None:
    tests = "".join(path.read_text() for path in Path(__file__).parent.parent.rglob("test_*.py"))
    assert all(f"def {row.proof}(" in tests for row in CONSUMERS)
    reference = (Path(__file__).parent.parent.parent / "docs" / "cli.md").read_text()
    names = next(line for line in reference.splitlines() if line.startswith("| `--to`")).split("|")[2]
    assert set(re.findall(r"\w+", names)) - {"or"} == set(EXPORTS)


def test_an_export_says_how_many_samples_and_classes(
    toy_manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert run(["export", str(toy_manifest), "--to", "keys", "--out", str(tmp_path / "out")]) == 0
    rows = json.loads((tmp_path / "out" / "class_map.json").read_text())["classes"]
    kept = sum(row["kept"] > 0 for row in rows)
    assert capsys.readouterr().out.startswith(f"24 samples of 3 shards, {kept} of {len(rows)} classes: ")


def test_wids_is_handed_nothing_that_it_would_cut(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_tar(tmp_path / "pool" / "a#b.tar", [(f"{n}.{kind}", b"0") for n in range(3) for kind in ("png", "cls")])
    prune_by([1.0, 2.0, 3.0], tmp_path / "pool", "a#b.tar", 2, tmp_path)
    assert run(["export", str(tmp_path / "manifest"), "--to", "wids", "--out", str(tmp_path / "out")]) == 2
    assert "wids, which cuts URLs there" in capsys.readouterr().err.replace("\n", " ")
    assert not (tmp_path / "out").exists()


def test_a_brace_pattern_stands_for_exactly_the_names() -> None:
    assert braces(["t-08.tar", "t-09.tar", "t-10.tar"]) == "t-{08..10}.tar"
    assert braces(["t-08.tar", "t-10.tar"]) is None
    assert braces(["t-8.tar", "t-9.tar", "t-10.tar"]) is None
    assert braces(["a-0.tar", "b-1.tar"]) is None
    assert braces(["t x-0.tar", "t x-1.tar"]) is None


def test_the_digest_names_the_default_folder(
    toy_manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["export", str(toy_manifest), "--to", "keys"]) == 0
    assert (tmp_path / "exports" / f"keys-{manifest_digest(toy_manifest)[:8]}" / "keys.txt").is_file()
    assert sum(line.kept for line in read_lines(toy_manifest)) == 24
