"""Proxy and selection anew for each seed of `evaluate`: what its table then says is of the method, not of one manifest.

Source: Coleman et al. 2020, section 3: means over runs, each with a proxy of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from curate.acquisition import acquisition
from curate.errors import UsageError
from curate.manifest.lines import HEAD
from curate.progress import Progress
from curate.proxy.pixels import Pixels, Rows
from curate.recipe import Recipe
from curate.selection.budget import parse_keep
from curate.workflows import prune as pruning
from curate.workflows.arms import Arm, beside, kept_arms, unselected
from curate.workflows.cover import K_CENTERS
from curate.workflows.held_out import RowArray, val_fraction
from curate.workflows.run import Request as RunRequest
from curate.workflows.run import Run
from curate.workflows.score import score

ANEW = "anew"
STRIDE = 1_000_000  # between the seeds of proxies; those of targets are below


@dataclass(frozen=True)
class Anew:
    """How each seed selects.

    Attributes:
        recipe: of its proxy.
        shards: what names the pool.
        fns: acquisition functions, or k_centers.
        keeps: as `--keep` takes them; every function selects each. Further functions and sizes may join later.
    """

    recipe: Recipe
    shards: Sequence[str]
    fns: Sequence[str]
    keeps: Sequence[str]

    def check(self, val: Sequence[str]) -> None:
        """Refuses what could only fail after a proxy was trained; `val` is what is held out of its training.

        Raises:
            UsageError: no shards, functions or sizes; an unknown function, or too few members for one; one that
                asks what training revealed of samples that are held out; everything kept.
        """
        if not (self.shards and self.fns and self.keeps):
            raise UsageError("--proxy-recipe selects by itself: it needs --shards, --fn and --keep.")
        members = self.recipe.train.seeds * self.recipe.train.checkpoints
        for fn in self.fns:
            needed = 1 if fn == K_CENTERS else acquisition(fn, [K_CENTERS]).members
            if members < needed:
                raise UsageError(f"'{fn}' needs {needed} members.", hint="Raise train.seeds in the proxy's recipe.")
            if val and val_fraction(val) and fn != K_CENTERS and "dynamics" in acquisition(fn).needs:
                raise UsageError(
                    f"'{fn}' is known of samples that were trained on alone, and --val holds some out.",
                    hint="Leave out --val, or choose another function.",
                )
        for keep in self.keeps:
            if (size := parse_keep(keep)).is_fraction and size.value == 1:
                raise UsageError(f"--keep {keep} keeps everything: there is nothing to compare.", hint="Such as 0.5.")

    def check_sizes(self, good: int) -> None:
        """Refuses what keeps all of so many samples, or more, now that it is known how many can be scored.

        Raises:
            UsageError: nothing to compare with would be left.
        """
        for keep in self.keeps:
            if parse_keep(keep, what="--keep").budget(good) == good:
                raise UsageError(
                    f"--keep {keep} keeps all {good:,} samples: there is nothing to compare.", hint="Such as 0.5."
                )

    def folders(self, out: Path, number: int) -> list[Path]:
        """Returns where the manifests of a seed lie."""
        return [scores_of(out, number).parent / f"{fn}-{keep}" for fn in self.fns for keep in self.keeps]

    def of_seed(self, number: int) -> Recipe:
        """Returns the recipe whose proxies share no seed with those of another number, nor with a target."""
        train = self.recipe.train
        return self.recipe.model_copy(
            update={"train": train.model_copy(update={"seed": train.seed + (number + 1) * STRIDE})}
        )


def scores_of(out: Path, number: int) -> Path:
    """Returns where the scores of a seed lie."""
    return out / ANEW / f"{number:03d}" / "scores"


def arms_anew(
    anew: Anew, request: RunRequest, run: Run, pixels: Pixels, labelled_K: RowArray, number: int, progress: Progress
) -> list[Arm]:
    """Trains a seed's proxy, selects by it, and returns the arms; what is there already is not done again.

    Args:
        anew: how.
        request: of the targets' run: device, labels and held-out samples are the same.
        run, pixels, labelled_K: the targets' run, its pixels, and the rows that may be trained on.
        number: of the seed.
        progress: who listens.
    """
    recipe, scores = anew.of_seed(number), scores_of(request.out, number)
    shared = pixels if (recipe.pixels, recipe.text) == (request.recipe.pixels, request.recipe.text) else None
    scoring = replace(
        request, shards=anew.shards, out=scores, recipe=recipe, test=(), embeddings=K_CENTERS in anew.fns, networks=()
    )  # fmt: skip
    progress.note(f"Seed {number}: a proxy and its selection.")
    score(scoring, progress, pixels=shared if run.setting.reads == "images" else None)
    torch.set_num_threads(run.setting.threads)  # the proxy's recipe may have asked for others
    for folder in anew.folders(request.out, number):
        fn, _, keep = folder.name.rpartition("-")
        pruning.prune(pruning.Request(scores, fn, keep, folder, seed=number))
    kept = selected(anew, run, pixels.rows, labelled_K, number)
    return [*kept, *beside(kept, labelled_K)]


def selected(anew: Anew, run: Run, rows: Rows, labelled_K: RowArray, number: int) -> list[Arm]:
    """Returns the arms of what a seed selects; of what it has not selected yet with the size that was asked for."""
    folders, good = anew.folders(run.request.out, number), int((~rows.is_bad_N).sum())
    there = [folder for folder in folders if (folder / HEAD).exists()]
    arms = dict(zip(there, kept_arms(there, run.pool, rows, labelled_K), strict=True))
    for folder in folders:
        fn, _, keep = folder.name.rpartition("-")
        arms.setdefault(folder, unselected(folder.name, f"{fn} {keep}", parse_keep(keep).budget(good)))
    # The same name for every seed: they are one row of the table.
    return [replace(arms[folder], name=folder.name) for folder in folders]
