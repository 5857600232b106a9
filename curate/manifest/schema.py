"""What `manifest.json` says, as models that pydantic validates and docs/manifest.schema.json publishes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from curate.errors import ManifestError
from curate.manifest.lines import HEAD, INDEX, LINES, read_head

Count = Annotated[int, Field(ge=0)]
Digest = Annotated[str, Field(pattern="^[0-9a-f]{32}$")]


class Model(BaseModel):
    """One object of the manifest: unknown keys are refused, values never change."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def _without_defaults(model: Model, written: dict[str, Any]) -> dict[str, Any]:
    """Returns what was written of a model, less the fields that hold nothing but their default."""
    fields = type(model).model_fields
    return {name: value for name, value in written.items() if fields[name].is_required() or getattr(model, name)}


class Totals(Model):
    """Every sample of the pool, once: `kept + dropped + failed = samples`."""

    shards: Count
    samples: Count
    kept: Count
    dropped: dict[str, Count] = Field(description="samples dropped, by reason")
    failed: dict[str, Count] = Field(description="samples that could not be scored, by reason")
    kept_bytes: Count = Field(description="tar bytes of the kept samples, headers and padding included")

    @model_validator(mode="after")
    def _adds_up(self) -> Totals:
        if self.kept + sum(self.dropped.values()) + sum(self.failed.values()) != self.samples:
            raise ValueError("kept + dropped + failed is not the number of samples")
        return self


class ClassTable(Model):
    """Classes by id. Ids come from the shards and stay, also where a class is pruned away."""

    kind: Literal["id", "name", "none"]
    names: tuple[str, ...] = Field(description="class name by id, empty where unknown")
    before: tuple[Count, ...] = Field(description="scored samples by class id")
    after: tuple[Count, ...] = Field(description="kept samples by class id")


class Cover(Model):
    """How well the kept samples cover the others: greedy k-centers over the proxy's embeddings."""

    start: Literal["random", "labelled", "manifest"] = Field(description="the centers there from the beginning")
    start_size: Count = Field(description="how many they are, those on the list of always kept included")
    partitions: Count = Field(description="1 for the exact greedy order, more for two rounds")
    radius: float | None = Field(description="largest distance of a sample to its nearest center; null without any")
    lower_bound: float | None = Field(
        description="no other centers beside the start, of as many a class, have a smaller radius than this"
    )
    member_seed: Count = Field(description="of the member that the embeddings are of")
    member_epoch: Count


class CurvePoint(Model):
    """What a target reached with one fraction."""

    target: str
    keep: str
    samples: Count
    runs: Count = Field(description="seeds behind the figures")
    accuracy: float = Field(description="mean on the test set, in [0, 1]")
    loss: float = Field(description="mean difference to all the data, paired by seed")


class Curve(Model):
    """The measured curve that `--keep auto` chose from."""

    tolerance: float
    points: tuple[CurvePoint, ...]


class Selection(Model):
    """How the kept samples were chosen."""

    fn: str = Field(description="acquisition function; higher scores are kept first")
    order: Literal["hardest", "easiest"]
    keep: str = Field(description="as given: a fraction of the scored samples, or a count")
    budget: Count = Field(description="samples to keep, after rounding")
    outliers: str = Field(description="as given: set aside from the top before keeping")
    outlier_count: Count
    ties: tuple[str, ...] = Field(description="what decides between equal scores, in turn")
    seed: Count | None = Field(description="of a random order, else null")
    per_class: Literal["equal", "proportional"] | None
    min_per_class: Count
    always: Count = Field(description="samples on the list of those always kept")
    never: Count = Field(description="samples on the list of those never kept")
    scheme: Literal["compress", "build_up", "pretrain"]
    iteration: Count
    base: Digest | None = Field(description="digest of the manifest this one grows from")
    of: tuple[Digest, ...] = Field(default=(), description="digests of the manifests that `fn` merged, intersected, …")

    combine: Literal["mean", "rank"] | None = Field(
        default=None, description="how several scores became one: of the runs in `scored`, or of one run's seeds"
    )
    never_learned: Literal["first", "last"] | None = Field(
        default=None, description="where `forgetting` puts what a seed never learned"
    )
    cover: Cover | None = Field(default=None, description="of `k_centers`: how well the kept samples cover the others")

    curve: Curve | None = Field(default=None, description="of `--keep auto`: what the fraction was chosen by")

    @property
    def has_quotas(self) -> bool:
        """Says whether classes have cuts of their own."""
        return self.per_class is not None or self.min_per_class > 0

    @model_serializer(mode="wrap")
    def _without_nothing(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leaves out what most manifests have nothing to say of: their digests stay what they were."""
        return _without_defaults(self, write(self))


class Scored(Model):
    """What made the scores."""

    recipe: Digest | None = Field(description="digest of the recipe, null for scores from elsewhere")
    proxy: str
    members: Count
    test_accuracy: float | None = Field(description="of the ensemble, if a test set was given")
    combined_with: tuple[Scored, ...] = Field(default=(), description="further runs whose scores were combined")

    @model_serializer(mode="wrap")
    def _without_nothing(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return _without_defaults(self, write(self))


class PoolRecord(Model):
    """The pool that was pruned."""

    fingerprint: Digest
    bytes: Count = Field(description="size of the source files")


class Head(Model):
    """`manifest.json`. Holds no time and no path: equal input gives equal bytes."""

    format_version: Literal[1]
    totals: Totals
    classes: ClassTable
    selection: Selection
    scored: Scored
    pool: PoolRecord
    files: dict[str, Digest] = Field(description="BLAKE2b-128 of the manifest's other files")


def load_head(folder: Path) -> Head:
    """Returns a validated `manifest.json`.

    Raises:
        ManifestError: missing, damaged, of another version, or against the schema.
    """
    try:
        return Head.model_validate(read_head(folder))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ManifestError(f"{folder / HEAD}: {where}: {first['msg']}.", hint="Prune again.") from error


def json_schema() -> str:
    """Returns the JSON Schema of `manifest.json`, as docs/manifest.schema.json holds it."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **Head.model_json_schema()}
    schema["properties"]["files"]["required"] = [INDEX, LINES]
    return json.dumps(schema, indent=2, sort_keys=True) + "\n"
