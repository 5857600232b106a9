"""Seconds of `curate materialize` at keep 0.5, beside `cp` of everything, GNU tar and webdataset's own writer.

Run: python -m benchmarks materialize

    materialize          without waiting for the disk        cp               all shards
    materialize + sync   as it is by default                 cp + sync        and `sync` of each
    webdataset           WebDataset, select, TarWriter   GNU tar          kept entries out, and into a new tar
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.arms import Arm, drop_shards, timed
from benchmarks.suite import LIMIT, OURS, Benchmark, Case, Setting, Target, compared
from curate.cli import run
from curate.manifest.lines import read_lines
from curate.pool.writer import write_shards

WEBDATASET = """
import json, sys, pathlib, time, webdataset as wds
source, out, manifest = sys.argv[1:]
started = time.perf_counter()
from curate.manifest.lines import read_lines
for line in read_lines(pathlib.Path(manifest)):
    kept, at = set(), 0
    for skip, take in zip(line.runs[::2], line.runs[1::2]):
        kept.update(range(at + skip, at + skip + take)); at += skip + take
    with wds.TarWriter(f"{out}/{line.name}") as sink:
        for place, sample in enumerate(wds.WebDataset(f"{source}/{line.name}", shardshuffle=False)):
            if place in kept:
                sink.write({name: sample[name] for name in sample if name == "__key__" or name[:2] != "__"})
print(json.dumps({"without_imports": time.perf_counter() - started}))
"""


TOUCH = """
import sys
pages = bytearray(int(sys.argv[1]))
for place in range(0, len(pages), 4096): pages[place] = 1
"""


def make_manifest(folder: Path, shards: int, samples: int, kib: int) -> None:
    """Writes shards of noise, an index, random scores, and a manifest that keeps half."""
    noise = np.random.default_rng(0).bytes(kib * 2048)
    keyed = (
        (f"{n:08d}", {"jpg": noise[n * 37 % (kib * 1024) :][: kib * 1024], "cls": b"0"})
        for n in range(shards * samples)
    )
    paths = write_shards(folder / "pool", "train", keyed, total=shards * samples, samples_per_shard=samples)
    places = [(path.name, ordinal) for path in paths for ordinal in range(samples)]
    columns = {"shard": [p[0] for p in places], "ordinal": [p[1] for p in places]}
    pq.write_table(pa.table(columns), folder / "scores.parquet")
    assert run(["index", str(folder / "pool"), "--out", str(folder / "index")]) == 0
    words = ["--scores", str(folder / "scores.parquet"), "--index", str(folder / "index"), "--fn", "random"]
    assert run(["prune", *words, "--keep", "0.5", "--out", str(folder / "manifest")]) == 0


def by_tar(folder: Path) -> str:
    """Returns the commands of GNU tar: the kept entries out of each shard, and into a new one."""
    lists = folder / "lists"
    lists.mkdir()
    for line in read_lines(folder / "manifest"):
        at, names = 0, []
        first = int(line.name.removesuffix(".tar").rpartition("-")[2]) * line.samples
        for skip, take in zip(line.runs[::2], line.runs[1::2], strict=True):
            names += [f"{first + n:08d}.{kind}" for n in range(at + skip, at + skip + take) for kind in ("jpg", "cls")]
            at += skip + take
        (lists / line.name).write_text("\n".join(names) + "\n")
    return (
        f"mkdir {folder}/out; for s in {folder}/pool/*.tar; do n=$(basename $s); mkdir {folder}/loose; "
        f"tar -xf $s -C {folder}/loose -T {lists}/$n && tar -cf {folder}/out/$n -C {folder}/loose -T {lists}/$n; "
        f"rm -r {folder}/loose; done"
    )


def bench(setting: Setting) -> list[Case]:
    samples = 50 if setting.quick else 1000
    cases = []
    for name, kib, shards, count in (
        ("images", 110, 30, samples), ("small images", 50, 80, samples), ("tiny images", 4, 20, 5 * samples),
    ):  # fmt: skip
        shards = 2 if setting.quick else shards
        folder = setting.folder / str(kib)
        folder.mkdir()
        with contextlib.redirect_stdout(io.StringIO()):
            make_manifest(folder, shards, count, kib)
        size = sum(path.stat().st_size for path in (folder / "pool").iterdir())
        what = f"{name} of {kib} KiB, {size / 1e9:.2f} GB in {shards} shards, keep 0.5"
        cases += cases_of(folder, what, kib, setting.repeats)
        shutil.rmtree(folder)
    return cases


def cases_of(folder: Path, what: str, kib: int, repeats: int) -> list[Case]:
    """Returns what writing kept samples takes, beside copies where files are large and peers where they are small."""
    pool, manifest, out = folder / "pool", folder / "manifest", folder / "out"
    ours = [sys.executable, "-m", "curate"]

    size = sum(path.stat().st_size for path in pool.iterdir())

    def fresh() -> None:
        """Touches as much memory as `cp` will: new pages cost a virtual machine several times what used ones do."""
        shutil.rmtree(out, ignore_errors=True)
        os.sync()
        subprocess.run([sys.executable, "-c", TOUCH, str(size)], check=True)

    def arm(*command: object) -> Arm:
        return timed(*command, before=fresh)

    def cold() -> None:
        fresh()
        drop_shards(pool)

    def sh(command: str) -> Arm:
        return arm("sh", "-c", command)

    unsynced = {OURS: arm(*ours, "materialize", manifest, out, "--no-sync"), LIMIT: arm("cp", "-r", pool, out)}
    synced = {
        OURS: arm(*ours, "materialize", manifest, out),
        LIMIT: sh(f"cp -r {pool} {out} && sync {out}/*"),
    }
    each = f"for s in {pool}/*.tar; do %s $s >/dev/null; done"
    read = {OURS: sh(each % f"{sys.executable} -m curate cat {manifest}"), LIMIT: sh(each % "cat")}
    peers = {
        "GNU tar": sh(by_tar(folder)),
        "webdataset": sh(f"mkdir {out} && {sys.executable} -c '{WEBDATASET}' {pool} {out} {manifest}"),
    }
    is_large, note = kib > 100, "limit: `cp` of all shards; memory touched before each arm"
    if not is_large:  # the same bytes would take peers minutes
        unsynced |= peers if kib < 50 else {"webdataset": peers["webdataset"]}
        note += "; webdataset: a script of its own reader and TarWriter, the whole process, as ours"
    aims = [Target("webdataset", 10)] * (not is_large) + [Target(LIMIT, 1 / 0.6)] * (kib >= 50)
    cases = [compared(f"{what}, unsynced", "s", unsynced, repeats=repeats, targets=aims, note=note)]
    if peer := cases[0].measured.get("webdataset"):
        cases[0].note += f" ({peer.also['without_imports']:.2f} s without its imports)"
    if is_large:
        stored = {name: replace(arm, before=cold) for name, arm in unsynced.items()}
        cases += [
            compared(f"{what}, unsynced, from storage", "s", stored, repeats=repeats, targets=[],
                     note=note + "; the shards' pages dropped from the cache before each run"),
            compared(f"{what}, synced", "s", synced, repeats=repeats, targets=[Target(LIMIT, 1 / 0.7)],
                     note=note + ", then `sync` of each"),
            compared(f"{what}, `curate cat` of each shard", "s", read, repeats=repeats, targets=[],
                     note="limit: `cat` of all shards; a process for each shard in both"),
        ]  # fmt: skip
    shutil.rmtree(out, ignore_errors=True)
    return cases


BENCHMARK = Benchmark(
    bench,
    "The kept samples as new shards, and through the pipe.",
    needs_gib=9,
    why="Ours counts its start-up of 0.24 s and the headers of each sample; `cp` in memory does neither.",
)
