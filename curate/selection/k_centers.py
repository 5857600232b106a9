"""Greedy k-centers: each new center is the sample farthest from the centers so far.

Not the submodular facility location, which sums similarities.

The plain algorithm reads all embeddings once for each center and is bound by memory. Here some samples
that are farthest, the front, are told apart among themselves for as long as none of the others can be
farther; then all others learn of the new centers at once, in one matrix product. And a sample nearer to
its center than half the radius cannot be nearer to a new one, which lies a radius away from all others:
the triangle inequality leaves such samples out. The order is that of the plain algorithm in exact
comparisons, on any machine, whatever its threads and blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.errors import UsageError
from curate.selection.distances import Distances, FloatArray, Kernel, RowArray, as_embeddings

NARROW, WIDE = 512, 2048  # samples in the front
AHEAD = 16  # one in so many of a front is measured from at a time
TAKEN = -np.inf  # in place of a squared distance
IntArray = NDArray[np.integer[Any]]


@dataclass(frozen=True, eq=False)
class Centers:
    """Centers in the order in which they were chosen.

    Attributes:
        order_K: rows, shape (K,), int64; those of the start are not among them.
        radius_K: the distance of each to the nearest center before it, shape (K,), float64,
            non-increasing: before that choice no sample was farther. Infinite for a first center
            without a start.
        cover_radius: the largest distance of any sample to its nearest center, all chosen.
        lower_bound: no K centers beside the same start, wherever they lie, have a smaller cover radius.
    """

    order_K: RowArray
    radius_K: FloatArray
    cover_radius: float
    lower_bound: float


def k_centers(
    embeddings_ND: NDArray[np.floating[Any]],
    budget: int,
    *,
    start: Sequence[int] | IntArray = (),
    rank_N: IntArray | None = None,
    kernel: Kernel | None = None,
) -> Centers:
    """Returns the next `budget` centers, each the sample farthest from all before it.

    Distances are Euclidean, between embeddings as float32, compared in float64. Of equally far samples
    the one of lowest rank comes first; a sample never comes twice, and copies of a center come last, in
    order of rank.

    Args:
        embeddings_ND: shape (N, D), finite.
        budget: how many, from 0 to the number of samples outside of the start.
        start: rows that are centers already. Without any, the sample of lowest rank comes first.
        rank_N: shape (N,), decides ties; identities, or None for the rows themselves.
        kernel: matrix products on another device; None for numpy's.

    Raises:
        ScoreError: embeddings that are not finite, or no (N, D) array of floats.
        UsageError: a budget that the pool cannot fill, or a start that names no row or one twice.

    Cost: about one product of (N, D) with (K, D), and as many numbers again for fronts at worst; O(N)
        memory beside the embeddings and 60 MB for a front.

    Source: Gonzalez 1985; Sener and Savarese 2018, algorithm 1; "facility location" in Coleman et al.
        2020. The lower bound is half the cover radius: the K centers and the farthest sample are K + 1
        points at least that radius apart, and as far from the start; so whatever K centers are added,
        one of the points keeps a center of the start as its nearest, or two of them share a center and
        one of these two is at least half as far from it.
    """
    x_ND = as_embeddings(embeddings_ND)
    start_S = _start(start, len(x_ND), budget)
    rank_N = np.arange(len(x_ND)) if rank_N is None else rank_N
    if not len(start_S) and not budget:
        return Centers(np.zeros(0, dtype=np.int64), np.zeros(0), cover_radius=np.inf, lower_bound=np.inf)
    first = [] if len(start_S) else [int(np.argmin(rank_N))]
    cover = _Cover(Distances(x_ND, kernel), rank_N)
    cover.add(np.array([*start_S, *first], dtype=np.int64), radius=np.inf)
    # One more than asked for, where there is one: its distance is the radius that is left.
    order, squared = cover.choose(min(budget - len(first) + 1, len(x_ND) - len(cover.centers)))
    radii = [*([np.inf] * len(first)), *np.sqrt(squared).tolist(), 0.0]
    left = float(radii[budget])
    return Centers(np.array([*first, *order][:budget], dtype=np.int64), np.array(radii[:budget]), left, left / 2)


def _start(start: Sequence[int] | IntArray, size: int, budget: int) -> RowArray:
    start_S = np.asarray(start, dtype=np.int64)
    outside = (start_S < 0) | (start_S >= size)
    if outside.any():
        raise UsageError(f"the start names row {start_S[outside][0]}, but there are {size:,} samples")
    if len(np.unique(start_S)) < len(start_S):
        raise UsageError(f"the start names {len(start_S):,} rows, but only {len(np.unique(start_S)):,} different ones")
    if not 0 <= budget <= size - len(start_S):
        raise UsageError(
            f"{budget:,} centers were asked for, but there are {size:,} samples and {len(start_S):,} are in the start",
            hint="Each sample is a center at most once: ask for fewer.",
        )
    return start_S


class _Cover:
    """How far each sample is from its nearest center, squared, and whether that is exact."""

    def __init__(self, distances: Distances, rank_N: IntArray) -> None:
        self.distances, self.rank_N = distances, rank_N
        self.centers: RowArray = np.zeros(0, dtype=np.int64)
        self.squared_N = np.full(len(rank_N), np.inf)
        self.is_exact_N = np.zeros(len(rank_N), dtype=np.bool_)
        self.settled = 0  # samples measured exactly so far

    def _error(self) -> FloatArray:
        return np.where(self.is_exact_N, 0, self.distances.error(None, self.squared_N))

    def choose(self, count: int) -> tuple[list[int], list[float]]:
        """Returns the next centers, with their squared distances; the cover may not know of the last ones."""
        order: list[int] = []
        squared: list[float] = []
        width = NARROW
        while len(order) < count:
            front = self._front(min(width, len(self.squared_N) - len(self.centers)))
            rows, values = front.choose(count - len(order))
            order += rows
            squared += values
            width = min(max(NARROW, 4 * len(rows)), WIDE)
            if len(order) < count:
                self.add(np.array(rows), radius=float(np.sqrt(values[-1])))
        return order, squared

    def add(self, centers: RowArray, *, radius: float) -> None:
        """Tells all samples of new centers, none of which is nearer than `radius` to those before."""
        self.centers = np.concatenate([self.centers, centers])
        self.squared_N[centers], self.is_exact_N[centers] = TAKEN, True
        if not len(centers):
            return
        rows = self._within_reach(radius)
        at: RowArray | slice = slice(None) if rows is None else rows
        known_B, new_B = self.squared_N[at], self.distances.nearest(rows, centers)
        surely_farther_B = new_B - self.distances.error(rows, new_B) >= known_B
        self.squared_N[at] = np.where(surely_farther_B, known_B, np.minimum(known_B, new_B))
        self.is_exact_N[at] &= surely_farther_B

    def _within_reach(self, radius: float) -> RowArray | None:
        """Returns the samples that are farther than half the radius from their center; None for all."""
        if np.isinf(radius):
            return None
        row_A = np.flatnonzero((self.squared_N + self._error()) * (4 + 1e-9) > radius**2)
        return row_A if len(row_A) < 0.75 * len(self.squared_N) else None

    def _front(self, width: int) -> _Front:
        """Returns the farthest samples, measured exactly."""
        rows, least = self._farthest(width)
        if not self.distances.is_double and self.settled > 4 * len(self.squared_N):
            self._sharpen()
            rows, least = self._farthest(width)
        place_F = np.lexsort((self.rank_N[rows], -self.squared_N[rows]))
        row_F = rows[place_F]
        behind = int(row_F[width]) if len(row_F) > width else None
        return _Front(
            self.distances,
            row_F[:width],
            self.squared_N[row_F[:width]],
            self.rank_N[row_F[:width]],
            least=least,
            behind=None if behind is None else (float(self.squared_N[behind]), int(self.rank_N[behind])),
        )

    def _farthest(self, width: int) -> tuple[RowArray, float]:
        """Returns at least `width` rows, exact by then, and a squared distance below which all others are."""
        error_N = self._error()
        low_N = np.where(self.squared_N < 0, TAKEN, np.maximum(self.squared_N - error_N, 0))
        least = float(np.partition(low_N, len(low_N) - width)[len(low_N) - width])
        rows = np.flatnonzero(self.squared_N + error_N >= least)
        unsure = rows[~self.is_exact_N[rows]]
        self.squared_N[unsure] = self.distances.exact_nearest(unsure, self.centers, self.squared_N[unsure])
        self.is_exact_N[unsure] = True
        self.settled += len(unsure)
        return rows, least

    def _sharpen(self) -> None:
        """Measures everything anew in float64, where float32 cannot tell one sample from another."""
        self.distances.sharpen()
        known, self.centers = self.centers, np.zeros(0, dtype=np.int64)
        self.squared_N[:], self.is_exact_N[:] = np.inf, False
        self.add(known, radius=np.inf)


class _Front:
    """Samples that are farther than all others, and what they are from each other."""

    def __init__(
        self,
        distances: Distances,
        row_F: RowArray,
        squared_F: FloatArray,
        rank_F: IntArray,
        *,
        least: float,
        behind: tuple[float, int] | None,
    ) -> None:
        self.distances, self.row_F, self.squared_F, self.rank_F = distances, row_F, squared_F, rank_F
        self.least, self.behind = least, behind
        self.is_exact_F = np.ones(len(row_F), dtype=np.bool_)
        self.between = distances.between(row_F)
        self.error = self.between.error
        self.chosen: list[int] = []
        self._before_F = squared_F.copy()

    def choose(self, count: int) -> tuple[list[int], list[float]]:
        """Returns the next centers and their squared distances, for as long as they are known to be next."""
        values: list[float] = []
        while len(values) < count:
            place = self._farthest()
            squared = float(self.squared_F[place])
            if not self._is_next(squared, int(self.rank_F[place])):
                break
            values.append(squared)
            self._take(place)
        return self.row_F[self.chosen].tolist(), values

    def _is_next(self, squared: float, rank: int) -> bool:
        if squared < self.least:
            return False
        return self.behind is None or (-squared, rank) < (-self.behind[0], self.behind[1])

    def _farthest(self) -> int:
        """Returns the place of the farthest sample, of lowest rank among equals; its distance is exact by then."""
        near_P = np.flatnonzero(self.squared_F >= self.squared_F.max() - 2 * self.error)
        for place in near_P[~self.is_exact_F[near_P]]:
            self._settle(place)
        top_P = near_P[self.squared_F[near_P] == self.squared_F[near_P].max()]
        return int(top_P[np.argmin(self.rank_F[top_P])]) if len(top_P) > 1 else int(top_P[0])

    def _settle(self, place: int) -> None:
        """Measures a sample's distance to the centers of this front exactly, where one can be its nearest."""
        chosen = np.array(self.chosen)
        close = chosen[self.between.to(place, chosen) <= self.squared_F[place] + 2 * self.error]
        exact = self.distances.exact(np.full(len(close), self.row_F[place]), self.row_F[close])
        self.squared_F[place] = min(exact.min(initial=np.inf), self._before_F[place])
        self.is_exact_F[place] = True

    def _take(self, place: int) -> None:
        if not self.between.is_measured_B[place]:
            self.between.measure(self._with_next(place))
        new_F = self.between.of(place)
        # What is surely nearer to another stays exact, and so does a copy of a center: nothing is less than 0.
        stays_F = self.is_exact_F & ((new_F > self.squared_F + self.error) | (self.squared_F <= 0))
        np.minimum(self.squared_F, new_F, out=self.squared_F, where=~stays_F)
        self.is_exact_F = stays_F
        self.squared_F[place], self.is_exact_F[place] = TAKEN, True
        self.chosen.append(place)

    def _with_next(self, place: int) -> RowArray:
        """Returns a place and those of the farthest others that were not measured from, often the next centers."""
        squared_F = np.where(self.between.is_measured_B, TAKEN, self.squared_F)
        squared_F[place] = np.inf
        most = min(-(-len(squared_F) // AHEAD), len(squared_F) - self.between.count)
        return np.argpartition(-squared_F, most - 1)[:most]
