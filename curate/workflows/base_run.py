"""The run that a new one grows from: same members, same shards, and others beside them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from curate import durable
from curate.errors import UsageError
from curate.manifest.lines import file_digest
from curate.pool.index import Pool, labels_of, load_pool
from curate.pool.labels import LabelSource
from curate.pool.shards import find_shards
from curate.pool.tar import printable
from curate.recipe import Recipe
from curate.scores import INDEX, RUN, SUMMARY, VOTES, read_record
from curate.workflows.setting import Setting

# What a member's scores depend on.
AS_TRAINED = ("size_px", "channels", "stem", "is_bf16", "threads", "reads", "length")
AGAIN = "Train again: `curate score` with all shards, another --out and no --base."


@dataclass(frozen=True)
class BaseRun:
    """A finished run: its record, what it came to, and its pool."""

    folder: Path
    record: dict[str, Any]
    summary: dict[str, Any]
    pool: Pool

    @property
    def digest(self) -> str:
        """Of its summary, which names recipe, pool and members."""
        return file_digest(self.folder / SUMMARY)

    @property
    def recipe(self) -> Recipe:
        """Its recipe; tables of before votes were kept go on without."""
        recipe = Recipe.model_validate(self.record["recipe"])
        score = recipe.score.model_copy(update={"votes": (self.folder / VOTES).exists()})
        return recipe.model_copy(update={"score": score})

    @cached_property
    def shards(self) -> frozenset[str]:
        """The names of its shards."""
        return frozenset(scan.name for scan in self.pool.scans)

    def setting(self, fresh: Setting) -> Setting:
        """Returns a setting for this machine in which its members see what they were trained on."""
        known = vars(Setting(**self.record["setting"]))
        return replace(fresh, **{name: known[name] for name in AS_TRAINED})

    def take_index(self, sources: tuple[str, ...], labels: LabelSource, folder: Path) -> None:
        """Copies the index of its shards, so that only new ones are scanned.

        Raises:
            UsageError: a shard is missing or another one now, or labels are read in another way.
        """
        kind, field = labels_of(self.pool.folder)
        if kind != labels.kind:
            raise UsageError(f"{self.folder} read its labels from '{kind}', not '{labels.kind}'.", hint=AGAIN)
        if kind == "json" and field != labels.field:  # a CSV may be another one, which knows the new samples, too
            raise UsageError(f"{self.folder} read its labels from '{field}', not '{labels.field}'.", hint=AGAIN)
        if self.pool.text_field != labels.text_field:
            old, new = (f"'{text}'" if text else "no field" for text in (self.pool.text_field, labels.text_field))
            raise UsageError(f"{self.folder} read its texts from {old} of .json entries, not {new}.", hint=AGAIN)
        found = {shard.name: shard.path for shard in find_shards(sources).shards}
        for scan in self.pool.scans:
            if scan.name not in found:
                raise UsageError(
                    f"{scan.name} of {self.folder} is not among the shards.",
                    hint="Name the old shards and the new ones. Names begin at the folder that all have in common, "
                    "so new ones belong beside the old ones.",
                )
            status = found[scan.name].stat()
            if (status.st_size, status.st_mtime_ns) == (scan.bytes, scan.mtime_ns):
                take(self.pool.folder, folder, f"{scan.name}.parquet")

    def check_members(self, digest: str) -> None:
        """Accepts the members that it was scored by: its own, or those that were given for it, by their digest.

        Raises:
            UsageError: they are others, or lie elsewhere.
        """
        known = self.record.get("members", "")
        if known and not digest:
            raise UsageError(
                f"{self.folder} was scored by members that lie elsewhere.", hint="Name them: --members DIR."
            )
        if known != digest:
            whose = "other members" if known else "members of its own"
            raise UsageError(
                f"{self.folder} was scored by {whose}, not by those of --members.",
                hint="Name those, by the same --ensemble, --seeds and --checkpoints if they were chosen; "
                "or score all shards anew: another --out and no --base."
                if known
                else "Leave out --members.",
            )

    def check(self, pool: Pool) -> None:
        """Accepts a pool that holds its shards as they were, in its classes.

        Raises:
            UsageError: a shard changed, or there are other classes.
        """
        now = {scan.name: (scan.bytes, scan.digest) for scan in pool.scans}
        for scan in self.pool.scans:
            if now[scan.name] != (scan.bytes, scan.digest):
                raise UsageError(f"{scan.name} changed since {self.folder} was made.", hint=AGAIN)
        old, new = self.pool.classes, pool.classes
        if (old.kind, old.num_classes) != (new.kind, new.num_classes) or (
            old.kind == "name" and old.names != new.names
        ):
            unknown = sorted(set(new.names) - set(old.names))
            which = f", such as '{printable(unknown[0])}'" if unknown and old.kind == "name" else ""
            raise UsageError(
                f"The new shards have classes that the members of {self.folder} do not know{which}: "
                f"{new.num_classes} by {new.kind}, not {old.num_classes} by {old.kind}.",
                hint=AGAIN,
            )


def open_base_run(folder: Path) -> BaseRun:
    """Returns a finished run.

    Raises:
        RunError: none is there.
    """
    summary = read_record(folder / SUMMARY)
    return BaseRun(folder, read_record(folder / RUN), summary, load_pool(folder / INDEX))


def take(source: Path, out: Path, name: str) -> None:
    """Copies a file that is there and was not copied yet."""
    if (source / name).exists() and not (out / name).exists():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        durable.write_bytes(out / name, (source / name).read_bytes(), sync=False)
