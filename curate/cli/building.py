"""Commands that grow a subset round by round: build-up, and acquire where labels are still to be given."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from curate import console
from curate.cli.options import (
    CheckpointEvery,
    Checkpoints,
    Copied,
    Device,
    EnsembleKind,
    Epochs,
    Json,
    LabelField,
    LabelFrom,
    Labels,
    MaxTime,
    OnBadShard,
    Proxy,
    Recipes,
    Seeds,
    Sets,
    Shards,
    TextField,
    app,
    ensemble_settings,
    label_source,
    settings_of,
    show_estimate,
    skips,
    within_time,
)
from curate.errors import UsageError

CLASS_RULES = (None, "equal", "proportional")


@app.command("build-up")
def build_up(
    shards: Shards,
    schedule: Annotated[
        str,
        typer.Option("--schedule", help="Kept after each iteration; the first is random.", metavar="F,F,…"),
    ],
    fn: Annotated[str, typer.Option("--fn", help="The acquisition function by which the subset grows.")],
    out: Annotated[Path, typer.Option("--out", help="The iterations' folder.", metavar="DIR")] = Path("build-up"),
    proxy: Proxy = "",
    seeds: Seeds = None,
    epochs: Epochs = None,
    checkpoints: Checkpoints = None,
    checkpoint_every: CheckpointEvery = None,
    ensemble: EnsembleKind = "",
    recipe: Recipes = None,
    settings: Sets = None,
    outliers: Annotated[str, typer.Option("--outliers", help="Of the highest scores, in each iteration.")] = "0",
    first_per_class: Annotated[
        str | None, typer.Option("--first-per-class", help="equal or proportional, of the random subset.")
    ] = None,
    per_class: Annotated[str | None, typer.Option("--per-class", help="equal or proportional, of what joins.")] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the random subset.")] = 0,
    val: Annotated[list[str] | None, typer.Option("--val", help="As in score.", metavar="FRACTION|SHARDS...")] = None,
    test: Annotated[list[str] | None, typer.Option("--test", help="As in score.", metavar="SHARDS...")] = None,
    label_from: LabelFrom = "cls",
    label_field: LabelField = "",
    labels: Labels = None,
    text_field: TextField = "",
    on_bad_shard: OnBadShard = "fail",
    max_bad: Annotated[float, typer.Option("--max-bad", min=0, max=1, help="Largest fraction of bad samples.")] = 0.1,
    device: Device = "auto",
    copied: Copied = False,
    max_time: MaxTime = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would run; touch nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Grow a subset: train on it, score everything, add the best. Resumes by itself."""
    from curate.recipe import check_ensemble, load_recipe

    for name, rule in (("--first-per-class", first_per_class), ("--per-class", per_class)):
        if rule not in CLASS_RULES:
            raise UsageError(f"{name} {rule}: expected equal or proportional.")
    given = settings_of(proxy, seeds, epochs, checkpoints, checkpoint_every)
    given = [*ensemble_settings(ensemble), *(settings or []), *given]
    loaded, source = load_recipe(recipe, given), label_source(label_from, label_field, labels, text_field)
    check_ensemble(ensemble, loaded.train.seeds, loaded.train.checkpoints)
    from curate.workflows import build_up as work

    request = work.Request(
        shards, out, schedule.split(","), fn, loaded, source, outliers=outliers, first_per_class=first_per_class,  # type: ignore[arg-type]  # checked above
        per_class=per_class, seed=seed, val=val or (), test=test or (), device=device,  # type: ignore[arg-type]  # checked above
        skip_faults=skips(on_bad_shard), max_bad=max_bad, copied=copied,
    )  # fmt: skip
    if dry_run:
        work.check(request)
        return show_estimate("build-up", work.run_request(request, out), request.schedule, as_json=as_json)
    with console.progress(quiet=as_json) as listener:
        records = work.build_up(request, within_time(listener, max_time))
    if as_json:
        return console.show_json("build-up", {"out": str(out), "iterations": records})
    console.show_table("Build-up", ("iteration", "kept", "trained on", "test", "digest"), map(_row, records))
    console.say(f"manifest: {records[-1]['manifest']}")
    console.note(f"Next: curate evaluate {records[-1]['manifest']} --test SHARDS --target NAME")
    return None


def _row(record: dict[str, Any]) -> tuple[str, ...]:
    test = record.get("ensemble", {}).get("test")
    trained = f"{record['trained']:,}" if "trained" in record else "-"
    kept, digest = f"{record['kept']:,}", record["digest"][:8]
    return str(record["iteration"]), kept, trained, "-" if test is None else f"{test:.2%}", digest


@app.command()
def acquire(
    shards: Shards,
    schedule: Annotated[str, typer.Option("--schedule", help="Labelled after each further round.", metavar="F,F,…")],
    fn: Annotated[str, typer.Option("--fn", help="What is labelled next: entropy, k_centers, …; random to compare.")],
    initial: Annotated[str, typer.Option("--initial", help="Drawn at random to begin with.", metavar="F")] = "0.02",
    out: Annotated[Path, typer.Option("--out", help="The rounds' folder.", metavar="DIR")] = Path("acquire"),
    answers: Annotated[
        list[Path] | None,
        typer.Option("--answers", help="Labels of the round that waits, beside its to_label.csv.", metavar="CSV"),
    ] = None,
    classes: Annotated[
        Path | None, typer.Option("--classes", help="All classes, one name a line.", metavar="FILE")
    ] = None,
    oracle: Annotated[bool, typer.Option("--oracle", help="The labels in the shards answer at once.")] = False,
    proxy: Proxy = "",
    seeds: Seeds = None,
    epochs: Epochs = None,
    checkpoints: Checkpoints = None,
    checkpoint_every: CheckpointEvery = None,
    recipe: Recipes = None,
    settings: Sets = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the random draws.")] = 0,
    val: Annotated[list[str] | None, typer.Option("--val", help="As in score.", metavar="FRACTION|SHARDS...")] = None,
    test: Annotated[list[str] | None, typer.Option("--test", help="As in score.", metavar="SHARDS...")] = None,
    label_from: LabelFrom = "cls",
    label_field: LabelField = "",
    labels: Labels = None,
    text_field: TextField = "",
    on_bad_shard: OnBadShard = "fail",
    max_bad: Annotated[float, typer.Option("--max-bad", min=0, max=1, help="Largest fraction of bad samples.")] = 0.1,
    device: Device = "auto",
    copied: Copied = False,
    max_time: MaxTime = "",
    as_json: Json = False,
) -> None:
    """Choose what to label next: active learning, round by round. Resumes by itself."""
    from curate.recipe import load_recipe

    given = settings_of(proxy, seeds, epochs, checkpoints, checkpoint_every)
    loaded, source = (
        load_recipe(recipe, [*(settings or []), *given]),
        label_source(label_from, label_field, labels, text_field),
    )
    from curate.pool.classes import read_class_names
    from curate.workflows import acquire as work

    if oracle and (answers or classes):
        raise UsageError("--answers and --classes are for people, not for --oracle.")
    request = work.Request(
        shards, out, initial, schedule.split(","), fn, oracle, loaded, source, seed=seed, val=val or (),
        test=test or (), device=device, skip_faults=skips(on_bad_shard), max_bad=max_bad, answers=answers or (),
        classes=read_class_names(classes) if classes else (), copied=copied,
    )  # fmt: skip
    with console.progress(quiet=as_json) as listener:
        acquired = work.acquire(request, within_time(listener, max_time))
    _show_rounds(acquired, out, as_json=as_json)


def _show_rounds(acquired: Any, out: Path, *, as_json: bool) -> None:
    from curate.workflows.rounds import COLUMNS, cells_of

    if as_json:
        waiting = vars(acquired.waiting) if acquired.waiting else None
        return console.show_json("acquire", {"out": str(out), "rounds": acquired.rounds, "waiting": waiting})
    if acquired.rounds:
        console.show_table("Active learning", COLUMNS, map(cells_of, acquired.rounds))
        console.say(f"manifest: {acquired.rounds[-1]['manifest']}")
    if acquired.waiting:
        round_ = acquired.waiting
        console.say(f"round {round_.number}: {round_.questions:,} samples to label: {round_.to_label}")
        console.note(f"Pictures: {round_.pictures}/index.html; for Label Studio: {round_.pictures}/label_studio.json")
        console.note("Next: fill in the column 'label', or name a CSV with --answers; then the same command again.")
    return None
