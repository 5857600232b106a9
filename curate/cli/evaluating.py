"""Commands that ask whether it was worth it, and whether rankings agree: evaluate, compare."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from curate import console
from curate.cli.options import (
    Copied,
    Device,
    Json,
    LabelField,
    LabelFrom,
    Labels,
    MaxTime,
    OnBadShard,
    Recipes,
    Root,
    Sets,
    TextField,
    app,
    label_source,
    skips,
    within_time,
)
from curate.errors import ScoreError, UsageError

EQUAL, SCHEMES = ("epochs", "steps"), ("scratch", "pretrain")
CORRELATIONS = ("spearman", "pearson", "kendall")


@app.command()
def evaluate(
    manifests: Annotated[
        list[Path] | None, typer.Argument(metavar="[MANIFEST...]", help="Manifests of one pool; none with --curve.")
    ] = None,
    curve: Annotated[
        str, typer.Option("--curve", help="Prune one run to these fractions, and evaluate them all.", metavar="F,F,…")
    ] = "",
    fn: Annotated[
        list[str] | None,
        typer.Option("--fn", help="Of --curve and --proxy-recipe: a function; may be given again."),
    ] = None,
    proxy_recipe: Annotated[
        Path | None,
        typer.Option("--proxy-recipe", help="Each seed trains a proxy by it and selects anew.", metavar="FILE"),
    ] = None,
    shards: Annotated[
        list[str] | None, typer.Option("--shards", help="Of --proxy-recipe: the pool.", metavar="SHARDS...")
    ] = None,
    keep: Annotated[str, typer.Option("--keep", help="Of --proxy-recipe: how much is kept.", metavar="F,F,…")] = "",
    test: Annotated[
        list[str] | None, typer.Option("--test", help="Shards that accuracy is measured on.", metavar="SHARDS...")
    ] = None,
    target: Annotated[
        list[str] | None, typer.Option("--target", help="Any timm name; may be given again.", metavar="NAME")
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="The results' folder.", metavar="DIR")] = Path("evaluation"),
    recipe: Recipes = None,
    settings: Sets = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Runs behind each figure.")] = 3,
    target_members: Annotated[int, typer.Option("--target-members", min=1, help="Targets that vote in each run.")] = 1,
    equal: Annotated[
        str, typer.Option("--equal", help="epochs, or steps: smaller sets are trained for more epochs.")
    ] = "epochs",
    scheme: Annotated[
        str, typer.Option("--scheme", help="scratch, or pretrain: fine-tune the model of all the data.")
    ] = "scratch",
    scores: Annotated[
        list[Path] | None,
        typer.Option("--scores", help="Runs that scored them, for what it cost; of --curve the run.", metavar="DIR"),
    ] = None,
    val: Annotated[
        list[str] | None,
        typer.Option("--val", help="Held out of every training: a fraction, or shards.", metavar="FRACTION|SHARDS..."),
    ] = None,
    label_from: LabelFrom = "cls",
    label_field: LabelField = "",
    labels: Labels = None,
    text_field: TextField = "",
    on_bad_shard: OnBadShard = "fail",
    root: Root = None,
    device: Device = "auto",
    copied: Copied = False,
    max_time: MaxTime = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what has run so far; train nothing.")] = False,
    markdown: Annotated[bool, typer.Option("--md", help="Print Markdown.")] = False,
    as_json: Json = False,
) -> None:
    """Train targets on kept samples, on random ones, on all. Resumes by itself."""
    from curate.recipe import PUBLISHED, load_recipe

    for name, value, known in (("--equal", equal, EQUAL), ("--scheme", scheme, SCHEMES)):
        if value not in known:
            raise UsageError(f"{name} {value}: expected {' or '.join(known)}.")
    # A target of texts brings the training that was published with it, unless the recipe has its own.
    named = [f"proxy.name={target[0]}"] if target and target[0] in PUBLISHED else []
    loaded, source = (
        load_recipe(recipe, ["train.checkpoints=1", *(settings or []), *named]),
        label_source(label_from, label_field, labels, text_field),
    )
    from curate.workflows import evaluate as work
    from curate.workflows.evaluation import Request

    anew = _anew(proxy_recipe, shards, fn, keep, curve)
    if curve:
        manifests, scores = _keep_lists(manifests, curve, fn, scores, out)
    request = Request(
        manifests or (), test or (), out, loaded, target or (), seeds=seeds, members=target_members, equal=equal,
        scheme=scheme, scores=scores or (), labels=source, root=root, device=device, skip_faults=skips(on_bad_shard),
        val=val or (), anew=anew, copied=copied,
    )  # fmt: skip
    with console.progress(quiet=as_json) as listener:
        result = work.planned(request, listener) if dry_run else work.evaluate(request, within_time(listener, max_time))
    if not dry_run:
        _draw_curve(out, result["rows"])
    if as_json:
        return console.show_json("evaluate", {"out": str(out), **result})
    show_evaluation(result["rows"], markdown=markdown)
    if dry_run:
        console.note(f"{result['done']} of {result['asked']} runs are there.")
    table = f"; the table: {out}/table.md" if (out / "table.md").exists() else ""  # not of what was cut short
    console.note(f"Results of {result['runs']} runs: {out}/runs{table}")
    return None


def _anew(proxy_recipe: Path | None, shards: list[str] | None, fn: list[str] | None, keep: str, curve: str) -> Any:
    """Returns how each seed selects; None where manifests are given."""
    if proxy_recipe is None:
        if shards or keep:
            raise UsageError("--shards and --keep are of --proxy-recipe.", hint="Give it, or leave them out.")
        return None
    if curve:
        raise UsageError("--curve prunes one run; --proxy-recipe makes its own.", hint="Use --keep 0.3,0.5.")
    from curate.recipe import load_recipe
    from curate.workflows.anew import Anew

    return Anew(load_recipe(proxy_recipe), shards or (), fn or (), [word for word in keep.split(",") if word])


def _keep_lists(
    manifests: list[Path] | None, curve: str, fn: list[str] | None, scores: list[Path] | None, out: Path
) -> tuple[list[Path], list[Path]]:
    """Returns the manifests of a curve, and the run that they are pruned from."""
    from curate.workflows.keep_lists import keep_lists

    runs = scores or [Path("scores")]
    if manifests or len(runs) > 1 or not fn:
        raise UsageError("--curve prunes one run by --fn: it takes no manifests, one --scores and at least one --fn.")
    return keep_lists(runs[0], fn, curve.split(","), out), runs


def _draw_curve(out: Path, rows: list[dict[str, Any]]) -> None:
    from curate import durable
    from curate.report.curve import curve_svg

    if picture := curve_svg(rows):
        durable.write_bytes(out / "curve.svg", picture.encode())
        console.note(f"Accuracy against the fraction kept: {out}/curve.svg; curate prune --keep auto --curve {out}")


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of score; of one, its seeds.")],
    target: Annotated[
        list[Path] | None,
        typer.Option(
            "--target",
            help="Hold the runs, them combined, and a random order against it; may be given again.",
            metavar="RUN",
        ),
    ] = None,
    fn: Annotated[
        list[str] | None, typer.Option("--fn", help="A function, or k_centers; may be given again [all functions].")
    ] = None,
    top: Annotated[str, typer.Option("--top", help="Overlap of so many of the highest.", metavar="F,F,…")] = "0.1,0.5",
    epochs: Annotated[
        bool, typer.Option("--epochs", help="Also each traced epoch against its run's end and the targets'.")
    ] = False,
    consensus: Annotated[
        bool, typer.Option("--consensus", help="Also how members vote: checkpoints alike, ensembles right.")
    ] = False,
    cost: Annotated[bool, typer.Option("--cost", help="Also what each run cost, against the first target's.")] = False,
    plot: Annotated[Path | None, typer.Option("--plot", help="Also draw it: .svg or .html.", metavar="FILE")] = None,
    as_json: Json = False,
) -> None:
    """Say how alike runs, proxies, seeds or epochs rank a pool."""
    from curate.workflows.compare import Request, run_names
    from curate.workflows.compare import compare as work
    from curate.workflows.consensus import consensus as count_votes
    from curate.workflows.consensus import keeps_checkpoints
    from curate.workflows.rankings import keeps_seeds

    if plot and plot.suffix not in (".svg", ".html"):
        raise UsageError(f"--plot {plot}: expected .svg or .html.")
    tops, targets = tuple(top.split(",")), target or []
    folders = [*runs, *targets]
    names = run_names(folders)
    is_alone = (consensus or cost) and len(folders) == 1 and not keeps_seeds(runs[0])
    if plot and is_alone and not (consensus and keeps_checkpoints(runs[0])):
        raise UsageError(
            f"--plot {plot}: of {runs[0]} alone, which keeps no scores of single seeds, there is nothing to draw.",
            hint="Name two runs, or score with --seeds 2 --per-seed; --consensus draws votes of several checkpoints.",
        )
    result: dict[str, Any] = {} if is_alone else work(Request(runs, targets, fn or (), tops, epochs=epochs))
    if consensus:
        named = zip(names, runs, strict=False)  # targets have the last names
        result["consensus"] = [{"run": name, **count_votes(folder)} for name, folder in named]
    if cost:
        from curate.workflows.cost import costs_of

        result["cost"] = costs_of(folders, names, target=names[len(runs)] if targets else None)
    if as_json:
        console.show_json("compare", result)
    else:
        _show_compared(result, tops)
    if plot:
        _draw_agreement(plot, result)


def _show_compared(result: dict[str, Any], tops: Sequence[str]) -> None:
    columns = (*CORRELATIONS, *(f"top {one}" for one in tops))

    def figures(row: dict[str, Any]) -> list[str]:
        return [_figure(value) for value in (*(row[name] for name in CORRELATIONS), *map(row["overlap"].get, tops))]

    rows = [
        (f"{row['fn']}: {row['a']}, {row['b']}", f"{row['n']:,}", *figures(row)) for row in result.get("agreement", [])
    ]
    if rows:
        console.show_table("Agreement", ("", "samples", *columns), rows)
    single = [
        (f"{r['fn']}: {r['run']}" + (", own runs" if r["is_target"] else ""), str(r["pairs"]), _figure(r["spread"]),
         _figure(r["gap"]), *figures(r))
        for r in result.get("single_runs", [])
    ]  # fmt: skip
    if single:
        title = (
            "Single runs against the target's: means over pairs; spearman's std, and what it lacks to the target's own"
        )
        console.show_table(title, ("", "pairs", "std", "lacks", *columns), single)
    traced = [
        (f"{r['run']}: {r['fn']}, seed {r['seed']}", str(r["epoch"]),
         "its end" if r["with"] == r["run"] else r["with"], *figures(r))
        for r in result.get("epochs", [])
    ]  # fmt: skip
    if traced:
        console.show_table("Epochs", ("", "epoch", "with", *columns), traced)
    for votes in result.get("consensus", []):
        _show_consensus(votes)
    spent = [
        (r["run"], r["proxy"], f"{r['seconds']:,.0f}", f"{r['flops']:.3g}", _figure(r["share"]))
        for r in result.get("cost", [])
    ]
    if spent:
        console.show_table("Cost", ("run", "proxy", "seconds", "flops", "of the target's"), spent)


def _draw_agreement(plot: Path, result: dict[str, Any]) -> None:
    from curate import durable
    from curate.report.agreement import agreement_svg, page

    picture = agreement_svg(result)
    if not picture:
        raise ScoreError(
            f"--plot {plot}: no correlation is known, so that there is nothing to draw.",
            hint="Expected scores of at least two samples in common that are not all alike.",
        )
    plot.parent.mkdir(parents=True, exist_ok=True)
    durable.write_bytes(plot, (picture if plot.suffix == ".svg" else page(picture)).encode())
    console.note(f"Drawn: {plot}")


def _show_consensus(votes: dict[str, Any]) -> None:
    shares = ("last", "last_untrained", "pair", "pair_untrained")
    rows = [
        (f"seed {r['seed']}", str(r["n"]), *("-" if r[share] is None else f"{r[share]:.2%}" for share in shares))
        for r in votes["checkpoints"]
    ]
    columns = ("", "n", "last n agree", "not trained on", "n and the next agree", "not trained on")
    if rows:
        console.show_table(f"{votes['run']}: checkpoints", columns, rows)
    where = ("trained", "untrained", "all")
    kinds = [
        (f"{row['ensemble']} ({row['members']})", *("-" if row[w] is None else f"{row[w]:.2%}" for w in where))
        for row in votes["ensembles"]
    ]
    title = f"{votes['run']}: accuracy by plurality of votes; of k classes that tie each counts 1/k"
    console.show_table(title, ("ensemble", "trained on", "not trained on", "all that have a label"), kinds)


def _figure(value: float | None) -> str:
    return "-" if value is None or value != value else f"{value:.3f}"


def show_evaluation(rows: list[dict[str, Any]], *, markdown: bool = False) -> None:
    """Prints the table of an evaluation, a part for each target."""
    from curate.workflows.results import COLUMNS, as_markdown, cells_of, title, told_apart

    if markdown:
        console.say(as_markdown(rows))
        return
    for name in dict.fromkeys(row["target"] for row in rows):
        own = [row for row in rows if row["target"] == name]
        console.show_table(title(name, own), COLUMNS, map(cells_of, told_apart(own)))
