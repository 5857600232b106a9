"""`curate export`: side files through which trainers read the kept samples of unchanged shards.

One literal table, name → what it writes and for whom. To add one: write a function, add a row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from curate import durable
from curate.errors import ManifestError, RunError, UsageError, did_you_mean
from curate.manifest import writers
from curate.manifest.lines import SOURCE, check_files, manifest_digest, read_lines, read_root
from curate.manifest.schema import load_head
from curate.manifest.sidecars import class_map
from curate.manifest.writers import Kept

CLASS_MAP = "class_map.json"


@dataclass(frozen=True)
class Export:
    """One row of the table.

    Attributes:
        write: (kept, folder to fill, folder that it becomes) → the lines to type into the trainer.
        reader: whom it is for.
        line: what it writes.
        caveats: what to know before.
    """

    write: Callable[[Kept, Path, Path], list[str]]
    reader: str
    line: str
    caveats: str


EXPORTS: dict[str, Export] = {
    "urls": Export(
        writers.urls, "webdataset, open_clip, timm",
        "urls.txt: pipe URLs, one a shard; environment.txt: the line that rewrites paths",
        "`curate` must be on the PATH of every worker",
    ),
    "timm": Export(
        writers.timm, "timm", "`_info.json` as `curate cat` answers it", "`curate` must be on the PATH of every worker",
    ),
    "dali": Export(
        writers.dali, "NVIDIA DALI", "links to the plain tars, and beside each an index of the kept samples alone",
        "plain tars only; a name in the index is percent-encoded",
    ),
    "energon": Export(
        writers.energon, "Megatron Energon",
        "links to the plain tars, an index of each, a split without what was dropped, a metadataset of it",
        "plain tars only; its `len()` counts the dropped too; `dataset.yaml` is the pool's or for crude samples",
    ),
    "wids": Export(
        writers.wids, "wids", "wids.json, whose shards are fetched through `curate cat`",
        "the cache holds a copy of the kept samples; wids ignores entries with names over 100 bytes",
    ),
    "hf": Export(
        writers.hf, "Hugging Face datasets", "README.md, whose configuration names the URLs of `curate serve`",
        "the server must run, at the port of the README; without `streaming` datasets copies the kept samples",
    ),
    "imagefolder": Export(
        writers.imagefolder, "torchvision, timm and other readers of class folders",
        "files.csv, links to the images, one folder a class, and classes.txt",
        "only of shards that `curate pack` made of a folder or a CSV, while the images are still there",
    ),
    "indices": Export(
        writers.indices, "any map-style dataset", "indices.npy: places in the pool, shards in order of their names",
        "only where the dataset has the same samples in the same order",
    ),
    "keys": Export(writers.keys, "scripts", "keys.txt: shard TAB key", "reads the headers of every source"),
    "parquet": Export(
        writers.parquet, "data frames", "kept.parquet: shard, ordinal, key", "reads the headers of every source",
    ),
    "datacomp": Export(
        writers.datacomp, "DataComp's resharder", "uids.npy, sorted", "keys must be 32 hexadecimal digits",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Exported:
    """What was written, and what to type into the trainer."""

    out: Path
    shards: int
    samples: int
    classes: int
    classes_kept: int
    lines: tuple[str, ...]


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
    check_files(folder)
    lines = tuple(line for line in read_lines(folder) if line.kept)
    if not lines:
        raise ManifestError(f"{folder} keeps no sample.", hint="An empty export would mislead a trainer.")
    base = (root or read_root(folder)).absolute()
    moved = not (folder / SOURCE).exists() or base != read_root(folder).absolute()
    kept = Kept(folder.absolute(), head, lines, base, moved=moved)
    out = (out or Path("exports") / f"{name}-{manifest_digest(folder)[:8]}").absolute()
    with durable.building(out) as build:
        words = EXPORTS[name].write(kept, build, out)
        classes = head.classes
        (build / CLASS_MAP).write_text(class_map(classes.kind, classes.names, classes.before, classes.after))
        _put_in_place(build, out)
    classes_kept = sum(count > 0 for count in classes.after)
    return Exported(out, len(lines), head.totals.kept, len(classes.before), classes_kept, tuple(words))


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
