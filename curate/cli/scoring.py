"""Commands of the main job: score, prune, and the demo of both."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from curate import console
from curate.cli.evaluating import show_evaluation
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

if TYPE_CHECKING:
    from curate.workflows.given import Choice


@app.command()
def score(
    shards: Shards,
    proxy: Proxy = "",
    out: Annotated[Path, typer.Option("--out", help="The run's folder.", metavar="DIR")] = Path("scores"),
    recipe: Recipes = None,
    settings: Sets = None,
    seeds: Seeds = None,
    epochs: Epochs = None,
    checkpoints: Checkpoints = None,
    checkpoint_every: CheckpointEvery = None,
    ensemble: EnsembleKind = "",
    pixels: Annotated[str, typer.Option("--pixels", help="auto, memory, disk or stream.")] = "",
    val: Annotated[
        list[str] | None,
        typer.Option("--val", help="Held out of training: a fraction, or shards.", metavar="FRACTION|SHARDS..."),
    ] = None,
    test: Annotated[
        list[str] | None, typer.Option("--test", help="Shards that are only reported on.", metavar="SHARDS...")
    ] = None,
    within: Annotated[
        Path | None, typer.Option("--within", help="Train on what this manifest keeps; score all.", metavar="MANIFEST")
    ] = None,
    base: Annotated[
        Path | None, typer.Option("--base", help="Grow this run: its members score the new shards.", metavar="RUN")
    ] = None,
    members: Annotated[
        Path | None,
        typer.Option("--members", help="Train nothing: a run's members, or weights, score the pool.", metavar="DIR"),
    ] = None,
    per_seed: Annotated[bool, typer.Option("--per-seed", help="Also keep each seed's own columns.")] = False,
    trace: Annotated[
        bool, typer.Option("--trace", help="Also keep entropy, correctness and forgetting of each epoch.")
    ] = False,
    embeddings: Annotated[
        bool, typer.Option("--embeddings", help="Also keep the proxy's embeddings, for --fn k_centers.")
    ] = False,
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
    """Train the proxy's members, score every sample. Resumes by itself."""
    from curate.recipe import check_ensemble, load_recipe

    chosen = None
    if members:
        if trace or epochs is not None:
            raise UsageError("With --members nothing is trained.", hint="Leave out --epochs and --trace.")
        chosen = _chosen(ensemble, seeds, checkpoints, checkpoint_every)
        ensemble, seeds, checkpoints, checkpoint_every = "", None, None, None  # of what is there, not of a training
    given = settings_of(proxy, seeds, epochs, checkpoints, checkpoint_every)
    given += [f"pixels.store={pixels}"] if pixels else []
    given += [f"score.{name}=true" for name, is_given in (("per_seed", per_seed), ("trace", trace)) if is_given]
    if base:
        _refuse_beside_base({
            "--recipe": recipe, "--set": settings, "--ensemble": ensemble, "--val": val, "--test": test,
            "--within": within, "--embeddings": embeddings, "--dry-run": dry_run,
            "--proxy, --seeds and other options of the recipe": given,
        })  # fmt: skip
        loaded = _recipe_of(base)
    else:
        loaded = load_recipe(recipe, [*ensemble_settings(ensemble), *(settings or []), *given])
    check_ensemble(ensemble, loaded.train.seeds, loaded.train.checkpoints)
    source = label_source(label_from, label_field, labels, text_field)
    from curate.workflows.growth import grow
    from curate.workflows.run import Request
    from curate.workflows.score import score as work

    request = Request(
        shards=shards, out=out, recipe=loaded, labels=source, val=val or (), test=test or (), device=device,
        skip_faults=skips(on_bad_shard), max_bad=max_bad, embeddings=embeddings, within=within, base=base,
        copied=copied, members=members, choice=chosen,
    )  # fmt: skip
    if dry_run:
        return show_estimate("score", request, as_json=as_json)
    with console.progress(quiet=as_json) as listener:
        summary = (grow if base else work)(request, within_time(listener, max_time))
    _show_scores(summary, out, as_json=as_json)
    return None


def _chosen(ensemble: str, seeds: int | None, checkpoints: int | None, every: int | None) -> Choice | None:
    """Returns which of a run's members are asked for; None where nothing is said, for all."""
    from curate.workflows.given import Choice

    if not ensemble and (seeds, checkpoints, every) == (None, None, None):
        return None
    for name, count in (("--seeds", seeds), ("--checkpoints", checkpoints), ("--checkpoint-every", every)):
        if count is not None and count < 1:
            raise UsageError(f"{name} {count}: expected 1 or more.")
    ensemble_settings(ensemble)  # refuses an unknown kind
    seeds = 1 if ensemble == "checkpoints" and seeds is None else seeds
    checkpoints = 1 if ensemble == "seeds" and checkpoints is None else checkpoints
    return Choice(seeds, checkpoints, every or 1, ensemble)


def _refuse_beside_base(given: dict[str, object]) -> None:
    if names := [name for name, is_given in given.items() if is_given]:
        raise UsageError(
            "--base takes recipe, members, held-out samples, accuracies and embeddings of that run.",
            hint=f"Leave out {', '.join(names)}.",
        )


def _recipe_of(base: Path) -> Any:
    from curate.workflows.base_run import open_base_run

    return open_base_run(base).recipe


def _show_scores(summary: dict[str, Any], out: Path, *, as_json: bool) -> None:
    if as_json:
        return console.show_json("score", {"out": str(out), **summary})
    names = sorted(summary["ensemble"])
    if names:
        rows = [(f"seed {m['seed']} epoch {m['epoch']}", *(f"{m[n]:.2%}" for n in names)) for m in summary["members"]]
        rows.append(("ensemble", *(f"{summary['ensemble'][n]:.2%}" for n in names)))
        console.show_table("Accuracy", ("member", *names), rows)
    if "growth" in summary:
        _show_growth(summary["growth"])
    console.say(
        f"{summary['scored']:,} of {summary['samples']:,} samples scored by {len(summary['members'])} members of "
        f"{summary['proxy']}, {summary['failed']:,} failed."
    )
    for one in summary.get("diverged", ()):
        console.say(f"seed {one['seed']} is left out: {one['reason']}")
    where = "" if out == Path("scores") else f" --scores {out}"
    fn = "variation_ratio" if len(summary["members"]) > 1 else "entropy"  # one member agrees with itself
    console.note(f"Next: curate prune{where} --keep 0.8 --fn {fn}")
    return None


def _show_growth(growth: dict[str, Any]) -> None:
    rows = [
        (fn, *(f"{found[name]:.3f}" for name in ("distance", "chance", "shift")))
        for fn, found in growth["drift"].items()
    ]
    kind = "held-out" if growth["held_out"] else "trained-on"
    title = f"Drift: {growth['samples']:,} samples added since training against {growth['old']:,} {kind} ones"
    if growth["samples"]:
        console.show_table(title, ("score", "distance", "by chance", "shift"), rows)
    checked, accuracy = growth["checked"], growth["accuracy"]
    how = "to the same bytes" if checked["equal"] else f"with ranks that agree by {checked['agreement']:.4f}"
    console.say(f"{checked['samples']:,} old samples were scored again, {how}.")
    if None not in accuracy.values():
        console.say(f"Right labels: {accuracy['new']:.2%} of the added samples, {accuracy['old']:.2%} of the others.")


@app.command()
def prune(
    keep: Annotated[str, typer.Option("--keep", help="A fraction (0.8, 80%) of the scored samples, a count, or auto.")],
    fn: Annotated[str, typer.Option("--fn", help="The acquisition function, higher is kept first; or k_centers.")],
    scores: Annotated[
        list[Path] | None,
        typer.Option("--scores", help="The run's folder [scores]; several with --combine.", metavar="DIR"),
    ] = None,
    index: Annotated[
        Path | None,
        typer.Option("--index", help="Prune scores from elsewhere: --scores is Parquet, --fn a column.", metavar="DIR"),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="The manifest's folder [manifests/FN-KEEP].", metavar="DIR")
    ] = None,
    outliers: Annotated[str, typer.Option("--outliers", help="Set aside so many of the highest scores first.")] = "0",
    order: Annotated[str, typer.Option("--order", help="hardest or easiest: which end is kept.")] = "hardest",
    per_class: Annotated[str | None, typer.Option("--per-class", help="equal or proportional.")] = None,
    min_per_class: Annotated[
        int, typer.Option("--min-per-class", min=0, help="Keep at least so many of each class.")
    ] = 0,
    always: Annotated[
        Path | None, typer.Option("--always", help="Keys to keep in any case, one a line.", metavar="FILE")
    ] = None,
    never: Annotated[
        Path | None, typer.Option("--never", help="Keys never to keep, one a line.", metavar="FILE")
    ] = None,
    curve: Annotated[
        Path, typer.Option("--curve", help="Of --keep auto: what curate evaluate measured.", metavar="DIR")
    ] = Path("evaluation"),
    tolerance: Annotated[
        float, typer.Option("--tolerance", min=0, max=1, help="Of --keep auto: accuracy that may be lost.")
    ] = 0.003,
    base: Annotated[
        Path | None, typer.Option("--base", help="Grow this manifest: what it keeps stays.", metavar="MANIFEST")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of --fn random and of a random start.")] = 0,
    combine: Annotated[
        str | None,
        typer.Option("--combine", help="mean or rank: of several --scores, or of one run's seeds (--per-seed)."),
    ] = None,
    never_learned: Annotated[
        str, typer.Option("--never-learned", help="first or last: where forgetting puts what was never learned.")
    ] = "first",
    start: Annotated[
        str, typer.Option("--start", help="Of k_centers: random, labelled, or a manifest.", metavar="KIND|MANIFEST")
    ] = "random",
    start_size: Annotated[
        int | None, typer.Option("--start-size", min=0, help="Of a random start [1000, or a tenth of what is kept].")
    ] = None,
    partitions: Annotated[
        int, typer.Option("--partitions", min=1, help="Of k_centers: two rounds, one part in memory at a time.")
    ] = 1,
    device: Annotated[str, typer.Option("--device", help="Of k_centers: cpu, or cuda for its products.")] = "cpu",
    keep_list: Annotated[bool, typer.Option("--keep-list", help="Also write keep.txt: shard TAB key.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a different manifest.")] = False,
    as_json: Json = False,
) -> None:
    """Turn score tables into a manifest. Seconds, no torch."""
    from curate.workflows import prune as work
    from curate.workflows.cover import CoverRequest

    for name, value, known in (
        ("--order", order, ("hardest", "easiest")),
        ("--per-class", per_class, (None, "equal", "proportional")),
        ("--combine", combine, (None, "mean", "rank")),
        ("--never-learned", never_learned, ("first", "last")),
    ):
        if value not in known:
            raise UsageError(f"{name} {value}: expected {' or '.join(filter(None, known))}.")
    first = scores[0] if scores else None if index and fn == "random" else Path("scores")
    result = work.prune(
        work.Request(
            scores=first, others=(scores or [])[1:], base=base, curve=curve, tolerance=tolerance,
            combine=combine, never_learned=never_learned,  # type: ignore[arg-type]  # checked above
            index=index, fn=fn, keep=keep, out=out, outliers=outliers, order=order, per_class=per_class,  # type: ignore[arg-type]  # checked above
            cover=CoverRequest(start=start, start_size=start_size, partitions=partitions, device=device),
            min_per_class=min_per_class, seed=seed, always=always, never=never, keep_list=keep_list, force=force,
        )
    )  # fmt: skip
    if as_json:
        return console.show_json("prune", {**vars(result), "out": str(result.out)})
    dropped = ", ".join(f"{count:,} by {reason}" for reason, count in result.dropped.items()) or "none"
    console.say(f"{result.kept:,} kept, dropped: {dropped}, {result.failed:,} failed; {result.samples:,} in all.")
    if result.cover and result.cover["radius"] is not None:
        shares = " divided among classes in this way" if per_class or min_per_class else ""
        console.say(
            f"cover radius: {result.cover['radius']:.6g}; at least {result.cover['lower_bound']:.6g} by any others "
            f"beside this start{shares}"
        )
    console.say(f"manifest: {result.out}\ndigest: {result.digest}")
    console.note(f"Next: curate verify {result.out}; curate cat {result.out} {result.first_shard} | tar t")
    return None


@app.command()
def demo(
    out: Annotated[Path | None, typer.Option("--out", help="Keep everything in this folder.", metavar="DIR")] = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Training runs behind each figure.")] = 3,
    as_json: Json = False,
) -> None:
    """Tell the whole story on scikit-learn's digits, in a minute."""
    from curate.workflows.demo import demo as tell

    with console.progress(quiet=as_json) as listener:
        result = tell(out, seeds=seeds, progress=listener)
    if as_json:
        return console.show_json("demo", result)
    show_evaluation(result["table"])
    console.say(result["verdict"])
    console.note("Next: curate score SHARDS --proxy resnet18, then curate prune --keep 0.8 --fn variation_ratio")
    return None
