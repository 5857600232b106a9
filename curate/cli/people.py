"""Commands for who must trust a manifest: report, diff, check, explain, and manifests as sets."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from curate import console
from curate.cli.options import Json, Manifest, Recipes, Root, Sets, Shards, app
from curate.errors import UsageError

GATE_FAILED, DIFFERENT = 3, 5

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
    """Say what changed from one manifest to another. In all and by class. No torch."""
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


@app.command()
def check(
    manifest: Manifest,
    gates: Annotated[Path, typer.Option("--gates", help="A TOML file of limits, see docs/ci.md.", metavar="FILE")],
    base: Annotated[
        Path | None, typer.Option("--base", help="The manifest that churn is measured against.", metavar="MANIFEST")
    ] = None,
    earlier: Annotated[
        Path | None, typer.Option("--earlier", help="The scores that ranks are compared with.", metavar="DIR")
    ] = None,
    evaluation: Annotated[
        Path | None, typer.Option("--evaluation", help="table.json of `curate evaluate`.", metavar="JSON")
    ] = None,
    scores: Scores = None,
    index: Index = None,
    skip: Annotated[list[str] | None, typer.Option("--skip", help="Do not judge this gate.", metavar="GATE")] = None,
    soft: Annotated[bool, typer.Option("--soft", help="Only warn: exit with 0 whatever fails.")] = False,
    markdown: Annotated[Path | None, typer.Option("--md", help="Write Markdown.", metavar="FILE")] = None,
    junit: Annotated[Path | None, typer.Option("--junit", help="Write JUnit XML.", metavar="FILE")] = None,
    openmetrics: Annotated[
        Path | None, typer.Option("--openmetrics", help="Write OpenMetrics text.", metavar="FILE")
    ] = None,
    annotate: Annotated[bool, typer.Option("--annotate", help="Print GitHub's annotations to stderr.")] = False,
    as_json: Json = False,
) -> int:
    """Judge a manifest by a file of limits. Exits with 3 if a gate fails. No torch."""
    from curate.manifest.lines import manifest_digest
    from curate.manifest.verify import load_whole
    from curate.report import outcomes as report
    from curate.workflows.check import check as judge
    from curate.workflows.check import read_gates
    from curate.workflows.gates import Evidence

    limits, head, digest = read_gates(gates), load_whole(manifest), manifest_digest(manifest)
    evidence = Evidence(manifest, head, base, earlier, evaluation, scores, index)
    found = judge(limits, evidence, skip=skip or ())
    for path, text in (
        (markdown, report.check_markdown(digest, found)),
        (junit, report.junit(digest, found)),
        (openmetrics, report.openmetrics(digest, head, found)),
    ):
        _write(path, text.encode())
    if annotate:
        for line in report.github_annotations(found, soft=soft):
            console.note(line)
    return _show_outcomes(found, digest, soft=soft, as_json=as_json)


def _write(path: Path | None, data: bytes) -> None:
    from curate import durable

    if path:
        durable.check_page(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        durable.write_bytes(path, data)


def _show_outcomes(found: Sequence[Any], digest: str, *, soft: bool, as_json: bool) -> int:
    from curate.report.outcomes import COLUMNS, row

    failed = sum(outcome.status == "failed" for outcome in found)
    if as_json:
        gates = [vars(outcome) for outcome in found]
        console.show_json("check", {"digest": digest, "ok": not failed, "soft": soft, "gates": gates})
    else:
        console.show_table("Gates", COLUMNS, map(row, found))
        console.say(f"{failed} of {len(found)} gates failed." if failed else f"{len(found)} gates, none failed.")
    if failed and soft:
        console.note(f"warning: {failed} gates failed; --soft lets them pass.")
    return GATE_FAILED if failed and not soft else 0


@app.command()
def explain(
    key: Annotated[str, typer.Argument(metavar="KEY", help="A sample's key.")],
    manifest: Annotated[
        Path | None, typer.Option("--manifest", help="The manifest that decided about it.", metavar="DIR")
    ] = None,
    scores: Annotated[
        Path | None,
        typer.Option("--scores", help="The run's folder [that of the manifest, or scores/].", metavar="DIR"),
    ] = None,
    index: Index = None,
    shard: Annotated[str, typer.Option("--shard", help="Its shard, where several have the key.")] = "",
    no_image: Annotated[bool, typer.Option("--no-image", help="Show no image, whatever the terminal can.")] = False,
    as_json: Json = False,
) -> None:
    """Say why a sample was kept, dropped or failed. From saved data, no torch."""
    from curate.report import explanation as said
    from curate.workflows.explain import explain as work
    from curate.workflows.explain import read_image

    found = work(key, manifest=manifest, scores=scores, index=index, shard=shard)
    if as_json:
        return console.show_json("explain", said.document(found))
    protocol = "" if no_image else console.image_protocol(os.environ)
    if protocol and (image := read_image(found)):
        console.show_image(image, protocol)
    console.say("\n".join(said.sentences(found)))
    if found.scores:
        console.show_table("Scores; rank 1 is the hardest", said.SCORE_COLUMNS, map(said.score_row, found.scores))
    if found.votes:
        console.show_table("Votes", said.VOTE_COLUMNS, found.votes)
    if found.neighbours:
        console.show_table("Nearest kept", said.NEIGHBOUR_COLUMNS, map(said.neighbour_row, found.neighbours))
    return None


@app.command()
def report(
    manifest: Manifest,
    out: Annotated[Path, typer.Option("--out", help="The page.", metavar="FILE")] = Path("report.html"),
    evaluation: Annotated[
        Path | None, typer.Option("--evaluation", help="What `curate evaluate` wrote.", metavar="DIR")
    ] = None,
    scores: Scores = None,
    index: Index = None,
    root: Root = None,
    as_json: Json = False,
) -> None:
    """Draw what a manifest keeps and drops, as one HTML page. It needs no network and no server. No torch."""
    from curate.report.page import page
    from curate.workflows.report import report as work

    found = work(manifest, scores=scores, index=index, root=root, evaluation=evaluation)
    text = page(found).encode()
    _write(out, text)
    for note in found.notes:
        console.note(f"note: {note}")
    if as_json:
        shown = {"samples_shown": len(found.samples), "bytes": len(text), "notes": found.notes}
        return console.show_json("report", {"out": str(out), "digest": found.digest, **shown})
    return console.say(f"report: {out}, {len(found.samples)} of {found.scored:,} samples shown, {len(text):,} bytes")


@app.command()
def fingerprint(
    shards: Shards,
    recipe: Recipes = None,
    settings: Sets = None,
    test: Annotated[
        list[str] | None, typer.Option("--test", help="Test shards of `score`.", metavar="SHARDS...")
    ] = None,
    more: Annotated[
        list[str] | None,
        typer.Option(
            "--with",
            help="What else the scores depend on: a word, or what a file or folder holds.",
            metavar="WORD|FILE",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Print a cache key for the scores of a pool under a recipe. Reads no shard's body."""
    from curate.recipe import load_recipe
    from curate.workflows.fingerprint import fingerprint as work

    found = work(shards, recipe=load_recipe(recipe, settings or ()).digest, test=test or (), more=more or ())
    if as_json:
        return console.show_json("fingerprint", vars(found))
    return console.say(found.key)


@app.command()
def doctor(
    out: Annotated[Path, typer.Option("--out", help="Where results would go.", metavar="DIR")] = Path(),
    no_torch: Annotated[bool, typer.Option("--no-torch", help="Do not import torch, which takes seconds.")] = False,
    as_json: Json = False,
) -> int:
    """Look at versions, devices, memory and disk; test curate. On images made on the spot."""
    from curate.workflows.doctor import doctor as work

    findings = work(out, with_torch=not no_torch)
    failed = [finding for finding in findings if finding.status == "failed"]
    if as_json:
        console.show_json("doctor", {"ok": not failed, "findings": [vars(finding) for finding in findings]})
        return 1 if failed else 0
    for finding in findings:
        console.say(f"{finding.status:<8} {finding.check}: {finding.what}")
    return 1 if failed else 0
