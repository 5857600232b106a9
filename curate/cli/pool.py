"""Commands that make pools and look at them: pack, index."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from curate import console
from curate.cli.options import (
    Copied,
    Json,
    LabelField,
    LabelFrom,
    Labels,
    OnBadShard,
    Shards,
    TextField,
    app,
    label_source,
    skips,
)


@app.command()
def pack(
    source: Annotated[
        Path,
        typer.Argument(metavar="SOURCE", help="A folder CLASS/FILE, a CSV of files or texts, a dataset's root."),
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
    """Turn images or texts into shards. They lie in folders, are named by a CSV, or are a torchvision dataset."""
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
    return _show_next(str(result.out), result.kind, has_labels=result.unlabelled < result.samples)


@app.command()
def index(
    shards: Shards,
    out: Annotated[Path | None, typer.Option("--out", help="Keep the index in this folder.", metavar="DIR")] = None,
    decode: Annotated[
        bool, typer.Option("--decode", help="Also decode every image or text and list those that fail.")
    ] = False,
    label_from: LabelFrom = "cls",
    label_field: LabelField = "",
    labels: Labels = None,
    text_field: TextField = "",
    on_bad_shard: OnBadShard = "fail",
    copied: Copied = False,
    as_json: Json = False,
) -> None:
    """Scan the pool: samples, classes, bad samples, byte ranges."""
    from curate.workflows.index import index_pool

    source = label_source(label_from, label_field, labels, text_field)
    with console.progress(quiet=as_json) as listener:
        report = index_pool(
            shards, out, source, decode=decode, skip_faults=skips(on_bad_shard), copied=copied, progress=listener
        )
    if as_json:
        return console.show_json("index", report)
    console.say(f"{report['samples']:,} samples in {report['shards']:,} shards, {report['num_classes']} classes.")
    rows = [(str(c["id"]), c["name"], f"{c['samples']:,}") for c in report["classes"]]
    console.show_table("Classes", ("id", "name", "samples"), rows)
    console.say(f"{report['unlabelled']:,} without a label, {report['bad']:,} bad.")
    for sample in report["bad_samples"]:
        console.say(f"bad: {sample['shard']} {sample['ordinal']} {sample['key']}: {sample['reason']}")
    return _show_next(" ".join(shards), report["kind"], has_labels=report["unlabelled"] < report["samples"])


def _show_next(shards: str, kind: str, *, has_labels: bool) -> None:
    """Names the command that goes on with a pool."""
    proxy = f" --proxy {'fasttext' if kind == 'text' else 'resnet18'}"
    if has_labels:
        return console.note(f"Next: curate score {shards}{proxy}")
    return console.note(f"Next: curate acquire {shards} --schedule 0.1,0.2 --fn entropy --classes FILE{proxy}")
