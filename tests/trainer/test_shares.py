"""The arithmetic of sharing: everything once, runs that touch, equal counts where they are asked for."""

import random
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate.trainer.shares import pieces, rank_share, shuffled, worker_share

counts = st.lists(st.integers(1, 9), min_size=1, max_size=8)


@given(
    total=st.integers(1, 500), world_size=st.integers(1, 40), workers=st.integers(1, 12), batch_size=st.integers(1, 9)
)
def test_runs_of_ranks_and_workers_touch_and_cover_everything(
    total: int, world_size: int, workers: int, batch_size: int
) -> None:
    ranks = [rank_share(total, rank, world_size, "keep") for rank in range(world_size)]
    assert (ranks[0][0], ranks[-1][1]) == (0, total)
    assert all(one[1] == other[0] for one, other in pairwise(ranks))
    for first, end in ranks:
        shares = [worker_share(first, end, worker, workers, batch_size) for worker in range(workers)]
        assert (shares[0][0], shares[-1][1]) == (first, end)
        assert all(one[1] == other[0] for one, other in pairwise(shares))
        batches = sum(-(-(stop - start) // batch_size) for start, stop in shares)
        assert batches == -(-(end - first) // batch_size)


@pytest.mark.parametrize("remainder", ["drop", "pad"])
@given(total=st.integers(40, 500), world_size=st.integers(1, 40))
def test_equal_ranks_lose_or_repeat_less_than_one_sample_a_rank(remainder: str, total: int, world_size: int) -> None:
    ranks = [rank_share(total, rank, world_size, remainder) for rank in range(world_size)]  # type: ignore[arg-type]
    assert len({end - first for first, end in ranks}) == 1
    surplus = ranks[-1][1] - total
    assert (-world_size < surplus <= 0) if remainder == "drop" else (0 <= surplus < world_size)


@given(kept=counts, seed=st.integers(0, 99), data=st.data())
def test_pieces_are_the_run_of_the_line_and_begin_again_at_its_end(
    kept: list[int], seed: int, data: st.DataObject
) -> None:
    order = np.random.default_rng(seed).permutation(len(kept))
    line = [(int(shard), place) for shard in order for place in range(kept[shard])]
    first = data.draw(st.integers(0, 2 * len(line)))
    end = data.draw(st.integers(first, 3 * len(line)))
    found = [(p.line, place) for p in pieces(order, np.array(kept), first, end) for place in range(p.first, p.end)]
    assert found == [line[place % len(line)] for place in range(first, end)]


@given(size=st.integers(0, 30), total=st.integers(0, 60))
def test_a_shuffled_line_holds_everything_once_and_delays_none_but_by_the_buffer(size: int, total: int) -> None:
    found = list(shuffled(range(total), size, random.Random(0)))
    assert sorted(found) == list(range(total))
    assert all(item <= place + size for place, item in enumerate(found))
    assert found == list(range(total)) if not size else True
