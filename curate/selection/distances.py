"""Squared Euclidean distances between rows of a pool: fast with a bound on the error, or exact.

The fast ones are matrix products in float32, whose rounding depends on the machine, its threads and
the size of a block. So nothing is decided by them alone: whoever compares them adds `error`, and
settles what is left by `exact`, whose order of operations is fixed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from curate.errors import ScoreError
from curate.selection.workers import Workers

FloatArray = NDArray[np.float64]
RowArray = NDArray[np.int64]
Rows = RowArray | slice
Product = Callable[[Rows], NDArray[np.floating[Any]]]

GATHERED, CELLS, PAIRS = 1024, 1 << 20, 1 << 21  # of a block: rows copied, distances, numbers of exact ones
CENTERS = 1024  # in one product
LARGE = 1e37  # squares above this are near float32's end


class Kernel(Protocol):
    """The matrix products behind `Distances`; they may run on another device."""

    def nearest(self, rows: RowArray | None, centers: RowArray) -> FloatArray:
        """Returns min over c of |c|² − 2⟨x, c⟩ for each row x, shape (B,); None for all rows."""
        ...

    def within(self, rows: RowArray, centers: RowArray, limit_B: FloatArray) -> tuple[RowArray, RowArray]:
        """Returns the places of (row, center) where |c|² − 2⟨x, c⟩ ≤ limit of the row."""
        ...


class HostKernel:
    """Products by numpy."""

    def __init__(
        self, x_ND: NDArray[np.float32], square_N: FloatArray, dtype: type[np.floating], workers: Workers
    ) -> None:
        self._x_ND, self._square_N, self._dtype, self._workers = x_ND, square_N, dtype, workers

    def nearest(self, rows: RowArray | None, centers: RowArray) -> FloatArray:
        size = len(self._x_ND) if rows is None else len(rows)
        nearest_B = np.full(size, np.inf, dtype=self._dtype)
        for part in self._parts(centers):
            product = self._product_with(part)

            def lower(block: slice, product: Product = product) -> None:
                nearest_b = product(block if rows is None else rows[block]).min(axis=1)
                np.minimum(nearest_B[block], nearest_b, out=nearest_B[block])

            self._workers.each(lower, size, CELLS // len(part) if rows is None else GATHERED)
        return nearest_B.astype(np.float64)

    def within(self, rows: RowArray, centers: RowArray, limit_B: FloatArray) -> tuple[RowArray, RowArray]:
        found: list[RowArray] = [np.zeros((2, 0), dtype=np.int64)]
        for number, part in enumerate(self._parts(centers)):
            product = self._product_with(part)

            def find(block: slice, product: Product = product, number: int = number) -> None:
                row_P, center_P = np.nonzero(product(rows[block]) <= limit_B[block, None])
                found.append(np.stack([row_P + block.start, center_P + number * CENTERS]))

            self._workers.each(find, len(rows), GATHERED)
        row, center = np.concatenate(found, axis=1)
        return row, center

    def _parts(self, centers: RowArray) -> list[RowArray]:
        return [centers[first : first + CENTERS] for first in range(0, len(centers), CENTERS)]

    def _product_with(self, part: RowArray) -> Product:
        double_DP = (-2 * self._x_ND[part].astype(self._dtype)).T
        square_P = self._square_N[part].astype(self._dtype)

        def product(rows: Rows) -> NDArray[np.floating]:
            product_BP: NDArray[np.floating] = self._x_ND[rows].astype(self._dtype, copy=False) @ double_DP
            product_BP += square_P
            return product_BP

        return product


class Distances:
    """Squared distances between the rows of an array.

    Attributes:
        is_double: whether products are in float64; float32 where the embeddings allow it.
    """

    def __init__(self, x_ND: NDArray[np.float32], kernel: Kernel | None = None) -> None:
        self.x_ND = x_ND
        self._workers = Workers()
        self._square_N = _squares(x_ND, self._workers)
        self._norm_N = np.sqrt(self._square_N)
        self.is_double = bool(self._square_N.max(initial=0.0) > LARGE)
        dtype = np.float64 if self.is_double else np.float32
        host = HostKernel(x_ND, self._square_N, dtype, self._workers)
        self._kernel: Kernel = kernel if kernel and not self.is_double else host

    def sharpen(self) -> None:
        """Goes over to products in float64: twice the time, an error 2²⁹ times as small."""
        self.is_double = True
        self._kernel = HostKernel(self.x_ND, self._square_N, np.float64, self._workers)

    def nearest(self, rows: RowArray | None, centers: RowArray) -> FloatArray:
        """Returns the squared distance of each row to the nearest center, to within `error`; None for all rows."""
        square_B = self._square_N if rows is None else self._square_N[rows]
        return np.maximum(square_B + self._kernel.nearest(rows, centers), 0)

    def error(self, rows: RowArray | None, squared_B: FloatArray) -> FloatArray:
        """Returns how far `nearest` can be off, where it gave `squared_B`.

        The product of two rows of length D is off by at most Du|x||c| (u the unit roundoff, whatever
        the order of summation), the rest of the expression by a few u(|x| + |c|)², and
        2|x||c| ≤ (|x| + |c|)²/2 with |c| ≤ |x| + the distance.
        """
        unit = 2.0**-53 if self.is_double else 2.0**-24
        dimensions = self.x_ND.shape[1]
        reach_B = 2 * (self._norm_N if rows is None else self._norm_N[rows])
        reach_B += np.sqrt(np.maximum(squared_B, 0))
        underflow = dimensions * (1e-300 if self.is_double else 1e-37)
        return np.asarray(1.1 * unit * (dimensions / 2 + 4) * reach_B**2 + underflow)

    def exact_nearest(self, rows: RowArray, centers: RowArray, squared_B: FloatArray) -> FloatArray:
        """Returns the exact squared distance of each row to the nearest center.

        Args:
            rows: shape (B,).
            centers: shape (K,).
            squared_B: what `nearest` gave for these rows and centers.
        """
        exact_B = np.full(len(rows), np.inf)
        limit_B = squared_B + 2.5 * self.error(rows, squared_B) - self._square_N[rows]
        row_P, center_P = self._kernel.within(rows, centers, limit_B)
        np.minimum.at(exact_B, row_P, self.exact(rows[row_P], centers[center_P]))
        return exact_B

    def between(self, rows: RowArray) -> Between:
        """Returns what is known of some rows among themselves, which is nothing yet."""
        return Between(self.x_ND[rows].astype(np.float64), self._workers)

    def exact(self, left_P: RowArray, right_P: RowArray) -> FloatArray:
        """Returns ∑(x − y)² in float64 for pairs of rows, in an order of operations that is fixed."""
        size = max(1, PAIRS // max(1, self.x_ND.shape[1]))
        parts = [np.zeros(0)]
        for first in range(0, len(left_P), size):
            part = slice(first, first + size)
            gap_PD = self.x_ND[left_P[part]].astype(np.float64) - self.x_ND[right_P[part]]
            parts.append((gap_PD * gap_PD).sum(axis=1))
        return np.concatenate(parts)


class Between:
    """Squared distances between some rows in float64, measured from a row when they are needed.

    Attributes:
        error: how far they can be off.
        count: the rows that were measured from so far.
        is_measured_B: which these are.
    """

    def __init__(self, x_BD: FloatArray, workers: Workers) -> None:
        self._x_BD, self._workers = x_BD - x_BD.mean(axis=0), workers
        self._square_B = np.einsum("bd,bd->b", self._x_BD, self._x_BD)
        self._squared_CB = np.empty((len(x_BD), len(x_BD)))  # in the order of measuring: what is not, is not touched
        self._number_B = np.full(len(x_BD), -1)
        self.count = 0
        self.error = 8 * 2.0**-53 * (x_BD.shape[1] + 8) * float(self._square_B.max())

    @property
    def is_measured_B(self) -> NDArray[np.bool_]:
        return self._number_B >= 0

    def measure(self, places: RowArray) -> None:
        """Measures from rows that were not yet, shape (A,), to all."""
        new_AB = self._squared_CB[self.count : self.count + len(places)]

        def fill(block: slice) -> None:
            np.matmul(-2 * self._x_BD[places[block]], self._x_BD.T, out=new_AB[block])
            new_AB[block] += self._square_B
            new_AB[block] += self._square_B[places[block], None]

        self._workers.each(fill, len(places), GATHERED)
        self._number_B[places] = np.arange(self.count, self.count + len(places))
        self.count += len(places)

    def of(self, place: int) -> FloatArray:
        """Returns the squared distances from a row that was measured to all, shape (B,)."""
        squared_B: FloatArray = self._squared_CB[self._number_B[place]]
        return squared_B

    def to(self, place: int, places: RowArray) -> FloatArray:
        """Returns the squared distances from rows that were measured, shape (A,), to one."""
        squared_A: FloatArray = self._squared_CB[self._number_B[places], place]
        return squared_A


def as_embeddings(embeddings_ND: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """Returns embeddings as a float32 array, itself where it is one.

    Raises:
        ScoreError: no array of floats of shape (N, D).
    """
    if embeddings_ND.ndim != 2 or embeddings_ND.dtype.kind != "f":
        raise ScoreError(f"embeddings have shape {embeddings_ND.shape} and type {embeddings_ND.dtype}, expected (N, D)")
    return np.ascontiguousarray(embeddings_ND, dtype=np.float32)


def _squares(x_ND: NDArray[np.float32], workers: Workers) -> FloatArray:
    """Returns |x|², which is finite where the row is.

    Raises:
        ScoreError: a row is not; the first is named.
    """
    square_N = np.zeros(len(x_ND))

    def square(block: slice) -> None:
        wide_BD = x_ND[block].astype(np.float64)
        np.einsum("bd,bd->b", wide_BD, wide_BD, out=square_N[block])

    workers.each(square, len(x_ND), GATHERED)
    bad_N = ~np.isfinite(square_N)
    if bad_N.any():
        raise ScoreError(
            f"the embedding of sample {int(np.argmax(bad_N))} holds values that are not finite",
            hint="Distances need finite numbers. The proxy diverged, or float16 overflowed.",
        )
    return square_N
