"""k-centers over classes and over partitions: what is promised of them is measured."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.errors import UsageError
from curate.samples import identities
from curate.selection.k_centers import k_centers
from curate.selection.parts import k_centers_in_two_rounds, k_centers_per_class

NONE = np.zeros(0, dtype=np.int64)


def gaps(embeddings):
    wide = embeddings.astype(np.float64)
    return np.sqrt(((wide[:, None] - wide) ** 2).sum(axis=2))


def cover(embeddings, centers):
    return gaps(embeddings)[:, list(centers)].min(axis=1).max()


def optimum(embeddings, start, budget):
    """The smallest cover radius of any `budget` samples beside the start, by trying all of them."""
    free = [row for row in range(len(embeddings)) if row not in start]
    return min(cover(embeddings, [*start, *more]) for more in combinations(free, budget))


def ranks(size):
    return identities("shard", map(str, range(size)))


def test_one_partition_is_one_round():
    embeddings = np.random.default_rng(0).standard_normal((200, 6), dtype=np.float32)
    start = np.array([5, 9])
    whole = k_centers(embeddings, 50, start=start, rank_N=ranks(200))
    parts = k_centers_in_two_rounds(embeddings.__getitem__, 50, partitions=1, start_S=start, rank_N=ranks(200))
    assert whole.order_K.tolist() == parts.order_K.tolist()
    assert whole.radius_K.tolist() == parts.radius_K.tolist()
    assert (whole.cover_radius, whole.lower_bound) == (parts.cover_radius, parts.lower_bound)


@given(st.integers(0, 10**6), st.integers(0, 2), st.integers(1, 3), st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_two_rounds_keep_their_guarantee(seed, starts, budget, partitions):
    random = np.random.default_rng(seed)
    embeddings = (random.standard_normal((13, 2)) * random.choice([1, 10], (13, 1))).astype(np.float32)
    start = random.permutation(13)[:starts]
    found = k_centers_in_two_rounds(
        embeddings.__getitem__, budget, partitions=partitions, start_S=start, rank_N=ranks(13)
    )
    best = optimum(embeddings, start.tolist(), budget)
    assert len(set(found.order_K.tolist()) | set(start.tolist())) == starts + budget
    assert found.cover_radius == pytest.approx(cover(embeddings, [*start, *found.order_K]))
    assert found.lower_bound <= best * (1 + 1e-12)
    assert best <= found.cover_radius * (1 + 1e-12)
    assert found.cover_radius <= 4 * best * (1 + 1e-12)


def test_no_partition_is_read_with_more_than_its_own_rows():
    embeddings = np.random.default_rng(1).standard_normal((400, 4), dtype=np.float32)
    sizes = []

    def read(rows):
        sizes.append(len(rows))
        return embeddings[rows]

    found = k_centers_in_two_rounds(read, 10, partitions=8, start_S=np.array([0, 1]), rank_N=ranks(400))
    largest = np.bincount((ranks(400)[2:] % np.uint64(8)).astype(int)).max()
    assert max(sizes) <= max(largest, 8 * 10) + 12
    assert len(found.order_K) == 10


def test_moved_samples_come_in_the_same_order_of_two_rounds():
    embeddings = np.random.default_rng(2).standard_normal((300, 4), dtype=np.float32)
    place = np.random.default_rng(3).permutation(300)
    found, moved = (
        k_centers_in_two_rounds(rows.__getitem__, 40, partitions=4, start_S=NONE, rank_N=rank)
        for rows, rank in ((embeddings, ranks(300)), (embeddings[place], ranks(300)[place]))
    )
    assert found.order_K.tolist() == place[moved.order_K].tolist()


def test_each_class_is_covered_by_its_own():
    random = np.random.default_rng(4)
    embeddings, label = random.standard_normal((90, 3), dtype=np.float32), random.integers(0, 3, 90)
    start, quota = np.array([0, 1, 2, 3]), np.array([5, 0, 11])
    found = k_centers_per_class(embeddings.__getitem__, label, quota, start_S=start, rank_N=ranks(90))
    assert np.bincount(label[found.order_K], minlength=3).tolist() == [5, 0, 11]
    assert not set(found.order_K.tolist()) & set(start.tolist())
    assert (np.diff(found.radius_K) <= 0).all()
    radii = []
    for name in range(3):
        own = np.flatnonzero(label == name)
        alone = k_centers(
            embeddings[own], int(quota[name]), start=np.flatnonzero(np.isin(own, start)), rank_N=ranks(90)[own]
        )
        in_order = found.order_K[label[found.order_K] == name]
        assert own[alone.order_K].tolist() == in_order.tolist()
        radii.append(alone.cover_radius)
    assert found.cover_radius == max(radii)
    assert found.lower_bound == max(radii) / 2


def test_a_class_without_samples_or_quota_is_passed_over():
    embeddings, label = np.array([[0], [1], [5]], np.float32), np.array([0, 0, 2])
    found = k_centers_per_class(embeddings.__getitem__, label, np.array([2, 0, 1]), start_S=NONE, rank_N=ranks(3))
    assert sorted(found.order_K.tolist()) == [0, 1, 2]
    assert found.cover_radius == 0


def test_fewer_than_one_partition_is_refused():
    with pytest.raises(UsageError, match="0 partitions"):
        k_centers_in_two_rounds(
            np.zeros((3, 1), np.float32).__getitem__, 1, partitions=0, start_S=NONE, rank_N=ranks(3)
        )
