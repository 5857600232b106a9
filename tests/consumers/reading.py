"""What the tests of real readers share: pruning a pool, starting a reader, telling what it should read."""

import hashlib
import io
import json
import os
import sys
import tarfile
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from curate.cli import run

READERS = Path(__file__).parent / "readers"
Found = list[list[object]]


def pruned(pool: Path, out: Path, scores: dict[tuple[str, int], float], keep: int) -> Path:
    """Keeps the highest scores of a pool, through the command line; returns the manifest."""
    out.mkdir()
    shards, ordinals = zip(*scores, strict=True)
    table = pa.table({"shard": shards, "ordinal": ordinals, "score": list(scores.values())})
    pq.write_table(table, out / "scores.parquet")
    assert run(["index", str(pool), "--out", str(out / "index")]) == 0
    words = ["--scores", str(out / "scores.parquet"), "--index", str(out / "index"), "--fn", "score"]
    assert run(["prune", *words, "--keep", str(keep), "--out", str(out / "manifest")]) == 0
    return out / "manifest"


def surroundings(home: Path, **variables: str) -> dict[str, str]:
    """Returns an environment where `curate` is found, caches are the test's own and nothing is downloaded."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    own = {"PATH": path, "HOME": str(home), "HF_HOME": str(home / "hf"), "HF_HUB_OFFLINE": "1"}
    return {**os.environ, **own, "TMPDIR": os.environ.get("TMPDIR", "/tmp"), **variables}  # noqa: S108  (sockets want short paths)


def environment_of(name: str) -> Path:
    folder = os.environ.get("CURATE_CONSUMERS")
    if not folder:
        pytest.skip("CURATE_CONSUMERS names no folder that tests/consumers/environment.sh has filled")
    assert (Path(folder) / name).is_dir(), f"{folder} has no environment '{name}'"
    return Path(folder) / name


def parts_of(path: Path) -> dict[str, dict[str, str]]:
    """Returns digests by key and extension, read with the standard library's tarfile."""
    found: dict[str, dict[str, str]] = {}
    with tarfile.open(path) as tar:
        for member in tar:
            folder, _, base = member.name.rpartition("/")
            stem, _, extension = base.partition(".")
            data = tar.extractfile(member).read()  # type: ignore[union-attr]
            key = f"{folder}/{stem}" if folder else stem
            found.setdefault(key, {})[extension] = hashlib.sha256(data).hexdigest()
    return found


def in_order(found: Iterable[list[object]]) -> Found:
    return sorted(found, key=lambda sample: json.dumps(sample, sort_keys=True))


def without_keys(found: Found) -> Found:
    return in_order([None, parts] for _, parts in found)


def pixels_of(pool: Path, expected: Found) -> Found:
    """Returns the keys with digests of the decoded images, for readers that decode."""
    kept, found = {key for key, _ in expected}, []
    for path in sorted(pool.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                if member.name.endswith(".png") and member.name[:-4] in kept:
                    image = Image.open(io.BytesIO(tar.extractfile(member).read()))  # type: ignore[union-attr]
                    digest = hashlib.sha256(image.convert("RGB").tobytes()).hexdigest()
                    found.append([member.name[:-4], {"pixels": digest}])
    return in_order(found)
