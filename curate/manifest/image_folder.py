"""The kept images of a pool that was packed from files, as a table of those files and as a tree of links.

The tree has one folder a class, also for a class that was pruned away: readers number classes by the
sorted names of the folders, and an id must stay what it was.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from curate.errors import ManifestError, UsageError
from curate.manifest.extents import kept_extents
from curate.manifest.lines import Line
from curate.manifest.schema import ClassTable
from curate.pool.labels import CLASSES
from curate.pool.packed import PackedFile, read_files, read_source
from curate.pool.tar import printable, split_key

TABLE, TREE = "files.csv", "images"
# torchvision 0.29 `IMG_EXTENSIONS` and timm 1.0 `IMG_EXTENSIONS`; a file with another one is left out in silence.
TORCHVISION = {"jpg", "jpeg", "png", "ppm", "bmp", "pgm", "tif", "tiff", "webp"}
TIMM = {"png", "jpg", "jpeg"}


class KeptFile(NamedTuple):
    """A kept sample's key, its file, its class id and its extension in the shard."""

    key: str
    path: Path
    label: int
    extension: str


class Tree(NamedTuple):
    """What was written: the folder names of the classes by id, and the extensions of the files."""

    names: list[str]
    extensions: set[str]


def write_image_folder(lines: Sequence[Line], root: Path, classes: ClassTable, build: Path) -> Tree:
    """Writes `files.csv`, `classes.txt` and the tree of links. Every file must be as long as what was packed.

    Cost: the headers of every source, and one look at every kept file.

    Raises:
        RunError: a source was not packed from files.
        ManifestError: a file is gone or has another size, or the shards are others than were packed.
        UsageError: no classes, a sample without a label, or a class that no folder can be named after.
    """
    names, extensions, counts = _folder_names(classes), set[str](), [0] * len(classes.after)
    for name in names:
        (build / TREE / name).mkdir(parents=True)
    with (build / TABLE).open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["path", "label", "key"])
        for number, kept in enumerate(_kept_files(lines, root)):
            _refuse_unread(kept, len(names))
            table.writerow([kept.path, kept.label, kept.key])
            # Flat and short: timm takes the innermost folder for the class, and keys may be longer than names may.
            (build / TREE / names[kept.label] / f"{number:08d}.{kept.extension}").symlink_to(kept.path)
            extensions.add(kept.extension)
            counts[kept.label] += 1
    if counts != list(classes.after):
        raise UsageError("The labels that were pruned are not those that were packed.", hint="Use --to keys.")
    (build / CLASSES).write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
    return Tree(names, extensions)


def _folder_names(classes: ClassTable) -> list[str]:
    """Returns a folder name for each class; of plain ids with zeros in front, so that sorting keeps their order."""
    count = len(classes.before)
    if not count:
        raise UsageError("The pool has no classes.", hint="An image folder needs a class of each sample.")
    names = [classes.names[i] if i < len(classes.names) else "" for i in range(count)]
    if not any(names):
        return [f"{i:0{len(str(max(0, count - 1)))}d}" for i in range(count)]
    for name in names:
        if not name or PurePosixPath(name).name != name or name.startswith(".") or "\n" in name:
            raise UsageError(f"The class '{printable(name)}' is no name for a folder.", hint="Use --to keys.")
    return names


def _kept_files(lines: Sequence[Line], root: Path) -> Iterator[KeptFile]:
    wanted = {root / line.name: line for line in lines}
    for folder in sorted({path.parent for path in wanted}):
        source, found = read_source(folder), set[Path]()
        for name, files in read_files(folder):
            line = wanted.get(folder / name)
            if line:
                found.add(folder / name)
                yield from _of_shard(line, folder / name, source, files)
        missing = sorted(path.name for path in wanted if path.parent == folder and path not in found)
        if missing:
            raise _other_shards(missing[0])


def _of_shard(line: Line, path: Path, source: Path, files: Sequence[PackedFile]) -> Iterator[KeptFile]:
    file_of = {file.key: file for file in files}
    for extent in kept_extents(line, path):
        packed, image = file_of.get(extent.key), extent.entries[0]
        if packed is None:
            raise _other_shards(line.name)
        if packed.label is None:
            raise UsageError(f"'{printable(extent.key)}' has no label.", hint="An image folder needs one of each.")
        origin = source / packed.path
        if not origin.is_file() or origin.stat().st_size != image.size:
            raise ManifestError(
                f"{printable(str(origin))}: expected the file of {image.size:,} bytes that was packed.",
                hint="It is gone or was changed. Pack, score and prune again; or use `curate materialize`.",
            )
        yield KeptFile(extent.key, origin.absolute(), packed.label, (split_key(image.name) or ("", ""))[1])


def _refuse_unread(kept: KeptFile, classes: int) -> None:
    if kept.extension not in TORCHVISION or kept.label >= classes:
        raise UsageError(
            f"{printable(str(kept.path))}: readers of image folders would leave it out.", hint="Use --to keys."
        )


def _other_shards(name: str) -> ManifestError:
    return ManifestError(
        f"{printable(name)} is not in the record of what was packed beside it.", hint="Pack, score and prune again."
    )
