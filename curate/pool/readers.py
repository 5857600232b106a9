"""What `curate pack` reads: a folder of images or texts, a CSV that lists files, or one that holds texts.

A key is the file's path without its extension, `%` and dots of the name escaped (readers of shards cut
names at the first dot): distinct files never share a key, and the path can be had back from it.
"""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from curate.errors import UsageError
from curate.pool.classes import read_class_names
from curate.pool.labels import csv_rows, is_class_id
from curate.pool.scan import IMAGE_EXTENSIONS
from curate.pool.shards import leads_back
from curate.pool.tar import printable
from curate.pool.texts import TEXT_EXTENSION

MAX_FIELD = 1 << 24  # characters: a text of a CSV may be as long


@dataclass(frozen=True)
class Listing:
    """The samples of a source, listed before any of them is read.

    Attributes:
        keys: one a sample.
        labels: class ids, None where a sample has none.
        names: class names by id; empty where ids are all there is.
        load: place in the listing → (extension, bytes of the image or text).
        skipped: files that are no samples, by reason.
        folder, paths: where the samples' files lie, one a sample; None and empty where they are no files.
    """

    keys: Sequence[str]
    labels: Sequence[int | None]
    names: tuple[str, ...]
    load: Callable[[int], tuple[str, bytes]]
    skipped: Mapping[str, int]
    folder: Path | None = None
    paths: Sequence[PurePosixPath] = ()


def list_folder(folder: Path, classes: Sequence[str], *, labelled: bool) -> Listing:
    """Lists the images below a folder, or its texts if it has no image; the first folder on the way is the class.

    Args:
        folder: the samples' common folder.
        classes: class names by id; empty for the sorted names of the folder's subfolders.
        labelled: refuse samples outside of class folders; without it no sample gets a label.

    Raises:
        UsageError: no samples, samples outside of class folders, a folder that is no class.
    """
    paths, skipped = _samples(folder)
    if not paths:
        raise _nothing(folder)
    if not labelled:
        return _files(folder, paths, [None] * len(paths), (), skipped)
    outside = [path for path in paths if len(path.parts) == 1]
    if outside:
        raise UsageError(
            f"{folder}: {len(outside):,} files lie in no class folder, such as '{printable(str(outside[0]))}'.",
            hint="Expected CLASS/.../FILE. To pack without labels, add --unlabelled.",
        )
    found = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    names = tuple(classes or found)
    return _files(folder, paths, _ids([path.parts[0] for path in paths], names, str(folder)), names, skipped)


def list_table(table: Path, classes: Sequence[str], *, root: Path | None) -> Listing:
    """Lists the samples of a CSV with the columns `path` or `text`, `label` and, if wanted, `key`.

    Labels that are all whole numbers are class ids; others are names, with ids in sorted order. An
    empty label is none. Paths are relative to `root`, or else to the CSV's folder. Files that are no
    images, or no texts where there is no image, are left out and counted. Texts of the CSV itself are
    held in memory, and their keys are the numbers of their rows.

    Raises:
        UsageError: not a CSV, a column or a file is missing, a key twice, a label of no class.
    """
    listed = list(_rows(table))
    if listed and "text" in listed[0]:
        labels, names = _table_labels(table, listed, classes)
        keys = [row.get("key") or f"{number:08d}" for number, row in enumerate(listed)]
        return Listing(_checked(keys), labels, names, lambda n: (TEXT_EXTENSION, listed[n]["text"].encode()), {})
    folder = root or table.parent
    for number, path in enumerate(PurePosixPath(row["path"]) for row in listed):
        if not (folder / path).is_file():
            raise UsageError(
                f"{table}, row {number + 1}: no file '{printable(str(path))}'.",
                hint=f"Looked in {folder}. Paths are relative to --root, or else to the CSV.",
            )
    wanted, skipped = _wanted([PurePosixPath(row["path"]) for row in listed])
    if not wanted:
        raise _nothing(table)
    rows = [listed[place] for place in wanted]
    labels, names = _table_labels(table, rows, classes)
    keys = [row.get("key", "") for row in rows]
    paths = [PurePosixPath(row["path"]) for row in rows]
    return _files(folder, paths, labels, names, skipped, keys=keys if any(keys) else None)


def _table_labels(
    table: Path, rows: Sequence[Mapping[str, str]], classes: Sequence[str]
) -> tuple[list[int | None], tuple[str, ...]]:
    texts = [row.get("label", "").strip() for row in rows]
    present = sorted({text for text in texts if text})
    if not classes and all(is_class_id(text) for text in present):
        return [int(text) if text else None for text in texts], ()
    names = tuple(classes or present)
    return _ids(texts, names, str(table)), names


def read_classes(path: Path | None) -> tuple[str, ...]:
    """Returns class names by id from a text file, one a line."""
    if path is None:
        return ()
    names = read_class_names(path)
    if len(set(names)) != len(names) or not names:
        raise UsageError(f"{path}: empty, or a name appears twice.", hint="Expected one class name a line.")
    return names


def _samples(folder: Path) -> tuple[list[PurePosixPath], Counter[str]]:
    """Returns the images or texts below a folder in sorted order, links followed, and what else is there."""
    paths, skipped = list[PurePosixPath](), Counter[str]()
    for place, folders, files in os.walk(folder, followlinks=True, onerror=_unreadable):
        loops = {name for name in folders if leads_back(Path(place, name))}
        skipped.update({"link that leads back": len(loops)} if loops else {})
        folders[:] = [name for name in folders if name not in loops]
        below = PurePosixPath(Path(place).relative_to(folder).as_posix())
        for name in files:
            reason = _why_not(below / name, Path(place, name))
            if reason:
                skipped[reason] += 1
            else:
                paths.append(below / name)
    wanted, others = _wanted(paths)
    return sorted(paths[place] for place in wanted), skipped + others


def _wanted(paths: Sequence[PurePosixPath]) -> tuple[list[int], Counter[str]]:
    """Returns the places of the images, or of the texts where there is no image, and how many others there are."""
    for reason, extensions in (("not an image", IMAGE_EXTENSIONS), ("not a text", {TEXT_EXTENSION})):
        wanted = [place for place, path in enumerate(paths) if path.suffix[1:].lower() in extensions]
        if wanted:
            others = len(paths) - len(wanted)
            return wanted, Counter({reason: others} if others else {})
    return [], Counter()


def _nothing(where: Path) -> UsageError:
    looked_for = ", ".join(sorted({TEXT_EXTENSION, *IMAGE_EXTENSIONS}))
    return UsageError(f"{where}: no images and no texts.", hint=f"Looked for {looked_for}.")


def _why_not(below: PurePosixPath, path: Path) -> str:
    """Returns why a file is left out whatever it is called. A broken link is no reason: reading it fails."""
    if any(part.startswith(".") for part in below.parts):
        return "hidden"
    return "pipe or device" if path.exists() and not path.is_file() else ""


def _unreadable(error: OSError) -> None:
    raise UsageError(f"{error.filename}: cannot be read ({error.strerror}).", hint="Check its permissions.") from error


def _ids(texts: Sequence[str], names: Sequence[str], where: str) -> list[int | None]:
    id_of: dict[str, int | None] = {name: i for i, name in enumerate(names)}
    id_of.setdefault("", None)
    unknown = sorted(set(texts) - set(id_of))
    if unknown:
        raise UsageError(
            f"{where}: '{printable(unknown[0])}' is no class of --classes, nor are {len(unknown) - 1} others.",
            hint=f"It names {len(names)} classes.",
        )
    return [id_of[text] for text in texts]


def _rows(table: Path) -> Iterator[dict[str, str]]:
    csv.field_size_limit(MAX_FIELD)
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            rows = csv_rows(file)
            columns = list(rows.fieldnames or ())
            if len({"path", "text"} & set(columns)) != 1 or set(columns) - {"path", "text", "label", "key"}:
                raise UsageError(
                    f"{table}: expected the columns path or text, label and, if wanted, key.",
                    hint=f"Found: {printable(', '.join(map(str, columns))) or 'an empty file'}.",
                )
            for row in rows:
                if None in row or None in row.values() or row.get("path") == "":
                    raise UsageError(
                        f"{table}, line {rows.line_num}: a row with another number of columns, or without a path.",
                        hint="Quote fields that hold commas.",
                    )
                yield row
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{table}: cannot be read as CSV ({error}).", hint="Expected UTF-8 text.") from error


def _files(
    folder: Path,
    paths: Sequence[PurePosixPath],
    labels: Sequence[int | None],
    names: tuple[str, ...],
    skipped: Mapping[str, int],
    *,
    keys: Sequence[str] | None = None,
) -> Listing:
    def load(place: int) -> tuple[str, bytes]:
        path = folder / paths[place]
        try:
            return path.suffix[1:].lower(), path.read_bytes()
        except OSError as error:
            raise UsageError(f"{path}: cannot be read ({error.strerror}).", hint="Nothing was written.") from error

    return Listing(_checked(keys or keys_of(paths)), labels, names, load, skipped, folder, paths)


def keys_of(paths: Sequence[PurePosixPath]) -> list[str]:
    """Returns a key for each path: without the extension, or with it where two would be the same."""
    short = [str(path.parent / _escaped(path.stem)) for path in paths]
    whole = [str(path.parent / _escaped(path.name)) for path in paths]
    # Beside a.jpg and a.png, the short key of a.jpg.png would be the whole one of a.jpg.
    counts, taken = Counter(short), set(whole)
    return [key if counts[key] == 1 and key not in taken else longer for key, longer in zip(short, whole, strict=True)]


def _escaped(name: str) -> str:
    return name.replace("%", "%25").replace(".", "%2E")


def _checked(keys: Sequence[str]) -> Sequence[str]:
    for key, count in Counter(keys).items():
        if count > 1 or not key:
            raise UsageError(
                f"The key '{printable(key)}' belongs to {count} samples.", hint="Give each its own in a key column."
            )
        if key.startswith("/") or ".." in key.split("/"):
            raise UsageError(
                f"The key '{printable(key)}' leads out of the shard's folder.",
                hint="Give paths below --root, or keys in a key column.",
            )
    return keys
