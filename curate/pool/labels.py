"""Where a sample's label comes from: `.cls`, a JSON field, a CSV, or the folder of its key; and its text, if a field.

A label is kept as the text that stands in the shard. Only the whole pool can tell what the texts
mean: integers are class ids and are never renumbered; names get ids in sorted order.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from dataclasses import field as default
from pathlib import Path
from typing import Any, TextIO

from curate.errors import SampleError, UsageError, did_you_mean
from curate.pool.tar import printable

KINDS = ("cls", "json", "csv", "folder", "none")
MAX_LABEL_BYTES = 1 << 20  # a label entry that is larger is no label
CLASSES = "classes.txt"  # beside shards whose labels are ids: the names, one a line
MAX_CLASSES = 1 << 20


@dataclass(frozen=True)
class LabelSource:
    """How a sample's entries are read.

    Attributes:
        kind: one of `KINDS`.
        field: of `json`: the field, dots lead into objects.
        table: of `csv`: label by (shard or "", key).
        text_field: the field of `.json` entries that is the sample's text; empty for its image or `.txt` entry.
    """

    kind: str = "cls"
    field: str = ""
    table: Mapping[tuple[str, str], str] = default(default_factory=dict)
    text_field: str = ""

    @property
    def extension(self) -> str | None:
        """The extension of the entries that hold labels, None where no entry does."""
        return self.kind if self.kind in ("cls", "json") else None

    def read(self, shard: str, key: str, content: bytes | None) -> str | None:
        """Returns a sample's label as text, or None where it has none.

        Raises:
            SampleError: the label entry cannot be read.
            UsageError: it holds more than one label.
        """
        if self.kind == "csv":
            return self.table.get((shard, key), self.table.get(("", key))) or None
        if self.kind == "folder":
            return key.rpartition("/")[0].rpartition("/")[2] or None
        if content is None:
            return None
        text = _decoded(content)
        if self.kind == "json":
            return _json_label(text, self.field, shard, key)
        return _single(text.strip(), shard, key) or None


@dataclass(frozen=True)
class LabelRow:
    """One row of a CSV of labels.

    Attributes:
        where: file and line, for messages.
        identity: (shard or "", key).
        label: as it is written there, without spaces around it; empty where there is none.
    """

    where: str
    identity: tuple[str, str]
    label: str


def read_label_table(path: Path, shards: Container[str] | None = None) -> dict[tuple[str, str], str]:
    """Returns the labels of a CSV with the columns `key`, `label` and, where keys repeat, `shard`: of all or some."""
    table: dict[tuple[str, str], str] = {}
    for row in read_label_rows(path):
        if shards is not None and row.identity[0] not in shards:
            continue
        if table.setdefault(row.identity, row.label) != row.label:
            raise UsageError(
                f"{row.where}: '{printable(row.identity[1])}' has two labels.", hint="Expected one row a key."
            )
    return table


def read_label_rows(path: Path) -> Iterator[LabelRow]:
    """Yields the rows of a CSV with the columns `key`, `label` and, where keys repeat, `shard`.

    Raises:
        UsageError: no such file, no CSV, other columns, a label that is several.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv_rows(file)
            columns = set(rows.fieldnames or ())
            if not {"key", "label"} <= columns:
                raise UsageError(
                    f"{path}: expected the columns 'key' and 'label' (and 'shard' where keys repeat).",
                    hint=f"Found: {printable(', '.join(sorted(columns))) or 'an empty file'}.",
                )
            yield from (_row(row, f"{path}, line {rows.line_num}") for row in rows)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path}: cannot be read as CSV ({error}).", hint="Expected UTF-8 text.") from error


def csv_rows(file: TextIO) -> csv.DictReader[str]:
    """Returns the rows of a CSV, whatever separates its columns.

    A quote that nobody closes is an error: what is read on from there would take the rows after it for its text.

    Raises:
        csv.Error: a column that is named twice; while rows are read, what is no CSV.
    """
    rows = csv.DictReader(file, delimiter=delimiter_of(file), strict=True)
    names = rows.fieldnames or ()
    if twice := [name for place, name in enumerate(names) if name in names[:place]]:
        raise csv.Error(f"the column '{printable(twice[0])}' is there twice")
    return rows


def delimiter_of(file: TextIO) -> str:
    """Returns what separates the columns of a CSV, by its first line: a comma, or what spreadsheets write elsewhere."""
    first = file.readline()
    file.seek(0)
    return next((sign for sign in ",;\t" if sign in first), ",")


def check_kind(kind: str) -> None:
    """Refuses a kind of label source that does not exist."""
    if kind not in KINDS:
        raise UsageError(f"Unknown label source '{kind}'.", hint=did_you_mean(kind, KINDS))


def is_class_id(text: str) -> bool:
    """Says whether a label's text is a class id: a whole number, not negative, of sane size."""
    return text.isascii() and text.isdigit() and len(text) < 10 and int(text) < MAX_CLASSES


def _row(row: Mapping[str | Any, Any], where: str) -> LabelRow:
    if None in row or row["key"] is None or row["label"] is None:
        raise UsageError(f"{where}: a row with another number of columns.", hint="Quote fields that hold commas.")
    return LabelRow(where, (row.get("shard") or "", row["key"]), _single(row["label"].strip(), where))


def _decoded(content: bytes) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        raise SampleError("the label is not UTF-8 text") from None


def _json_label(text: str, field_name: str, *where: str) -> str | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise SampleError("the JSON entry cannot be parsed") from None
    for part in [field_name] if isinstance(value, dict) and field_name in value else field_name.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    if isinstance(value, list | dict):
        raise _multi_label(*where)
    if value is None or isinstance(value, bool | int | str):
        label = "" if value is None else str(int(value) if isinstance(value, bool) else value).strip()
        try:
            label.encode()
        except UnicodeEncodeError:  # JSON can say it, UTF-8 cannot
            raise SampleError("the label holds half a character") from None
        return label or None
    raise SampleError("the label is neither a whole number nor a name")


def _single(text: str, *where: str) -> str:
    if text.isalnum():  # the usual case, and no list
        return text
    parts = text.replace(",", " ").split()
    if (len(parts) > 1 and all(is_class_id(part) for part in parts)) or text[:1] in ("[", "{"):
        raise _multi_label(*where)
    return text


def _multi_label(*where: str) -> UsageError:
    return UsageError(
        f"{': '.join(map(printable, where))} has more than one label.",
        hint="Multi-label data cannot be scored: curate expects one class a sample.",
    )
