"""The command line: flags say where and how much, everything else is in the recipe. The only room
that knows typer. Bodies are short: they turn flags into a request and a result into lines.
"""

from __future__ import annotations

import errno
import shlex
import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from curate import __version__, console
from curate.errors import CurateError, UsageError
from curate.progress import as_stage

INTERRUPTED = 130
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
SHARD_OPTIONS = ("--test", "--val")
# typer carries its own copy of click or uses the installed one, by version; this is the one it raises.
ClickException: Any = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException")

app = typer.Typer(
    name="curate",
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
Labels = Annotated[
    Path | None, typer.Option("--labels", help="Read labels from a CSV: key, label[, shard].", metavar="CSV")
]
OnBadShard = Annotated[str, typer.Option("--on-bad-shard", help="fail, or skip and count its samples as failed.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")]
Root = Annotated[Path | None, typer.Option("--root", help="Where the shards lie, if they moved.", metavar="DIR")]
Manifest = Annotated[Path, typer.Argument(metavar="MANIFEST", help="A manifest's folder.")]


def run(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code. Every error is one readable message."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    is_debugging = "--debug" in given
    words = list(_spread(word for word in given if word != "--debug"))
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        result = app(words, standalone_mode=False, prog_name="curate")
        if result == INTERRUPTED:  # what typer makes of an interrupt
            raise KeyboardInterrupt
    except CurateError as error:
        return _fail(error, is_debugging)
    except ClickException as error:
        error.show()
        return UsageError.exit_code
    except (KeyboardInterrupt, typer.Abort):
        console.note(f"Interrupted; what is finished is kept. Go on with: curate {shlex.join(given)}")
        return INTERRUPTED
    except OSError as error:
        hint = "Make room and run the same command again." if error.errno in NO_ROOM else ""
        failure = CurateError(f"{error.filename or 'The system'}: {error.strerror or error}.", hint=hint)
        return _fail(failure, is_debugging)
    return result if isinstance(result, int) else 0


def _spread(words: Iterable[str]) -> Iterator[str]:
    """Repeats an option that takes shards before each word after it, up to the next option.

    A shell writes `--test test-*.tar` as one option and many words. Without this the second test
    shard would silently become a shard of the pool.
    """
    option, values = "", 0
    for word in words:
        if word.startswith("-"):
            option, values = word, 0
        else:
            if option in SHARD_OPTIONS and values:
                yield option
            values += 1
        yield word


def _fail(error: CurateError, is_debugging: bool) -> int:
    if is_debugging:
        raise error
    console.show_error(error)
    return error.exit_code


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def _version(asked: bool) -> None:
    if asked:
        console.say(f"curate {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None: ...


def _label_source(kind: str, field: str, table: Path | None) -> Any:
    from curate.pool.labels import LabelSource, check_kind, read_label_table

    check_kind(kind)
    if table:
        return LabelSource("csv", str(table), read_label_table(table))
    return LabelSource("json", field) if field else LabelSource(kind)


@app.command()
def pack(
    source: Annotated[
        Path, typer.Argument(metavar="SOURCE", help="A folder CLASS/IMAGE, a CSV of files, or a dataset's root.")
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The shards' folder.")],
    reader: Annotated[
        str, typer.Option("--from", help="folder, csv, or a torchvision dataset such as cifar10.", metavar="NAME")
    ] = "",
    split: Annotated[str, typer.Option("--split", help="Of a torchvision dataset.")] = "train",
    prefix: Annotated[str, typer.Option("--prefix", help="What shards are called [shard, or the split].")] = "",
    codec: Annotated[str, typer.Option("--codec", help="tar, tar.gz or tar.zst.")] = "tar",
    samples_per_shard: Annotated[
        int, typer.Option("--samples-per-shard", min=1, help="At most; shards differ by one sample at most.")
    ] = 5000,
    root: Annotated[Path | None, typer.Option("--root", help="What a CSV's paths start from.", metavar="DIR")] = None,
    classes: Annotated[
        Path | None, typer.Option("--classes", help="Class names by id, one a line.", metavar="FILE")
    ] = None,
    unlabelled: Annotated[bool, typer.Option("--unlabelled", help="Pack a folder without labels.")] = False,
    keep_order: Annotated[bool, typer.Option("--keep-order", help="Do not shuffle.")] = False,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the shuffled order.")] = 0,
    as_json: Json = False,
) -> None:
    """Turn a folder of images, a CSV or a torchvision dataset into shards."""
    from curate.workflows import pack as work

    request = work.Request(
        source=source, out=out, reader=reader, split=split, prefix=prefix, codec=codec, root=root, classes=classes,
        samples_per_shard=samples_per_shard, labelled=not unlabelled, shuffle=not keep_order, seed=seed,
    )  # fmt: skip
    with console.progress(quiet=as_json) as listener:
        result = work.pack(request, listener)
    if as_json:
        return console.show_json("pack", {**vars(result), "out": str(result.out)})
    skipped = ", ".join(f"{count:,} {reason}" for reason, count in sorted(result.skipped.items())) or "none"
    console.say(f"{result.samples:,} samples of {result.classes:,} classes in {result.shards:,} shards ({result.out}).")
    console.say(f"{result.unlabelled:,} without a label; files skipped: {skipped}.")
    if not result.is_new:
        console.note("The same shards were there already.")
    console.note(f"Next: curate score {result.out} --proxy resnet18")
    return None


@app.command()
def index(
    shards: Shards,
    out: Annotated[Path | None, typer.Option("--out", help="Keep the index in this folder.", metavar="DIR")] = None,
    decode: Annotated[bool, typer.Option("--decode", help="Also decode every image and list those that fail.")] = False,
    label_from: LabelFrom = "cls",
    label_field: LabelField = "",
    labels: Labels = None,
    on_bad_shard: OnBadShard = "fail",
    as_json: Json = False,
) -> None:
    """Scan the pool once: samples, classes, bad samples, byte ranges."""
    from curate.workflows.index import index_pool

    source = _label_source(label_from, label_field, labels)
    with console.progress(quiet=as_json) as listener:
        report = index_pool(shards, out, source, decode=decode, skip_faults=_skips(on_bad_shard), progress=listener)
    if as_json:
        return console.show_json("index", report)
    console.say(f"{report['samples']:,} samples in {report['shards']:,} shards, {report['num_classes']} classes.")
    rows = [(str(c["id"]), c["name"], f"{c['samples']:,}") for c in report["classes"]]
    console.show_table("Classes", ("id", "name", "samples"), rows)
    console.say(f"{report['unlabelled']:,} without a label, {report['bad']:,} bad.")
    for sample in report["bad_samples"]:
        console.say(f"bad: {sample['shard']} {sample['ordinal']} {sample['key']}: {sample['reason']}")
    console.note(f"Next: curate score {' '.join(shards)}")
    return None


def _skips(on_bad_shard: str) -> bool:
    if on_bad_shard not in ("fail", "skip"):
        raise UsageError(f"--on-bad-shard {on_bad_shard}: expected fail or skip.")
    return on_bad_shard == "skip"


@app.command()
def score(
    shards: Shards,
    proxy: Annotated[str, typer.Option("--proxy", help="Any timm name, or one of the table in the guide.")] = "",
    out: Annotated[Path, typer.Option("--out", help="The run's folder.", metavar="DIR")] = Path("scores"),
    recipe: Recipes = None,
    settings: Sets = None,
    seeds: Annotated[int | None, typer.Option("--seeds", help="Training runs.")] = None,
    epochs: Annotated[int | None, typer.Option("--epochs", help="Epochs of each run.")] = None,
    checkpoints: Annotated[int | None, typer.Option("--checkpoints", help="Members taken from each run.")] = None,
    checkpoint_every: Annotated[int | None, typer.Option("--checkpoint-every", help="Epochs between them.")] = None,
    pixels: Annotated[str, typer.Option("--pixels", help="auto, memory, disk or stream.")] = "",
    val: Annotated[
        list[str] | None,
        typer.Option("--val", help="Held out of training: a fraction, or shards.", metavar="FRACTION|SHARDS..."),
    ] = None,
    test: Annotated[
        list[str] | None, typer.Option("--test", help="Shards that are only reported on.", metavar="SHARDS...")
    ] = None,
    per_seed: Annotated[bool, typer.Option("--per-seed", help="Also keep each seed's own columns.")] = False,
    trace: Annotated[bool, typer.Option("--trace", help="Also keep entropy and correctness after each epoch.")] = False,
    label_from: LabelFrom = "cls",
    label_field: LabelField = "",
    labels: Labels = None,
    on_bad_shard: OnBadShard = "fail",
    max_bad: Annotated[float, typer.Option("--max-bad", help="Largest fraction of bad samples.")] = 0.1,
    device: Device = "auto",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would run; touch nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Train the proxy's members, score every sample. Resumes by itself."""
    from curate.recipe import load_recipe

    flags = {
        "proxy.name": proxy, "train.seeds": seeds, "train.epochs": epochs, "train.checkpoints": checkpoints,
        "train.checkpoint_every": checkpoint_every, "pixels.store": pixels,
        "score.per_seed": "true" if per_seed else None, "score.trace": "true" if trace else None,
    }  # fmt: skip
    given = [f"{name}={value}" for name, value in flags.items() if value]
    loaded = load_recipe(recipe, [*(settings or []), *given])
    source = _label_source(label_from, label_field, labels)
    from curate.workflows.run import Request
    from curate.workflows.score import score as work

    request = Request(
        shards=shards, out=out, recipe=loaded, labels=source, val=val or (), test=test or (), device=device,
        skip_faults=_skips(on_bad_shard), max_bad=max_bad,
    )  # fmt: skip
    if dry_run:
        return _show_estimate(request, as_json=as_json)
    with console.progress(quiet=as_json) as listener:
        summary = work(request, listener)
    _show_scores(summary, out, as_json=as_json)
    return None


def _show_estimate(request: Any, *, as_json: bool) -> None:
    from curate.workflows.estimate import estimate

    result = estimate(request)
    if as_json:
        return console.show_json("score", {"dry_run": True, **result})
    for name, value in result.items():
        console.say(
            f"{name.replace('_', ' ')}: {value:,}" if isinstance(value, int) else f"{name.replace('_', ' ')}: {value}"
        )
    console.note("Nothing was written.")
    return None


def _show_scores(summary: dict[str, Any], out: Path, *, as_json: bool) -> None:
    if as_json:
        return console.show_json("score", {"out": str(out), **summary})
    names = sorted(summary["ensemble"])
    if names:
        rows = [(f"seed {m['seed']} epoch {m['epoch']}", *(f"{m[n]:.2%}" for n in names)) for m in summary["members"]]
        rows.append(("ensemble", *(f"{summary['ensemble'][n]:.2%}" for n in names)))
        console.show_table("Accuracy", ("member", *names), rows)
    console.say(
        f"{summary['scored']:,} of {summary['samples']:,} samples scored by {len(summary['members'])} members of "
        f"{summary['proxy']}, {summary['failed']:,} failed."
    )
    where = "" if out == Path("scores") else f" --scores {out}"
    console.note(f"Next: curate prune{where} --keep 0.8 --fn variation_ratio")
    return None


@app.command()
def prune(
    keep: Annotated[str, typer.Option("--keep", help="A fraction (0.8, 80%) of the scored samples, or a count.")],
    fn: Annotated[str, typer.Option("--fn", help="The acquisition function; higher is kept first.")],
    scores: Annotated[Path, typer.Option("--scores", help="The run's folder.", metavar="DIR")] = Path("scores"),
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
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of --fn random.")] = 0,
    keep_list: Annotated[bool, typer.Option("--keep-list", help="Also write keep.txt: shard TAB key.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a different manifest.")] = False,
    as_json: Json = False,
) -> None:
    """Turn score tables into a manifest. Seconds, no torch."""
    from curate.workflows import prune as work

    for name, value, known in (
        ("--order", order, ("hardest", "easiest")),
        ("--per-class", per_class, (None, "equal", "proportional")),
    ):
        if value not in known:
            raise UsageError(f"{name} {value}: expected {' or '.join(filter(None, known))}.")
    result = work.prune(
        work.Request(
            scores=scores, index=index, fn=fn, keep=keep, out=out, outliers=outliers, order=order, per_class=per_class,  # type: ignore[arg-type]  # checked above
            min_per_class=min_per_class, seed=seed, always=always, never=never, keep_list=keep_list, force=force,
        )
    )  # fmt: skip
    if as_json:
        return console.show_json("prune", {**vars(result), "out": str(result.out)})
    dropped = ", ".join(f"{count:,} by {reason}" for reason, count in result.dropped.items()) or "none"
    console.say(f"{result.kept:,} kept, dropped: {dropped}, {result.failed:,} failed; {result.samples:,} in all.")
    console.say(f"manifest: {result.out}\ndigest: {result.digest}")
    console.note(f"Next: curate verify {result.out}; curate cat {result.out} {result.first_shard} | tar t")
    return None


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
    """Write the kept samples as new shards, with the side files of their readers."""
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
    to: Annotated[str, typer.Option("--to", help="urls, timm, dali, wids, indices, keys, parquet or datacomp.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="The folder to write [exports/NAME-DIGEST].", metavar="DIR")
    ] = None,
    root: Root = None,
    as_json: Json = False,
) -> None:
    """Write the side files through which a trainer reads unchanged shards."""
    from curate.manifest.exports import export as write

    result = write(manifest, to, out, root=root)
    if as_json:
        return console.show_json("export", {**vars(result), "out": str(result.out)})
    console.say(f"{result.samples:,} samples of {result.shards:,} shards: {result.out}")
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
    """Serve the kept samples of every shard as tars over HTTP, until interrupted."""
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
    """Check a manifest, its digests and counts, and every source shard."""
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


@app.command()
def demo(
    out: Annotated[Path | None, typer.Option("--out", help="Keep everything in this folder.", metavar="DIR")] = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Training runs behind each figure.")] = 3,
    as_json: Json = False,
) -> None:
    """Tell the whole story on scikit-learn's digits, in under a minute."""
    from curate.workflows.demo import demo as tell

    with console.progress(quiet=as_json) as listener:
        result = tell(out, seeds=seeds, progress=listener)
    if as_json:
        return console.show_json("demo", result)
    rows = [
        (r["trained_on"], f"{r['samples']:,}", f"{r['mean']:.2%}", "-" if r["spread"] is None else f"{r['spread']:.2%}")
        for r in result["table"]
    ]
    console.show_table(
        f"Test accuracy on {result['test_samples']} held-out digits, n = {seeds}",
        ("trained on", "samples", "mean", "std"),
        rows,
    )
    console.say(result["verdict"])
    console.note("Next: curate score SHARDS --proxy resnet18, then curate prune --keep 0.8 --fn variation_ratio")
    return None


def reference() -> str:
    """Returns the reference of all commands in Markdown, made from the commands themselves."""
    parts = ["# Command line\n\nGenerated from the program; do not edit.\n"]
    for name, command in sorted(typer.main.get_command(app).commands.items()):  # type: ignore[attr-defined]  # a group
        arguments = [p for p in command.params if p.param_type_name == "argument"]
        options = [p for p in command.params if p.param_type_name == "option"]
        words = "".join(f" {p.metavar or p.name.upper()}" for p in arguments)
        parts.append(f"## curate {name}{words}\n\n{command.help.strip()}\n")
        rows = [f"| `{p.metavar or p.name.upper()}` | {p.help or ''} | |" for p in arguments]
        rows += [f"| `{', '.join(p.opts)}` | {p.help or ''} | {_default(p)} |" for p in options if p.name != "help"]
        parts.append("\n".join(["| | | default |", "|---|---|---|", *rows]) + "\n")
    return "\n".join(parts)


def _default(option: Any) -> str:
    value = option.default
    return "" if value in (None, "", False, []) or callable(value) else f"`{value}`"
