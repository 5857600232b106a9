"""The kept samples in a trainer's own code: each once, whoever reads, in whatever order."""

import copy
import errno
import gc
import gzip
import itertools
import os
import pickle
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import webdataset as wds
from conftest import toy_members, write_tar
from hypothesis import given, settings
from hypothesis import strategies as st
from tars import RandomTar, contents, kept_keys, plain, prune_by, random_tars, samples_of
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

import curate
from curate.cli import run
from curate.errors import ManifestError, ShardError, UsageError
from curate.manifest.lines import find_line, read_lines

PLAIN, MIXED = ["tar", "tar", "tar"], ["tar", "tar.gz", "tar.zst"]
# Five workers are asked for on purpose: more than there are shards, or cores.
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")
as_list = {"collate_fn": list}


def entries_of(sample: dict[str, Any]) -> set[tuple[str, str, bytes]]:
    return {(sample["__key__"], name, data) for name, data in sample.items() if not name.startswith("__")}


def key(sample: dict[str, Any]) -> str:
    return str(sample["__key__"])


def keys(samples: Any) -> list[str]:
    return [key(sample) for sample in samples]


@pytest.fixture(params=[PLAIN, MIXED], ids=["plain", "mixed"])
def manifest(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A manifest that keeps 7 of 48 samples, in three shards of plain or mixed codecs."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    import zstandard

    encode = {"tar": bytes, "tar.gz": gzip.compress, "tar.zst": zstandard.ZstdCompressor().compress}
    names = [f"t-{shard}.{codec}" for shard, codec in enumerate(request.param)]
    for shard, (name, codec) in enumerate(zip(names, request.param, strict=True)):
        write_tar(tmp_path / "plain.tar", toy_members(shard))
        (tmp_path / "pool").mkdir(exist_ok=True)
        (tmp_path / "pool" / name).write_bytes(encode[codec]((tmp_path / "plain.tar").read_bytes()))
    columns = {"shard": [n for n in names for _ in range(16)], "ordinal": [*range(16)] * 3}
    scores = [float(place in (1, 2, 9, 16, 30, 40, 47)) for place in range(48)]
    pq.write_table(pa.table({**columns, "score": scores}), tmp_path / "scores.parquet")
    assert run(["index", str(tmp_path / "pool"), "--out", str(tmp_path / "index")]) == 0
    words = ["--scores", str(tmp_path / "scores.parquet"), "--index", str(tmp_path / "index"), "--fn", "score"]
    assert run(["prune", *words, "--keep", "7", "--out", str(tmp_path / "manifest")]) == 0
    return tmp_path / "manifest"


KEPT = ["s0_01", "s0_02", "s0_09", "s1_00", "s1_14", "s2_08", "s2_15"]


@settings(max_examples=40, deadline=None)
@given(tar=random_tars(), data=st.data())
def test_both_datasets_read_of_any_tar_what_webdataset_reads_of_the_kept(tar: RandomTar, data: st.DataObject) -> None:
    samples = samples_of(plain(tar.data, tar.name))
    if len(samples) < 2:
        return
    keep = data.draw(st.integers(2, len(samples)))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "pool").mkdir()
        (folder / "pool" / tar.name).write_bytes(tar.data)
        prune_by(tar.scores, folder / "pool", tar.name, keep, folder)
        runs = find_line(folder / "manifest", tar.name).runs
        flags = itertools.chain.from_iterable([i % 2 == 1] * n for i, n in enumerate(runs))
        expected = [sample for sample, is_kept in zip(samples, flags, strict=False) if is_kept]
        stream = curate.KeptStream(folder / "manifest")
        assert len(stream) == keep
        assert [entries_of(sample) for sample in stream] == expected
        if tar.name.endswith(".tar"):
            by_number = curate.KeptSamples(folder / "manifest")
            order = data.draw(st.permutations(range(keep)))
            assert [entries_of(by_number[n]) for n in order] == [expected[n] for n in order]
            assert entries_of(by_number[-1]) == expected[-1]
            with pytest.raises(IndexError):
                by_number[keep]
        else:
            with pytest.raises(UsageError, match="compressed"):
                curate.KeptSamples(folder / "manifest")


@pytest.mark.parametrize("workers", [0, 2, 5])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_every_sample_comes_once_however_many_workers(manifest: Path, workers: int, batch_size: int) -> None:
    stream = curate.KeptStream(manifest, shuffle=3, batch_size=batch_size)
    loader = DataLoader(stream, batch_size=batch_size, num_workers=workers, **as_list)
    batches = list(loader)
    assert sorted(keys(itertools.chain(*batches))) == KEPT
    assert len(batches) == len(loader)


def everyones(manifest: Path, world_size: int, workers: int, **more: Any) -> list[list[str]]:
    ranks = [
        curate.KeptStream(manifest, rank=rank, world_size=world_size, shuffle=2, **more) for rank in range(world_size)
    ]
    found = [
        keys(itertools.chain(*DataLoader(stream, batch_size=2, num_workers=workers, **as_list))) for stream in ranks
    ]
    assert [len(stream) for stream in ranks] == [len(own) for own in found]
    return found


@pytest.mark.parametrize(("world_size", "workers"), [(2, 2), (3, 0), (9, 0)])
def test_ranks_share_the_samples_each_once(manifest: Path, world_size: int, workers: int) -> None:
    found = everyones(manifest, world_size, workers)
    assert sorted(itertools.chain(*found)) == KEPT
    assert max(map(len, found)) - min(map(len, found)) <= 1


@pytest.mark.parametrize(("remainder", "each"), [("drop", 2), ("pad", 3)])
def test_ranks_can_be_made_equal(manifest: Path, remainder: str, each: int) -> None:
    found = everyones(manifest, 3, 0, remainder=remainder)
    assert [len(own) for own in found] == [each] * 3
    flat = list(itertools.chain(*found))
    assert len(set(flat)) == (7 if remainder == "pad" else 6)
    # What is dropped differs by epoch: in the long run every sample is seen.
    seen = set()
    for epoch in range(12):
        for rank in range(3):
            stream = curate.KeptStream(manifest, rank=rank, world_size=3, shuffle=2, remainder="drop")
            stream.set_epoch(epoch)
            seen |= set(keys(stream))
    assert sorted(seen) == KEPT


def test_more_ranks_than_twice_the_samples_pad_evenly_and_cannot_drop(manifest: Path) -> None:
    found = everyones(manifest, 16, 0, remainder="pad")
    assert [len(own) for own in found] == [1] * 16
    assert set(itertools.chain(*found)) == set(KEPT)
    with pytest.raises(UsageError, match="leave none"):
        len(curate.KeptStream(manifest, rank=0, world_size=16, remainder="drop"))


def test_epochs_differ_and_come_back(manifest: Path) -> None:
    stream = curate.KeptStream(manifest, shuffle=4, seed=1)
    orders = []
    for epoch in (0, 1, 2, 0):
        stream.set_epoch(epoch)
        orders.append(keys(stream))
    assert orders[0] == orders[3]
    assert len({tuple(order) for order in orders[:3]}) == 3
    assert keys(curate.KeptStream(manifest, shuffle=4, seed=1)) == orders[0]
    assert keys(curate.KeptStream(manifest, shuffle=4, seed=2)) != orders[0]
    assert keys(curate.KeptStream(manifest)) == KEPT


def test_workers_that_live_on_hear_of_the_epoch(manifest: Path) -> None:
    stream = curate.KeptStream(manifest, shuffle=4)
    loader = DataLoader(stream, batch_size=None, num_workers=2, persistent_workers=True)
    orders = []
    for epoch in (0, 1, 2, 0):
        stream.set_epoch(epoch)
        orders.append(keys(loader))
    assert [sorted(order) for order in orders] == [KEPT] * 4
    assert orders[0] == orders[3]
    assert len({tuple(order) for order in orders}) == 3


@pytest.mark.parametrize("taken", [0, 3, 7])
def test_a_stream_goes_on_where_its_state_says(manifest: Path, taken: int) -> None:
    stream = curate.KeptStream(manifest, shuffle=4)
    stream.set_epoch(5)
    whole = keys(stream)
    iterator = iter(stream)
    assert keys(itertools.islice(iterator, taken)) == whole[:taken]
    state = stream.state_dict() if taken else {"epoch": 5, "taken": 0}
    other = curate.KeptStream(manifest, shuffle=4)
    other.load_state_dict(state)
    assert keys(other) == whole[taken:]
    assert keys(other) == whole


def test_only_the_epoch_that_was_broken_off_goes_on_in_the_middle(manifest: Path) -> None:
    """Workers that start anew with every epoch know what was said before."""
    stream = curate.KeptStream(manifest, shuffle=4)
    stream.load_state_dict({"epoch": 0, "taken": 2})
    loader = DataLoader(stream, num_workers=2, **as_list)
    found = []
    for epoch in range(3):
        stream.set_epoch(epoch)
        found.append(sorted(key(sample) for [sample] in loader))
    assert len(found[0]) < len(KEPT)
    assert found[1:] == [KEPT] * 2


@pytest.mark.slow
@pytest.mark.parametrize("dataset", ["stream", "samples"])
def test_spawned_workers_read_the_same(toy_manifest: Path, pool_folder: Path, dataset: str) -> None:
    stream = curate.KeptStream(toy_manifest, shuffle=3, decode=key)
    source = stream if dataset == "stream" else curate.KeptSamples(toy_manifest, decode=key)
    loader = DataLoader(
        source, batch_size=4, num_workers=2, multiprocessing_context="spawn", persistent_workers=True, **as_list
    )
    orders = []
    for epoch in range(2):
        stream.set_epoch(epoch)
        orders.append(list(itertools.chain(*loader)))
    assert [sorted(order) for order in orders] == [sorted(kept_keys(toy_manifest, pool_folder))] * 2
    assert (orders[0] != orders[1]) == (dataset == "stream")


def test_copies_read_the_same(toy_manifest: Path) -> None:
    samples = curate.KeptSamples(toy_manifest)
    first = samples[0]
    samples.prepare()
    assert pickle.loads(pickle.dumps(samples))[0] == copy.deepcopy(samples)[0] == first  # noqa: S301  (our own)
    stream = curate.KeptStream(toy_manifest, shuffle=5)
    assert keys(pickle.loads(pickle.dumps(stream))) == keys(stream)  # noqa: S301  (our own)


@pytest.fixture
def rank_1_of_3() -> Iterator[None]:
    from torch.testing._internal.distributed.fake_pg import FakeStore

    torch.distributed.init_process_group("fake", rank=1, world_size=3, store=FakeStore())
    yield
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def test_the_process_group_says_which_rank_reads(toy_manifest: Path, request: pytest.FixtureRequest) -> None:
    stream, explicit = (
        curate.KeptStream(toy_manifest),
        curate.KeptStream(toy_manifest, rank=1, world_size=3),
    )
    assert len(stream) == 24
    early = pickle.dumps(stream)
    request.getfixturevalue("rank_1_of_3")
    assert keys(stream) == keys(explicit)
    assert len(stream) == 8
    assert keys(itertools.chain(*DataLoader(stream, batch_size=2, num_workers=2, **as_list))) != []
    # A dataset that was pickled before the group began asks when it is used; one pickled later knows.
    assert keys(pickle.loads(early)) == keys(explicit)  # noqa: S301  (our own)
    late = pickle.dumps(stream)
    torch.distributed.destroy_process_group()
    assert keys(pickle.loads(late)) == keys(explicit)  # noqa: S301  (our own)


def test_the_stream_is_a_first_stage_for_webdataset(toy_manifest: Path, pool_folder: Path) -> None:
    stream = curate.KeptStream(toy_manifest, shuffle=100)
    pipeline = wds.DataPipeline(stream, wds.shuffle(5), wds.decode("pil"), wds.to_tuple("__key__", "png", "cls"))
    rows = list(wds.WebLoader(pipeline, num_workers=2, batch_size=None))
    files = {name: data for path in pool_folder.glob("*.tar") for name, data in contents(path).items()}
    assert sorted(row[0] for row in rows) == sorted(kept_keys(toy_manifest, pool_folder))
    assert all(image.size == (8, 8) and label == int(files[f"{name}.cls"]) for name, image, label in rows)
    fluid = wds.FluidWrapper(curate.KeptStream(toy_manifest)).decode("pil").to_tuple("cls")
    assert len(list(fluid)) == 24


def test_any_sampler_works_with_the_samples_by_number(toy_manifest: Path, pool_folder: Path) -> None:
    samples = curate.KeptSamples(toy_manifest, decode=key)
    expected = sorted(kept_keys(toy_manifest, pool_folder))
    loader = DataLoader(samples, batch_size=5, shuffle=True, num_workers=2, **as_list)
    assert sorted(itertools.chain(*loader)) == expected
    ranks = [DistributedSampler(samples, num_replicas=3, rank=rank, seed=4) for rank in range(3)]
    assert sorted(samples[number] for rank in ranks for number in rank) == expected
    assert sorted(samples) == expected


def test_of_plain_tars_nothing_but_kept_samples_is_read(toy_manifest: Path, pool_folder: Path, tmp_path: Path) -> None:
    """Everything that was dropped becomes rubbish, but for the first header, which names the shard."""
    before = [entries_of(sample) for sample in curate.KeptStream(toy_manifest)]
    for line in read_lines(toy_manifest):
        data = (pool_folder / line.name).read_bytes()
        rubbish = bytearray(data[:512] + b"\xff" * (len(data) - 512))
        at = 0
        for gap, length in zip(line.ranges[::2], line.ranges[1::2], strict=True):
            at += gap * 512
            rubbish[at : at + length * 512] = data[at : at + length * 512]
            at += length * 512
        (tmp_path / line.name).write_bytes(rubbish)
    assert [entries_of(sample) for sample in curate.KeptStream(toy_manifest, root=tmp_path)] == before
    assert [entries_of(sample) for sample in curate.KeptSamples(toy_manifest, root=tmp_path)] == before


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="this system cannot be asked to read ahead")
@pytest.mark.parametrize("is_refused", [False, True])
def test_kept_samples_are_asked_for_once_an_epoch_and_nothing_else(
    toy_manifest: Path, monkeypatch: pytest.MonkeyPatch, is_refused: bool
) -> None:
    asked: dict[str, set[int]] = {}
    advise = os.posix_fadvise

    def posix_fadvise(number: int, start: int, size: int, advice: int) -> None:
        blocks = asked.setdefault(Path(f"/proc/self/fd/{number}").readlink().name, set())
        wanted = set(range(start, start + size, 512))
        assert not blocks & wanted
        blocks |= wanted
        if is_refused:
            raise OSError(errno.EINVAL, "no advice is taken here")
        advise(number, start, size, advice)

    monkeypatch.setattr(os, "posix_fadvise", posix_fadvise)
    kept = {line.name: {at for span in line.spans() for at in range(*span, 512)} for line in read_lines(toy_manifest)}
    stream = curate.KeptStream(toy_manifest, shuffle=3)
    for epoch in range(2):  # in the second the place of each sample is known
        asked.clear()
        stream.set_epoch(epoch)
        assert len(list(stream)) == 24
        assert asked == kept


def test_a_part_of_a_shard_is_asked_for_by_who_reads_it(toy_manifest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By size alone, before any header is read: a part may reach a sample over its borders."""
    asked: list[tuple[str, int]] = []
    monkeypatch.setattr(os, "posix_fadvise", lambda number, start, size, _: asked.append((start, size)))
    parts = []
    for rank in range(24):
        list(curate.KeptStream(toy_manifest, rank=rank, world_size=24))
        parts.append(sum(size for _, size in asked))
        asked.clear()
    whole = sum(line.kept_bytes for line in read_lines(toy_manifest))
    assert min(parts) > 0
    assert max(parts) < whole / 2


@pytest.mark.parametrize("shuffle", [0, 3])
def test_what_was_taken_before_is_neither_read_nor_asked_for(
    toy_manifest: Path, pool_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shuffle: int
) -> None:
    shutil.copytree(pool_folder, tmp_path / "moved")
    stream = curate.KeptStream(toy_manifest, root=tmp_path / "moved", shuffle=shuffle)
    expected = [entries_of(sample) for sample in stream]
    asked: list[int] = []
    monkeypatch.setattr(os, "posix_fadvise", lambda _number, _start, size, _advice: asked.append(size))
    fresh = curate.KeptStream(toy_manifest, root=tmp_path / "moved", shuffle=shuffle)
    fresh.load_state_dict({"epoch": 0, "taken": 22})
    if not shuffle:
        for path in sorted((tmp_path / "moved").iterdir())[:2]:
            path.unlink()
    assert [entries_of(sample) for sample in fresh] == expected[22:]
    if not shuffle:
        assert sum(asked) < sum(line.kept_bytes for line in read_lines(toy_manifest)) / 6


def test_a_stream_that_is_dropped_leaves_no_file_open(toy_manifest: Path, pool_folder: Path) -> None:
    def still_open() -> int:
        links = [link.resolve().parent for link in Path("/proc/self/fd").iterdir() if link.exists()]
        return links.count(pool_folder.resolve())

    before = still_open()
    gc.disable()
    try:
        for _ in range(5):
            list(curate.KeptStream(toy_manifest))
        assert still_open() == before
    finally:
        gc.enable()


@pytest.mark.parametrize("times", [3, 99])
def test_a_read_that_fails_in_passing_is_tried_again(
    toy_manifest: Path, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    monkeypatch.setattr("curate.pool.sources.WAITS_SECONDS", (0.0, 0.0, 0.0))
    samples = curate.KeptSamples(toy_manifest)
    expected = entries_of(samples[5])
    read, failures = os.pread, iter(range(times))

    def pread(number: int, size: int, at: int) -> bytes:
        if next(failures, None) is not None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return read(number, size, at)

    monkeypatch.setattr(os, "pread", pread)
    if times == 3:
        assert entries_of(samples[5]) == expected
    else:
        with pytest.raises(ShardError, match=r"toy-\d+\.tar: cannot be read \(Input/output error\)"):
            samples[5]


@pytest.mark.parametrize("damage", ["missing", "size", "header", "later"])
def test_a_changed_source_is_an_error(manifest: Path, tmp_path: Path, damage: str) -> None:
    stream = curate.KeptStream(manifest, root=tmp_path / "moved")
    shutil.copytree(tmp_path / "pool", tmp_path / "moved")
    if damage == "later":  # after the place of everything is known already
        list(stream)
    for path in (tmp_path / "moved").iterdir():
        if damage == "missing":
            path.unlink()
        elif damage == "header" and path.suffix == ".tar":
            write_tar(path, [(f"x{name}", data) for name, data in toy_members(int(path.name[2]))])
        else:
            path.write_bytes(path.read_bytes()[:-512])
    if damage == "later":
        stream = pickle.loads(pickle.dumps(stream))  # noqa: S301  (our own; opens its files anew)
    with pytest.raises(ManifestError, match="cannot be read" if damage == "missing" else "not the shard"):
        list(stream)


def test_another_manifest_in_its_place_is_an_error(manifest: Path, tmp_path: Path) -> None:
    stream = curate.KeptStream(manifest)
    words = ["--scores", str(tmp_path / "scores.parquet"), "--index", str(tmp_path / "index"), "--fn", "score"]
    assert run(["prune", *words, "--keep", "8", "--out", str(manifest), "--force"]) == 0
    with pytest.raises(ManifestError, match="changed while it was read"):
        list(stream)


@pytest.mark.parametrize(
    "arguments",
    [
        {"rank": 1},
        {"world_size": 2},
        {"rank": 2, "world_size": 2},
        {"remainder": "x"},
        {"shuffle": -1},
        {"batch_size": 0},
    ],
)
def test_arguments_that_do_not_fit_are_refused(toy_manifest: Path, arguments: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        curate.KeptStream(toy_manifest, **arguments)
