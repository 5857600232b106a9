"""Files that are either whole or not there: written aside, synced, renamed."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from curate.errors import RunError

_LEFTOVER = re.compile(r"^\..+\.(\d+)\.tmp$")


@contextmanager
def replace(path: Path, *, sync: bool = True, sync_name: bool = True) -> Iterator[IO[bytes]]:
    """Yields a file that takes the place of `path` once it is complete; on any error nothing changes.

    Without `sync` it is whole or not there for every process, but may be neither after a power cut.
    Without `sync_name` it is one of both, and there for sure once its folder is synced.
    """
    aside = path.parent / f".{path.name}.{os.getpid()}.tmp"
    try:
        with aside.open("wb") as file:
            yield file
            file.flush()
            if sync:
                os.fsync(file.fileno())
        aside.replace(path)
        if sync and sync_name:
            sync_path(path.parent)
    except BaseException as error:
        aside.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)  # a failed write does not say where
        raise


def write_bytes(path: Path, data: bytes, *, sync: bool = True, sync_name: bool = True) -> None:
    """Writes a whole file."""
    with replace(path, sync=sync, sync_name=sync_name) as file:
        file.write(data)


def write_json(path: Path, value: Any, *, sync: bool = True) -> None:
    """Writes JSON with sorted keys: equal values give equal bytes."""
    text = json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False)
    write_bytes(path, text.encode() + b"\n", sync=sync)


def sync_path(path: Path) -> None:
    """Makes a file or a folder's entries outlast a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_folder(built: Path, out: Path) -> None:
    """Puts a built folder in the place of another, which is moved aside first and then deleted."""
    old = out.parent / f".{out.name}.old.{os.getpid()}.tmp"
    if out.exists():
        out.rename(old)
    built.rename(out)
    sync_path(out.parent)
    shutil.rmtree(old, ignore_errors=True)


def remove_leftovers(folder: Path) -> None:
    """Deletes what dead processes left half-written in a folder."""
    for path in folder.iterdir():
        match = _LEFTOVER.match(path.name)
        if match and not Path(f"/proc/{match[1]}").exists():
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Holds a folder for this process. The system lets go of it however the process ends.

    Raises:
        RunError: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            owner = file.read().strip() or "unknown"
            raise RunError(
                f"{folder} is in use by process {owner}.", hint="Wait for it, or choose another --out."
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
