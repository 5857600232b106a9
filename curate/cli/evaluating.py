"""Commands that ask whether it was worth it: evaluate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from curate import console
from curate.cli.options import (
    Device,
    Json,
    LabelField,
    LabelFrom,
    Labels,
    OnBadShard,
    Recipes,
    Root,
    Sets,
    app,
    label_source,
    skips,
)
from curate.errors import UsageError

EQUAL = ("epochs", "steps")


@app.command()
def evaluate(
    manifests: Annotated[list[Path], typer.Argument(metavar="MANIFEST...", help="Manifests of one pool.")],
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
    scores: Annotated[
        list[Path] | None, typer.Option("--scores", help="Runs that scored them, for what it cost.", metavar="DIR")
    ] = None,
    label_from: LabelFrom = "cls",
    label_field: LabelField = "",
    labels: Labels = None,
    on_bad_shard: OnBadShard = "fail",
    root: Root = None,
    device: Device = "auto",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what has run so far; train nothing.")] = False,
    markdown: Annotated[bool, typer.Option("--md", help="Print Markdown.")] = False,
    as_json: Json = False,
) -> None:
    """Train targets on what was kept, on random samples, on everything. Resumes by itself."""
    from curate.recipe import load_recipe

    if equal not in EQUAL:
        raise UsageError(f"--equal {equal}: expected {' or '.join(EQUAL)}.")
    loaded, source = load_recipe(recipe, settings or []), label_source(label_from, label_field, labels)
    from curate.workflows import evaluate as work

    request = work.Request(
        manifests, test or (), out, loaded, target or (), seeds=seeds, members=target_members, equal=equal,
        scores=scores or (), labels=source, root=root, device=device, skip_faults=skips(on_bad_shard),
    )  # fmt: skip
    with console.progress(quiet=as_json) as listener:
        result = work.planned(request) if dry_run else work.evaluate(request, listener)
    if as_json:
        return console.show_json("evaluate", {"out": str(out), **result})
    show_evaluation(result["rows"], markdown=markdown)
    console.note(f"Results of {result['runs']} runs: {out}/runs; the table: {out}/table.md")
    return None


def show_evaluation(rows: list[dict[str, Any]], *, markdown: bool = False) -> None:
    """Prints the table of an evaluation, a part for each target."""
    from curate.workflows.results import COLUMNS, as_markdown, cells_of, title

    if markdown:
        console.say(as_markdown(rows))
        return
    for name in dict.fromkeys(row["target"] for row in rows):
        own = [row for row in rows if row["target"] == name]
        console.show_table(title(name, own), COLUMNS, map(cells_of, own))
