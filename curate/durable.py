"""Files that are either whole or not there: written aside, synced, renamed."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import UnionType
from typing import IO, Any

from curate.errors import RunError, UsageError

WAIT_SECONDS = 0.5
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)  # what some network file systems say
_LEFTOVER = re.compile(r"^\..+\.\d+-[0-9a-f]{8}\.tmp$")  # the names that `_aside` gives


@contextmanager
def replace(path: Path, *, sync: bool = True, sync_name: bool = True) -> Iterator[IO[bytes]]:
    """Yields a file that takes the place of `path` once it is complete; on any error nothing changes.

    Without `sync` it is whole or not there for every process, but may be neither after a power cut.
    Without `sync_name` it is one of both, and there for sure once its folder is synced.
    """
    aside = _aside(path)
    try:
        with _open_held(aside) as file:
            yield file
            file.flush()
            if sync:
                os.fsync(file.fileno())
            aside.replace(path)  # while it is held
        if sync and sync_name:
            sync_path(path.parent)
    except BaseException as error:
        aside.unlink(missing_ok=True)
        _name(error, aside, path)
        raise


def _name(error: BaseException, aside: Path, path: Path) -> None:
    """Has an error name what was to be written: a failed write does not say where, others say where it was begun."""
    if isinstance(error, OSError) and (error.filename is None or str(error.filename) == str(aside)):
        error.filename, error.filename2 = str(path), None


OURS = ("manifest.json", "pool.json", "run.json", "summary.json", "source.json", "shards.idx", ".parquet", ".tar",
        ".tar.gz", ".tgz", ".tar.zst", ".zst", ".jsonl", ".safetensors")  # fmt: skip


def check_page(path: Path) -> None:
    """Refuses to write a page or a list over what is no page and no list: a shard, a table, a manifest's files.

    Raises:
        UsageError: such a file is there.
    """
    if path.is_file() and path.name.lower().endswith(OURS):
        raise UsageError(f"{path} is there, and is no page or list that this would replace.", hint="Name another file.")


def write_bytes(path: Path, data: bytes, *, sync: bool = True, sync_name: bool = True) -> None:
    """Writes a whole file."""
    with replace(path, sync=sync, sync_name=sync_name) as file:
        file.write(data)


def write_json(path: Path, value: Any, *, sync: bool = True) -> None:
    """Writes JSON with sorted keys: equal values give equal bytes."""
    text = json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False)
    write_bytes(path, text.encode() + b"\n", sync=sync)


def read_json(path: Path, **kinds: type | UnionType) -> dict[str, Any]:
    """Returns the object that a JSON file holds; `kinds` are those of the values that it must have.

    Raises:
        RunError: it holds something else.
    """
    try:
        found = json.loads(path.read_bytes())
        wrong = [name for name, kind in kinds.items() if not isinstance(dict(found).get(name), kind)]
        if wrong or not isinstance(found, dict):
            raise ValueError(f"it has no '{wrong[0]}'" if wrong else "it is no object")
        return found
    except (ValueError, TypeError, RecursionError) as error:
        raise RunError(f"{path}: damaged ({error}).", hint="Delete it, or choose another folder.") from error


def sync_path(path: Path) -> None:
    """Makes a file or a folder's entries outlast a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def building(out: Path) -> Iterator[Path]:
    """Yields a hidden folder beside `out` to fill and then to put in its place; otherwise it goes again.

    Raises:
        RunError: `out` is a mount point, in whose place nothing can be put.
    """
    if out.is_mount():
        raise RunError(
            f"{out} is a mount point: a folder is put in place whole.", hint=f"Name one below it: {out}/NAME."
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(out.parent)
    build, descriptor = _aside(out), -1
    try:
        try:
            descriptor = _make_held(build)
        except OSError as error:
            _name(error, build, out)
            raise
        yield build
    finally:
        shutil.rmtree(build, ignore_errors=True)
        if descriptor >= 0:
            os.close(descriptor)


def place_folder(built: Path, out: Path) -> None:
    """Renames a built folder to where nothing or an empty folder is.

    Raises:
        OSError: something is there by now (ENOTEMPTY, ENOTDIR); it is as it was.
    """
    built.rename(out)
    sync_path(out.parent)


def replace_folder(built: Path, out: Path) -> None:
    """Puts a built folder in the place of another, which is moved aside first and then deleted; through links."""
    out = out.resolve()
    old = _aside(out)
    if out.exists():
        out.rename(old)
    try:
        place_folder(built, out)
    except BaseException:
        if old.exists() and not out.exists():
            old.rename(out)
        raise
    shutil.rmtree(old, ignore_errors=True)


def remove_leftovers(folder: Path, *, below: bool = False) -> None:
    """Deletes what dead processes left half-written in a folder, and with `below` at any depth of it.

    Who lives holds what it writes: process numbers say nothing across containers and machines.
    """
    for place, folders, files in os.walk(folder):
        for name in filter(is_leftover, [*folders, *files]):
            _remove_unless_held(Path(place, name))
        folders[:] = [name for name in folders if below and not is_leftover(name)]


def is_leftover(name: str) -> bool:
    """Says whether a name is one of those under which files and folders are written."""
    return _LEFTOVER.match(name) is not None


def _remove_unless_held(path: Path) -> None:
    with suppress(OSError):  # it went by itself, is held, or is not ours to delete
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        finally:
            os.close(descriptor)


def _aside(path: Path) -> Path:
    return path.parent / f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp"


def _open_held(aside: Path) -> IO[bytes]:
    while True:
        file = aside.open("wb")
        if _hold(file.fileno(), aside):
            return file
        file.close()


def _make_held(build: Path) -> int:
    while True:
        with suppress(FileExistsError):  # as mkdir says of one that another process takes away just then
            build.mkdir(exist_ok=True)
        with suppress(FileNotFoundError):
            descriptor = os.open(build, os.O_RDONLY)
            if _hold(descriptor, build):
                return descriptor
            os.close(descriptor)


def _hold(descriptor: int, path: Path) -> bool:
    """Holds what was made a moment ago. Says whether it is there: another process may have taken it for a leftover."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks: then nobody can take it away either
        return True
    return path.exists()  # nobody else makes one of that name


@contextmanager
def lock(folder: Path, *, waiting: Callable[[str], object] | None = None) -> Iterator[None]:
    """Holds a folder for this process, and clears it of what dead ones left half-written.

    The system lets go of it however the process ends.

    Args:
        folder: which; it is made where it is not there.
        waiting: called every half second with the process that holds it, until it does no longer.

    Raises:
        RunError: another process holds it, and this one does not wait.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a+") as file:
        while not _take(file):
            file.seek(0)
            owner = file.read().strip() or "unknown"
            if waiting is None:
                raise RunError(f"{folder} is in use by process {owner}.", hint="Wait for it, or choose another --out.")
            waiting(owner)
            time.sleep(WAIT_SECONDS)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        remove_leftovers(folder, below=True)
        try:
            yield
        finally:
            _let_go(file)  # also for children that have it open


@contextmanager
def claim(path: Path) -> Iterator[bool]:
    """Yields whether a piece of work, named by a file, is this process's for now; it waits for nobody."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        is_free = _take(file)
        try:
            yield is_free
        finally:
            if is_free:
                _let_go(file)


def _take(file: IO[Any]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
    return True


def _let_go(file: IO[Any]) -> None:
    with suppress(OSError):  # a file system without locks
        fcntl.flock(file, fcntl.LOCK_UN)
