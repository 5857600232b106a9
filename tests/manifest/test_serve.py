"""Over HTTP: the bytes that `cat` streams, any part of them, and nothing else of the disk."""

import gzip
import http.client
import io
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset as wds
import zstandard
from conftest import toy_members, write_tar
from hypothesis import given, settings
from hypothesis import strategies as st
from tars import RandomTar, plain, prune_by, random_tars, samples_of
from test_stream import contents, kept_keys

from curate.cli import run
from curate.manifest.lines import find_line, read_lines
from curate.manifest.serve import Served, in_background, make_server, urls_of
from curate.manifest.stream import copy_kept

Answer = tuple[int, dict[str, str], bytes]


@contextmanager
def serving(manifest: Path, root: Path | None = None, warn: Callable[[str], object] = print) -> Iterator[list[str]]:
    server = make_server(Served(manifest, root), "127.0.0.1", 0, warn)
    thread = in_background(server)
    try:
        yield urls_of(server)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def ask(url: str, method: str = "GET", **headers: str) -> Answer:
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(url, method=method, headers=given)  # noqa: S310  (our own server)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
            return answer.status, dict(answer.headers), answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, dict(error.headers), error.read()


@settings(max_examples=25, deadline=None)
@given(tar=random_tars(), data=st.data())
def test_any_part_of_any_tar_is_that_part_of_what_cat_streams(tar: RandomTar, data: st.DataObject) -> None:
    total = len(samples_of(plain(tar.data, tar.name)))
    keep = data.draw(st.integers(2, max(2, total)))
    places = data.draw(st.lists(st.tuples(st.integers(0, 30_000), st.integers(0, 9_000)), min_size=1, max_size=4))
    if total < 2:
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "pool").mkdir()
        (folder / "pool" / tar.name).write_bytes(tar.data)
        prune_by(tar.scores, folder / "pool", tar.name, keep, folder)
        streamed = io.BytesIO()
        copy_kept(find_line(folder / "manifest", tar.name), folder / "pool" / tar.name, streamed.write)
        whole = streamed.getvalue()
        with serving(folder / "manifest") as (url,):
            assert ask(url)[2] == whole
            assert int(ask(url, "HEAD")[1]["Content-Length"]) == len(whole)
            for first, size in places:
                code, headers, body = ask(url, Range=f"bytes={first}-{first + size}")
                if first >= len(whole):
                    assert (code, headers["Content-Range"]) == (416, f"bytes */{len(whole)}")
                    continue
                assert body == whole[first : first + size + 1]
                assert code == (200 if len(body) == len(whole) else 206)
                assert ask(url, Range=f"bytes={first}-")[2] == whole[first:]
                assert ask(url, Range=f"bytes=-{size + 1}")[2] == whole[-size - 1 :]


@pytest.fixture
def urls(toy_manifest: Path) -> Iterator[list[str]]:
    with serving(toy_manifest) as served:
        yield served


def test_webdataset_reads_the_kept_samples(urls: list[str], toy_manifest: Path, pool_folder: Path) -> None:
    read = "import sys, urllib.request as u; sys.stdout.buffer.write(u.urlopen(sys.argv[1]).read())"
    reader = [f"pipe:{sys.executable} -c '{read}' {url}" for url in urls]
    found = [sample["__key__"] for sample in wds.WebDataset(reader, shardshuffle=False)]
    assert sorted(found) == sorted(kept_keys(toy_manifest, pool_folder))


@pytest.mark.skipif(not shutil.which("curl"), reason="webdataset reads http through curl")
def test_webdataset_reads_the_urls_as_they_are(urls: list[str], toy_manifest: Path, pool_folder: Path) -> None:
    found = [sample["__key__"] for sample in wds.WebDataset(urls, shardshuffle=False)]
    assert sorted(found) == sorted(kept_keys(toy_manifest, pool_folder))


@pytest.mark.skipif(not shutil.which("curl"), reason="webdataset reads http through curl")
@pytest.mark.filterwarnings("ignore::UserWarning")  # timm's own, of a loader without workers
def test_timm_reads_the_folders_url_as_its_data_dir(urls: list[str], toy_manifest: Path, pool_folder: Path) -> None:
    import numpy as np
    from PIL import Image
    from timm.data import create_dataset

    root = urls[0].rpartition("/")[0]
    dataset = create_dataset("wds/kept", root=root, split="train", is_training=False, batch_size=1)
    assert len(dataset) == 24
    files = {name: data for path in pool_folder.glob("*.tar") for name, data in contents(path).items()}
    expected = [
        (np.asarray(Image.open(io.BytesIO(files[f"{key}.png"]))).tobytes(), int(files[f"{key}.cls"]))
        for key in kept_keys(toy_manifest, pool_folder)
    ]
    assert sorted((np.asarray(image).tobytes(), label) for image, label in dataset) == sorted(expected)


def test_many_readers_at_once_get_the_same_bytes(urls: list[str]) -> None:
    alone = [ask(url)[2] for url in urls]
    with ThreadPoolExecutor(12) as threads:
        answers = list(threads.map(lambda url: ask(url)[2], urls * 8))
    assert answers == alone * 8


def test_etags_tell_what_is_still_the_same(urls: list[str]) -> None:
    _, headers, body = ask(urls[0])
    etag = headers["ETag"]
    assert ask(urls[0], If_None_Match=etag)[0] == 304
    assert ask(urls[0], Range="bytes=0-9", If_Range=etag)[0] == 206
    assert ask(urls[0], Range="bytes=0-9", If_Range='"other"')[2] == body
    assert ask(urls[1])[1]["ETag"] != etag
    assert ask(urls[0], Range="bytes=0-1,5-6")[2] == body
    assert ask(urls[0], Range="bytes=-0")[0] == 416
    assert ask(urls[0], If_None_Match=f'"other", W/{etag}')[0] == 304
    for nonsense in ("bytes=9-3", "bytes=-", "bytes=x-y", "lines=0-9", f"bytes={'9' * 5000}-"):
        assert ask(urls[0], Range=nonsense)[::2] == (200, body)


def test_the_lists_name_what_is_served(urls: list[str]) -> None:
    base = urls[0].rpartition("/")[0]
    assert ask(f"{base}/urls.txt")[2].decode().split() == urls
    assert b'"num_samples": 24' in ask(f"{base}/_info.json")[2]


@pytest.mark.parametrize(
    "path",
    ["/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "//etc/passwd", "/toy-0000.tar/", "/manifest.json", "/%00"],
)
def test_nothing_else_of_the_disk_is_served(urls: list[str], path: str) -> None:
    connection = http.client.HTTPConnection(urls[0].split("/")[2], timeout=30)
    connection.request("GET", path)
    assert connection.getresponse().status == 404
    connection.close()
    connection.request("PUT", "/toy-0000.tar", b"x")
    assert connection.getresponse().status == 501
    connection.close()


@pytest.mark.parametrize("damage", ["missing", "header"])
@pytest.mark.parametrize("codec", ["tar.gz", "tar.zst"])
def test_a_compressed_source_with_another_first_header_is_an_error(tmp_path: Path, codec: str, damage: str) -> None:
    encode = {"tar.gz": lambda data: gzip.compress(data, 0), "tar.zst": zstandard.ZstdCompressor().compress}[codec]
    pool, name = tmp_path / "pool", f"x.{codec}"
    pool.mkdir()
    write_tar(tmp_path / "x.tar", toy_members(0))
    data = (tmp_path / "x.tar").read_bytes()
    (pool / name).write_bytes(encode(data))
    prune_by([1.0] * 16, pool, name, 8, tmp_path)
    with serving(tmp_path / "manifest") as (url,):
        assert ask(url, "HEAD")[0] == 200
        (pool / name).unlink()
        if damage == "header":
            (pool / name).write_bytes(encode(b"t0_00" + data[5:]))
        code, _, body = ask(url)
    assert (code, name.encode() in body) == (500, True)


@pytest.mark.parametrize("words", [["serve"], ["materialize"]])
def test_two_sources_that_would_get_one_name_are_refused(
    tmp_path: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    pool = tmp_path / "pool"
    write_tar(pool / "x.tar", toy_members(0))
    write_tar(tmp_path / "y.tar", toy_members(1))
    (pool / "x.tar.gz").write_bytes(gzip.compress((tmp_path / "y.tar").read_bytes()))
    table = pa.table({"shard": ["x.tar"] * 16 + ["x.tar.gz"] * 16, "ordinal": [*range(16)] * 2, "score": [1.0] * 32})
    pq.write_table(table, tmp_path / "scores.parquet")
    index, manifest = str(tmp_path / "index"), str(tmp_path / "manifest")
    assert run(["index", str(pool), "--out", index]) == 0
    from_elsewhere = ["--scores", str(tmp_path / "scores.parquet"), "--index", index, "--fn", "score"]
    assert run(["prune", *from_elsewhere, "--keep", "100%", "--out", manifest]) == 0
    out = [str(tmp_path / "out")] if words == ["materialize"] else []
    assert run([*words, manifest, *out]) == 2
    assert "x.tar and x.tar.gz would both be called x" in capsys.readouterr().err


@pytest.mark.parametrize("damage", ["missing", "header"])
def test_a_changed_source_is_an_error_and_never_a_short_shard(
    toy_manifest: Path, pool_folder: Path, tmp_path: Path, damage: str
) -> None:
    for path in pool_folder.glob("*.tar"):
        data = bytearray(path.read_bytes())
        at = find_line(toy_manifest, path.name).ranges[0] * 512
        data[at : at + 2] = b"zz"
        if damage == "header":
            (tmp_path / path.name).write_bytes(data)
    with serving(toy_manifest, tmp_path) as urls:
        for url in urls:
            code, _, body = ask(url)
            assert code == 500
            assert b"toy-000" in body


def test_a_compressed_source_that_breaks_off_ends_the_connection_early(tmp_path: Path) -> None:
    write_tar(tmp_path / "x.tar", [(n, d + os.urandom(60_000) if "png" in n else d) for n, d in toy_members(0)])
    pool = tmp_path / "pool"
    pool.mkdir()
    data = bytearray(gzip.compress((tmp_path / "x.tar").read_bytes(), mtime=0))
    (pool / "x.tar.gz").write_bytes(data)
    prune_by([1.0] * 16, pool, "x.tar.gz", 16, tmp_path)
    data[len(data) // 2] ^= 0xFF
    (pool / "x.tar.gz").write_bytes(data)
    said: list[str] = []
    with serving(tmp_path / "manifest", warn=said.append) as (url,), pytest.raises(http.client.IncompleteRead):
        ask(url)
    assert [text.startswith("x.tar: broken off. x.tar.gz: ") for text in said] == [True]


def test_a_reader_that_hangs_up_is_no_error(urls: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    host, port = urls[0].split("/")[2].split(":")
    for text in (b"", b"GET /", f"GET {urls[0]} HTTP/1.1\r\n\r\n".encode()):
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(text)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # resets
    assert ask(urls[0])[0] == 200
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_serves_until_it_is_interrupted(toy_manifest: Path, number: int) -> None:
    as_json = number == signal.SIGTERM
    process = subprocess.Popen(
        [sys.executable, "-m", "curate", "serve", str(toy_manifest), *(["--json"] if as_json else [])],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None
    if as_json:
        document = json.loads("".join(iter(process.stdout.readline, "}\n")) + "}")
        urls = document["urls"]
        assert ask(f"{document['base']}/_info.json")[0] == 200
    else:
        urls = [process.stdout.readline().strip() for _ in read_lines(toy_manifest)]
    assert [ask(url)[0] for url in urls] == [200] * 3
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, "Traceback" in err) == (0, False)
