"""Over HTTP: the bytes that `cat` streams, any part of them, and nothing else of the disk."""

import http.client
import io
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import webdataset as wds
from hypothesis import given, settings
from hypothesis import strategies as st
from tars import RandomTar, plain, prune_by, random_tars, samples_of
from test_stream import kept_keys

from curate.manifest.lines import find_line, read_lines
from curate.manifest.serve import Served, in_background, make_server, urls_of
from curate.manifest.stream import copy_kept

Answer = tuple[int, dict[str, str], bytes]


@contextmanager
def serving(manifest: Path, root: Path | None = None) -> Iterator[list[str]]:
    server = make_server(Served(manifest, root), "127.0.0.1", 0)
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
    import gzip

    from conftest import toy_members, write_tar

    write_tar(tmp_path / "x.tar", [(n, d + os.urandom(60_000) if "png" in n else d) for n, d in toy_members(0)])
    pool = tmp_path / "pool"
    pool.mkdir()
    data = bytearray(gzip.compress((tmp_path / "x.tar").read_bytes(), mtime=0))
    (pool / "x.tar.gz").write_bytes(data)
    prune_by([1.0] * 16, pool, "x.tar.gz", 16, tmp_path)
    data[len(data) // 2] ^= 0xFF
    (pool / "x.tar.gz").write_bytes(data)
    with serving(tmp_path / "manifest") as (url,), pytest.raises(http.client.IncompleteRead):
        ask(url)


def test_the_command_serves_until_it_is_interrupted(toy_manifest: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "curate", "serve", str(toy_manifest)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None
    urls = [process.stdout.readline().strip() for _ in read_lines(toy_manifest)]
    assert [ask(url)[0] for url in urls] == [200] * 3
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, "Traceback" in err) == (0, False)
