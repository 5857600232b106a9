"""The recipe: everything that steers a run and is not a place or an amount on the command line.

A recipe is TOML. What it leaves out takes the defaults below, which `recipes/default.toml` spells
out. An unknown key is an error, so that a typing mistake never becomes a silent default.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_serializer, model_validator

from curate.errors import RecipeError, UsageError, did_you_mean
from curate.pool.tar import printable

# Strict: true is not 1, and "1" is a text. A whole number is a float, too.
Positive = Annotated[int, Field(ge=1, lt=1 << 31, strict=True)]
Count = Annotated[int, Field(ge=0, lt=1 << 31, strict=True)]
Fraction = Annotated[float, Field(ge=0, lt=1, strict=True)]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False, strict=True)]
MAX_SIDE, MAX_SEEDS, MAX_THREADS = 4096, 10_000, 1024


class Section(BaseModel):
    """One table of a recipe."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False)


class Pixels(Section):
    """How images become pixels."""

    size_px: Annotated[Positive, Field(le=MAX_SIDE)] | Literal["auto"] = "auto"
    channels: Literal[1, 3, "auto"] = "auto"
    store: Literal["auto", "memory", "disk", "stream"] = "auto"
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[Rate, ...] = (0.229, 0.224, 0.225)
    workers: Count | Literal["auto"] = "auto"
    shuffle_buffer: Positive = 8192


class Augment(Section):
    """What training sees instead of the plain image; scoring always sees the plain one."""

    flip: bool = True
    translate_px: Count | Literal["auto"] = "auto"
    cutout_px: Count = 0


class Proxy(Section):
    """The small model."""

    name: str = "resnet18"
    stem: Literal["auto", "small", "native"] = "auto"
    pretrained: str = ""
    width: Rate = 1.0


class Text(Section):
    """How texts become tokens, and what is built of them. Images have no use for it."""

    length: Positive | Literal["auto"] = "auto"
    dim: Positive = 10
    ngrams: Annotated[int, Field(ge=1, le=5)] = 2
    buckets: Positive = 1 << 20
    pooling: Literal["max", "conv", "kmax"] = "max"


class Train(Section):
    """One training run of the proxy."""

    seeds: Annotated[Positive, Field(le=MAX_SEEDS)] = 2
    epochs: Positive = 12
    checkpoints: Positive = 4
    checkpoint_every: Positive = 1
    batch_size: Positive = 128
    rate: Rate = 0.1
    momentum: Fraction = 0.9
    nesterov: bool = True
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 5e-4
    label_smoothing: Fraction = 0.0
    schedule: Literal["cosine", "onecycle", "step", "patience", "constant"] = "cosine"
    warmup_epochs: Annotated[float, Field(ge=0)] = 1.0
    milestones: tuple[Positive, ...] = ()
    step_factor: Rate = 0.1
    patience: Positive = 25
    stop_after: Count = 0
    member: Literal["last", "best"] = "last"
    final_rate: Annotated[float, Field(ge=0, le=1)] = 0.1
    finetune_rate: Rate = 0.001
    precision: Literal["auto", "bf16", "float32"] = "auto"
    seed: Count = 0
    threads: Annotated[Count, Field(le=MAX_THREADS)] = 0

    @property
    def stage(self) -> int:
        """The epochs at the end from which members are taken, at a constant rate where there are several."""
        return (self.checkpoints - 1) * self.checkpoint_every + 1

    @property
    def needs_val(self) -> bool:
        """Whether training is steered by the accuracy on held-out samples."""
        return self.schedule == "patience" or self.stop_after > 0 or self.member == "best"


class Score(Section):
    """The pass over the pool with all members."""

    batch_size: Positive = 256
    per_seed: bool = False
    trace: bool = False
    votes: bool = True
    early_epochs: Count = 20


_VDCNN: dict[str, Any] = {
    "epochs": 15, "checkpoints": 1, "rate": 0.01, "nesterov": False, "weight_decay": 1e-4,
    "schedule": "step", "milestones": (3, 6, 9, 12), "step_factor": 0.5, "warmup_epochs": 0.0,
}  # fmt: skip
PUBLISHED: dict[str, dict[str, Any]] = {
    "fasttext": {
        "epochs": 5, "checkpoints": 1, "batch_size": 16, "rate": 4.0, "momentum": 0.0, "nesterov": False,
        "weight_decay": 0.0, "schedule": "onecycle", "warmup_epochs": 0.0,
    },
    "vdcnn9": _VDCNN,
    "vdcnn17": _VDCNN,
    "vdcnn29": _VDCNN,
}  # fmt: skip
"""How networks of texts are trained where a recipe does not say: by name, what differs from `Train`."""


class Recipe(Section):
    """All tables of a recipe."""

    pixels: Pixels = Pixels()
    augment: Augment = Augment()
    text: Text = Text()
    proxy: Proxy = Proxy()
    train: Train = Train()
    score: Score = Score()

    @model_validator(mode="before")
    @classmethod
    def _as_published(cls, tables: Any) -> Any:
        """Fills in what the proxy's own training sets and the recipe leaves open."""
        proxy, train = (tables.get(name, {}) for name in ("proxy", "train")) if isinstance(tables, dict) else ({}, None)
        name = proxy.get("name") if isinstance(proxy, dict) else getattr(proxy, "name", None)
        if not isinstance(train, dict) or not isinstance(name, str) or name not in PUBLISHED:
            return tables
        published = dict(PUBLISHED[name])
        if "milestones" in published and isinstance(epochs := train.get("epochs"), int):
            # A shorter training falls as often: at the same shares of its epochs.
            shares = (milestone / published["epochs"] for milestone in published["milestones"])
            published["milestones"] = sorted({max(1, round(share * epochs)) for share in shares})
        return {**tables, "train": {**published, **train}}

    @model_serializer(mode="wrap")
    def _without_idle_text(self, serialise: Callable[[Recipe], dict[str, Any]]) -> dict[str, Any]:
        """Leaves out `text` where nothing in it is set: recipes of images keep the digest they always had."""
        tables = serialise(self)
        if self.text == Text():
            del tables["text"]
        return tables

    @property
    def digest(self) -> str:
        """BLAKE2b-128 of the recipe as canonical JSON, hexadecimal."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def check_ensemble(ensemble: str, seeds: int, checkpoints: int) -> None:
    """Refuses numbers that are not those of the ensemble that was named.

    Raises:
        UsageError: several checkpoints of `seeds`, several seeds of `checkpoints`, or a single one of what varies.
    """
    several = {"seeds": (True, False), "checkpoints": (False, True), "combined": (True, True)}
    if ensemble and (seeds > 1, checkpoints > 1) != several[ensemble]:
        raise UsageError(
            f"--ensemble {ensemble} contradicts {seeds} seeds x {checkpoints} checkpoints.",
            hint="seeds: --seeds 2 or more; checkpoints: --checkpoints 2 or more; combined: both.",
        )


def load_recipe(path: Path | None, settings: Sequence[str] = ()) -> Recipe:
    """Returns a recipe from a TOML file and `section.key=value` settings, later ones winning.

    Raises:
        RecipeError: not TOML, an unknown key, a value out of range, settings that contradict.
    """
    tables = _read(path) if path else {}
    for setting in settings:
        _set(tables, setting)
    try:
        recipe = Recipe.model_validate(tables)
    except ValidationError as error:
        raise _readable(error, path, {setting.partition("=")[0].strip() for setting in settings}) from error
    _check(
        recipe, " and ".join([*([str(path)] if path else []), *(["the command line"] if settings else [])]) or "recipe"
    )
    return recipe


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecipeError(f"{path}: no such recipe.", hint="Give the path of a .toml file.") from None
    except (ValueError, RecursionError, OSError) as error:  # of numbers and nesting without measure, too
        why = printable(str(error))
        raise RecipeError(f"{path}: cannot be read as TOML ({why}).", hint="See recipes/default.toml.") from error


def _set(tables: dict[str, Any], setting: str) -> None:
    name, equals, text = setting.partition("=")
    section, dot, key = name.strip().partition(".")
    if not (equals and dot and key):
        raise RecipeError(f"--set {setting}: expected section.key=value.", hint="Such as --set train.epochs=20.")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        value = text  # a bare word is a string: --set train.schedule=step
    tables.setdefault(section, {})[key] = value


def _readable(error: ValidationError, path: Path | None, given: set[str]) -> RecipeError:
    first = error.errors()[0]
    place = [str(part) for part in first["loc"]]
    name = ".".join(place[:2])
    where = "The command line" if path is None or name in given else str(path)
    if first["type"] == "extra_forbidden":
        return RecipeError(f"{where}: unknown key '{name}'.", hint=did_you_mean(place[-1], _known(place)))
    return RecipeError(f"{where}: {name} = {first['input']!r}: {first['msg']}.", hint="See recipes/default.toml.")


def _known(place: list[str]) -> list[str]:
    section = Recipe.model_fields.get(place[0])
    if len(place) == 1 or section is None:
        return list(Recipe.model_fields)
    return list(type(section.default).model_fields)


def _check(recipe: Recipe, where: str) -> None:
    """Refuses values that are fine alone and cannot be together."""
    train, pixels = recipe.train, recipe.pixels
    if train.stage > train.epochs:
        raise RecipeError(
            f"{where}: {train.checkpoints} checkpoints every {train.checkpoint_every} epochs need {train.stage} "
            f"epochs, and there are {train.epochs}.",
            hint="Raise train.epochs, or lower train.checkpoints or train.checkpoint_every.",
        )
    if train.nesterov and not train.momentum:
        raise RecipeError(f"{where}: Nesterov needs momentum above 0.", hint="Set train.nesterov = false.")
    if len(pixels.mean) != len(pixels.std) or len(pixels.mean) not in (1, 3):
        raise RecipeError(f"{where}: pixels.mean and pixels.std need 1 or 3 values each.", hint="")
    _check_steps(train, where)
    _check_stop(train, where)


def _check_steps(train: Train, where: str) -> None:
    milestones = train.milestones
    if train.schedule == "step" and not milestones:
        raise RecipeError(f"{where}: schedule 'step' without milestones.", hint="Set train.milestones = [70, 130].")
    if list(milestones) != sorted(set(milestones)) or max(milestones, default=0) > train.epochs:
        raise RecipeError(f"{where}: milestones must rise and lie within the epochs.", hint=f"{milestones}")
    first = train.epochs - train.stage + 1
    if train.schedule == "step" and train.checkpoints > 1 and milestones[-1] > first:
        raise RecipeError(
            f"{where}: the rate drops at epoch {milestones[-1]}, and the first of {train.checkpoints} checkpoints is "
            f"taken at epoch {first}.",
            hint="Checkpoints are of the last drop's epoch and later: drop earlier, or take fewer of them.",
        )


def _check_stop(train: Train, where: str) -> None:
    """Checkpoints that vote come from one constant rate, also where training ends early."""
    if train.member == "best" and train.checkpoints > 1:
        raise RecipeError(
            f"{where}: member 'best' is one epoch of each seed, and there are {train.checkpoints} checkpoints.",
            hint="Set train.checkpoints = 1.",
        )
    if not train.stop_after:
        return
    if train.schedule in ("cosine", "onecycle"):
        raise RecipeError(
            f"{where}: schedule '{train.schedule}' comes down at the last epoch, and stop_after may end it before.",
            hint="Set train.schedule to patience, step or constant; or train.stop_after = 0.",
        )
    settled = (train.stop_after - 1) % train.patience + 1 if train.schedule == "patience" else train.stop_after
    if train.checkpoints > 1 and train.stage > settled:
        raise RecipeError(
            f"{where}: training may end after {settled} epochs at one rate, and the checkpoints span {train.stage}.",
            hint="Raise train.patience and train.stop_after, or lower train.checkpoints or train.checkpoint_every.",
        )
