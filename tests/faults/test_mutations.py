"""Mutated input gives what an independent reader finds in it, or a clear error. Never anything else."""

import csv
import gzip
import io
import json
import re
import shutil
import tarfile
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from conftest import png, write_tar
from figures import record
from mutating import Target, refused, tried
from pictures import pictures
from safetensors.numpy import load as load_tensors
from tars import make_manifest

from curate.errors import CurateError
from curate.manifest.lines import HEAD, INDEX, LINES, SOURCE, find_line, manifest_digest, read_lines
from curate.manifest.stream import copy_kept
from curate.manifest.verify import verify
from curate.pool.labels import LabelSource, read_label_table
from curate.pool.scan import scan_shard
from curate.pool.shards import Shard
from curate.recipe import PUBLISHED, Recipe, load_recipe
from curate.workflows.prune import Request, prune

MAX_BYTES = 1 << 26
KEY = re.compile(r"^((?:.*/|)[^.]+)[.]([^/]*)$")
Make = Callable[[Path, Path, Path], list[Target]]


# -- shards ---------------------------------------------------------------------------------------


def decompressed(data: bytes, codec: str) -> bytes:
    """Raises whatever the codec's own library raises."""
    if codec == "tar.gz":
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
            return file.read(MAX_BYTES)
    if codec == "tar.zst":
        with zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data), read_across_frames=True) as reader:
            return reader.read(MAX_BYTES)
    return data


def oracle_of_tar(data: bytes, codec: str) -> list[tuple[str, dict[str, bytes]]] | None:
    """Returns samples as tarfile finds them, None where it finds an error or a key twice."""
    try:
        samples: list[tuple[str, dict[str, bytes]]] = []
        with tarfile.open(fileobj=io.BytesIO(decompressed(data, codec)), mode="r:", errors="surrogateescape") as tar:
            for member in tar:
                name = member.name
                match = KEY.match(name)
                if not member.isreg() or not match or re.search(r"__[^/]*__($|/)", name):
                    continue
                key, extension = match[1], match[2].lower()
                if not samples or samples[-1][0] != key:
                    samples.append((key, {}))
                samples[-1][1][extension] = tar.extractfile(member).read()  # type: ignore[union-attr]
        return samples
    except Exception:
        return None


def shown(name: str) -> str:
    """Bytes that are not UTF-8 are escaped in tables."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def shard_check(folder: Path, codec: str) -> Callable[[bytes, bytes], tuple[str, bool]]:
    path = folder / f"x.{codec}"
    known: dict[bytes, Any] = {}

    def check(before: bytes, after: bytes) -> tuple[str, bool]:
        was = known.setdefault(before, oracle_of_tar(before, codec))
        now = oracle_of_tar(after, codec)
        path.write_bytes(after)
        try:
            scan, table = scan_shard(Shard(path.name, path), LabelSource())
        except CurateError as error:
            return refused(error), now != was
        assert now is not None, "accepted what the oracle cannot read"
        plain = decompressed(after, codec)
        rows = table.to_pylist()
        assert [row["key"] for row in rows] == [shown(key) for key, _ in now]
        for row, (_, entries) in zip(rows, now, strict=True):
            assert row["extensions"] == [shown(name) for name in entries], (row, list(entries))
            image = next((data for name, data in entries.items() if name in ("png", "jpg")), None)
            if row["image_start"]:
                assert plain[row["image_start"] : row["image_start"] + row["image_size"]] == image
            label = entries.get("cls")
            if row["label"] is not None:
                assert label is not None
                assert row["label"] == label.decode().strip()
        assert scan.samples == len(rows) == len(now)
        assert scan.bad == sum(row["reason"] is not None for row in rows)
        what = "as it was" if now == was else "changed and right"
        return f"accepted {what}{', with counted failures' if scan.bad else ''}", now != was

    return check


def shards(folder: Path, _scores: Path, _manifest: Path) -> list[Target]:
    def members(seed: int) -> list[tuple[str, bytes]]:
        pairs = (
            (f"d/k{n}.{kind}", data)
            for n in range(4)
            for kind, data in (("png", png((n, 0, 9), n + seed)), ("cls", b"1"))
        )
        return list(pairs)

    targets = []
    encode = {"tar": bytes, "tar.gz": gzip.compress, "tar.zst": zstandard.ZstdCompressor(write_checksum=True).compress}
    plain = []
    for number, kind in enumerate((tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT, tarfile.GNU_FORMAT)):
        long = [(f"{'n' * 120}/{name}" if number and n < 2 else name, data) for n, (name, data) in enumerate(members(number))]  # fmt: skip
        write_tar(folder / "c.tar", long, tar_format=kind)
        whole = (folder / "c.tar").read_bytes()
        plain.append(whole[: len(whole.rstrip(b"\0")) // 512 * 512 + 512 + 1024])
    for codec, encoded in encode.items():
        work = folder / codec
        work.mkdir()
        check = shard_check(work, codec)
        targets.append(Target(f"shard {codec}", [encoded(data) for data in plain], check, is_tar=codec == "tar"))
        if codec != "tar":  # what is damaged before it is compressed
            targets.append(Target(f"shard in {codec}", plain, _inside(check, encoded), is_tar=True))
    return targets


def _inside(check: Any, encoded: Callable[[bytes], bytes]) -> Callable[[bytes, bytes], tuple[str, bool]]:
    return lambda before, after: check(encoded(before), encoded(after))


# -- tables ---------------------------------------------------------------------------------------


def oracle_of_parquet(path: Path) -> pa.Table | None:
    try:
        table = pq.read_table(path, use_threads=False, partitioning=None)
        return table.rename_columns(table.column_names)  # names that are no text are an error
    except Exception:
        return None


def tables(folder: Path, scores: Path, _manifest: Path) -> list[Target]:
    """The run's own tables: a manifest made from them is the one that was, or there is none."""
    run = folder / "run"
    shutil.copytree(scores, run)
    request = Request(run, "entropy", "0.5", out=folder / "whole" / "m")
    whole = prune(request).digest

    def check_of(path: Path) -> Callable[[bytes, bytes], tuple[str, bool]]:
        def check(before: bytes, after: bytes) -> tuple[str, bool]:
            path.write_bytes(before)
            was = oracle_of_parquet(path)
            path.write_bytes(after)
            now = oracle_of_parquet(path)
            is_changed = was is None or now is None or not now.equals(was)
            try:
                found = prune(Request(run, "entropy", "0.5", out=folder / "out" / "m")).digest
            except CurateError as error:
                assert not (folder / "out").exists() or not list((folder / "out").iterdir())
                return refused(error), is_changed
            finally:
                path.write_bytes(before)
                shutil.rmtree(folder / "out", ignore_errors=True)
            assert found == whole, "another manifest, and no word of it"
            return "accepted as it was" if not is_changed else "accepted, nothing that counts was changed", is_changed

        return check

    names = {"score table": "tables/toy-0001.tar.parquet", "bad.parquet": "bad.parquet", "index": "index/toy-0001.tar.parquet"}  # fmt: skip
    return [Target(name, [(run / path).read_bytes()], check_of(run / path)) for name, path in names.items()]


def foreign(folder: Path, scores: Path, _manifest: Path) -> list[Target]:
    """Scores from elsewhere: what is kept is what an independent reader would keep."""
    index, path = scores / "index", folder / "s.parquet"
    names, identity = [], []
    for table in sorted(index.glob("*.parquet")):
        column = pq.read_table(table, partitioning=None)["identity"].to_numpy()
        names += [(table.name.removesuffix(".parquet"), n) for n in range(len(column))]
        identity += column.tolist()
    values = np.random.default_rng(0).random(len(names))
    corpus = []
    for options in ({}, {"compression": "zstd"}, {"compression": "none", "use_dictionary": False}):
        columns = {"shard": [n for n, _ in names], "ordinal": [o for _, o in names], "s": values}
        pq.write_table(pa.table(columns), path, **options)
        corpus.append(path.read_bytes())
    place = {name: number for number, name in enumerate(names)}

    def check(before: bytes, after: bytes) -> tuple[str, bool]:
        path.write_bytes(before)
        was = oracle_of_parquet(path)
        path.write_bytes(after)
        now = oracle_of_parquet(path)
        is_changed = now is None or was is None or not now.equals(was)
        out = folder / "out" / "m"
        try:
            prune(Request(path, "s", "10", out=out, index=index))
            kept = {
                (line.name, ordinal)
                for line in read_lines(out)
                for begin, end in zip(*_edges(line.runs), strict=True)
                for ordinal in range(begin, end)
            }
        except CurateError as error:
            return refused(error), is_changed
        finally:
            shutil.rmtree(folder / "out", ignore_errors=True)
        assert now is not None, "accepted what the oracle cannot read"
        rows = zip(now["shard"].to_pylist(), now["ordinal"].to_pylist(), now["s"].to_pylist(), strict=True)
        ranked = sorted((-score, identity[place[shard, ordinal]], (shard, ordinal)) for shard, ordinal, score in rows)
        assert len(ranked) == len(names) - len(_bad(scores)) or len(ranked) == len(names)
        assert kept == {name for *_, name in ranked[:10]}
        return "accepted, changed and right" if is_changed else "accepted as it was", is_changed

    return [Target("foreign scores", corpus, check)]


def _bad(scores: Path) -> list[Any]:
    return list(pq.read_table(scores / "bad.parquet").to_pylist())


def _edges(runs: list[int]) -> tuple[list[int], list[int]]:
    edges = np.cumsum(runs).tolist()
    return edges[::2], edges[1::2]


# -- manifests ------------------------------------------------------------------------------------


def manifests(folder: Path, _scores: Path, _manifest: Path) -> list[Target]:
    pool = {f"a/x-{n:06d}.tar": [f"k{n}{m}" for m in range(6)] for n in range(3)}
    manifest = make_manifest(folder, pool, [f"k{n}{m}" for n in range(3) for m in (1, 3, 4)])
    digest, root = manifest_digest(manifest), folder / "pool"
    streamed = {name: _streamed(manifest, name, root) for name in pool}

    def check_of(name: str) -> Callable[[bytes, bytes], tuple[str, bool]]:
        def check(before: bytes, after: bytes) -> tuple[str, bool]:
            (manifest / name).write_bytes(after)
            is_changed = after != before
            try:
                for shard, data in streamed.items():
                    try:
                        assert _streamed(manifest, shard, root) == data, "cat streams something else"
                    except CurateError as error:
                        refused(error)
                verdict = verify(manifest, root=None if name == SOURCE else root)
                if verdict.findings:
                    return "found wrong by verify", is_changed
                if name == HEAD and is_changed:
                    assert verdict.digest != digest
                    assert verdict.head.model_dump(mode="json").keys() == json.loads(after).keys()
                    return "accepted as another manifest: its digest differs", is_changed
                assert name in (HEAD, SOURCE) or not is_changed, "a changed file is taken for whole"
                return "accepted as it was", is_changed
            except CurateError as error:
                return refused(error), is_changed
            finally:
                (manifest / name).write_bytes(before)

        return check

    return [
        Target(f"manifest {name}", [(manifest / name).read_bytes()], check_of(name), is_text=name != LINES)
        for name in (HEAD, LINES, INDEX, SOURCE)
    ]


def _streamed(manifest: Path, shard: str, root: Path) -> bytes:
    line, out = find_line(manifest, shard), io.BytesIO()
    copy_kept(line, root / line.name, out.write)
    return out.getvalue()


# -- texts ----------------------------------------------------------------------------------------


def recipes(folder: Path, _scores: Path, _manifest: Path) -> list[Target]:
    path = folder / "r.toml"
    texts = sorted((Path(__file__).parents[2] / "recipes").rglob("*.toml"))

    def check(before: bytes, after: bytes) -> tuple[str, bool]:
        was = tomllib.loads(before.decode())
        path.write_bytes(after)
        try:
            now = tomllib.loads(after.decode())
        except (tomllib.TOMLDecodeError, UnicodeDecodeError):
            now = None
        try:
            found = load_recipe(path).model_dump(mode="json")
        except CurateError as error:
            return refused(error), now != was
        assert now is not None, "accepted what the oracle cannot read"
        default = Recipe().model_dump(mode="json")
        published = PUBLISHED.get(now.get("proxy", {}).get("name"), {})
        default["train"] |= {name: value for name, value in published.items() if name != "milestones"}
        if "milestones" in published:  # they go with the epochs
            default["train"].pop("milestones")
        for section, values in default.items():
            for name, value in values.items():
                given = now.get(section, {}).get(name, value)
                assert json.dumps(found[section][name]) == json.dumps(given) or found[section][name] == given, (section, name)  # fmt: skip
        return "accepted, changed and right" if now != was else "accepted as it was", now != was

    return [Target("recipe", [text.read_bytes() for text in texts], check, is_text=True)]


def label_tables(folder: Path, _scores: Path, _manifest: Path) -> list[Target]:
    path = folder / "l.csv"
    rows = "".join(f"k{n},{n % 3},x-{n % 2}.tar\n" for n in range(20))
    corpus = [f"key,label,shard\n{rows}".encode(), b'key,label\n"a,b",cat\nc,"dog ""x"""\r\n\xc3\xbc,ant\n']

    def oracle(data: bytes) -> dict[tuple[str, str], str] | None:
        try:
            rows = list(csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline="")))
            found: dict[tuple[str, str], str] = {}
            for row in rows:
                label = row["label"].strip()
                if None in row or found.setdefault((row.get("shard") or "", row["key"]), label) != label:
                    return None
            return found
        except (ValueError, KeyError, AttributeError, csv.Error):
            return None

    def check(before: bytes, after: bytes) -> tuple[str, bool]:
        was, now = oracle(before), oracle(after)
        path.write_bytes(after)
        try:
            found = read_label_table(path)
        except CurateError as error:
            return refused(error), now != was
        assert found == now, (found, now)
        return "accepted, changed and right" if now != was else "accepted as it was", now != was

    return [Target("label CSV", corpus, check, is_text=True)]


# -- checkpoints ----------------------------------------------------------------------------------


def checkpoints(folder: Path, scores: Path, _manifest: Path) -> list[Target]:
    from curate.proxy.sealed import load_sealed

    member = next(scores.glob("members/*/epoch-*.safetensors")).read_bytes()
    state = next(scores.glob("members/*/state.safetensors")).read_bytes()
    path = folder / "m.safetensors"
    known = {data: load_tensors(data) for data in (member, state)}

    def check(before: bytes, after: bytes) -> tuple[str, bool]:
        path.write_bytes(after)
        is_changed = after != before
        try:
            found, _ = load_sealed(path)
        except CurateError as error:
            return refused(error), is_changed
        was = known[before]
        assert found.keys() == was.keys()
        assert all(
            np.array_equal(found[name].numpy(), was[name], equal_nan=was[name].dtype.kind == "f") for name in was
        )
        return "accepted as it was", is_changed

    return [Target("checkpoint", [member, state], check)]


MAKERS: tuple[tuple[Make, int], ...] = (
    (shards, 1600), (tables, 700), (foreign, 1500), (manifests, 1000), (recipes, 1500), (label_tables, 2500),
    (checkpoints, 1500), (pictures, 1500),
)  # fmt: skip


def all_tried(make: Make, times: int, folder: Path, scores: Path, manifest: Path, *, seed: int) -> dict[str, Any]:
    counts = {}
    folder.mkdir(exist_ok=True)
    for target in make(folder, scores, manifest):
        counts[target.name] = tried(target, times, seed=seed)
        wrong = counts[target.name].pop("wrong")
        assert not wrong, f"{len(wrong)} of {times}:\n" + "\n".join(wrong[:5])
    return counts


@pytest.mark.parametrize(("make", "times"), [(make, 3 if make is tables else 12) for make, _ in MAKERS])
def test_some_mutations(make: Make, times: int, toy_scores: Path, toy_manifest: Path, tmp_path: Path) -> None:
    all_tried(make, times, tmp_path / "work", toy_scores, toy_manifest, seed=0)


@pytest.mark.faults
@pytest.mark.timeout(3000)
@pytest.mark.parametrize(("make", "times"), MAKERS)
def test_many_mutations(make: Make, times: int, toy_scores: Path, toy_manifest: Path, tmp_path: Path) -> None:
    counts = all_tried(make, times, tmp_path / "work", toy_scores, toy_manifest, seed=1)
    record("mutations", counts)
    assert all(2 * count["changed"] >= count["mutations"] for count in counts.values()), counts
