"""`score --members`: checkpoints that are there already score a pool; nothing is trained.

They are a finished run's, or weights of a timm model that somebody else trained. Those that curate wrote
say what they are: network, classes, resolution and normalisation come from them, and not from the recipe.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open

from curate.errors import RunError, UsageError
from curate.manifest.lines import file_digest
from curate.pool.classes import Classes
from curate.pool.index import load_pool
from curate.proxy.members import Member, check_members
from curate.proxy.models import ModelSpec
from curate.proxy.plan import Plan
from curate.proxy.training import STATE, member_path
from curate.recipe import Recipe, check_ensemble
from curate.scores import INDEX, SUMMARY, read_record

SUFFIXES = (".safetensors", ".pth", ".pt")


@dataclass(frozen=True)
class Choice:
    """Which members of a run are taken.

    Attributes:
        seeds: the first so many; None for all.
        checkpoints: the last so many of each seed; None for all.
        every: epochs between them.
        ensemble: what they are to be: `seeds`, `checkpoints` or `combined`; empty for whatever they are.
    """

    seeds: int | None = None
    checkpoints: int | None = None
    every: int = 1
    ensemble: str = ""

    def of(self, members: Sequence[Member], folder: Path) -> list[Member]:
        """Returns the members of a run that are taken, in its order.

        Raises:
            UsageError: the run has fewer seeds, or a seed has no checkpoint of an epoch that is asked for; or they are
                not the ensemble that is named.
        """
        seeds = sorted({member.seed for member in members})
        if (self.seeds or 0) > len(seeds):
            raise UsageError(
                f"{folder} has members of {len(seeds)} seeds, and {self.seeds} are asked for.",
                hint=f"Give --seeds {len(seeds)} or fewer.",
            )
        taken = {(seed, epoch) for seed in seeds[: self.seeds] for epoch in self._epochs(members, seed, folder)}
        of_seeds = Counter(seed for seed, _ in taken)
        check_ensemble(self.ensemble, len(of_seeds), max(of_seeds.values()))
        return [member for member in members if (member.seed, member.epoch) in taken]

    def _epochs(self, members: Sequence[Member], seed: int, folder: Path) -> Sequence[int]:
        known = sorted(member.epoch for member in members if member.seed == seed)
        if self.checkpoints is None:
            return [epoch for epoch in known if (known[-1] - epoch) % self.every == 0]
        wanted = range(known[-1], known[-1] - self.checkpoints * self.every, -self.every)
        if lost := sorted(set(wanted) - set(known)):
            raise UsageError(
                f"{folder}: seed {seed} has no checkpoint of epoch {lost[-1]}.",
                hint=f"It has those of {', '.join(map(str, known))}: ask for fewer, or at another distance.",
            )
        return wanted


@dataclass(frozen=True)
class Given:
    """Members that were trained before.

    Attributes:
        members: in order.
        digest: of all their files.
        about: what curate wrote into them; empty for weights from elsewhere.
        classes: of the pool that their run was trained on; None where they are of no run.
    """

    members: tuple[Member, ...]
    digest: str
    about: dict[str, Any]
    classes: Classes | None

    @property
    def num_classes(self) -> int:
        """How many classes they tell apart, 0 where they do not say."""
        return int(self.about["spec"]["num_classes"]) if self.about else 0

    def recipe(self, recipe: Recipe) -> Recipe:
        """Returns a recipe for scoring with them.

        Raises:
            UsageError: it asks for another network.
        """
        if not self.about:
            return recipe
        spec = ModelSpec(**self.about["spec"])
        if "name" in recipe.proxy.model_fields_set and recipe.proxy.name != spec.name:
            raise UsageError(
                f"{self.members[0].path}: holds {spec.name}, and {recipe.proxy.name} is asked for.",
                hint="Leave out --proxy: members say what they are.",
            )
        update: dict[str, Any] = {}
        proxy = {"name": spec.name, "stem": spec.stem, "width": spec.width, "pretrained": ""}
        pixels = {
            "size_px": spec.size_px, "channels": spec.in_chans, "mean": tuple(self.about["mean"]),
            "std": tuple(self.about["std"]),
        }  # fmt: skip
        if text := self.about["spec"].get("text"):
            update["text"] = recipe.text.model_copy(update=text)
        else:
            update["pixels"] = recipe.pixels.model_copy(update=pixels)
        return recipe.model_copy(update={**update, "proxy": recipe.proxy.model_copy(update=proxy)})


def open_given(folder: Path, choice: Choice | None = None) -> Given:
    """Returns the members in a folder: a run of `score`, or weights, in order of their names.

    Args:
        folder: where they lie.
        choice: which of a run's are taken; None for all.

    Raises:
        UsageError: there are none, or not those that are chosen, or curate's own are of several networks.
        RunError: the run is not finished, or a file cannot be read or is damaged.
    """
    is_run = (folder / INDEX).exists()
    if choice and not is_run:
        raise UsageError(
            f"{folder} is no run: its seeds and checkpoints are not known.",
            hint="Leave out --ensemble, --seeds, --checkpoints and --checkpoint-every: all weights there are members.",
        )
    members = _of_run(folder) if is_run else _of_files(folder)
    members = choice.of(members, folder) if choice else members
    about = [_about(member.path) for member in members]
    known = [one for one in about if one]
    for member, one in zip(members, about, strict=True):
        if one and _network(one) != _network(known[0]):
            raise UsageError(
                f"{member.path}: holds another network than others there: {_difference(one, known[0])}.",
                hint="Members share architecture, classes, resolution and normalisation.",
            )
    text = json.dumps([file_digest(member.path) for member in members])
    digest = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
    classes = load_pool(folder / INDEX).classes if is_run else None
    return Given(tuple(_numbered(members, about)), digest, known[0] if known else {}, classes)


def check_given(given: Given, plan: Plan, classes: Classes) -> None:
    """Refuses members that cannot score a pool with these classes; reads the shapes of all of them.

    Raises:
        UsageError: another network, or classes that they were not trained on.
        RunError: a file that cannot be read.
    """
    known = given.classes
    named = known and classes.kind != "none" and (known.kind, known.names) != (classes.kind, classes.names)
    if named or classes.num_classes > plan.spec.num_classes:
        here, there = _described(classes), _described(known) if known else f"{plan.spec.num_classes} classes"
        raise UsageError(
            f"The members were trained on {there}; the pool has {here}.",
            hint="Score a pool of the same classes, or without labels: --label-from none.",
        )
    check_members(given.members, plan)


def _described(classes: Classes) -> str:
    names = f" ({', '.join(classes.names[:3])}, …)" if classes.names else ""
    return f"{classes.num_classes} classes by {classes.kind}{names}"


def _of_run(folder: Path) -> list[Member]:
    records = read_record(folder / SUMMARY)["members"]
    return [
        Member(r["seed"], r["epoch"], member_path(folder / "members" / f"seed-{r['seed']:03d}", r["epoch"]))
        for r in records
    ]


def _of_files(folder: Path) -> list[Member]:
    paths = sorted(path for path in folder.glob("*") if path.suffix in SUFFIXES and path.name != STATE)
    if not paths:
        raise UsageError(
            f"{folder}: no members here.", hint=f"Expected a folder of curate score, or of {', '.join(SUFFIXES)} files."
        )
    return [Member(number, 0, path) for number, path in enumerate(paths)]


def _about(path: Path) -> dict[str, Any]:
    """Returns what curate wrote into a file; empty for weights from elsewhere."""
    if path.suffix != ".safetensors":
        return {}
    try:
        with safe_open(path, "pt") as file:
            about: dict[str, Any] = json.loads((file.metadata() or {}).get("curate", "{}"))
    except Exception as error:  # safetensors raises many kinds for a damaged file; all mean the same
        raise RunError(
            f"{path}: cannot be read as a member: {error}.", hint="Expected weights of a timm model."
        ) from error
    return about


def _network(about: dict[str, Any]) -> dict[str, Any]:
    """Returns what all members share; where the weights of the first epoch came from is no part of it."""
    shared = {name: value for name, value in about["spec"].items() if name != "pretrained"}
    return {**shared, "mean": about["mean"], "std": about["std"]}


def _difference(one: dict[str, Any], other: dict[str, Any]) -> str:
    here, there = _network(one), _network(other)
    return ", ".join(f"{name} {here[name]} and not {there[name]}" for name in there if here.get(name) != there[name])


def _numbered(members: Sequence[Member], about: Sequence[dict[str, Any]]) -> list[Member]:
    """Returns members by the seeds and epochs that their files name, where all do and no two are the same."""
    named = [Member(one["seed"], one["epoch"], m.path) for m, one in zip(members, about, strict=True) if one]
    distinct = {(member.seed, member.epoch) for member in named}
    return named if len(distinct) == len(members) else list(members)
