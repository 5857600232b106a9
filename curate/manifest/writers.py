"""What each export writes, and the lines to type into the trainer. The table of them is in exports.py."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from curate.errors import UsageError
from curate.manifest.energon import BLEND, write_view
from curate.manifest.extents import kept_extents
from curate.manifest.image_folder import TABLE, TIMM, TREE, write_image_folder
from curate.manifest.layout import plain_names
from curate.manifest.lines import Line, fits_on_a_line, manifest_digest, read_lines
from curate.manifest.schema import Head
from curate.manifest.serve import url_path
from curate.manifest.sidecars import IndexEntry, ShardCount, dali_index, hf_readme, wids_index
from curate.manifest.stream import INFO, info, split_of
from curate.pool.labels import CLASSES
from curate.pool.scan import IMAGE_EXTENSIONS
from curate.pool.tar import printable

# What webdataset expands or cuts in a URL that is text: braces, `::`, and `#` or `?` of a path.
SPECIAL = re.compile(r"[{}#?\\]|::")
PORTS = range(20_000, 32_000)  # below those that systems give to clients


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


def urls(kept: Kept, build: Path, _out: Path) -> list[str]:
    commands = [f"pipe:{_cat(kept)} {shlex.quote(line.name)}" for line in kept.lines]
    _refuse(kept, "\n", "a line")
    (build / "urls.txt").write_text("".join(f"{url}\n" for url in commands), encoding="utf-8")
    lines = ['urls = open("urls.txt").read().splitlines()', "dataset = webdataset.WebDataset(urls, shardshuffle=100)"]
    braced = braces([line.name for line in kept.lines])
    if braced and not SPECIAL.search(_cat(kept)):
        lines.append(f"or, as one text: pipe:{_cat(kept)} {braced}")
    if ";" not in _cat(kept):  # which parts one rule from the next there
        rewrite = f"GOPEN_REWRITE={shlex.quote(_rewriting(f'{kept.root}/', f'pipe:{_cat(kept)} '))}"
        (build / "environment.txt").write_text(rewrite + "\n", encoding="utf-8")
        lines.append(f"or, for timm and open_clip with their usual paths: {rewrite}")
    return lines


def _rewriting(before: str, after: str) -> str:
    """Returns webdataset's rule for names that begin so: a pattern of regular expressions, `=`, a template of them."""
    pattern = re.escape(before).replace("=", r"\x3d").replace(";", r"\x3b")
    return pattern + "=" + after.replace("\\", r"\\")


def timm(kept: Kept, build: Path, _out: Path) -> list[str]:
    (build / INFO).write_text(info(kept.folder), encoding="utf-8")
    where = f"pipe:{_cat(kept)} /kept"
    return [f"python train.py --dataset wds/kept --data-dir {shlex.quote(where)} --train-split train -j 4"]


def dali(kept: Kept, build: Path, out: Path) -> list[str]:
    _refuse_compressed(kept, "DALI")
    found = set[str]()
    for line in kept.lines:
        source = kept.root / line.name
        extents = kept_extents(line, source)
        found.update(*(extent.extensions for extent in extents))
        samples = [
            [
                IndexEntry(extension, header.data, header.size, header.name)
                for header, extension in zip(extent.entries, extent.extensions, strict=True)
            ]
            for extent in extents
        ]
        link = build / line.name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(source.absolute())
        link.with_suffix(".idx").write_text(dali_index(samples), encoding="utf-8")
    return [
        f'paths = sorted(glob.glob("{out}/**/*.tar", recursive=True))',
        'index_paths = [path.removesuffix(".tar") + ".idx" for path in paths]',
        f"fn.readers.webdataset(paths=paths, index_paths=index_paths, ext={json.dumps(_outputs(found))})",
    ]


def _outputs(extensions: Collection[str]) -> list[str]:
    """Returns DALI's outputs: images are one, whatever their format; then each other extension."""
    images = sorted(name for name in extensions if name.lower() in IMAGE_EXTENSIONS)
    return [*([";".join(images)] if images else []), *sorted(set(extensions) - set(images))]


def energon(kept: Kept, build: Path, out: Path) -> list[str]:
    _refuse_compressed(kept, "Energon")
    write_view(kept.lines, kept.root, build)
    return [
        f'dataset = megatron.energon.get_train_dataset("{out}", worker_config=..., batch_size=...)',
        f"or, in a blend of several, as a metadataset: path: {out / BLEND}",
    ]


def wids(kept: Kept, build: Path, out: Path) -> list[str]:
    _refuse(kept, r"[#?\t\r\n]", "wids, which cuts URLs there")
    # The reader fills in {local} with str.format, so braces of our own are doubled.
    escape = str.maketrans({"{": "{{", "}": "}}"})
    digest = manifest_digest(kept.folder)[:8]
    shards = [
        ShardCount(
            _fetch(f"{_cat(kept)} {shlex.quote(line.name)}".translate(escape), f"{digest}-{n:06d}.tar"), line.kept
        )
        for n, line in enumerate(kept.lines)
    ]
    (build / "wids.json").write_text(wids_index("kept", shards), encoding="utf-8")
    return [f'dataset = wids.ShardListDataset("{out / "wids.json"}", cache_dir=CACHE)']


def _fetch(command: str, name: str) -> str:
    """Returns a URL that wids makes no other: absolute, else it is joined to the index's folder.

    Its cache goes by what follows the last slash, so that is a name; and it takes any file there for
    whole, so a command that fails leaves none.
    """
    return f'pipe:/usr/bin/env {command} > "{{local}}" || {{{{ rm -f "{{local}}"; false; }}}} && : /{name}'


def hf(kept: Kept, build: Path, out: Path) -> list[str]:
    port = PORTS[int(manifest_digest(kept.folder)[:8], 16) % len(PORTS)]
    base = f"http://127.0.0.1:{port}/"
    splits: dict[str, list[ShardCount]] = {}
    for line, name in zip(kept.lines, plain_names([line.name for line in kept.lines]), strict=True):
        url = base + url_path(manifest_digest(kept.folder), name)
        splits.setdefault(split_of(line.name), []).append(ShardCount(url, line.kept))
    (build / "README.md").write_text(hf_readme("kept", splits), encoding="utf-8")
    root = f" --root {shlex.quote(str(kept.root))}" if kept.moved else ""
    return [
        f"curate serve {shlex.quote(str(kept.folder))}{root} --port {port} &",
        f'dataset = datasets.load_dataset("{out}", split="{next(iter(splits))}", streaming=True)',
    ]


def imagefolder(kept: Kept, build: Path, out: Path) -> list[str]:
    tree = write_image_folder(kept.lines, kept.root, kept.head.classes, build)
    lines = [f"{out / TABLE}: one file a line: path, class id, key"]
    if sorted(tree.names) == tree.names:
        lines.append(f'dataset = torchvision.datasets.ImageFolder("{out / TREE}", allow_empty=True)')
    if tree.extensions <= TIMM:
        lines.append(f"python train.py --data-dir {out / TREE} --train-split '' --class-map {out / CLASSES}")
    return lines


def indices(kept: Kept, build: Path, out: Path) -> list[str]:
    np.save(build / "indices.npy", _all_indices(kept))
    return [f'dataset = torch.utils.data.Subset(dataset, numpy.load("{out / "indices.npy"}"))']


def keys(kept: Kept, build: Path, out: Path) -> list[str]:
    with (build / "keys.txt").open("w", encoding="utf-8", errors="surrogateescape", newline="\n") as file:
        for line, key, _ in _samples(kept):
            if not fits_on_a_line(line.name, key):
                raise UsageError(f"The key '{printable(key)}' does not fit on a line.", hint="Use --to parquet.")
            file.write(f"{line.name}\t{key}\n")
    return [f"{out / 'keys.txt'}: one sample a line, shard TAB key"]


def parquet(kept: Kept, build: Path, out: Path) -> list[str]:
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


def datacomp(kept: Kept, build: Path, out: Path) -> list[str]:
    keys = [key for _, key, _ in _samples(kept)]
    uids = [key.rpartition("/")[2] for key in keys]
    wrong = [key for key, uid in zip(keys, uids, strict=True) if not re.fullmatch(r"[0-9a-f]{32}", uid)]
    if wrong:
        raise UsageError(
            f"The key '{printable(wrong[0])}' is no uid.", hint="DataComp names samples by 32 hexadecimal digits."
        )
    uid_K = np.array([(int(uid[:16], 16), int(uid[16:], 16)) for uid in uids], np.dtype("u8,u8"))
    uid_K.sort()
    np.save(build / "uids.npy", uid_K)
    return [f"python resharder.py -s {out / 'uids.npy'} -i SHARDS -o OUT"]


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


def _refuse(kept: Kept, pattern: str, what: str) -> None:
    torn = [name for name in (_cat(kept), *(line.name for line in kept.lines)) if re.search(pattern, name)]
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
