"""Selection from parts: the order by its definition, wherever the cuts lie and however little is held."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.errors import ScoreError, UsageError
from curate.selection import radix
from curate.selection.radix import Parts, keys_of, take_first_of

FINITE = st.floats(allow_nan=False, allow_infinity=False, width=32)
LEVELS = st.sampled_from([-1.5, -0.0, 0.0, 0.25, 0.5, 3e8])


def column(array, sizes):
    cuts = np.split(array, np.cumsum(sizes)[:-1])
    return lambda part: cuts[part]


@st.composite
def pools(draw):
    sizes = draw(st.lists(st.integers(0, 30), min_size=1, max_size=5))
    size = sum(sizes)
    value = draw(st.sampled_from([FINITE, LEVELS]))
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    score, tie = (np.array(draw(st.lists(value, min_size=size, max_size=size)), dtype) for _ in range(2))
    identity = draw(st.lists(st.integers(0, 2**64 - 1), min_size=size, max_size=size, unique=True))
    eligible = np.array(draw(st.lists(st.booleans(), min_size=size, max_size=size)), bool)
    return sizes, score, tie, np.array(identity, np.uint64), eligible, draw(st.integers(0, int(eligible.sum())))


def unpacked(masks, sizes):
    return np.concatenate([np.unpackbits(bits, count=size) for bits, size in zip(masks, sizes, strict=True)])


@given(pools(), st.sampled_from(["hardest", "easiest"]), st.sampled_from([(1 << 16, 1 << 16), (2, 8), (1, 16)]))
@settings(max_examples=100, deadline=None)
def test_the_first_of_parts_are_the_first_of_the_definition(pool, order, limits):
    sizes, score, tie, identity, eligible, count = pool
    parts = Parts(sizes, column(score, sizes), column(tie, sizes), column(identity, sizes))
    masks = [np.packbits(mask) for mask in np.split(eligible, np.cumsum(sizes)[:-1])]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(radix, "GATHERED", limits[0])
        patch.setattr(radix, "CHUNK", limits[1])
        patch.setattr(radix, "SHARE_BITS", 60)
        first = unpacked(take_first_of(parts, count=count, order=order, eligible=masks), sizes)
    sign = -1 if order == "hardest" else 1
    rows = sorted(np.flatnonzero(eligible), key=lambda i: (sign * score[i], sign * tie[i], identity[i]))
    assert sorted(rows[:count]) == np.flatnonzero(first).tolist()


@given(st.lists(FINITE, min_size=2, max_size=2), st.sampled_from(["hardest", "easiest"]))
@settings(max_examples=100, deadline=None)
def test_keys_are_in_the_order_of_the_scores(values, order):
    for dtype in np.float32, np.float64:
        one, other = np.array(values, dtype)
        first, second = keys_of(np.array([one, other]), order)
        assert (first < second, first == second) == (
            (one > other) if order == "hardest" else (one < other),
            one == other,
        )


def test_equal_identities_are_told_apart_by_position():
    same = lambda size: lambda part: np.zeros(size[part])  # noqa: E731
    sizes = [3, 9, 2]
    parts = Parts(sizes, same(sizes), None, lambda part: np.zeros(sizes[part], np.uint64))
    assert unpacked(take_first_of(parts, count=5), sizes).tolist() == [1] * 5 + [0] * 9


def test_ties_are_read_only_where_scores_are_tied():
    read = []

    def tie(part):
        read.append(part)
        return np.arange(4.0)

    scores = [np.array([4.0, 3, 3, 2]), np.array([9.0, 8, 7, 6]), np.array([1.0, 3, 0, 0])]
    parts = Parts([4, 4, 4], scores.__getitem__, tie, lambda part: np.arange(4, dtype=np.uint64))
    first = take_first_of(parts, count=6)
    assert unpacked(first, [4, 4, 4]).tolist() == [1, 0, 1, 0, 1, 1, 1, 1, 0, 0, 0, 0]
    assert set(read) == {0, 2}


def test_what_cannot_be_taken_is_refused():
    parts = Parts([2], lambda part: np.array([1.0, np.nan]), None, lambda part: np.zeros(2, np.uint64))
    with pytest.raises(ScoreError, match="sample 1 of part 0 is nan"):
        take_first_of(parts, count=1)
    with pytest.raises(UsageError, match="3 samples cannot be taken out of 2"):
        take_first_of(parts, count=3)
    with pytest.raises(UsageError, match="unknown order 'worst'"):
        take_first_of(parts, count=1, order="worst")
    assert take_first_of(parts, count=1, eligible=[np.array([128], np.uint8)])[0].tolist() == [128]
