"""Stored or streamed: every sample once, the same pixels, in an order that the seed alone decides."""

from pathlib import Path

import numpy as np
import pytest
from conftest import BAD_KEY, PER_SHARD, SHARDS

from curate.pool.index import build_index
from curate.pool.labels import LabelSource
from curate.proxy.pixels import Shape, StoredPixels, batches_of
from curate.proxy.streaming import StreamedPixels, rebatched

SHAPE = Shape(8, 3)
BAD_ROW = PER_SHARD + 7


@pytest.fixture(scope="module")
def pool(pool_folder: Path, tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    return build_index([str(pool_folder)], tmp_path_factory.mktemp("index"), LabelSource())


def stored(pool, folder: Path | None = None) -> StoredPixels:  # type: ignore[no-untyped-def]
    store = StoredPixels(pool, SHAPE, folder=folder, threads=2)
    store.build(lambda done, name: None)
    return store


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more workers than cores, on purpose
@pytest.mark.parametrize("workers", [0, 1, 2, 5])
def test_a_streamed_epoch_has_every_sample_once_with_its_own_pixels(pool, workers: int) -> None:  # type: ignore[no-untyped-def]
    pixels = StreamedPixels(pool, SHAPE, workers=workers, shuffle_buffer=8)
    truth = stored(pool)
    rows = np.arange(SHARDS * PER_SHARD)
    epoch = list(pixels.epoch(rows, batch_size=5, seed=(1, 2)))
    seen = np.concatenate([rows_B for rows_B, _ in epoch])
    assert sorted(seen.tolist()) == [row for row in rows.tolist() if row != BAD_ROW]
    assert {len(rows_B) for rows_B, _ in epoch[:-1]} == {5}
    for rows_B, pixels_B in epoch:
        assert np.array_equal(pixels_B, truth.take(rows_B))
    again = np.concatenate([rows_B for rows_B, _ in pixels.epoch(rows, batch_size=5, seed=(1, 2))])
    other = np.concatenate([rows_B for rows_B, _ in pixels.epoch(rows, batch_size=5, seed=(1, 3))])
    assert np.array_equal(seen, again)
    assert not np.array_equal(seen, other)


def test_memory_disk_and_stream_give_the_same_pixels_in_order(pool, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    ways = [stored(pool), stored(pool, tmp_path / "pixels"), StreamedPixels(pool, SHAPE, workers=2, shuffle_buffer=8)]
    for index in range(SHARDS):
        found = [list(way.in_order(index, batch_size=6)) for way in ways]
        for one in found[1:]:
            assert [rows.tolist() for rows, _ in one] == [rows.tolist() for rows, _ in found[0]]
            assert all(np.array_equal(a, b) for (_, a), (_, b) in zip(one, found[0], strict=True))
    assert [[(bad.key, bad.ordinal) for bad in way.bad] for way in ways] == [[(BAD_KEY, 7)]] * 3


def test_a_store_on_disk_is_not_decoded_twice(pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    first = stored(pool, tmp_path)
    monkeypatch.setattr("curate.proxy.decoding.decode_square", None)
    again = stored(pool, tmp_path)
    rows = np.array([0, 5, 40])
    assert np.array_equal(first.take(rows), again.take(rows))
    assert again.bad == first.bad


@pytest.mark.parametrize("size", [1, 2, 5, 6, 7, 11, 16])
def test_no_batch_has_one_sample_unless_it_is_the_only_one(size: int) -> None:
    rows = np.arange(size)
    cut = batches_of(rows, 5)
    chunks = [(rows[at : at + 3], rows[at : at + 3].astype(np.uint8)) for at in range(0, size, 3)]
    streamed = [part for part, _ in rebatched(chunks, 5)]
    for batches in (cut, streamed):
        assert np.array_equal(np.concatenate(batches), rows)
        assert all(len(batch) > 1 for batch in batches) or size == 1
