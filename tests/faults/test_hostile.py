"""Input that means harm: bombs, planted code, names that steer terminals, pages, shells or files elsewhere."""

import base64
import http.client
import io
import json
import os
import pickle
import re
import resource
import shlex
import struct
import subprocess
import sys
import tarfile
import tomllib
import zlib
from pathlib import Path

import pytest
import torch
import webdataset as wds
import zstandard
from conftest import TOY, png, toy_members, write_tar
from tars import contents, make_manifest, prune_by

from curate.cli import run
from curate.errors import CurateError, RecipeError
from curate.manifest.lines import Line, file_digest, read_lines, write_lines
from curate.manifest.serve import Served, in_background, make_server
from curate.recipe import load_recipe

MEMORY_BYTES = 1 << 30


def bounded(words: list[str]) -> subprocess.CompletedProcess[str]:
    """Runs a command that may use memory for its libraries and one GiB more."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))

    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "curate", *words]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=60, preexec_fn=limit, env=environment
    )


def png_of(width: int, height: int) -> bytes:
    """A PNG whose header is right and whose pixels are one run of zeros."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = zlib.compressobj(9)
    body = b"".join(rows.compress(bytes(min(width, 1 << 20) + 1)) for _ in range(min(height, 64))) + rows.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def png_with_a_text_bomb() -> bytes:
    """A small image beside a compressed text of a GiB."""
    image, bomb = png((9, 9, 9), 0), zlib.compressobj(9)
    text = b"".join(bomb.compress(bytes(1 << 24)) for _ in range(64)) + bomb.flush()
    data = b"zTXt" + b"k\0\0" + text
    return image[:33] + struct.pack(">I", len(data) - 4) + data + struct.pack(">I", zlib.crc32(data)) + image[33:]


@pytest.mark.faults
def test_images_that_are_bombs_are_bad_samples(tmp_path: Path) -> None:
    images = {"giga": png_of(40_000, 25_000), "wide": png_of(2**31 - 1, 1), "text": png_with_a_text_bomb()}
    members = [(f"{key}.png", data) for key, data in images.items()] + toy_members(0)
    write_tar(tmp_path / "pool" / "x.tar", members)
    done = bounded(["index", str(tmp_path / "pool"), "--decode", "--json"])
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["samples"] == 19
    reasons = {bad["key"]: bad["reason"] for bad in report["bad_samples"]}
    assert reasons["giga"] == reasons["wide"] == "has more than 89,478,485 pixels"
    assert set(reasons) <= set(images)


@pytest.mark.faults
@pytest.mark.parametrize("codec", ["tar.gz", "tar.zst", "tar.zst with a window of 2 GiB"])
def test_a_shard_that_is_a_bomb_is_passed_through_bounded_memory(tmp_path: Path, codec: str) -> None:
    """One entry of 2 GiB of zeros in a few KiB, behind a good sample, and the end of the archive missing."""
    write_tar(tmp_path / "a.tar", toy_members(0)[:2])
    head = (tmp_path / "a.tar").read_bytes()[:2560]
    entry = tarfile.TarInfo("bomb.bin")
    entry.size = 2 << 30
    (tmp_path / "pool").mkdir()
    path = tmp_path / "pool" / f"x.{codec.partition(' ')[0]}"
    block = bytes(1 << 24)
    with path.open("wb") as file:
        if codec == "tar.gz":
            pack = zlib.compressobj(9, wbits=31)
            parts = [head + entry.tobuf(tarfile.GNU_FORMAT), *[block] * 128]
            for part in parts:
                file.write(pack.compress(part))
            file.write(pack.flush())
        else:
            settings = zstandard.ZstdCompressionParameters.from_level(3, window_log=31 if "window" in codec else 20)
            with zstandard.ZstdCompressor(compression_params=settings).stream_writer(file, closefd=False) as stream:
                stream.write(head + entry.tobuf(tarfile.GNU_FORMAT))
                for _ in range(128):
                    stream.write(block)
    assert path.stat().st_size < 3_000_000
    done = bounded(["index", str(tmp_path / "pool"), "--label-from", "none"])
    assert (done.returncode, "Traceback" in done.stderr) == (1, False), done.stderr
    assert "damaged tar.zst stream" in done.stderr if "window" in codec else "end-of-archive marker" in done.stderr


@pytest.mark.faults
def test_headers_that_claim_petabytes_cost_nothing(tmp_path: Path) -> None:
    for number, kind in enumerate((b"0", b"L", b"x", b"g", b"K")):
        entry = tarfile.TarInfo("k.cls")
        entry.size, entry.type = 1 << 50, kind
        (tmp_path / "pool").mkdir(exist_ok=True)
        (tmp_path / "pool" / "x.tar").write_bytes(entry.tobuf(tarfile.GNU_FORMAT) + bytes(5120))
        done = bounded(["index", str(tmp_path / "pool"), "--out", str(tmp_path / f"i{number}")])
        assert (done.returncode, "Traceback" in done.stderr) == (1, False), done.stderr


@pytest.mark.parametrize(
    ("field", "kind", "said"),
    [
        (b"\xff" * 12, b"0", "a negative size"),
        (b"-0000000005\0", b"0", "a size that is no number"),
        (b"0000000000x\0", b"0", "a size that is no number"),
        (b"00000000003\0", b"S", "a sparse entry"),
        ({"size": "-5"}, b"0", "a size that is no number"),
        ({"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}, b"0", "a sparse entry"),
    ],
)
def test_negative_sizes_and_sparse_entries_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], field: bytes | dict[str, str], kind: bytes, said: str
) -> None:
    entry = tarfile.TarInfo("k.cls")
    entry.size, entry.type = 3, kind
    if isinstance(field, dict):
        entry.pax_headers = field
    block = bytearray(entry.tobuf(tarfile.PAX_FORMAT))
    if isinstance(field, bytes):
        block[124:136], block[148:156] = field, b" " * 8
        block[148:156] = f"{sum(block):06o}\0 ".encode()
    write_tar(tmp_path / "pool" / "x.tar", toy_members(0))
    path = tmp_path / "pool" / "x.tar"
    path.write_bytes(bytes(block) + b"abc".ljust(512, b"\0") + path.read_bytes())
    assert run(["index", str(tmp_path / "pool")]) == 1
    assert re.search(f"error: x.tar: ?.*({said})", capsys.readouterr().err)


class Payload:
    """Creates a file wherever it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {shlex.quote(str(self.path))}",)


@pytest.mark.faults
def test_planted_pickles_never_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As entries of every extension that readers of shards unpickle, and as checkpoints."""
    ran = tmp_path / "ran"
    planted = pickle.dumps(Payload(ran))
    members = []
    for name, data in toy_members(0):
        members.append((name, data))
        if name.endswith(".cls"):
            key = name.removesuffix(".cls")
            members += [(f"{key}.{kind}", planted) for kind in ("pyd", "pickle", "pkl", "pth", "pt", "npy", "ten")]
    write_tar(tmp_path / "pool" / "x.tar", members)
    torch.save({"state_dict": Payload(ran)}, tmp_path / "w.pth")
    out = ["--out", str(tmp_path / "scores")]
    small = [*TOY, "--epochs", "1", "--checkpoints", "1", "--seeds", "1"]
    assert run(["score", str(tmp_path / "pool"), *out, *small]) == 0
    assert run(["prune", "--scores", str(tmp_path / "scores"), "--keep", "0.5", "--fn", "entropy", "--out", str(tmp_path / "m")]) == 0  # fmt: skip
    assert run(["materialize", str(tmp_path / "m"), str(tmp_path / "kept")]) == 0
    assert run(["verify", str(tmp_path / "m")]) == 0
    (tmp_path / "given").mkdir()
    for name in ("a.pth", "a.safetensors"):
        (tmp_path / "given" / name).write_bytes((tmp_path / "w.pth").read_bytes())
        words = ["score", str(tmp_path / "pool"), "--members", str(tmp_path / "given"), "--proxy", "preact_resnet20"]
        assert run([*words, "--out", str(tmp_path / name)]) in (1, 2)
        (tmp_path / "given" / name).unlink()
    weights = [*small, "--set", f"proxy.pretrained={tmp_path / 'w.pth'}"]
    assert run(["score", str(tmp_path / "pool"), "--out", str(tmp_path / "s2"), *weights]) in (1, 2)
    assert "Traceback" not in capsys.readouterr().err
    assert not ran.exists()
    os.system(f"touch {shlex.quote(str(ran))}")  # noqa: S605  (the payload would have shown)
    assert ran.exists()


STEERING = "\x1b]0;owned\x07\x1b[2J\u202e<script>alert(1)</script>"


@pytest.mark.faults
def test_keys_and_classes_steer_neither_terminal_nor_page(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    members = []
    for n in range(8):
        key = f"{STEERING.replace('/', '|').replace('.', '')}{n}"
        label = f"{STEERING}{n % 2}".encode()
        members += [(f"{key}.png", b"no image" if n == 7 else png((n * 20, 0, 9), n)), (f"{key}.cls", label)]
    write_tar(tmp_path / "pool" / "x.tar", members, tar_format=tarfile.PAX_FORMAT)
    small = [*TOY, "--epochs", "1", "--checkpoints", "1", "--seeds", "1", "--max-bad", "0.5"]
    assert run(["index", str(tmp_path / "pool"), "--decode"]) == 0
    assert run(["score", str(tmp_path / "pool"), "--out", str(tmp_path / "scores"), *small]) == 0
    words = ["--scores", str(tmp_path / "scores"), "--keep", "0.5", "--fn", "entropy", "--out", str(tmp_path / "m")]
    assert run(["prune", *words]) == 0
    assert run(["verify", str(tmp_path / "m")]) == 0
    assert run(["report", str(tmp_path / "m"), "--out", str(tmp_path / "report.html")]) == 0
    said = "".join(capfd.readouterr())
    assert "\x1b" not in said
    assert "\x07" not in said
    assert "\u202e" not in said
    pages = list(tmp_path.rglob("*.html"))
    assert pages
    for page in pages:
        assert "<script>alert" not in page.read_text(encoding="utf-8")
        assert "alert(1)" not in page.read_text(encoding="utf-8") or "&lt;script&gt;" in page.read_text(
            encoding="utf-8"
        )


@pytest.mark.faults
def test_shell_words_in_paths_are_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder and a shard with everything a shell knows, through the pipe URLs that `export` writes."""
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "a $(touch ran) `touch ran`; touch ran & 'x' \"y\" *"
    folder.mkdir()
    manifest = make_manifest(folder, {"s;touch ran|$HOME 'q'.tar": ["k0", "k1", "k2"]}, ["k1", "k2"])
    assert run(["export", str(manifest), "--to", "urls", "--out", str(tmp_path / "urls")]) == 0
    urls = (tmp_path / "urls" / "urls.txt").read_text().splitlines()
    keys = [sample["__key__"] for sample in wds.WebDataset(urls, shardshuffle=False)]
    assert keys == ["k1", "k2"]
    assert not list(tmp_path.rglob("ran"))


def test_toml_tricks_are_refused_or_say_what_they_say(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    tricks = [
        "train = 1", "[train]\nepochs = 1e400", "[train]\nepochs = 99999999999999999999999999", "[train]\nrate = nan",
        "[train]\nrate = inf", "[train.epochs]\nx = 1", "[__class__]\nx = 1", "[train]\n__proto__ = 1",
        "x = " + "[" * 5000 + "]" * 5000, "a." * 5000 + "b = 1", '[proxy]\nname = "../../etc/passwd\\u0000"',
        "[train]\nseeds = -1", "[train]\nepochs = true", "[[train]]\nepochs = 3", "\ufeff[train]\nepochs = 3",
    ]  # fmt: skip
    for text in tricks:
        path.write_text(text, encoding="utf-8")
        try:
            recipe = load_recipe(path)
        except RecipeError:
            continue
        given = tomllib.loads(text)
        dumped = recipe.model_dump()
        assert all(dumped[s][n] == v for s, values in given.items() for n, v in values.items()), text


@pytest.mark.faults
def test_cat_and_serve_give_nothing_outside_the_manifest(tmp_path: Path) -> None:
    manifest = make_manifest(tmp_path, {"a.tar": ["k0", "k1", "k4"], "b.tar": ["k2", "k3"]}, ["k1", "k4"])
    (tmp_path / "secret.tar").write_bytes((tmp_path / "pool" / "b.tar").read_bytes())
    asked = [
        "../secret.tar", "/etc/passwd", "..%2fsecret.tar", "a.tar/../b.tar", "manifest.json", "source.json", "",
        "./../secret.tar", "%2e%2e/secret.tar", str(tmp_path / "secret.tar"), "b.tar", "x\x00.tar", "\x1b[2J.tar",
    ]  # fmt: skip
    server = make_server(Served(manifest), "127.0.0.1", 0)
    in_background(server)
    try:
        for name in asked:
            command = [sys.executable, "-m", "curate", "cat", str(manifest), name.replace("\x00", "")]
            done = subprocess.run(command, capture_output=True, check=False)
            if done.returncode == 0:  # a path that ends in the name of a shard is that shard
                (tmp_path / "out.tar").write_bytes(done.stdout)
                assert set(contents(tmp_path / "out.tar")) <= {"k1.png", "k1.cls", "k4.png", "k4.cls"}, name
            assert b"\x1b" not in done.stderr
            connection = http.client.HTTPConnection(*server.server_address[:2])  # type: ignore[arg-type]
            path = name.replace("\x00", "%00").replace("\x1b", "%1b")
            connection.putrequest("GET", f"/{path}", skip_host=False)
            connection.endheaders()
            answer = connection.getresponse()
            body = answer.read()
            assert answer.status == 404 or (answer.status == 200 and b"k2" not in body and b"root:" not in body), name
            connection.close()
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    "name",
    [
        "../../out.tar",
        *(pytest.param(name, marks=pytest.mark.faults) for name in ("/out.tar", "a/../b.tar", "", "a//b", "nul\0")),
    ],
)
def test_a_manifest_that_names_files_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    """Whole by its own digests: made by someone who wants to be read or written outside of the folders."""
    deep = tmp_path / "x" / "y"
    deep.mkdir(parents=True)
    manifest = make_manifest(deep, {"a.tar": ["k0", "k1", "k2"]}, ["k1", "k2"])
    (line,) = read_lines(manifest)
    write_lines(manifest, [Line(**{**line._asdict(), "name": name})])
    head = json.loads((manifest / "manifest.json").read_bytes())
    head["files"] = {file: file_digest(manifest / file) for file in head["files"]}
    (manifest / "manifest.json").write_text(json.dumps(head))
    before = {path for path in tmp_path.rglob("*") if deep not in path.parents}
    for words in (["materialize", str(manifest), str(deep / "out")], ["verify", str(manifest)]):
        assert run(words) == 1
    for kind in ("dali", "energon", "keys", "urls"):
        assert run(["export", str(manifest), "--to", kind, "--out", str(deep / kind)]) == 1
    with pytest.raises(CurateError):
        Served(manifest)
    assert {path for path in tmp_path.rglob("*") if deep not in path.parents} == before


def test_an_image_protocol_is_never_handed_bytes_of_a_shard(tmp_path: Path) -> None:
    """What a terminal would decode is encoded anew: a payload behind the pixels is gone."""
    from curate.pool.images import thumbnail

    payload = b"\x1b_Gpayload"
    again = thumbnail(png((1, 2, 3), 0) + payload, size_px=8, quality=80)
    assert payload not in again
    assert payload not in base64.b64decode(base64.b64encode(again))


def test_prunes_own_names_stay_in_the_folder(tmp_path: Path) -> None:
    write_tar(tmp_path / "pool" / "x.tar", [("../../up.png", b"1"), ("b.png", b"2"), ("c.png", b"3")])
    prune_by([1.0, 0.5, 0.1], tmp_path / "pool", "x.tar", 2, tmp_path)
    assert run(["export", str(tmp_path / "manifest"), "--to", "keys", "--out", str(tmp_path / "deep" / "keys")]) == 0
    assert not (tmp_path / "up.png").exists()
    assert io.StringIO((tmp_path / "deep" / "keys" / "keys.txt").read_text()).read() == "x.tar\t../../up\nx.tar\tb\n"
