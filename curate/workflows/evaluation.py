"""The run of `evaluate`: its request, its single runs and its folder. Refused here is what cannot be evaluated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from curate import durable
from curate.errors import RunError, UsageError
from curate.manifest.lines import read_lines, read_root
from curate.manifest.schema import load_head
from curate.pool.labels import LabelSource
from curate.progress import Progress
from curate.proxy import reads_of
from curate.proxy.models import check_fits
from curate.proxy.plan import Plan
from curate.recipe import Recipe
from curate.workflows.anew import Anew
from curate.workflows.arms import Arm, by_digest
from curate.workflows.held_out import check_others
from curate.workflows.run import Request as RunRequest
from curate.workflows.run import Run, open_run, settled_if_accepted
from curate.workflows.setting import plan_for

RECORD, RUNS, WORK, FULL = "evaluation.json", "runs", "work", "full"
SCRATCH, PRETRAIN = "scratch", "pretrain"


@dataclass(frozen=True)
class Request:
    """What `evaluate` is asked to do.

    Attributes:
        manifests: of one pool.
        test: what names the shards that accuracy is measured on.
        out: the folder of the results.
        recipe: how targets are trained; one checkpoint, the last epoch.
        targets: names of networks; empty for the recipe's own.
        seeds: runs behind each figure.
        members: targets that vote together in each run (Chitta et al. report such ensembles).
        equal: `epochs`, or `steps`: a smaller set is trained for more epochs, for as many steps as the pool.
        scheme: `scratch`, or `pretrain`: a target starts from the one of its seed that was trained on everything,
            and is fine-tuned at the recipe's `train.finetune_rate` (Chitta et al. 2021, section 3.1).
        scores: folders of the runs that scored the manifests, for what selection cost.
        root: where the pool lies, if it moved.
        val: what is held out of every training, and steers it where the recipe asks for that: as in `score`.
        anew: how each seed trains a proxy and selects, in place of manifests.
        copied: as in `score`.
    """

    manifests: Sequence[Path]
    test: Sequence[str]
    out: Path
    recipe: Recipe = field(default_factory=Recipe)
    targets: Sequence[str] = ()
    seeds: int = 3
    members: int = 1
    equal: str = "epochs"
    scheme: str = SCRATCH
    scores: Sequence[Path] = ()
    labels: LabelSource = field(default_factory=LabelSource)
    root: Path | None = None
    device: str = "auto"
    skip_faults: bool = False
    val: Sequence[str] = ()
    anew: Anew | None = None
    copied: bool = False

    @property
    def networks(self) -> list[str]:
        """The names of the targets."""
        return list(self.targets) or [self.recipe.proxy.name]


@dataclass(frozen=True)
class Cell:
    """One run: a target, what it is trained on, and the number of its seed."""

    target: str
    arm: Arm
    number: int

    def path(self, out: Path) -> Path:
        """Returns where its result lies."""
        return out / RUNS / self.target / self.arm.name / f"{self.number:03d}.json"

    def claim(self, out: Path) -> Path:
        """Returns the file by which a process holds it while it is trained."""
        return out / WORK / self.target / self.arm.name / f"{self.number:03d}.claim"

    def full(self, out: Path, member: int) -> Path:
        """Returns where the weights of its seed lie that were trained on everything."""
        return out / FULL / self.target / f"{self.number:03d}-{member}.safetensors"


def open_evaluation(request: Request, progress: Progress, *, is_only_read: bool = False) -> tuple[Run, dict[str, Plan]]:
    """Returns the run that the targets share and their plans by name. Nothing is decoded or trained.

    With `is_only_read` nothing will be, and results of a GPU can be looked at where there is none.

    Raises:
        RunError: the folder holds results of another pool, test set or recipe.
        ManifestError, UsageError: manifests of several pools, a target that does not fit the pool.
    """
    recipe = _of_target(request.recipe)
    with settled_if_accepted(request.out):
        run = open_run(_run_request(request, recipe), progress, is_only_read=is_only_read)
        _check_reading(run, request.networks)
        plans = {name: _plan(run, recipe, name) for name in request.networks}
        for plan in plans.values():
            check_fits(plan.spec)
        if request.anew:
            request.anew.check_sizes(run.pool.total - run.pool.bad)
        test = check_others(run)
    _check_record(request, test)
    return run, plans


def _of_target(recipe: Recipe) -> Recipe:
    return recipe.model_copy(update={"train": recipe.train.model_copy(update={"checkpoints": 1})})


def _run_request(request: Request, recipe: Recipe) -> RunRequest:
    if request.anew and request.manifests:
        raise UsageError("--proxy-recipe selects by itself: it takes no manifests.", hint="Leave them out.")
    if request.anew:
        request.anew.check(request.val)
    elif not request.manifests:
        raise UsageError("No manifest to evaluate.", hint="Such as: curate evaluate manifests/margin-0.5 --test SHARDS")
    if not request.test:
        raise UsageError("Accuracy is measured on --test SHARDS.", hint="Name labelled shards beside the pool.")
    shards, root = (request.anew.shards, None) if request.anew else _shards_of(request)
    return RunRequest(
        shards, request.out, recipe, request.labels, val=request.val, test=request.test, device=request.device,
        skip_faults=request.skip_faults, copied=request.copied, root=root, networks=request.networks,
    )  # fmt: skip


def _shards_of(request: Request) -> tuple[list[str], Path]:
    """Returns the shards of the manifests' pool, and the folder that their names are relative to."""
    folder, *others = request.manifests
    fingerprint = load_head(folder).pool.fingerprint
    for other in others:
        if load_head(other).pool.fingerprint != fingerprint:
            raise UsageError(f"{folder} and {other} are of different pools.", hint="Evaluate each in its own --out.")
    by_digest(request.manifests)  # said before anything is decoded
    root = request.root or read_root(folder)
    return [str(root / line.name) for line in read_lines(folder)], root


def _check_record(request: Request, test: str) -> None:
    """Results that mean different things never share a folder."""
    fresh = {
        "test": test, "equal": request.equal, "members": request.members, "scheme": request.scheme,
        "anew": request.anew.recipe.digest if request.anew else "",
    }  # fmt: skip
    path = request.out / RECORD
    if not path.exists():
        durable.write_json(path, fresh)
    known = durable.read_json(path)
    for name, what in (
        ("test", "another test set"), ("equal", "another --equal"), ("members", "other members"),
        ("scheme", "another --scheme"), ("anew", "another --proxy-recipe"),
    ):  # fmt: skip
        if known.get(name, SCRATCH if name == "scheme" else "") != fresh[name]:
            raise RunError(f"{request.out} holds results of {what}.", hint="Choose another --out.")


def _plan(run: Run, recipe: Recipe, name: str) -> Plan:
    proxy = recipe.proxy.model_copy(update={"name": name})
    return plan_for(recipe.model_copy(update={"proxy": proxy}), run.setting, run.pool.classes.num_classes)


def _check_reading(run: Run, targets: Sequence[str]) -> None:
    """One store serves all targets of an evaluation: of one that reads words, characters cannot be had."""
    other = next((name for name in targets if reads_of(name) != run.setting.reads), None)
    if other:
        raise UsageError(
            f"'{other}' reads {reads_of(other)}, and {run.plan.spec.name} reads {run.setting.reads}.",
            hint="Evaluate such targets one by one, each in its own --out.",
        )
