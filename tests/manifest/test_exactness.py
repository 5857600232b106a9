"""Exact: the kept samples, each once, every byte as in the source."""

import io
import subprocess
import sys
import tempfile
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset as wds
from hypothesis import given, settings
from hypothesis import strategies as st
from tars import Entries, RandomTar, plain, prune_by, random_tars, samples_of

from curate.cli import run
from curate.manifest.lines import find_line, read_lines
from curate.manifest.materialize import materialize
from curate.manifest.serve import Served, in_background, make_server, urls_of
from curate.manifest.stream import copy_kept
from curate.pool.index import load_pool


@settings(max_examples=60, deadline=None)
@given(tar=random_tars(), data=st.data())
def test_cat_gives_webdataset_the_kept_samples_of_any_tar(tar: RandomTar, data: st.DataObject) -> None:
    expected = samples_of(plain(tar.data, tar.name))
    keep = data.draw(st.integers(2, max(2, len(expected))))
    with tempfile.TemporaryDirectory() as folder:
        pool, out = Path(folder) / "pool", Path(folder)
        pool.mkdir()
        (pool / tar.name).write_bytes(tar.data)
        if len(expected) < 2:
            return
        prune_by(tar.scores, pool, tar.name, keep, out)
        line = find_line(out / "manifest", tar.name)
        written = io.BytesIO()
        copy_kept(line, pool / tar.name, written.write)
    edges = np.cumsum(line.runs).tolist()
    kept = [place for first, end in zip(edges[::2], edges[1::2], strict=True) for place in range(first, end)]
    assert len(kept) == keep
    assert min(tar.scores[place] for place in kept) >= sorted(tar.scores, reverse=True)[keep - 1]
    assert samples_of(written.getvalue()) == [expected[place] for place in kept]


def piped(manifest: Path, shards: list[str]) -> list[Entries]:
    """Returns what an unchanged webdataset reads through the pipe."""
    urls = [f"pipe:{sys.executable} -m curate cat {manifest} {shard}" for shard in shards]
    return [
        {(sample["__key__"], name, value) for name, value in sample.items() if not name.startswith("__")}
        for sample in wds.WebDataset(urls, shardshuffle=False)
    ]


@pytest.mark.data
@pytest.mark.parametrize(("name", "pattern"), [("cifar10", "*.tar.zst"), ("imagenette", "*.tar")])
@pytest.mark.parametrize(
    "some", [slice(0, 2), pytest.param(slice(2, None), marks=pytest.mark.slow)], ids=["first", "others"]
)
def test_shards_of_a_real_dataset_are_exact(
    real_data: Path, tmp_path: Path, name: str, pattern: str, some: slice
) -> None:
    shards = sorted((real_data / name).glob(pattern))[some]
    assert run(["index", *map(str, shards), "--out", str(tmp_path / "index")]) == 0
    pool = load_pool(tmp_path / "index")
    total = pool.total
    places = [(scan.name, ordinal) for scan in pool.scans for ordinal in range(scan.samples)]
    scores = {"shard": [p[0] for p in places], "ordinal": [p[1] for p in places], "score": np.arange(total) % 7}
    pq.write_table(pa.table(scores), tmp_path / "scores.parquet")
    words = ["--scores", str(tmp_path / "scores.parquet"), "--index", str(tmp_path / "index"), "--fn", "score"]
    assert run(["prune", *words, "--keep", "0.5", "--out", str(tmp_path / "m")]) == 0
    result = materialize(tmp_path / "m", tmp_path / "out", sync=False)
    server = make_server(Served(tmp_path / "m"), "127.0.0.1", 0)
    in_background(server)
    count = 0
    shards_of = zip(read_lines(tmp_path / "m"), sorted((tmp_path / "out").glob("*.tar")), urls_of(server), strict=True)
    for line, shard, url in shards_of:
        source = samples_of(plain((real_data / name / line.name).read_bytes(), line.name))
        edges = np.cumsum(line.runs).tolist()
        kept = [source[n] for a, b in zip(edges[::2], edges[1::2], strict=True) for n in range(a, b)]
        command = [sys.executable, "-m", "curate", "cat", str(tmp_path / "m"), line.name]
        streamed = subprocess.run(command, capture_output=True, check=True).stdout
        assert samples_of(streamed) == kept
        assert shard.read_bytes() == streamed
        with urlopen(url) as answer:  # noqa: S310  (our own server)
            assert answer.read() == streamed
        count += len(kept)
    server.shutdown()
    server.server_close()
    assert count == result.samples == (total + 1) // 2
    assert len(piped(tmp_path / "m", [scan.name for scan in pool.scans])) == count
