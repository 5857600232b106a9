"""Which shards a pool has, and what they are called.

A shard's name is its path relative to the common folder of the pool, suffixes included; with the key
it is the identity of a sample, so it must not depend on where the pool is mounted.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from braceexpand import braceexpand

from curate.errors import UsageError
from curate.pool.sources import SUFFIXES, codec_of
from curate.pool.tar import printable


@dataclass(frozen=True, slots=True)
class Shard:
    """One tar of the pool: its name (POSIX separators), where it lies, and its (bytes, mtime_ns) once indexed."""

    name: str
    path: Path
    stamp: tuple[int, int] | None = None

    @property
    def codec(self) -> str:
        return codec_of(self.name) or "tar"


@dataclass(frozen=True, slots=True)
class Sources:
    """The shards of a pool in order of their names, below their common folder."""

    root: Path
    shards: tuple[Shard, ...]


def find_shards(sources: Sequence[str], root: Path | None = None) -> Sources:
    """Returns the shards that paths, brace patterns, globs and folders name.

    Args:
        sources: paths, brace patterns, globs, folders.
        root: the common folder, where it is known; else the lowest that all lie in.

    Raises:
        UsageError: a source that is missing, empty, remote or no shard; a shard named twice.
    """
    if not sources:
        raise UsageError("No shards were named.", hint="Give a folder, a glob or a list of .tar files.")
    found = [(folder, path) for source in sources for folder, path in _expand(source)]
    root = _absolute(root) if root else Path(os.path.commonpath([folder for folder, _ in found]))
    shards = sorted((Shard(path.relative_to(root).as_posix(), path) for _, path in found), key=lambda s: s.name)
    for shard in shards:
        if not shard.name.isascii() and shard.name.encode(errors="replace").decode() != shard.name:
            raise UsageError(f"{printable(shard.name)}: the shard's name is not UTF-8.", hint="Rename it.")
    for one, other in pairwise(shards):
        if one.name == other.name:
            raise UsageError(f"{printable(one.name)} was named twice.", hint="Name every shard once.")
    return Sources(root, tuple(shards))


def _expand(source: str) -> Iterator[tuple[Path, Path]]:
    """Yields (folder that counts towards the common one, shard) for one source."""
    if re.match(r"^(pipe:|[a-z0-9+]{2,}://)", source):
        raise UsageError(f"{source}: not a local path.", hint="Shards are read from local or mounted folders.")
    path = _absolute(Path(source))
    if path.is_dir():
        shards = sorted(_below(path))
        if not shards:
            raise UsageError(f"{source}: no shards in this folder.", hint=f"Looked for {', '.join(SUFFIXES)}.")
        yield from ((path, shard) for shard in shards)
        return
    for name in [source] if path.exists() else _braces(source):
        matches = [name] if Path(name).exists() else sorted(glob.glob(name, recursive=True))  # noqa: PTH207  (Path.glob takes no absolute pattern)
        if not matches:
            raise UsageError(f"{name}: no such file or folder.", hint="Expected a shard, a glob or a folder.")
        for match in matches:
            if codec_of(match) is None or not Path(match).is_file():
                raise UsageError(f"{match}: not a shard.", hint=f"Expected one of {', '.join(SUFFIXES)}.")
            shard = _absolute(Path(match))
            yield shard.parent, shard


def _braces(source: str) -> list[str]:
    try:
        return list(braceexpand(source))
    except ValueError as error:
        raise UsageError(f"{source}: unbalanced braces ({error}).", hint="Write {0000..0009}.") from error


def _absolute(path: Path) -> Path:
    """Returns a path from the root. Links stay as they are named, but for those that `..` goes back over."""
    if ".." not in path.parts:
        return path.absolute()
    return path.resolve() if path.name == ".." else path.parent.resolve() / path.name


def _below(folder: Path) -> Iterator[Path]:
    """Yields the shards in a folder at any depth, links followed, what is hidden left out.

    Raises:
        UsageError: a folder that cannot be read, a link of a shard's name that leads nowhere.
    """

    def refuse(error: OSError) -> None:
        raise UsageError(f"{error.filename}: cannot be read ({error.strerror}).", hint="Its shards would be left out.")

    for place, folders, files in os.walk(folder, followlinks=True, onerror=refuse):
        folders[:] = [n for n in folders if not _is_passed_over(Path(place, n))]
        for path in (Path(place, name) for name in files if codec_of(name) and not name.startswith(".")):
            if path.is_file():
                yield path
            elif path.is_symlink():
                raise UsageError(f"{path}: a link that leads nowhere.", hint="Mount what it leads to, or delete it.")


def _is_passed_over(folder: Path) -> bool:
    return folder.name.startswith(".") or folder.name == "lost+found" or leads_back(folder)  # that is the file system's


def leads_back(folder: Path) -> bool:
    """Says whether a folder is a link to one that it lies in."""
    return folder.is_symlink() and folder.resolve() in {above.resolve() for above in folder.absolute().parents}
