"""Real readers, each in its own environment, read exactly the kept samples: each once, bytes equal.

See environment.sh. What is expected is told by the scores and the sources alone.
"""

import json
import shlex
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from conftest import png, write_tar
from reading import READERS, Found, environment_of, in_order, parts_of, pixels_of, pruned, surroundings, without_keys

from curate.cli import run
from curate.manifest.guide import CONSUMERS

pytestmark = pytest.mark.consumers
SHARDS, PER_SHARD, KEEP = 4, 12, 20
Read = Callable[..., Found]
REQUIREMENTS = Path(__file__).parent / "requirements"


@pytest.fixture(scope="session")
def big_pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    for shard in range(SHARDS):
        members = []
        for place in range(PER_SHARD):
            key, seed = f"s{shard}_{place:03d}", shard * PER_SHARD + place
            parts = {"png": png((90, 120, 150), seed, 16), "cls": str(seed % 4).encode(), "txt": key.encode()}
            members += [(f"{key}.{name}", data) for name, data in parts.items()]
        write_tar(folder / f"train-{shard:04d}.tar", members)
    return folder


@pytest.fixture(scope="session")
def big_scores() -> dict[tuple[str, int], float]:
    """Shard 1 and class 3 are pruned away whole."""
    draw = np.random.default_rng(1).random(SHARDS * PER_SHARD)
    return {
        (f"train-{n // PER_SHARD:04d}.tar", n % PER_SHARD): 0.0 if n // PER_SHARD == 1 or n % 4 == 3 else 1 + x
        for n, x in enumerate(draw.tolist())
    }


@pytest.fixture(scope="session")
def kept_manifest(
    big_pool: Path, big_scores: dict[tuple[str, int], float], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    return pruned(big_pool, tmp_path_factory.mktemp("kept") / "work", big_scores, KEEP)


@pytest.fixture(scope="session")
def expected(big_pool: Path, big_scores: dict[tuple[str, int], float]) -> Found:
    """The kept samples, told by scores and sources alone."""
    cut = sorted(big_scores.values())[-KEEP]
    found: Found = []
    for shard in sorted({name for name, _ in big_scores}):
        parts = parts_of(big_pool / shard)
        found += [[key, parts[key]] for n, key in enumerate(parts) if big_scores[shard, n] >= cut]
    assert len(found) == KEEP
    assert {str(key)[:2] for key, _ in found} == {"s0", "s2", "s3"}
    return found


@pytest.fixture(scope="session")
def materialized(kept_manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("materialized") / "out"
    assert run(["materialize", str(kept_manifest), str(out)]) == 0
    return out


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Runs a reader script in its environment and returns what it read, in order of the keys."""

    def read(environment: str, script: str, *words: object, **variables: str) -> Found:
        python = environment_of(environment) / "bin" / "python"
        command = [str(python), str(READERS / f"{script}.py"), *map(str, words)]
        done = subprocess.run(
            command, env=surroundings(tmp_path, **variables), cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return in_order(json.loads(line) for line in done.stdout.splitlines() if line.startswith("["))

    return read


def export(manifest: Path, name: str, out: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Returns the lines to type into the trainer."""
    capsys.readouterr()
    assert run(["export", str(manifest), "--to", name, "--out", str(out), "--json"]) == 0
    return list(json.loads(capsys.readouterr().out)["lines"])


@pytest.mark.parametrize("workers", [0, 2])
def test_webdataset_0_2(
    workers: int,
    kept_manifest: Path,
    expected: Found,
    read: Read,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    export(kept_manifest, "urls", tmp_path / "out", capsys)
    urls = (tmp_path / "out" / "urls.txt").read_text().splitlines()
    assert read("webdataset", "read_webdataset", 0, *urls) == expected
    if workers:
        assert read("open_clip", "read_webdataset", workers, *urls) == expected


def test_wids_through_commands(
    kept_manifest: Path, expected: Found, read: Read, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export(kept_manifest, "wids", tmp_path / "out", capsys)
    assert read("wids", "read_wids", tmp_path / "out" / "wids.json", tmp_path / "cache") == expected


def test_wids_never_takes_what_a_failed_command_left(
    kept_manifest: Path, big_pool: Path, read: Read, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its cache would hold a shard cut short, and it asks for nothing but that the file is there."""
    pool = tmp_path / "pool"
    shutil.copytree(big_pool, pool)
    words = ["export", str(kept_manifest), "--to", "wids", "--root", str(pool), "--out", str(tmp_path / "out")]
    assert run(words) == 0
    with (pool / "train-0000.tar").open("r+b") as file:
        file.truncate(file.seek(0, 2) - 512)
    for _ in range(2):
        with pytest.raises(AssertionError, match="is not the shard that was pruned"):
            read("wids", "read_wids", tmp_path / "out" / "wids.json", tmp_path / "cache")


def test_wids_of_materialized_shards(materialized: Path, expected: Found, read: Read, tmp_path: Path) -> None:
    assert read("wids", "read_wids", materialized / "wids.json", tmp_path / "cache") == expected


def test_wids_over_the_sources_through_indices(
    kept_manifest: Path,
    big_pool: Path,
    expected: Found,
    read: Read,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    export(kept_manifest, "indices", tmp_path / "out", capsys)
    shards = [{"url": str(path), "nsamples": PER_SHARD} for path in sorted(big_pool.glob("*.tar"))]
    index = {"__kind__": "wids-shard-index-v1", "wids_version": 1, "name": "whole", "shardlist": shards}
    (tmp_path / "whole.json").write_text(json.dumps(index))
    found = read("wids", "read_wids", tmp_path / "whole.json", tmp_path / "cache", tmp_path / "out" / "indices.npy")
    assert found == expected


@pytest.mark.parametrize("environment", ["dali", "dali_1"])
@pytest.mark.parametrize(("mmap", "ranks"), [("mmap", 1), ("read", 3)])
def test_dali_over_the_sources(
    environment: str,
    mmap: str,
    ranks: int,
    kept_manifest: Path,
    expected: Found,
    read: Read,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    export(kept_manifest, "dali", tmp_path / "out", capsys)
    found = read(environment, "read_dali", mmap, ranks, tmp_path / "out", "png", "cls", "txt")
    assert found == without_keys(expected)


@pytest.mark.parametrize("tar_format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_dali_and_energon_over_awkward_names(
    tar_format: int, read: Read, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Long names, spaces, folders, and a name that is not ASCII."""
    keys = ["a b/c d", "n0/" + "k" * 130, "plain", "ü/è", "last one"]
    parts = [(key, {"png": png((5, 60, 7), seed), "cls": b"0"}) for seed, key in enumerate(keys)]
    members = [(f"{key}.{name}", data) for key, sample in parts for name, data in sample.items()]
    write_tar(tmp_path / "pool" / "in" / "a b.tar", members, tar_format=tar_format)
    scores = {("a b.tar", n): float(n) for n in range(5)}
    manifest = pruned(tmp_path / "pool" / "in", tmp_path / "work", scores, 4)
    digests = parts_of(tmp_path / "pool" / "in" / "a b.tar")
    wanted = in_order([key, digests[key]] for key in keys[1:])
    export(manifest, "dali", tmp_path / "dali", capsys)
    assert read("dali", "read_dali", "mmap", 1, tmp_path / "dali", "png", "cls") == without_keys(wanted)
    export(manifest, "energon", tmp_path / "energon", capsys)
    assert read("energon", "read_energon", tmp_path / "energon", 0) == wanted


def test_dali_of_materialized_shards(materialized: Path, expected: Found, read: Read) -> None:
    assert read("dali", "read_dali", "mmap", 1, materialized, "png", "cls", "txt") == without_keys(expected)


@pytest.mark.parametrize("workers", [0, 2])
def test_energon_over_the_sources(
    workers: int,
    kept_manifest: Path,
    expected: Found,
    read: Read,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = export(kept_manifest, "energon", tmp_path / "out", capsys)
    assert read("energon", "read_energon", tmp_path / "out", workers) == expected
    metadataset = lines[1].rpartition("path: ")[2]
    assert read("energon", "read_energon", metadataset, workers) == expected


def test_energon_of_materialized_shards(materialized: Path, expected: Found, read: Read, tmp_path: Path) -> None:
    command = [environment_of("energon") / "bin" / "energon", "prepare", materialized]
    options = ["--non-interactive", "--split-ratio", "1,0,0", "--sample-type", "CrudeWebdataset", "--num-workers", "1"]
    subprocess.run([*command, *options], env=surroundings(tmp_path), check=True, stdout=subprocess.DEVNULL)
    assert read("energon", "read_energon", materialized, 0) == expected


def test_open_clip_through_urls(
    kept_manifest: Path,
    big_pool: Path,
    expected: Found,
    read: Read,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    export(kept_manifest, "urls", tmp_path / "out", capsys)
    urls = (tmp_path / "out" / "urls.txt").read_text().splitlines()
    wanted = pixels_of(big_pool, expected)
    assert read("open_clip", "read_open_clip", KEEP, 1, "::".join(urls)) == wanted
    name, _, value = (tmp_path / "out" / "environment.txt").read_text().partition("=")
    shards = [str(path) for path in sorted(big_pool.glob("*.tar")) if "0001" not in path.name]
    found = read("open_clip", "read_open_clip", KEEP, 1, "::".join(shards), **{name: shlex.split(value)[0]})
    assert found == wanted


def test_open_clip_of_materialized_shards(
    kept_manifest: Path, materialized: Path, big_pool: Path, expected: Found, read: Read, tmp_path: Path
) -> None:
    """It gives every worker the same number of samples: several workers need shards of equal counts."""
    assert run(["materialize", str(kept_manifest), str(tmp_path / "even"), "--shards", "4"]) == 0
    for folder, workers in ((materialized, 1), (tmp_path / "even", 2)):
        shards = "::".join(str(path) for path in sorted(folder.glob("*.tar")))
        assert read("open_clip", "read_open_clip", 0, workers, shards) == pixels_of(big_pool, expected)


@pytest.mark.parametrize("way", ["list", "glob", "folder"])
def test_datasets_of_materialized_shards(way: str, materialized: Path, expected: Found, read: Read) -> None:
    assert read("datasets", "read_datasets", way, materialized) == expected


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Callable[..., dict[str, object]]]:
    """Starts `curate serve` and returns what it says once it answers."""
    servers: list[subprocess.Popen[str]] = []

    def serving(*words: object) -> dict[str, object]:
        command = ["curate", "serve", *map(str, words), "--json"]
        servers.append(subprocess.Popen(command, env=surroundings(tmp_path), stdout=subprocess.PIPE, text=True))
        return dict(json.loads("".join(iter(servers[-1].stdout.readline, "}\n")) + "}"))  # type: ignore[union-attr]

    yield serving
    for server in servers:
        with server:
            server.terminate()


def test_datasets_streams_what_serve_serves(
    kept_manifest: Path, expected: Found, read: Read, serving: Callable[..., dict[str, list[str]]]
) -> None:
    assert read("datasets", "read_datasets", "stream", *serving(kept_manifest)["urls"]) == expected


def test_datasets_opens_the_exported_folder(
    kept_manifest: Path,
    expected: Found,
    read: Read,
    serving: Callable[..., dict[str, list[str]]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = shlex.split(export(kept_manifest, "hf", tmp_path / "out", capsys)[0])
    assert words[:2] + words[-1:] == ["curate", "serve", "&"]
    serving(*words[2:-1])
    assert read("datasets", "read_datasets", "streamed folder", tmp_path / "out") == expected
    assert read("datasets", "read_datasets", "folder", tmp_path / "out", HF_HUB_OFFLINE="0") == expected


def test_ray_of_materialized_shards(materialized: Path, expected: Found, read: Read) -> None:
    assert read("ray", "read_ray", materialized) == expected


def test_the_guide_names_the_versions_that_were_run() -> None:
    environments = {"open_clip": "open_clip", "NVIDIA DALI": "dali", "Megatron Energon": "energon", "wids": "wids"}
    environments |= {"Hugging Face datasets": "datasets", "Ray Data": "ray"}
    pins = {path.stem: path.read_text() for path in REQUIREMENTS.glob("*.txt")}
    pins["dali"] += pins["dali_1"]
    for row in CONSUMERS:
        for number, name in enumerate(row.trainer.split(", ")):
            if name in environments:
                assert all(f"=={version}" in pins[environments[name]] for version in row.version.split(", ")), row
            elif row.version != "0.2.86":
                version = row.version.split(", ")[number]
                assert metadata.version(name.replace("PyTorch", "torch")).partition("+")[0] == version, row
