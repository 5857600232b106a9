"""Which samples a person is shown: the ends of an order, those at the cut, likely label errors, classes mixed up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from curate.selection.rank import order_keys

RowArray = NDArray[np.int64]
SHOWN = 24
PAIRS, OF_A_PAIR = 12, 6
CLASS_SHOWN, CLASS_BUDGET = 6, 240


@dataclass(frozen=True, eq=False)
class Gallery:
    """Samples of one kind.

    Attributes:
        name: a word that is unique.
        title, line: what they are.
        total: how many there are of the kind, exactly.
        rows: those shown in any case, in order.
        more: further ones, shown when their class is asked for.
    """

    name: str
    title: str
    line: str
    total: int
    rows: RowArray
    more: RowArray


@dataclass(frozen=True, eq=False)
class Pair:
    """Samples of one class that were taken for another; `rows` are the surest mistakes."""

    label: int
    prediction: int
    count: int
    rows: RowArray


def gallery(name: str, title: str, line: str, order_K: RowArray, label_N: NDArray[np.int32]) -> Gallery:
    """Returns the first of some rows, and the first of each class where classes are few enough."""
    rows = order_K[:SHOWN]
    return Gallery(name, title, line, len(order_K), rows, _of_classes(order_K, label_N, rows))


def fitting(
    galleries: Sequence[Gallery], label_N: NDArray[np.int32], bytes_of: Mapping[int, int], *, room: int
) -> tuple[Gallery, ...]:
    """Returns galleries with as many further samples of each class as a page of so many bytes has room for.

    Args:
        galleries: with the most that there may be.
        label_N: classes of all rows.
        bytes_of: what showing a row once takes; it has a page of its own beside its places in galleries.
        room: bytes.
    """
    for each in range(CLASS_SHOWN, 0, -1):
        fewer = [replace(one, more=_first_of_classes(one.more, label_N, each)) for one in galleries]
        places = [row for one in fewer for rows in (one.rows, one.more) for row in rows.tolist()]
        if sum(bytes_of[row] for row in (*places, *set(places))) <= room:
            return tuple(fewer)
    return tuple(replace(one, more=one.more[:0]) for one in galleries)


def _first_of_classes(rows: RowArray, label_N: NDArray[np.int32], each: int) -> RowArray:
    label_K = label_N[rows]
    firsts = [np.flatnonzero(label_K == one)[:each] for one in np.unique(label_K)]
    place_K: RowArray = np.sort(np.concatenate([np.array([], dtype=np.int64), *firsts]))
    return rows[place_K]


def _of_classes(order_K: RowArray, label_N: NDArray[np.int32], rows: RowArray) -> RowArray:
    label_K = label_N[order_K]
    classes = np.unique(label_K)
    each = min(CLASS_SHOWN, CLASS_BUDGET // max(1, len(classes)))
    firsts = [order_K[np.flatnonzero(label_K == one)[:each]] for one in classes] if each else []
    more: RowArray = np.concatenate([np.array([], dtype=np.int64), *firsts])
    return more[~np.isin(more, rows)]


def ordered(keys: Sequence[NDArray[np.generic]], mask_N: NDArray[np.bool_]) -> RowArray:
    """Returns the rows of a mask in the total order that `order_keys` made."""
    rows = np.flatnonzero(mask_N)
    return rows[np.lexsort([key_N[rows] for key_N in reversed(keys)])]


def around(order_N: RowArray, last: int) -> RowArray:
    """Returns the rows about the last one kept, in order: half before, half after."""
    at = int(np.flatnonzero(order_N == last)[0]) + 1
    return order_N[max(0, at - SHOWN // 2) : at + SHOWN // 2]


def confused(
    label_N: NDArray[np.int32],
    prediction_N: NDArray[np.int32],
    sure_N: NDArray[np.float64],
    identity_N: NDArray[np.uint64],
) -> list[Pair]:
    """Returns the pairs of label and prediction with the most samples, the largest first.

    Args:
        label_N, prediction_N: class ids, −1 for none.
        sure_N: how sure each prediction is, higher = surer.
        identity_N: decides between equals.
    """
    wrong_N = (label_N >= 0) & (prediction_N >= 0) & (label_N != prediction_N)
    pairs, counts = np.unique(np.stack([label_N[wrong_N], prediction_N[wrong_N]]), axis=1, return_counts=True)
    largest = np.argsort(-counts, kind="stable")[:PAIRS]
    keys = order_keys(sure_N, tie_N=None, identity_N=identity_N, order="hardest")
    return [
        Pair(
            label,
            prediction,
            count,
            ordered(keys, wrong_N & (label_N == label) & (prediction_N == prediction))[:OF_A_PAIR],
        )
        for (label, prediction), count in zip(pairs.T[largest].tolist(), counts[largest].tolist(), strict=True)
    ]


def suspects(
    against_N: NDArray[np.float64] | None, label_N: NDArray[np.int32], prediction_N: NDArray[np.int32]
) -> NDArray[np.bool_]:
    """Returns the labelled samples that every member votes against; without votes, those predicted otherwise."""
    of_others_N = against_N >= 1 if against_N is not None else (prediction_N >= 0) & (label_N != prediction_N)
    suspect_N: NDArray[np.bool_] = (label_N >= 0) & of_others_N
    return suspect_N
