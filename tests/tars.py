"""Random tars as the world has them, and what webdataset's own reader finds in them."""

import gzip
import io
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import webdataset as wds
import zstandard
from conftest import png, write_tar
from hypothesis import strategies as st

from curate.cli import run
from curate.manifest.lines import read_lines

Entries = set[tuple[str, str, bytes]]
FORMATS = {"ustar": tarfile.USTAR_FORMAT, "pax": tarfile.PAX_FORMAT, "gnu": tarfile.GNU_FORMAT}
JUNK = ["README", ".hidden.png", "__meta__/info.txt", "folder", "link.png", "hard.png", "fifo.png"]
letters = st.characters(codec="utf-8", exclude_characters="/.\0", exclude_categories=["Cs"])
names = st.text(letters, min_size=1, max_size=12).filter(lambda name: not name.startswith("__"))


@dataclass(frozen=True)
class RandomTar:
    """A shard's bytes with the scores of its samples."""

    name: str
    data: bytes
    scores: list[float]


@st.composite
def random_tars(draw: st.DrawFn) -> RandomTar:
    """Samples with an image and other entries, among junk; any format, any codec, keys of any kind."""
    folder = draw(st.sampled_from(["", "a/", "a/b.c/", "./", "d e/{x}/"]))
    padding = draw(st.sampled_from([0, 0, 60, 150]))
    kind = draw(st.sampled_from(sorted(FORMATS)))
    if kind == "ustar":
        padding = min(padding, 60)
    keys = draw(st.lists(names, min_size=1, max_size=6, unique=True))
    if kind == "ustar":  # 100 bytes of name at most
        keys = sorted({key.encode()[:20].decode("utf-8", "ignore") or "x" for key in keys})
    out = io.BytesIO()
    headers = {"comment": "global"} if kind == "pax" and draw(st.booleans()) else None
    with tarfile.open(fileobj=out, mode="w", format=FORMATS[kind], pax_headers=headers) as tar:
        for key in keys:
            _junk(tar, draw)
            for extension in ["png", *draw(st.lists(st.sampled_from(["cls", "JSON", "seg.png", "txt"]), unique=True))]:
                data = draw(st.binary(max_size=1200))
                entry = tarfile.TarInfo(f"{folder}{key}{'p' * padding}.{extension}")
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
    codec = draw(st.sampled_from(["tar", "tar.gz", "tar.zst"]))
    encode = {"tar": bytes, "tar.gz": gzip.compress, "tar.zst": zstandard.ZstdCompressor().compress}[codec]
    scores = draw(st.lists(st.floats(0, 1), min_size=len(keys), max_size=len(keys)))
    return RandomTar(f"shard-000000.{codec}", encode(out.getvalue()), scores)


def _junk(tar: tarfile.TarFile, draw: st.DrawFn) -> None:
    for name in draw(st.lists(st.sampled_from(JUNK), unique=True, max_size=2)):
        entry = tarfile.TarInfo(name)
        kinds = {"folder": tarfile.DIRTYPE, "link.png": tarfile.SYMTYPE, "hard.png": tarfile.LNKTYPE}
        entry.type = kinds.get(name, tarfile.FIFOTYPE if name == "fifo.png" else tarfile.REGTYPE)
        entry.linkname = "/etc/passwd" if name in ("link.png", "hard.png") else ""
        data = b"junk" if entry.type == tarfile.REGTYPE else b""
        entry.size = len(data)
        tar.addfile(entry, io.BytesIO(data))


def plain(data: bytes, name: str) -> bytes:
    """Returns a shard's tar bytes."""
    if name.endswith(".gz"):
        return gzip.decompress(data)
    return zstandard.ZstdDecompressor().stream_reader(data).read() if name.endswith(".zst") else data


def samples_of(data: bytes) -> list[Entries]:
    """Returns the samples that webdataset reads from tar bytes, as sets of (key, extension, bytes)."""
    files = wds.tariterators.tar_file_iterator(io.BytesIO(data))
    stamped = ({**file, "__url__": "x"} for file in files)
    grouped = wds.tariterators.group_by_keys(stamped)
    return [
        {(sample["__key__"], name, value) for name, value in sample.items() if not name.startswith("__")}
        for sample in grouped
    ]


def prune_by(scores: list[float], pool: Path, shard: str, keep: int, out: Path) -> None:
    """Keeps the highest scores of a pool of one shard, through the command line."""
    columns = {"shard": [shard] * len(scores), "ordinal": list(range(len(scores))), "score": scores}
    pq.write_table(pa.table(columns), out / "scores.parquet")
    assert run(["index", str(pool), "--out", str(out / "index"), "--label-from", "none"]) == 0
    words = ["--scores", str(out / "scores.parquet"), "--index", str(out / "index"), "--fn", "score"]
    assert run(["prune", *words, "--keep", str(keep), "--out", str(out / "manifest")]) == 0


def make_manifest(folder: Path, pool: dict[str, list[str]], kept: Sequence[str], *, classes: int = 2) -> Path:
    """Writes a pool (shard -> keys), its index, and the manifest that keeps some keys of it.

    A key's digits say its class, modulo `classes`.
    """
    rows: dict[str, list[object]] = {"shard": [], "ordinal": [], "s": []}
    for shard, keys in pool.items():
        members = []
        for place, key in enumerate(keys):
            number = int("".join(c for c in key if c.isdigit()))
            members += [(f"{key}.png", png((number, 0, 9), number)), (f"{key}.cls", str(number % classes).encode())]
            for name, value in (("shard", shard), ("ordinal", place), ("s", float(key in kept))):
                rows[name].append(value)
        write_tar(folder / "pool" / shard, members)
    pq.write_table(pa.table(rows), folder / "s.parquet")
    assert run(["index", str(folder / "pool"), "--out", str(folder / "index")]) == 0
    words = ["--scores", str(folder / "s.parquet"), "--index", str(folder / "index"), "--fn", "s"]
    assert run(["prune", *words, "--keep", str(len(kept)), "--out", str(folder / "m")]) == 0
    return folder / "m"


def contents(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]


def kept_keys(manifest: Path, pool_folder: Path) -> set[str]:
    kept = set()
    for line in read_lines(manifest):
        keys = list(dict.fromkeys(name.split(".")[0] for name in contents(pool_folder / line.name)))
        at = 0
        for skip, take in zip(line.runs[::2], line.runs[1::2], strict=True):
            kept.update(keys[at + skip : at + skip + take])
            at += skip + take
    return kept
