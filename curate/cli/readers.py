"""Commands that hand the kept samples to trainers: cat, materialize, export, serve, verify."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from curate import console
from curate.cli.options import Json, Manifest, Root, app
from curate.errors import UsageError
from curate.progress import as_stage


@app.command(context_settings={"ignore_unknown_options": True})
def cat(
    manifest: Manifest,
    shard: Annotated[str, typer.Argument(metavar="SHARD", help="Its name, or a path that ends in it.")],
    root: Root = None,
) -> int:
    """Write the kept samples of a shard as a tar to stdout."""
    from curate.manifest.stream import main

    return main([str(manifest), shard, *(["--root", str(root)] if root else [])])


@app.command()
def materialize(
    manifest: Manifest,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The new shards' folder.")],
    shards: Annotated[
        int | None, typer.Option("--shards", min=1, help="So many shards of equal counts, for even ranks.")
    ] = None,
    samples_per_shard: Annotated[
        int | None, typer.Option("--samples-per-shard", min=1, help="Or shards of so many samples at most.")
    ] = None,
    root: Root = None,
    no_sync: Annotated[bool, typer.Option("--no-sync", help="Do not wait for the disk.")] = False,
    as_json: Json = False,
) -> None:
    """Write the kept samples as new shards. With the side files of their readers."""
    from curate.manifest.materialize import materialize as write

    if shards and samples_per_shard:
        raise UsageError("--shards and --samples-per-shard say the same thing.", hint="Give one of them.")
    with console.progress(quiet=as_json) as listener:
        result = write(
            manifest, out, root=root, shards=shards, samples_per_shard=samples_per_shard, sync=not no_sync,
            progress=as_stage(listener, "materialize", "shards"),
        )  # fmt: skip
    if as_json:
        return console.show_json("materialize", {**vars(result), "out": str(result.out)})
    console.say(f"{result.samples:,} samples in {result.shards:,} shards, {result.bytes:,} bytes ({result.out}).")
    console.note(f"{result.written:,} shards written now. Next: train on {result.out}/*.tar; see docs/consumers.md")
    return None


@app.command()
def export(
    manifest: Manifest,
    to: Annotated[
        str,
        typer.Option(
            "--to",
            help="urls, timm, dali, energon, wids, hf, imagefolder, indices, keys, parquet or datacomp.",
        ),
    ],
    out: Annotated[
        Path | None, typer.Option("--out", help="The folder to write [exports/NAME-DIGEST].", metavar="DIR")
    ] = None,
    root: Root = None,
    as_json: Json = False,
) -> None:
    """Write side files for trainers that read unchanged shards."""
    from curate.manifest.exports import export as write

    result = write(manifest, to, out, root=root)
    if as_json:
        return console.show_json("export", {**vars(result), "out": str(result.out)})
    classes = f"{result.classes_kept:,} of {result.classes:,} classes"
    console.say(f"{result.samples:,} samples of {result.shards:,} shards, {classes}: {result.out}")
    console.say("\n".join(result.lines))
    return None


@app.command()
def serve(
    manifest: Manifest,
    host: Annotated[str, typer.Option("--host", help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 for a free one.")] = 0,
    root: Root = None,
    as_json: Json = False,
) -> None:
    """Serve the kept samples of every shard over HTTP. As tars, until interrupted."""
    from curate.manifest.serve import serve as run_server

    def ready(base: str, urls: list[str]) -> None:
        if as_json:
            console.show_json("serve", {"base": base, "urls": urls})
        else:
            console.say("\n".join(urls))
        sys.stdout.flush()
        console.note("Serving; end it with Ctrl-C.")

    run_server(manifest, host=host, port=port, root=root, ready=ready, warn=console.note)


@app.command()
def verify(
    manifest: Manifest,
    root: Root = None,
    no_sources: Annotated[bool, typer.Option("--no-sources", help="Check the manifest alone.")] = False,
    as_json: Json = False,
) -> int:
    """Check a manifest: digests, counts, every source shard."""
    from curate.manifest.verify import verify as check

    with console.progress(quiet=as_json) as listener:
        verdict = check(manifest, root=root, sources=not no_sources, progress=as_stage(listener, "verify", "shards"))
    findings = [vars(finding) for finding in verdict.findings]
    totals = verdict.head.totals
    if as_json:
        console.show_json(
            "verify",
            {"digest": verdict.digest, "ok": not findings, "findings": findings, "totals": totals.model_dump()},
        )
        return 1 if findings else 0
    for finding in findings:
        console.say(f"{finding['where']}: {finding['what']}")
    what = "as recorded" if not findings else f"{len(findings)} faults"
    console.say(f"{totals.kept:,} of {totals.samples:,} samples kept in {totals.shards:,} shards: {what}.")
    console.say(f"digest: {verdict.digest}")
    return 1 if findings else 0
