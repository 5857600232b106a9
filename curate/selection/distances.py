"""Squared Euclidean distances between rows of a pool: fast with a bound on the error, or exact.

The fast ones are matrix products in float32, whose rounding depends on the machine, its threads and
the size of a block. So nothing is decided by them alone: whoever compares them adds `error`, and
settles what is left by `exact`, whose order of operations is fixed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from curate.errors import ScoreError

FloatArray = NDArray[np.float64]
RowArray = NDArray[np.int64]
Rows = RowArray | slice

ROWS, CELLS, PAIRS = 2048, 1 << 20, 1 << 21  # of a block: rows, distances at once, numbers of exact ones
LARGE = 1e37  # squares above this are near float32's end


class Kernel(Protocol):
    """The matrix products behind `Distances`; they may run on another device."""

    def nearest(self, rows: Rows, centers: RowArray) -> FloatArray:
        """Returns min over c of |c|² − 2⟨x, c⟩ for each row x, shape (B,)."""
        ...

    def within(self, rows: RowArray, centers: RowArray, limit_B: FloatArray) -> tuple[RowArray, RowArray]:
        """Returns the places of (row, center) where |c|² − 2⟨x, c⟩ ≤ limit of the row."""
        ...


class HostKernel:
    """Products by numpy's BLAS, on all its threads."""

    def __init__(self, embeddings_ND: NDArray[np.float32], square_N: FloatArray, dtype: type[np.floating]) -> None:
        self._x_ND, self._square_N, self._dtype = embeddings_ND, square_N, dtype

    def _blocks(self, rows: Rows, centers: RowArray) -> Iterator[tuple[int, NDArray[np.floating]]]:
        x_BD = self._x_ND[rows].astype(self._dtype, copy=False)
        size = max(64, CELLS // max(1, len(x_BD)))
        for first in range(0, len(centers), size):
            part = centers[first : first + size]
            double_PD = -2 * self._x_ND[part].astype(self._dtype)
            product_BP = x_BD @ double_PD.T
            product_BP += self._square_N[part].astype(self._dtype)
            yield first, product_BP

    def nearest(self, rows: Rows, centers: RowArray) -> FloatArray:
        parts = [product_BP.min(1) for _, product_BP in self._blocks(rows, centers)]
        nearest_B: FloatArray = np.min(parts, axis=0).astype(np.float64)
        return nearest_B

    def within(self, rows: RowArray, centers: RowArray, limit_B: FloatArray) -> tuple[RowArray, RowArray]:
        found = []
        for first, product_BP in self._blocks(rows, centers):
            row_P, center_P = np.nonzero(product_BP <= limit_B[:, None])
            found.append((row_P, center_P + first))
        row, center = (np.concatenate(places) for places in zip(*found, strict=True))
        return row, center


class Distances:
    """Squared distances between the rows of an array.

    Attributes:
        square_N: |x|², float64.
        is_double: whether products are in float64; float32 where the embeddings allow it.
    """

    def __init__(self, embeddings_ND: NDArray[np.float32], kernel: Kernel | None = None) -> None:
        self.x_ND = embeddings_ND
        self.square_N = _squares(embeddings_ND)
        self._kernel = kernel
        self.is_double = False
        if kernel is None:
            self._use(np.float64 if self.square_N.max(initial=0.0) > LARGE else np.float32)

    def _use(self, dtype: type[np.floating]) -> None:
        self.is_double = dtype is np.float64
        self._kernel = HostKernel(self.x_ND, self.square_N, dtype)

    def sharpen(self) -> None:
        """Goes over to products in float64: twice the time, an error 2²⁹ times as small."""
        self._use(np.float64)

    def nearest(self, rows: Rows, centers: RowArray) -> FloatArray:
        """Returns the squared distance of each row to the nearest center, to within `error`."""
        assert self._kernel is not None
        return np.maximum(self.square_N[rows] + self._kernel.nearest(rows, centers), 0)

    def error(self, rows: Rows, squared_B: FloatArray) -> FloatArray:
        """Returns how far `nearest` can be off, where it gave `squared_B`.

        The product of two rows of length D is off by at most Du|x||c| (u the unit roundoff, whatever
        the order of summation), the rest of the expression by a few u(|x| + |c|)², and
        2|x||c| ≤ (|x| + |c|)²/2 with |c| ≤ |x| + the distance.
        """
        unit = 2.0**-53 if self.is_double else 2.0**-24
        dimensions = self.x_ND.shape[1]
        reach_B = 2 * np.sqrt(self.square_N[rows]) + np.sqrt(np.maximum(squared_B, 0))
        underflow = dimensions * (1e-300 if self.is_double else 1e-37)
        return np.asarray(1.1 * unit * (dimensions / 2 + 4) * reach_B**2 + underflow)

    def exact_nearest(self, rows: RowArray, centers: RowArray, squared_B: FloatArray) -> FloatArray:
        """Returns the exact squared distance of each row to the nearest center.

        Args:
            rows: shape (B,).
            centers: shape (K,).
            squared_B: what `nearest` gave for these rows and centers.
        """
        assert self._kernel is not None
        exact_B = np.full(len(rows), np.inf)
        limit_B = squared_B + 2.5 * self.error(rows, squared_B) - self.square_N[rows]
        for first in range(0, len(rows), ROWS):
            part = slice(first, first + ROWS)
            row_P, center_P = self._kernel.within(rows[part], centers, limit_B[part])
            np.minimum.at(exact_B[part], row_P, self.exact(rows[part][row_P], centers[center_P]))
        return exact_B

    def exact(self, left_P: RowArray, right_P: RowArray) -> FloatArray:
        """Returns ∑(x − y)² in float64 for pairs of rows, in an order of operations that is fixed."""
        size = max(1, PAIRS // max(1, self.x_ND.shape[1]))
        parts = [np.zeros(0)]
        for first in range(0, len(left_P), size):
            part = slice(first, first + size)
            gap_PD = self.x_ND[left_P[part]].astype(np.float64) - self.x_ND[right_P[part]]
            parts.append((gap_PD * gap_PD).sum(axis=1))
        return np.concatenate(parts)


def checked(embeddings_ND: NDArray[np.floating]) -> NDArray[np.float32]:
    """Returns embeddings as a float32 array, itself where it is one.

    Raises:
        ScoreError: not of shape (N, D), or a value is not finite; the first row is named.
    """
    if embeddings_ND.ndim != 2 or embeddings_ND.dtype.kind != "f":
        raise ScoreError(f"embeddings have shape {embeddings_ND.shape} and type {embeddings_ND.dtype}, expected (N, D)")
    x_ND = np.ascontiguousarray(embeddings_ND, dtype=np.float32)
    for first in range(0, len(x_ND), ROWS):
        bad_B = ~np.isfinite(x_ND[first : first + ROWS]).all(axis=1)
        if bad_B.any():
            raise ScoreError(
                f"the embedding of sample {first + int(np.argmax(bad_B))} holds values that are not finite",
                hint="Distances need finite numbers. The proxy diverged, or float16 overflowed.",
            )
    return x_ND


def _squares(x_ND: NDArray[np.float32]) -> FloatArray:
    parts = [np.zeros(0)]
    for first in range(0, len(x_ND), ROWS):
        wide_BD = x_ND[first : first + ROWS].astype(np.float64)
        parts.append(np.einsum("bd,bd->b", wide_BD, wide_BD))
    return np.concatenate(parts)
