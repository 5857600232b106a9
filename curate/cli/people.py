"""Commands for who must trust a manifest: diff, check, explain, and manifests as sets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from curate import console
from curate.cli.options import Json, Manifest, app
from curate.errors import UsageError

DIFFERENT = 5

algebra = typer.Typer(name="manifest", help="Manifests of one pool as sets of samples.", no_args_is_help=True)
app.add_typer(algebra)

Other = Annotated[Path, typer.Argument(metavar="OTHER", help="Another manifest's folder, of the same pool.")]
Out = Annotated[Path, typer.Option("--out", help="The new manifest's folder.", metavar="DIR")]
Scores = Annotated[
    Path | None, typer.Option("--scores", help="What the manifest was made from, if it moved.", metavar="DIR")
]
Index = Annotated[Path | None, typer.Option("--index", help="The index of scores from elsewhere.", metavar="DIR")]
Force = Annotated[bool, typer.Option("--force", help="Replace a different manifest.")]


@algebra.command()
def merge(
    manifest: Manifest, other: Other, out: Out, scores: Scores = None, index: Index = None, force: Force = False,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Keep what either of two manifests keeps."""
    _combine("merge", [manifest, other], out, scores, index, force=force, as_json=as_json)


@algebra.command()
def intersect(
    manifest: Manifest, other: Other, out: Out, scores: Scores = None, index: Index = None, force: Force = False,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Keep what both of two manifests keep."""
    _combine("intersect", [manifest, other], out, scores, index, force=force, as_json=as_json)


@algebra.command()
def subtract(
    manifest: Manifest, other: Other, out: Out, scores: Scores = None, index: Index = None, force: Force = False,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Keep what the first manifest keeps and the other does not."""
    _combine("subtract", [manifest, other], out, scores, index, force=force, as_json=as_json)


@algebra.command()
def invert(
    manifest: Manifest, out: Out, scores: Scores = None, index: Index = None, force: Force = False,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Keep what a manifest drops; what failed stays failed."""
    _combine("invert", [manifest], out, scores, index, force=force, as_json=as_json)


def _combine(
    operation: str, manifests: Sequence[Path], out: Path, scores: Path | None, index: Path | None, *, force: bool,
    as_json: bool,
) -> None:  # fmt: skip
    from curate.manifest.algebra import combine

    result = combine(operation, manifests, out, scores=scores, index=index, force=force)
    if as_json:
        return console.show_json(f"manifest {operation}", {**vars(result), "out": str(out)})
    console.say(
        f"{result.kept:,} kept, {result.dropped:,} dropped, {result.failed:,} failed; {result.samples:,} in all."
    )
    console.say(f"manifest: {result.out}\ndigest: {result.digest}")
    return None


@app.command()
def diff(
    before: Annotated[Path, typer.Argument(metavar="A", help="A manifest's folder.")],
    after: Annotated[Path, typer.Argument(metavar="B", help="Another's.")],
    list_to: Annotated[
        Path | None, typer.Option("--list", help="Write what changed, shard, ordinal and key of each.", metavar="FILE")
    ] = None,
    markdown: Annotated[bool, typer.Option("--md", help="Print Markdown.")] = False,
    exit_code: Annotated[bool, typer.Option("--exit-code", help="Exit with 5 if they differ.")] = False,
    as_json: Json = False,
) -> int:
    """Say what a manifest keeps that another does not, in all and by class. No torch."""
    from curate.workflows.diff import diff as compare
    from curate.workflows.diff import write_samples

    if markdown and as_json:
        raise UsageError("--md and --json both print the result.", hint="Give one of them.")
    result = compare(before, after)
    if list_to:
        write_samples(list_to, result, before, after)
    _show_diff(result, markdown=markdown, as_json=as_json)
    return DIFFERENT if exit_code and any(result.counts.values()) else 0


def _show_diff(result: Any, *, markdown: bool, as_json: bool) -> None:
    from curate.report.markdown import CLASS_COLUMNS, changed_most, class_row, diff_markdown

    if as_json:
        names = ("digest_a", "digest_b", "kept_a", "kept_b", "same_pool", "both", "moves_known", "churn")
        picked = {name: getattr(result, name) for name in names}
        return console.show_json("diff", {**picked, **result.counts, "classes": [vars(c) for c in result.classes]})
    if markdown:
        return console.say(diff_markdown(result).rstrip())
    counts, classes = result.counts, changed_most(result.classes)
    if classes:
        console.show_table("Kept samples by class, those that changed most", CLASS_COLUMNS, map(class_row, classes))
    console.say(f"{result.kept_a:,} kept before, {result.kept_b:,} after, {result.both:,} by both.")
    moved = f"{counts['moved']:,} moved" if result.moves_known else "moved samples not known (an index is gone)"
    console.say(f"{counts['added']:,} added, {counts['removed']:,} removed, {moved}; churn {result.churn:.2%}.")
    if not result.same_pool:
        console.note("The manifests are of different pools: shards of different content are compared by key.")
    return None
