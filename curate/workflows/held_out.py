"""What accuracy is measured on: samples held out of training, and shards that are only reported on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import nn

from curate.errors import UsageError
from curate.manifest.algebra import kept_mask
from curate.manifest.lines import read_lines
from curate.manifest.origin import check_pool
from curate.manifest.verify import load_whole
from curate.pool.classes import Classes
from curate.pool.index import Pool, build_index
from curate.pool.label_tables import unmatched
from curate.pool.shards import find_shards
from curate.pool.tar import printable
from curate.proxy.pixels import Pixels, Rows, rows_of
from curate.proxy.plan import Plan
from curate.proxy.predict import measured
from curate.samples import shuffled, uniform
from curate.scores import INDEX
from curate.workflows.run import Run
from curate.workflows.setting import open_pixels

RowArray = NDArray[np.int64]
HOLD_OUT = 0x686F6C64  # nobody's seed: by the same hash `random` keeps, under its own
Validate = Callable[[nn.Module], float]


@dataclass(frozen=True)
class HeldOut:
    """Labelled rows of some pixels; `fingerprint` is that of shards beside the pool."""

    pixels: Pixels
    rows_K: RowArray
    fingerprint: str = ""

    @property
    def good_K(self) -> RowArray:
        """The rows that no decoder has found bad so far."""
        return self.rows_K[~self.pixels.rows.is_bad_N[self.rows_K]]


def split(run: Run, pixels: Pixels) -> tuple[RowArray, HeldOut | None]:
    """Returns the rows to train on and what `--val` names, both within the manifest that `--within` names.

    A fraction holds out labelled samples by the hash of their identity, not by position, and the same ones
    whatever the recipe's seed: what one training is steered by must not train another. Shards of the
    pool are held out whole. Shards beside the pool hold out nothing: training sees the whole pool.

    Raises:
        UsageError: a fraction out of range, shards partly in the pool, nothing left to train on.
    """
    train_K, val_K = split_rows(run, pixels.rows)
    if val_K is None:
        return train_K, other_shards(run, "val") if run.request.val else None
    return train_K, HeldOut(pixels, val_K)


def split_rows(run: Run, rows: Rows) -> tuple[RowArray, RowArray | None]:
    """Returns the rows to train on, and those of the pool that are held out; None where `--val` names none of it."""
    labelled_K = labelled_within(run, rows, run.request.within)
    if not run.request.val:
        return labelled_K, None
    fraction = val_fraction(run.request.val)
    if fraction is not None:
        held_N = uniform(shuffled(_identities(run), seed=HOLD_OUT)) < fraction
    else:
        places = _places(run, run.request.val)
        if not places:
            return labelled_K, None
        held_N = np.zeros(len(rows), dtype=np.bool_)
        for place in places:
            held_N[rows.offset_S[place] : rows.offset_S[place + 1]] = True
    train_K, val_K = labelled_K[~held_N[labelled_K]], labelled_K[held_N[labelled_K]]
    if not len(train_K) or not len(val_K):
        what = "no sample to train on" if len(val_K) else "no labelled sample to measure on"
        raise UsageError(f"--val {' '.join(run.request.val)} leaves {what}.", hint="Such as --val 0.1.")
    if run.request.within:
        _check_learned(run, rows, train_K, f"{run.request.within} without what --val holds out")
    return train_K, val_K


def validation(run: Run, val: HeldOut | None, plan: Plan) -> Validate | None:
    """Returns what measures a network on what is held out, where training is steered by that."""
    if val is None or not plan.train.needs_val:
        return None
    batch_size = run.request.recipe.score.batch_size

    def accuracy(model: nn.Module) -> float:
        return measured(plan, [(0, model)], val.pixels, val.good_K, batch_size=batch_size).together

    return accuracy


def labelled_within(run: Run, rows: Rows, folder: Path | None) -> RowArray:
    """Returns the labelled rows, of those that a manifest keeps where one is named.

    Raises:
        UsageError: the manifest keeps none of some class.
    """
    labelled_K = labelled(rows)
    if folder is None:
        return labelled_K
    inside_K = np.intersect1d(labelled_K, kept_rows(folder, rows), assume_unique=True)
    _check_learned(run, rows, inside_K, str(folder))
    return inside_K


def _check_learned(run: Run, rows: Rows, train_K: RowArray, what: str) -> None:
    """A class that has no sample to train on would not be learned, and nobody would notice."""
    lost = np.setdiff1d(rows.label_N[labelled(rows)], rows.label_N[train_K])
    if len(lost):
        names = dict(enumerate(run.pool.classes.names))
        shown = [f"'{printable(names[one])}'" if names.get(one) else str(one) for one in lost[:5].tolist()]
        more = ", …" if len(lost) > len(shown) else ""
        raise UsageError(
            f"{what} keeps no labelled sample of class {', '.join(shown)}{more}: it would not be learned.",
            hint="Keep more: a larger --keep, --initial or first of --schedule, in another --out. Or choose by class, "
            "with --per-class or --min-per-class of prune, --first-per-class of build-up.",
        )


def kept_rows(manifest: Path, rows: Rows) -> RowArray:
    """Returns the rows that a manifest keeps, rising, read from its lines."""
    place = {shard.name: number for number, shard in enumerate(rows.shards)}
    parts = [np.flatnonzero(kept_mask(line)) + rows.offset_S[place[line.name]] for line in read_lines(manifest)]
    return np.sort(np.concatenate(parts))


def labelled(rows: Rows) -> RowArray:
    """Returns the rows that can be trained on: with a label, and not known to be bad."""
    return np.flatnonzero((rows.label_N >= 0) & ~rows.is_bad_N)


def val_fraction(val: Sequence[str]) -> float | None:
    """Returns the fraction that `--val` gives, None where it names shards."""
    try:
        fraction = float(val[0])
    except ValueError:
        return None
    if len(val) > 1 or not 0 < fraction < 1:
        raise UsageError(
            f"--val {' '.join(val)}: expected one fraction between 0 and 1, or shards.", hint="Such as --val 0.1."
        )
    return fraction


def _identities(run: Run) -> NDArray[np.uint64]:
    return np.concatenate([run.pool.read(i, ["identity"])["identity"].to_numpy() for i in range(len(run.pool.scans))])


def _places(run: Run, sources: Sequence[str]) -> list[int]:
    """Returns the places in the pool of the shards that are named; empty if none of them is in it."""
    place_of = {run.pool.shard(i).path.resolve(): i for i in range(len(run.pool.scans))}
    paths = [shard.path.resolve() for shard in find_shards(sources).shards]
    places = [place_of[path] for path in paths if path in place_of]
    if places and len(places) != len(paths):
        raise UsageError(
            f"{len(places)} of the {len(paths)} shards that {sources[0]} … names are in the pool, the others are not.",
            hint="--val takes shards of the pool, held out of training, or shards beside it; --test only the latter.",
        )
    return places


def check_others(run: Run) -> str:
    """Refuses what `--val`, `--test` and `--within` cannot be, before anything is decoded or trained.

    Returns the fingerprint of the test shards, empty where none are named.

    Raises:
        ManifestError: `--within` is damaged, or of another pool.
        UsageError: it leaves out a class; or as `other_shards`.
    """
    request = run.request
    if request.within:
        check_pool(run.pool, request.within, load_whole(request.within))
    if request.within or request.val:
        split_rows(run, rows_of(run.pool))
    if request.val and val_fraction(request.val) is None and not _places(run, request.val):
        _other_pool(run, "val")
    return _other_pool(run, "test").fingerprint if request.test else ""


def other_shards(run: Run, name: str) -> HeldOut:
    """Returns the labelled samples of the shards that `--val` or `--test` names, beside the pool.

    Raises:
        UsageError: they have classes that the pool has not, or hold shards of the pool.
    """
    pool = _other_pool(run, name)
    pixels = open_pixels(pool, run.setting, run.request.recipe, run.request.out / name / "pixels", run.progress)
    return HeldOut(pixels, labelled(pixels.rows), pool.fingerprint)


def _other_pool(run: Run, name: str) -> Pool:
    request = run.request
    sources = request.val if name == "val" else request.test
    if _places(run, sources):
        raise UsageError(
            f"--{name} names shards of the pool: what was trained on says nothing about what was learned.",
            hint="Name other shards.",
        )
    index = request.out / name / INDEX
    pool = build_index(sources, index, request.labels, skip_faults=request.skip_faults, copied=request.copied)
    unmatched(pool, request.labels, some=False)  # labels that changed since it was indexed
    _check_copies(pool, run.pool, name)
    _check_classes(pool.classes, run.pool.classes, name)
    return replace(pool, classes=run.pool.classes)  # a name means the same class on both sides


def _check_copies(found: Pool, known: Pool, name: str) -> None:
    """Refuses shards of the pool under other names or in other folders."""
    name_of = {(scan.bytes, scan.digest): scan.name for scan in known.scans}
    for scan in found.scans:
        if same := name_of.get((scan.bytes, scan.digest)):
            raise UsageError(
                f"--{name}: {scan.name} holds the samples of {same}, a shard of the pool: what was trained on says "
                "nothing about what was learned.",
                hint="Name other shards.",
            )


def _check_classes(found: Classes, known: Classes, name: str) -> None:
    if found.kind == known.kind == "name":
        unknown = sorted(set(found.names) - set(known.names))
        what = f"the class '{printable(unknown[0])}'" if unknown else ""
    elif found.kind != known.kind:
        what = f"labels of the kind '{found.kind}'"
    else:
        what = f"{found.num_classes} classes" if found.num_classes > known.num_classes else ""
    if what:
        raise UsageError(
            f"The --{name} shards have {what}, which the pool ({known.num_classes} classes by {known.kind}) has not.",
            hint="Name labelled shards of the same task.",
        )
