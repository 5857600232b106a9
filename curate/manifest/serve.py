"""`curate serve`: the kept samples of every shard as a plain tar over HTTP, for readers that take URLs alone.

Read-only, and nothing but the shards of one manifest. A source is checked before its first byte as
`cat` does; when something fails later the connection ends before the announced length, which every
client takes for an error.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import lru_cache
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from curate.errors import CurateError, ManifestError, UsageError
from curate.manifest.extents import byte_runs, kept_extents
from curate.manifest.layout import plain_names
from curate.manifest.lines import Line, check_files, manifest_digest, read_lines, read_root
from curate.manifest.sidecars import ShardCount, timm_info
from curate.manifest.stream import END, INFO, Write, check_source, copy_kept, split_of
from curate.pool.tar import printable

URLS = "urls.txt"
CHUNK_BYTES = 1 << 20
CACHED_SHARDS = 64
POLL_SECONDS = 0.05  # how soon it hears that it shall end
RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII)


class Served:
    """The virtual shards of a manifest: names, sizes, bytes."""

    def __init__(self, folder: Path, root: Path | None = None) -> None:
        check_files(folder)
        self.digest = manifest_digest(folder)
        self._root = root or read_root(folder)
        kept = [line for line in read_lines(folder) if line.kept]
        self._lines = dict(zip(plain_names([line.name for line in kept]), kept, strict=True))
        if not kept:
            raise ManifestError(f"{folder} keeps no sample.", hint="There is nothing to serve.")
        self._runs = lru_cache(CACHED_SHARDS)(self._walked)

    @property
    def names(self) -> list[str]:
        """The names under which shards are served, compressed ones as plain tars."""
        return list(self._lines)

    def size(self, name: str) -> int | None:
        """Returns the bytes of a virtual shard, None where there is none of that name."""
        line = self._lines.get(name)
        return None if line is None else line.preamble + line.kept_bytes + len(END)

    def etag(self, name: str) -> str:
        """Returns what changes when the manifest or the name does."""
        text = f"{self.digest}/{name}".encode("utf-8", "surrogateescape")
        return f'"{hashlib.blake2b(text, digest_size=12).hexdigest()}"'

    def info(self) -> str:
        """Returns timm's `_info.json`."""
        splits: dict[str, list[ShardCount]] = {}
        for name, line in self._lines.items():
            splits.setdefault(split_of(name), []).append(ShardCount(name, line.kept))
        return timm_info("kept", splits)

    def check(self, name: str) -> None:
        """Raises ManifestError where a source is not what was pruned, as far as that shows before its data."""
        line = self._lines[name]
        if line.codec == "tar":
            self._plain_runs(name)
        else:
            check_source(line, self._root / line.name)

    def copy(self, name: str, first: int, end: int, write: Write) -> None:
        """Writes the bytes of a virtual shard from `first` to before `end`.

        Raises:
            CurateError, OSError: the source cannot be read, or is not what was pruned.
        """
        line = self._lines[name]
        path = self._root / line.name
        if line.codec == "tar":
            _copy_plain(line, path, self._plain_runs(name), first, end, write)
        else:
            _copy_decompressed(line, path, first, end, write)

    def _plain_runs(self, name: str) -> list[tuple[int, int]]:
        status = (self._root / self._lines[name].name).stat()
        return self._runs(name, status.st_mtime_ns, status.st_size)

    def _walked(self, name: str, _mtime: int, _size: int) -> list[tuple[int, int]]:
        line = self._lines[name]
        return byte_runs(kept_extents(line, self._root / line.name), line.preamble)


class _Enough(Exception):  # noqa: N818  (no error: the reader has what it asked for)
    pass


def _copy_plain(line: Line, path: Path, runs: Sequence[tuple[int, int]], first: int, end: int, write: Write) -> None:
    at = 0  # the place in the virtual shard where the next run begins
    with path.open("rb", buffering=0) as source:
        for start, stop in runs:
            last = min(stop, start + end - at)
            for place in range(start + max(0, first - at), last, CHUNK_BYTES):
                size = min(CHUNK_BYTES, last - place)
                chunk = os.pread(source.fileno(), size, place)
                if len(chunk) != size:
                    raise ManifestError(f"{line.name} is cut short.", hint="Run `curate verify`.")
                write(chunk)
            at += stop - start
    write(END[max(0, first - at) : max(0, end - at)])


def _copy_decompressed(line: Line, path: Path, first: int, end: int, write: Write) -> None:
    """Writes a part of a compressed source's kept entries; what lies before it is decompressed and dropped."""
    at = 0

    def write_part(data: bytes) -> None:
        nonlocal at
        write(data[max(0, first - at) : max(0, end - at)])
        at += len(data)
        if at >= end:
            raise _Enough

    with suppress(_Enough):
        copy_kept(line, path, write_part)


def serve(
    folder: Path,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    root: Path | None = None,
    ready: Callable[[str, list[str]], object] = lambda base, urls: None,
    warn: Callable[[str], object] = lambda text: None,
) -> None:
    """Serves a manifest's shards until the process is interrupted.

    Args:
        folder: the manifest.
        host: the address to listen on; only this machine reaches the default.
        port: 0 for a free one.
        root: where the sources lie, if not where they were pruned.
        ready: called with the folder's URL and those of the shards once they can be read.
        warn: called with what a reader cannot be told any more, from any thread.
    """
    server = make_server(Served(folder, root), host, port, warn)
    try:
        ready(base_of(server), urls_of(server))
        server.serve_forever(POLL_SECONDS)
    except KeyboardInterrupt:
        pass
    finally:
        server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    served: Served
    warn: Callable[[str], object]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Is silent about readers that hang up; everything else is a fault of ours and shows its trace."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


def make_server(served: Served, host: str, port: int, warn: Callable[[str], object] = lambda text: None) -> _Server:
    """Returns a server that listens and does not answer yet."""
    try:
        server = _Server((host, port), _Handler)
    except OSError as error:
        raise UsageError(
            f"Nothing can be served at {host}, port {port} ({error.strerror or error}).",
            hint="Name another --port, 0 for a free one, or another --host.",
        ) from error
    server.served, server.warn = served, warn
    return server


def base_of(server: _Server) -> str:
    """Returns the URL of the folder that holds the shards; the manifest's digest in it keeps caches apart."""
    return f"{_origin(server)}/{server.served.digest[:8]}"


def urls_of(server: _Server) -> list[str]:
    """Returns the URL of every shard."""
    return [f"{_origin(server)}/{url_path(server.served.digest, name)}" for name in server.served.names]


def url_path(digest: str, name: str) -> str:
    """Returns the path in the URL of a shard, by the manifest's digest and the name it is served under."""
    return f"{digest[:8]}/{quote(name, errors='surrogateescape')}"


def _origin(server: _Server) -> str:
    host, port = server.server_address[:2]
    return f"http://{host if isinstance(host, str) else host.decode()}:{port}"


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    server_version = "curate"
    sys_version = ""

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Says nothing: one line a request would bury what matters."""

    def _answer(self, *, with_body: bool) -> None:
        served = self.server.served
        name = unquote(self.path.partition("?")[0], errors="surrogateescape").removeprefix("/")
        name = name.removeprefix(f"{served.digest[:8]}/")
        try:
            if name in ("", URLS):
                self._text("".join(f"{url}\n" for url in urls_of(self.server)), with_body=with_body)
            elif name == INFO:
                self._text(served.info(), with_body=with_body)
            elif served.size(name) is None:
                self._fail(
                    HTTPStatus.NOT_FOUND, f"{printable(name)} is no shard of this manifest.", with_body=with_body
                )
            else:
                served.check(name)
                self._shard(name, with_body=with_body)
        except (CurateError, OSError) as error:
            if isinstance(error, ConnectionError):
                self.close_connection = True
                return
            self._fail(HTTPStatus.INTERNAL_SERVER_ERROR, str(error), with_body=with_body)

    def _shard(self, name: str, *, with_body: bool) -> None:
        served = self.server.served
        total, etag = served.size(name) or 0, served.etag(name)
        known = {tag.strip().removeprefix("W/") for tag in self.headers.get("If-None-Match", "").split(",")}
        if known & {etag, "*"}:
            self.send_response(HTTPStatus.NOT_MODIFIED)
            self.send_header("ETag", etag)
            self.end_headers()
            return
        is_current = self.headers.get("If-Range", etag) == etag
        part = _range(self.headers.get("Range", "") if is_current else "", total)
        if part is None:
            self.send_response(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
            self.send_header("Content-Range", f"bytes */{total}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        first, end = part
        is_part = (first, end) != (0, total)
        self.send_response(HTTPStatus.PARTIAL_CONTENT if is_part else HTTPStatus.OK)
        if is_part:
            self.send_header("Content-Range", f"bytes {first}-{end - 1}/{total}")
        for header, value in (("Content-Type", "application/x-tar"), ("Accept-Ranges", "bytes"), ("ETag", etag)):
            self.send_header(header, value)
        self.send_header("Content-Length", str(end - first))
        self.end_headers()
        if with_body:
            self._send(name, first, end)

    def _send(self, name: str, first: int, end: int) -> None:
        try:
            self.server.served.copy(name, first, end, self.wfile.write)
        except ConnectionError:
            self.close_connection = True
        except (CurateError, OSError) as error:
            # The head is gone already: a connection that ends early is the only error left to give.
            self.close_connection = True
            self.server.warn(f"{printable(name)}: broken off. {error}")

    def _text(self, text: str, *, with_body: bool, status: HTTPStatus = HTTPStatus.OK) -> None:
        data = text.encode("utf-8", "backslashreplace")
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if with_body:
            self.wfile.write(data)

    def _fail(self, status: HTTPStatus, text: str, *, with_body: bool) -> None:
        self._text(f"{text}\n", with_body=with_body, status=status)


def _range(header: str, total: int) -> tuple[int, int] | None:
    """Returns (first, end) of what a Range header asks for, None past the end.

    No range, several, and one that runs backwards ask for everything, as RFC 9110 has it.
    """
    match = RANGE.fullmatch(header)
    first, last = match.groups() if match else ("", "")
    if not (first or last) or (first and last and int(last) < int(first)):
        return 0, total
    begin = int(first) if first else max(0, total - int(last))
    end = min(total, int(last) + 1) if first and last else total
    return (begin, end) if begin < end else None


def in_background(server: _Server) -> threading.Thread:
    """Starts to answer in a thread of its own; `server.shutdown()` ends it."""
    thread = threading.Thread(target=server.serve_forever, args=(POLL_SECONDS,), daemon=True)
    thread.start()
    return thread
