"""`curate export`: side files through which trainers read the kept samples of unchanged shards.

One literal table, name → what it writes and for whom. To add one: write a function, add a row.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from curate import durable
from curate.errors import ManifestError, RunError, UsageError, did_you_mean
from curate.manifest.energon import write_view
from curate.manifest.lines import Line, manifest_digest, read_lines, read_root
from curate.manifest.materialize import kept_extents
from curate.manifest.schema import Head, load_head
from curate.manifest.sidecars import IndexEntry, ShardCount, class_map, dali_index, wids_index
from curate.manifest.stream import INFO, info
from curate.pool.tar import printable, split_key

CLASS_MAP = "class_map.json"
GUIDE = """# How trainers read the kept samples

The table is generated from the program; do not edit.

Five ways, by what a trainer accepts:

1. A command in place of a file: `pipe:curate cat MANIFEST SHARD`. Nothing is copied, and a source that
   changed ends the reading with an error instead of a short shard.
2. A URL in place of a file: `curate serve MANIFEST` prints one for each shard (loopback, ranges, ETags).
3. A small side file beside the unchanged shards: `curate export MANIFEST --to NAME`, below.
4. New shards: `curate materialize MANIFEST OUT`, one to one or of equal counts (`--shards K`), with
   `_info.json` (timm), `sizes.json` (open_clip), `wids.json`, an `.idx` for DALI beside each shard,
   a README for Hugging Face datasets, `urls.txt` and `class_map.json`.
5. In code: `curate.KeptStream(MANIFEST)`, a torch dataset and a first stage for webdataset's pipelines, dealt by
   sample to ranks and workers, shuffled by seed and epoch, resumable (`state_dict`); and `curate.KeptSamples(MANIFEST)`
   by number, for any sampler, where the shards are plain tars. Neither reads what was dropped from a plain tar.

| `--to` | for | writes | know before | proof |
|---|---|---|---|---|
{rows}

What to know of any of them:

- **Epoch length.** A trainer that was told the number of samples needs the new one: `curate verify`
  prints it, and `_info.json` and `sizes.json` hold it.
- **More workers than shards.** webdataset raises; timm's starved workers yield nothing and say nothing.
- **Uneven ranks.** Pruning makes shards uneven. `curate materialize --shards K` makes them equal again
  (counts differ by one at most); choose a K that the number of ranks times workers divides.
- **Classes.** Ids are never renumbered, also where a class is pruned away; `class_map.json` says so.
- **Caches by file name.** New shards carry a digest of the manifest in their names, so that a cache never
  hands out the source for them.
- `WDS_SECURE=1` forbids `pipe:` in webdataset; then materialize.
"""
# What webdataset expands or cuts in a URL that is text: braces, `::`, and `#` or `?` of a path.
SPECIAL = re.compile(r"[{}#?\\]|::")


@dataclass(frozen=True)
class Kept:
    """What an export sees of a manifest.

    Attributes:
        folder: the manifest, absolute.
        lines: those of the shards that keep anything.
        root: where the sources lie.
        moved: they lie elsewhere than where they were pruned.
    """

    folder: Path
    head: Head
    lines: tuple[Line, ...]
    root: Path
    moved: bool


@dataclass(frozen=True)
class Export:
    """One row of the table.

    Attributes:
        write: (kept, folder to fill, folder that it becomes) → the lines to type into the trainer.
        reader: whom it is for.
        line: what it writes.
        caveats: what to know before.
        proof: the test that reads it with the real reader and finds exactly the kept samples, or what is missing.
    """

    write: Callable[[Kept, Path, Path], list[str]]
    reader: str
    line: str
    caveats: str
    proof: str


def _urls(kept: Kept, build: Path, _out: Path) -> list[str]:
    commands = [f"pipe:{_cat(kept)} {shlex.quote(line.name)}" for line in kept.lines]
    _refuse(kept, "\n", "a line")
    (build / "urls.txt").write_text("".join(f"{url}\n" for url in commands), encoding="utf-8")
    lines = ['urls = open("urls.txt").read().splitlines()', "dataset = webdataset.WebDataset(urls, shardshuffle=True)"]
    braced = braces([line.name for line in kept.lines])
    if braced and not SPECIAL.search(_cat(kept)):
        lines.append(f"or, as one text: pipe:{_cat(kept)} {braced}")
    rewrite = f"GOPEN_REWRITE={shlex.quote(f'{kept.root}/=pipe:{_cat(kept)} ')}"
    (build / "environment.txt").write_text(rewrite + "\n", encoding="utf-8")
    lines.append(f"or, for timm and open_clip with their usual paths: {rewrite}")
    return lines


def _timm(kept: Kept, build: Path, _out: Path) -> list[str]:
    (build / INFO).write_text(info(kept.folder), encoding="utf-8")
    where = f"pipe:{_cat(kept)} /kept"
    return [f"python train.py --dataset wds/kept --data-dir {shlex.quote(where)} --train-split train -j 4"]


def _dali(kept: Kept, build: Path, out: Path) -> list[str]:
    _refuse_compressed(kept, "DALI")
    for line in kept.lines:
        source = kept.root / line.name
        samples = [
            [IndexEntry((split_key(h.name) or ("", ""))[1], h.data, h.size, h.name) for h in extent.entries]
            for extent in kept_extents(line, source)
        ]
        link = build / line.name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(source.absolute())
        link.with_suffix(".idx").write_text(dali_index(samples), encoding="utf-8")
    return [
        f'paths = sorted(glob.glob("{out}/**/*.tar", recursive=True))',
        'index_paths = [path.removesuffix(".tar") + ".idx" for path in paths]',
        'fn.readers.webdataset(paths=paths, index_paths=index_paths, ext=["jpg", "cls"])',
    ]


def _energon(kept: Kept, build: Path, out: Path) -> list[str]:
    _refuse_compressed(kept, "Energon")
    write_view(kept.lines, kept.root, build)
    return [f'dataset = megatron.energon.get_train_dataset("{out}", worker_config=..., batch_size=...)']


def _wids(kept: Kept, build: Path, out: Path) -> list[str]:
    # The reader fills in {local} with str.format, so braces of our own are doubled.
    escape = str.maketrans({"{": "{{", "}": "}}"})
    shards = [
        ShardCount(f"pipe:{_cat(kept)} {shlex.quote(line.name)}".translate(escape) + " > {local}", line.kept)
        for line in kept.lines
    ]
    (build / "wids.json").write_text(wids_index("kept", shards), encoding="utf-8")
    return [f'dataset = wids.ShardListDataset("{out / "wids.json"}", cache_dir=CACHE)']


def _indices(kept: Kept, build: Path, out: Path) -> list[str]:
    np.save(build / "indices.npy", _all_indices(kept))
    return [f'dataset = torch.utils.data.Subset(dataset, numpy.load("{out / "indices.npy"}"))']


def _keys(kept: Kept, build: Path, out: Path) -> list[str]:
    with (build / "keys.txt").open("w", encoding="utf-8", errors="surrogateescape", newline="\n") as file:
        for line, key, _ in _samples(kept):
            if "\n" in key or "\t" in key:
                raise UsageError(f"The key '{printable(key)}' does not fit on a line.", hint="Use --to parquet.")
            file.write(f"{line.name}\t{key}\n")
    return [f"{out / 'keys.txt'}: one sample a line, shard TAB key"]


def _parquet(kept: Kept, build: Path, out: Path) -> list[str]:
    rows = list(_samples(kept))
    table = pa.table(
        {
            "shard": pa.array([line.name for line, _, _ in rows]).dictionary_encode(),
            "ordinal": pa.array([ordinal for _, _, ordinal in rows], pa.int64()),
            "key": pa.array([_shown(key) for _, key, _ in rows]),
        }
    )  # fmt: skip
    pq.write_table(table, build / "kept.parquet")
    return [f"{out / 'kept.parquet'}: shard, ordinal, key"]


def _shown(key: str) -> str:
    """Returns a key as the index stores it: bytes that are not UTF-8 are escaped."""
    return key.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _datacomp(kept: Kept, build: Path, out: Path) -> list[str]:
    keys = [key.rpartition("/")[2] for _, key, _ in _samples(kept)]
    wrong = [key for key in keys if not re.fullmatch(r"[0-9a-f]{32}", key)]
    if wrong:
        raise UsageError(
            f"The key '{printable(wrong[0])}' is no uid.", hint="DataComp names samples by 32 hexadecimal digits."
        )
    uids = np.array([(int(key[:16], 16), int(key[16:], 16)) for key in keys], np.dtype("u8,u8"))
    uids.sort()
    np.save(build / "uids.npy", uids)
    return [f"python resharder.py -s {out / 'uids.npy'} -i SHARDS -o OUT"]


EXPORTS: dict[str, Export] = {
    "urls": Export(
        _urls, "webdataset, timm, open_clip", "pipe URLs, one a shard; the environment line that rewrites paths",
        "`curate` must be on the PATH of every worker; at most as many workers as shards",
        "exact: webdataset 1.0 in a list, as one text, through GOPEN_REWRITE; open_clip itself: not run",
    ),
    "timm": Export(
        _timm, "timm", "`_info.json` as `curate cat` answers it",
        "at most as many workers as shards: timm's starved workers yield nothing and say nothing",
        "exact: timm 1.0 `create_dataset`; its train.py: not run",
    ),
    "dali": Export(
        _dali, "NVIDIA DALI", "links to the plain tars, and beside each an index of the kept samples alone",
        "plain tars only; a name in the index is percent-encoded",
        "every range holds its entry; DALI itself: not run",
    ),
    "energon": Export(
        _energon, "Megatron Energon", "links to the plain tars, an index of each, a split without what was dropped",
        "plain tars only; its `len()` counts the dropped too; `dataset.yaml` is the pool's or for crude samples",
        "not run",
    ),
    "wids": Export(
        _wids, "wids", "an index whose shards are fetched through `curate cat`",
        "the cache holds a copy of the kept samples; its tar reader ignores names over 100 bytes",
        "the commands fill the cache exactly; wids itself: not run",
    ),
    "indices": Export(
        _indices, "any map-style dataset", "indices.npy: places in the pool, shards in order of their names",
        "only where the dataset has the same samples in the same order",
        "the same samples as `keys`",
    ),
    "keys": Export(
        _keys, "scripts", "keys.txt: shard TAB key", "reads the headers of every source", "exact against the tars",
    ),
    "parquet": Export(
        _parquet, "data frames", "kept.parquet: shard, ordinal, key", "reads the headers of every source",
        "the same samples as `keys`",
    ),
    "datacomp": Export(
        _datacomp, "DataComp's resharder", "uids.npy, sorted", "keys must be 32 hexadecimal digits",
        "the uids of the kept keys, sorted; the resharder itself: not run",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Exported:
    """What was written, and what to type into the trainer."""

    out: Path
    shards: int
    samples: int
    lines: tuple[str, ...]


def guide() -> str:
    """Returns docs/consumers.md, made from the table."""
    rows = "\n".join(
        f"| `{name}` | {row.reader} | {row.line} | {row.caveats} | {row.proof} |" for name, row in EXPORTS.items()
    )
    return GUIDE.format(rows=rows)


def export(folder: Path, name: str, out: Path | None, *, root: Path | None = None) -> Exported:
    """Writes one export; it appears whole or not at all. `class_map.json` lies beside it.

    Raises:
        UsageError: an unknown export, or one that cannot say what this manifest keeps.
        ManifestError: nothing is kept, or a source is not what was pruned.
        RunError: something else lies at `out`.
    """
    if name not in EXPORTS:
        raise UsageError(f"Unknown export '{name}'.", hint=did_you_mean(name, EXPORTS))
    head = load_head(folder)
    lines = tuple(line for line in read_lines(folder) if line.kept)
    if not lines:
        raise ManifestError(f"{folder} keeps no sample.", hint="An empty export would mislead a trainer.")
    base = (root or read_root(folder)).absolute()
    kept = Kept(folder.absolute(), head, lines, base, moved=base != read_root(folder).absolute())
    out = (out or Path("exports") / f"{name}-{manifest_digest(folder)[:8]}").absolute()
    build = out.parent / f".{out.name}.{os.getpid()}.tmp"
    out.parent.mkdir(parents=True, exist_ok=True)
    durable.remove_leftovers(out.parent)
    build.mkdir()
    try:
        words = EXPORTS[name].write(kept, build, out)
        classes = head.classes
        (build / CLASS_MAP).write_text(class_map(classes.kind, classes.names, classes.before, classes.after))
        _put_in_place(build, out)
    finally:
        shutil.rmtree(build, ignore_errors=True)
    return Exported(out, len(lines), head.totals.kept, tuple(words))


def _put_in_place(build: Path, out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        if out.is_dir() and _files(build) == _files(out):
            return
        raise RunError(f"{out} exists and holds something else.", hint="Choose another --out, or delete it.")
    durable.replace_folder(build, out)


def _files(folder: Path) -> dict[str, bytes | str]:
    """Returns what lies in a folder at any depth: the bytes of files, the targets of links."""
    paths = sorted(path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    return {
        str(path.relative_to(folder)): str(path.readlink()) if path.is_symlink() else path.read_bytes()
        for path in paths
    }


def _cat(kept: Kept) -> str:
    """Returns the command that a shard's name completes."""
    root = f"--root {shlex.quote(str(kept.root))} " if kept.moved else ""
    return f"curate cat {root}{shlex.quote(str(kept.folder))}"


def _refuse_compressed(kept: Kept, reader: str) -> None:
    for line in kept.lines:
        if line.codec != "tar":
            raise UsageError(
                f"{printable(line.name)}: {reader} cannot seek in compressed shards.", hint="Use `curate materialize`."
            )


def _refuse(kept: Kept, text: str, what: str) -> None:
    torn = [line.name for line in kept.lines if text in line.name or text in str(kept.folder)]
    if torn:
        raise UsageError(f"'{printable(torn[0])}' does not fit on {what}.", hint="Rename the shard or the manifest.")


def braces(names: list[str]) -> str | None:
    """Returns the brace pattern that stands for exactly these names, None where there is none."""
    parts = [re.fullmatch(r"(.*?)(\d+)(\D*)", name, re.DOTALL) for name in names]
    found = [part.groups() for part in parts if part]
    if len(found) != len(names) or len({(head, len(digits), tail) for head, digits, tail in found}) != 1:
        return None
    numbers = [int(digits) for _, digits, _ in found]
    head, digits, tail = found[0]
    is_plain = shlex.quote(head + tail) == head + tail and not SPECIAL.search(head + tail)
    if not is_plain or numbers != list(range(numbers[0], numbers[0] + len(numbers))):
        return None
    return f"{head}{{{digits}..{found[-1][1]}}}{tail}"


def _all_indices(kept: Kept) -> NDArray[np.int64]:
    """Returns places over the whole pool, also counting the shards that keep nothing."""
    first, parts = 0, []
    for line in read_lines(kept.folder):
        edges = np.cumsum(line.runs) + first
        parts += [np.arange(begin, end) for begin, end in zip(edges[::2], edges[1::2], strict=True)]
        first += line.samples
    return np.concatenate(parts).astype(np.int64)


def _samples(kept: Kept) -> Iterator[tuple[Line, str, int]]:
    """Yields (line, key, ordinal) of every kept sample. Cost: the headers of every source."""
    for line in kept.lines:
        edges = np.cumsum(line.runs).tolist()
        ordinals = [n for begin, end in zip(edges[::2], edges[1::2], strict=True) for n in range(begin, end)]
        extents = kept_extents(line, kept.root / line.name)
        for extent, ordinal in zip(extents, ordinals, strict=True):
            yield line, extent.key, ordinal
