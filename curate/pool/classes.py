"""What the labels of a pool mean: ids or names, and how many samples each class has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from curate.errors import UsageError
from curate.pool.labels import CLASSES, is_class_id


@dataclass(frozen=True)
class Classes:
    """What the labels of a pool mean.

    Attributes:
        kind: `id` (texts are class ids), `name` (texts are names, ids in sorted order), or `none`.
        names: class name by id, empty where unknown.
        counts: good labelled samples by class id; its length is `num_classes`.
    """

    kind: str
    names: tuple[str, ...]
    counts: tuple[int, ...]

    @property
    def num_classes(self) -> int:
        return len(self.counts)

    @property
    def seen(self) -> list[str]:
        """The label texts of the classes that have a sample."""
        texts = self.names if self.kind == "name" else map(str, range(self.num_classes))
        return [text for text, count in zip(texts, self.counts, strict=True) if count]


def label_ids(texts: pa.ChunkedArray, classes: Classes) -> NDArray[np.int32]:
    """Returns class ids for label texts, shape (N,), int32; -1 for null and for texts of no class."""
    encoded = texts.combine_chunks().dictionary_encode()
    of_name = {name: i for i, name in enumerate(classes.names)} if classes.kind == "name" else {}
    words = encoded.dictionary.to_pylist()
    table = [of_name.get(word, -1) if of_name else int(word) if is_class_id(word) else -1 for word in words]
    ids_W = np.array([*table, -1], dtype=np.int32)
    id_N: NDArray[np.int32] = ids_W[pc.fill_null(encoded.indices, len(words)).to_numpy(zero_copy_only=False)]
    return id_N


def count_labels(labels: Iterable[pa.ChunkedArray]) -> dict[str, int]:
    """Returns the number of samples of each label text."""
    counts: dict[str, int] = {}
    for texts in labels:
        for row in texts.value_counts().to_pylist():
            counts[row["values"]] = counts.get(row["values"], 0) + row["counts"]
    return counts


def join_classes(counts: Mapping[str, int], names: tuple[str, ...]) -> Classes:
    """Returns what the labels of a pool mean: ids where most samples have one, else names in sorted order."""
    if not counts:
        return Classes("none", (), ())
    ids = Counter[int]()
    for word, count in counts.items():
        if is_class_id(word):
            ids[int(word)] += count  # 1 and 01 are one class
    if 2 * sum(ids.values()) < sum(counts.values()):
        words = sorted(counts)
        return Classes("name", tuple(words), tuple(counts[word] for word in words))
    size = max(max(ids) + 1, len(names))
    return Classes("id", names, tuple(ids[i] for i in range(size)))


def class_names(root: Path) -> tuple[str, ...]:
    """Returns the names in `classes.txt` beside the shards, one a line, by class id; empty without that file."""
    path = root / CLASSES
    return read_class_names(path) if path.is_file() else ()


def read_class_names(path: Path) -> tuple[str, ...]:
    """Returns the names in a file, one a line.

    Raises:
        UsageError: it cannot be read.
    """
    try:
        names = path.read_text(encoding="utf-8-sig").replace("\r\n", "\n").rstrip("\n")
        return tuple(names.split("\n")) if names else ()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read ({error}).", hint="Expected one class name a line, UTF-8.") from error
