"""`curate pack`: images and texts that are not in shards yet → shards, deterministic to the byte."""

from __future__ import annotations

import filecmp
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from curate import durable
from curate.errors import RunError, UsageError, did_you_mean
from curate.pool.labels import CLASSES
from curate.pool.packed import SOURCE, PackedFile, write_files
from curate.pool.readers import Listing, list_folder, list_table, read_classes
from curate.pool.sources import codec_of
from curate.pool.tar import printable
from curate.pool.texts import TEXT_EXTENSION
from curate.pool.writer import Sample, edges, write_shards
from curate.progress import Progress
from curate.samples import identities, shuffled


@dataclass(frozen=True)
class Request:
    """What `pack` is asked to do.

    Attributes:
        source: a folder of images or texts, a CSV, or the folder where a torchvision dataset lies.
        out: the shards' folder.
        reader: a name in `READERS`; empty to tell by the source.
        split: of a torchvision dataset; also the default of `prefix`.
        root: of a CSV's paths.
        classes: a file of class names by id.
        shuffle: order samples by a hash of their key and the seed, so that shards mix the classes.
    """

    source: Path
    out: Path
    reader: str = ""
    split: str = "train"
    prefix: str = ""
    codec: str = "tar"
    samples_per_shard: int = 5000
    root: Path | None = None
    classes: Path | None = None
    labelled: bool = True
    shuffle: bool = True
    seed: int = 0


@dataclass(frozen=True)
class Reader:
    """One row of the table of readers."""

    function: Callable[[Request], Listing]
    reads: str


def _folder(request: Request) -> Listing:
    if request.out.resolve().is_relative_to(request.source.resolve()):
        raise UsageError(f"{request.out} lies in {request.source}.", hint="The shards would be its next class.")
    return list_folder(request.source, read_classes(request.classes), labelled=request.labelled)


def _table(request: Request) -> Listing:
    return list_table(request.source, read_classes(request.classes), root=request.root)


def _torchvision(name: str) -> Callable[[Request], Listing]:
    def read(request: Request) -> Listing:
        from curate.proxy.torchvision_datasets import list_dataset

        return list_dataset(name, request.source, request.split)

    return read


READERS: dict[str, Reader] = {
    "folder": Reader(_folder, "a folder of images or texts, one subfolder a class"),
    "csv": Reader(_table, "a CSV of path or text, label and, if wanted, key"),
    "cifar10": Reader(_torchvision("cifar10"), "torchvision's CIFAR-10"),
    "cifar100": Reader(_torchvision("cifar100"), "torchvision's CIFAR-100"),
    "svhn": Reader(_torchvision("svhn"), "torchvision's SVHN"),
    "stl10": Reader(_torchvision("stl10"), "torchvision's STL-10"),
    "mnist": Reader(_torchvision("mnist"), "torchvision's MNIST"),
    "fashion_mnist": Reader(_torchvision("fashion_mnist"), "torchvision's Fashion-MNIST"),
    "kmnist": Reader(_torchvision("kmnist"), "torchvision's Kuzushiji-MNIST"),
    "qmnist": Reader(_torchvision("qmnist"), "torchvision's QMNIST"),
    "emnist_balanced": Reader(_torchvision("emnist_balanced"), "torchvision's EMNIST, balanced"),
    "emnist_letters": Reader(_torchvision("emnist_letters"), "torchvision's EMNIST, letters"),
    "emnist_byclass": Reader(_torchvision("emnist_byclass"), "torchvision's EMNIST, by class"),
    "usps": Reader(_torchvision("usps"), "torchvision's USPS"),
}


@dataclass(frozen=True)
class Packed:
    """What was written: `files = samples + skipped`; `kind` is what the samples are, image or text."""

    out: Path
    shards: int
    samples: int
    unlabelled: int
    classes: int
    skipped: Mapping[str, int]
    bytes: int
    is_new: bool
    kind: str


def pack(request: Request, progress: Progress) -> Packed:
    """Writes shards; nothing stands under `request.out` until they are whole.

    Raises:
        UsageError: the source cannot be read as asked.
        RunError: other files lie at `request.out`.
    """
    reader = READERS.get(name := _reader_name(request))
    if reader is None:
        raise UsageError(f"Unknown reader '{name}'.", hint=did_you_mean(name, READERS))
    if not request.source.exists():
        raise UsageError(f"{request.source}: no such file or folder.", hint=f"Expected {reader.reads}.")
    _check_prefix(request)
    listing = reader.function(request)
    order = _order(request, listing)
    progress.stage("pack", len(order), "samples")
    with durable.building(request.out) as build:
        shards = write_shards(
            build,
            request.prefix or ("shard" if name in ("folder", "csv") else request.split),
            _samples(listing, order, progress),
            total=len(order),
            samples_per_shard=request.samples_per_shard,
            codec=request.codec,
        )
        if listing.names:
            durable.write_bytes(build / CLASSES, _one_a_line(listing.names))
        if listing.folder is not None:
            write_files(build, listing.folder, _files(listing, order, shards, request.samples_per_shard))
        size = sum(path.stat().st_size for path in shards)
        is_new = _put_in_place(build, request.out)
    unlabelled = sum(label is None for label in listing.labels)
    ids = {label for label in listing.labels if label is not None}
    classes = len(listing.names) or len(ids)
    kind = "text" if listing.load(int(order[0]))[0] == TEXT_EXTENSION else "image"
    return Packed(request.out, len(shards), len(order), unlabelled, classes, listing.skipped, size, is_new, kind)


def _check_prefix(request: Request) -> None:
    if request.prefix != Path(request.prefix).name or request.prefix.startswith("."):
        raise UsageError(
            f"--prefix {printable(request.prefix)}: expected a plain name.", hint="Neither hidden nor with a slash."
        )


def _reader_name(request: Request) -> str:
    if request.reader:
        return request.reader
    if request.source.is_file() and codec_of(request.source.name):
        raise UsageError(f"{request.source} is a shard already.", hint="Give it to `curate index` or `curate score`.")
    return "csv" if request.source.suffix.lower() == ".csv" else "folder"


def _order(request: Request, listing: Listing) -> list[int]:
    if not request.shuffle:
        return list(range(len(listing.keys)))
    hash_N = shuffled(identities("", listing.keys), seed=request.seed)
    order: list[int] = np.argsort(hash_N, kind="stable").tolist()
    return order


def _samples(listing: Listing, order: list[int], progress: Progress) -> Iterator[Sample]:
    for done, place in enumerate(order):
        progress.at(done, listing.keys[place])
        extension, data = listing.load(place)
        label = listing.labels[place]
        yield listing.keys[place], {extension: data} | ({} if label is None else {"cls": str(label).encode()})
    progress.at(len(order), "")


def _files(
    listing: Listing, order: list[int], shards: Sequence[Path], samples_per_shard: int
) -> Iterator[tuple[str, list[PackedFile]]]:
    for path, (first, end) in zip(shards, pairwise(edges(len(order), samples_per_shard)), strict=True):
        places = order[first:end]
        yield path.name, [PackedFile(listing.keys[n], str(listing.paths[n]), listing.labels[n]) for n in places]


def _one_a_line(names: tuple[str, ...]) -> bytes:
    torn = [name for name in names if len(name.splitlines()) != 1]
    if torn:
        raise UsageError(
            f"The class name '{printable(torn[0])}' is empty or has several lines.", hint="Give it another name."
        )
    return "".join(f"{name}\n" for name in names).encode("utf-8", "backslashreplace")


def _put_in_place(build: Path, out: Path) -> bool:
    """Renames a built folder to `out`; leaves an identical one there as it is. Says whether it is new."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        if out.is_dir() and _is_same(build, out):
            _move_source(build / SOURCE, out / SOURCE)
            return False
        raise RunError(f"{out} exists and holds something else.", hint="Choose another folder, or delete that one.")
    durable.replace_folder(build, out)
    return True


def _move_source(new: Path, old: Path) -> None:
    """Records where the images lie now."""
    if new.exists() and new.read_bytes() != old.read_bytes():
        new.replace(old)


def _is_same(one: Path, other: Path) -> bool:
    names = sorted(path.name for path in one.iterdir())
    if names != sorted(path.name for path in other.iterdir()):
        return False
    return all(filecmp.cmp(one / name, other / name, shallow=False) for name in names if name != SOURCE)
