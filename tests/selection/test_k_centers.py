"""Greedy k-centers: the order of the plain algorithm in exact comparisons, and never another."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.errors import ScoreError, UsageError
from curate.selection import distances
from curate.selection import k_centers as k_centers_module
from curate.selection.k_centers import k_centers


def line(*places):
    return np.array(places, dtype=np.float32)[:, None]


def oracle(embeddings, budget, start, rank):
    """Gonzalez as it is written: every distance in float64, the lowest rank of the farthest."""
    wide = embeddings.astype(np.float64)
    nearest, taken = np.full(len(wide), np.inf), np.zeros(len(wide), dtype=bool)
    order, radii = [], []
    for step in range(len(start) + budget):
        if step < len(start):
            center = int(start[step])
        else:
            value = np.where(taken, -1, nearest)
            top = np.flatnonzero(value == value.max())
            center = int(top[np.argmin(rank[top])])
            order.append(center)
            radii.append(np.sqrt(nearest[center]))
        gap = wide - wide[center]
        nearest, taken[center] = np.minimum(nearest, (gap * gap).sum(axis=1)), True
    return order, radii, float(np.sqrt(nearest[~taken].max(initial=0)))


def check(embeddings, budget, start=(), rank=None):
    found = k_centers(embeddings, budget, start=start, rank_N=rank)
    rank = np.arange(len(embeddings)) if rank is None else rank
    order, radii, cover = oracle(embeddings, budget, start, rank)
    assert order == found.order_K.tolist()
    assert radii == found.radius_K.tolist()
    assert cover == found.cover_radius


def test_reference_values():
    found = k_centers(line(0, 1, 2, 4, 9, 10), 4, start=[0])
    assert found.order_K.tolist() == [5, 3, 2, 1]
    assert found.radius_K.tolist() == [10, 4, 2, 1]
    assert k_centers(line(0, 1, 2, 4, 9, 10), 2, start=[0]).cover_radius == 2
    assert k_centers(line(0, 1, 2, 4, 9, 10), 2, start=[0]).lower_bound == 1
    assert k_centers(line(0, -1, 1), 2, start=[0]).order_K.tolist() == [1, 2]


def test_reference_values_in_two_dimensions():
    corners = np.array([(0, 0), (0, 3), (4, 0), (4, 3), (2, 1.5), (10, 0)], dtype=np.float32)
    found = k_centers(corners, 4, start=[0])
    assert found.order_K.tolist() == [5, 3, 1, 2]
    assert found.radius_K.tolist() == [10, 5, 3, 3]


def test_the_lowest_rank_of_equally_far_samples_comes_first():
    assert k_centers(line(0, -1, 1), 2, start=[0], rank_N=np.array([7, 5, 3])).order_K.tolist() == [2, 1]


def test_without_a_start_the_lowest_rank_comes_first_at_no_radius():
    found = k_centers(line(0, 1, 5), 3, rank_N=np.array([2, 1, 3], dtype=np.uint64))
    assert found.order_K.tolist() == [1, 2, 0]
    assert found.radius_K.tolist() == [np.inf, 4, 1]
    assert found.cover_radius == 0


def test_copies_of_centers_come_last_in_order_of_rank_and_never_twice():
    found = k_centers(line(5, 0, 5, 5, 0, 1), 5, start=[0], rank_N=np.array([0, 1, 9, 3, 2, 5]))
    assert found.order_K.tolist() == [1, 5, 4, 3, 2]
    assert found.radius_K.tolist() == [5, 1, 0, 0, 0]


def test_copies_are_measured_once(monkeypatch):
    """A pool of one picture many times: what is a copy of a center cannot come nearer."""
    measured = []
    exact = distances.Distances.exact
    monkeypatch.setattr(distances.Distances, "exact", lambda own, a, b: measured.append(len(a)) or exact(own, a, b))
    embeddings = np.concatenate([features("isotropic", 50), np.ones((600, 48), np.float32)])
    found = k_centers(embeddings, 400)
    assert found.radius_K[51:].max() == 0
    assert sorted(found.order_K[:51]) == [*range(51)]
    assert sum(measured) < 20 * len(embeddings)


@st.composite
def pools(draw):
    """Few distinct coordinates, so that ties and copies are the normal case; some far from zero."""
    size, dimensions = draw(st.integers(1, 40)), draw(st.integers(1, 4))
    values = draw(st.sampled_from([[0, 1], [0, 1, 2, 5], [-3.5, 0.1, 0.25, 7], [1000, 1000.25, 1001], [1e-30, 2e-30]]))
    cells = draw(st.lists(st.sampled_from(values), min_size=size * dimensions, max_size=size * dimensions))
    order = draw(st.permutations(range(size)))
    starts = draw(st.integers(0, size))
    rank = np.array(draw(st.permutations(range(size))), dtype=np.uint64)
    budget = draw(st.integers(0, size - starts)) if starts else draw(st.integers(1, size))
    return np.array(cells, np.float32).reshape(size, dimensions), budget, order[:starts], rank


@given(pools())
@settings(max_examples=300, deadline=None)
def test_the_order_is_that_of_the_plain_algorithm(pool):
    check(*pool)


@given(pools(), st.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None)
def test_moved_samples_come_in_the_same_order(pool, random):
    embeddings, budget, start, rank = pool
    place = np.array(random.sample(range(len(embeddings)), len(embeddings)))
    moved = np.argsort(place)
    found = k_centers(embeddings, budget, start=start, rank_N=rank)
    other = k_centers(embeddings[place], budget, start=[int(moved[row]) for row in start], rank_N=rank[place])
    assert found.order_K.tolist() == place[other.order_K].tolist()
    assert np.array_equal(found.radius_K, other.radius_K)


def features(kind, size=700, seed=0):
    random = np.random.default_rng(seed)
    normal = random.standard_normal((size, 48))
    return {
        "isotropic": normal,
        "clustered": 5 * random.standard_normal((9, 48))[random.integers(0, 9, size)] + normal,
        "thin": random.standard_normal((size, 3)) @ random.standard_normal((3, 48)),
        "positive": np.maximum(normal, 0),
        "binary": random.integers(0, 2, (size, 10)),
        "far from zero": 3000 + normal[:, :8],
        "twice": np.repeat(normal[: size // 2], 2, axis=0),
        "huge": 1e25 * normal,
        "tiny": 1e-25 * normal,
    }[kind].astype(np.float32)


KINDS = ["isotropic", "clustered", "thin", "positive", "binary", "far from zero", "twice", "huge", "tiny"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_is_that_of_the_plain_algorithm_on_features(kind):
    embeddings = features(kind)
    rank = np.random.default_rng(1).permutation(len(embeddings))
    check(embeddings, 500, start=rank[:30].tolist(), rank=rank)


@pytest.mark.parametrize("kind", ["thin", "binary", "far from zero", "twice"])
def test_blocks_do_not_matter(kind, monkeypatch):
    embeddings = features(kind, size=300, seed=2)
    whole = k_centers(embeddings, 150, start=[3])
    monkeypatch.setattr(distances, "GATHERED", 37)
    monkeypatch.setattr(distances, "CENTERS", 3)
    monkeypatch.setattr(k_centers_module, "NARROW", 2)
    monkeypatch.setattr(k_centers_module, "WIDE", 5)
    monkeypatch.setattr(distances, "CELLS", 64)
    monkeypatch.setattr(distances, "PAIRS", 50)
    parts = k_centers(embeddings, 150, start=[3])
    assert whole.order_K.tolist() == parts.order_K.tolist()
    assert np.array_equal(whole.radius_K, parts.radius_K)


def test_a_difference_that_float32_products_cannot_see_decides():
    embeddings = np.zeros((3, 2), dtype=np.float32)
    embeddings[1], embeddings[2] = (4096, 1 + 2**-20), (4096, 1 + 2**-19)
    assert k_centers(embeddings, 1, start=[0], rank_N=np.array([0, 1, 2])).order_K.tolist() == [2]
    assert k_centers(embeddings[[0, 2, 1]], 1, start=[0], rank_N=np.array([0, 1, 2])).order_K.tolist() == [1]


def test_a_larger_budget_begins_with_a_smaller_one():
    embeddings = features("thin")
    all_of_them = k_centers(embeddings, 699, start=[0])
    few = k_centers(embeddings, 40, start=[0])
    assert few.order_K.tolist() == all_of_them.order_K[:40].tolist()
    assert few.cover_radius == all_of_them.radius_K[40]
    assert sorted(all_of_them.order_K.tolist()) == list(range(1, 700))
    assert (np.diff(all_of_them.radius_K) <= 0).all()


def test_no_other_two_centers_beat_the_lower_bound():
    embeddings = features("clustered", size=40)
    found = k_centers(embeddings, 2, start=[0])
    gap = np.sqrt(((embeddings[:, None].astype(np.float64) - embeddings) ** 2).sum(axis=2))
    radius_of = np.minimum(np.minimum(gap[:, None, :], gap[None, :, :]), gap[0]).max(axis=2)
    assert found.lower_bound <= radius_of.min() <= found.cover_radius <= 2 * radius_of.min()


def test_float16_is_read_as_float32():
    embeddings = features("thin").astype(np.float16)
    assert k_centers(embeddings, 20).order_K.tolist() == k_centers(embeddings.astype(np.float32), 20).order_K.tolist()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_the_first_embedding_that_is_not_finite_is_named(bad):
    embeddings = features("thin")
    embeddings[[400, 600], 7] = bad
    with pytest.raises(ScoreError, match="the embedding of sample 400 holds values that are not finite"):
        k_centers(embeddings, 2)


def test_what_is_no_array_of_floats_is_refused():
    with pytest.raises(ScoreError, match="expected"):
        k_centers(np.zeros(3, np.float32), 1)
    with pytest.raises(ScoreError, match="int64"):
        k_centers(np.zeros((3, 2), np.int64), 1)


@pytest.mark.parametrize(
    ("budget", "start", "message"),
    [
        (6, [], "6 centers were asked for, but there are 5 samples and 0 are in the start"),
        (4, [0, 1], "4 centers were asked for, but there are 5 samples and 2 are in the start"),
        (-1, [], "-1 centers"),
        (1, [5], "the start names row 5, but there are 5 samples"),
        (1, [-1], "the start names row -1"),
        (1, [2, 3, 2], "the start names 3 rows, but only 2 different ones"),
    ],
)
def test_what_cannot_be_chosen_is_refused(budget, start, message):
    with pytest.raises(UsageError, match=message):
        k_centers(line(0, 1, 2, 3, 4), budget, start=start)


def test_the_smallest_pools():
    assert k_centers(np.zeros((0, 3), np.float32), 0).order_K.tolist() == []
    assert k_centers(line(4), 1).order_K.tolist() == [0]
    assert k_centers(line(4), 0, start=[0]).cover_radius == 0
    assert k_centers(line(4, 6), 0, start=[0]).cover_radius == 2
    assert k_centers(line(4, 6), 0).cover_radius == np.inf
