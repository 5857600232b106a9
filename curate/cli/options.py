"""What several commands share: the application itself, their options, and how those are read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from curate import console
from curate.errors import UsageError
from curate.progress import Deadline, Progress

# In the order in which a person needs them: what to try, the main road, looking, trainers, studies.
ORDER = (
    *("demo", "doctor", "pack", "index", "score", "prune", "build-up", "acquire"),
    *("report", "explain", "diff", "check", "verify", "manifest"),
    *("cat", "materialize", "export", "serve", "evaluate", "compare", "fingerprint"),
)


class Road(TyperGroup):
    """The commands in `ORDER`, not in that of the rooms they are written in."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(super().list_commands(ctx), key=ORDER.index)


app = typer.Typer(
    name="curate",
    cls=Road,
    help="Prune a sharded dataset before training on it. Start with: curate demo",
    no_args_is_help=True,
    rich_markup_mode=None,  # plain help needs no rich, which would double the time until it is there
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Shards = Annotated[
    list[str], typer.Argument(metavar="SHARDS...", help="A folder, globs, brace patterns or .tar[.gz|.zst] files.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Recipes = Annotated[Path | None, typer.Option("--recipe", help="A TOML recipe.", metavar="FILE")]
Sets = Annotated[list[str] | None, typer.Option("--set", help="Override the recipe.", metavar="SECTION.KEY=VALUE")]
LabelFrom = Annotated[str, typer.Option("--label-from", help="cls, folder or none.", metavar="KIND")]
LabelField = Annotated[
    str, typer.Option("--label-field", help="Read labels from this field of .json entries.", metavar="FIELD")
]
EnsembleKind = Annotated[
    str, typer.Option("--ensemble", help="seeds, checkpoints (of one seed) or combined.", metavar="KIND")
]
Labels = Annotated[
    Path | None, typer.Option("--labels", help="Read labels from a CSV: key, label[, shard].", metavar="CSV")
]
TextField = Annotated[
    str, typer.Option("--text-field", help="Read texts from this field of .json entries.", metavar="FIELD")
]
OnBadShard = Annotated[str, typer.Option("--on-bad-shard", help="fail, or skip and count its samples as failed.")]
Copied = Annotated[bool, typer.Option("--copied", help="Shards may be copies with other times: scan those again.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")]
Proxy = Annotated[str, typer.Option("--proxy", help="Any timm name; preact_resnet20 for small images.")]
Seeds = Annotated[int | None, typer.Option("--seeds", help="Training runs.")]
Epochs = Annotated[int | None, typer.Option("--epochs", help="Epochs of each run.")]
Checkpoints = Annotated[int | None, typer.Option("--checkpoints", help="Members taken from each run.")]
CheckpointEvery = Annotated[int | None, typer.Option("--checkpoint-every", help="Epochs between them.")]
MaxTime = Annotated[
    str,
    typer.Option(
        "--max-time", help="End after so long, with exit code 6; the same command goes on.", metavar="90s|30m|5h"
    ),
]
Root = Annotated[Path | None, typer.Option("--root", help="Where the shards lie, if they moved.", metavar="DIR")]
Manifest = Annotated[Path, typer.Argument(metavar="MANIFEST", help="A manifest's folder.")]


def label_source(kind: str, field: str, table: Path | None, text_field: str = "") -> Any:
    """Returns where labels come from, by the three options that say so, and texts, by the fourth."""
    from curate.pool.labels import LabelSource, check_kind, read_label_table

    check_kind(kind)
    named = [name for name, is_given in (("csv", table), ("json", field)) if is_given] or [kind]
    if len(named) > 1 or kind not in ("cls", named[0]):
        hint = "Give one of --label-from, --label-field and --labels."
        raise UsageError("Labels are to come from two places.", hint=hint)
    if kind in ("csv", "json") and not (table or field):
        needed = "--labels FILE" if kind == "csv" else "--label-field NAME"
        raise UsageError(f"--label-from {kind} does not say where labels are.", hint=f"Give {needed} instead.")
    if table:
        return LabelSource("csv", str(table), read_label_table(table), text_field)
    return LabelSource("json" if field else kind, field, text_field=text_field)


def settings_of(
    proxy: str, seeds: int | None, epochs: int | None, checkpoints: int | None, checkpoint_every: int | None
) -> list[str]:
    """Returns the settings that the options of members stand for, those that were given."""
    given = {
        "proxy.name": proxy or None, "train.seeds": seeds, "train.epochs": epochs, "train.checkpoints": checkpoints,
        "train.checkpoint_every": checkpoint_every,
    }  # fmt: skip
    return [f"{name}={value}" for name, value in given.items() if value is not None]


ENSEMBLES = {"seeds": "train.checkpoints", "checkpoints": "train.seeds", "combined": ""}


def ensemble_settings(ensemble: str) -> list[str]:
    """Returns the settings by which seeds, checkpoints of one seed, or both are the members."""
    if ensemble and ensemble not in ENSEMBLES:
        raise UsageError(f"--ensemble {ensemble}: expected {', '.join(ENSEMBLES)}.")
    single = ENSEMBLES.get(ensemble)
    return [f"{single}=1"] if single else []


def within_time(listener: Progress, max_time: str) -> Progress:
    """Returns a listener that ends the work when the time is over."""
    if not max_time:
        return listener
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", max_time)
    if not match or not float(match[1]):
        raise UsageError(f"--max-time {max_time}: expected a time such as 90s, 30m or 5h.")
    return Deadline(listener, float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]])


def skips(on_bad_shard: str) -> bool:
    """Returns whether a damaged shard is skipped."""
    if on_bad_shard not in ("fail", "skip"):
        raise UsageError(f"--on-bad-shard {on_bad_shard}: expected fail or skip.")
    return on_bad_shard == "skip"


def show_estimate(command: str, request: Any, schedule: Sequence[str] = (), *, as_json: bool) -> None:
    """Shows what a run, or a build-up by a schedule, would take."""
    from curate.workflows.estimate import estimate

    result = estimate(request, schedule)
    if as_json:
        return console.show_json(command, {"dry_run": True, **result})
    for name, value in result.items():
        values = value if isinstance(value, list) else [value]
        shown = ", ".join(f"{one:,}" if isinstance(one, int) else str(one) for one in values)
        console.say(f"{name.replace('_', ' ')}: {shown}")
    console.note("Nothing was written.")
    return None
