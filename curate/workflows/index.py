"""`curate index`: what is in a pool, and what is wrong with it."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from curate import durable
from curate.errors import SampleError
from curate.pool.images import decode as decode_image
from curate.pool.index import Pool, bad_samples, build_index
from curate.pool.label_tables import note, unmatched
from curate.pool.labels import LabelSource
from curate.pool.sources import open_source
from curate.pool.texts import MAX_TEXT_BYTES, read_text
from curate.progress import Progress, as_stage
from curate.scores import BadSample

CHECK_PX = 32


def index_pool(
    shards: Sequence[str],
    out: Path | None,
    labels: LabelSource,
    *,
    decode: bool,
    skip_faults: bool,
    progress: Progress,
    copied: bool = False,
) -> dict[str, Any]:
    """Returns what a pool holds; keeps the index in `out` if there is one.

    Args:
        shards: what names the pool.
        out: folder of the index, None to keep nothing.
        labels: where labels come from.
        decode: decode every image or text too.
        skip_faults: count the samples of damaged shards as failed.
        progress: who listens.
        copied: shards may have other times than when they were indexed; see `build_index`.
    """

    def scan(folder: Path) -> Pool:
        stage = as_stage(progress, "index", "shards")
        return build_index(shards, folder, labels, skip_faults=skip_faults, copied=copied, progress=stage)

    if out is None:
        with tempfile.TemporaryDirectory(prefix="curate-index-") as folder:
            return _report(scan(Path(folder)), labels, decode=decode, progress=progress)
    with durable.lock(out):
        return _report(scan(out), labels, decode=decode, progress=progress)


def _report(pool: Pool, labels: LabelSource, *, decode: bool, progress: Progress) -> dict[str, Any]:
    rows = unmatched(pool, labels)
    if line := note(labels, rows):
        progress.note(line)
    bad = [BadSample(*sample) for sample in bad_samples(pool)]
    if decode:
        progress.stage("decode", pool.total, f"{pool.kind}s")
        bad += undecodable(pool, progress)
    classes = pool.classes
    return {
        "samples": pool.total,
        "kind": pool.kind,
        "shards": len(pool.scans),
        "entries_ignored": sum(scan.ignored for scan in pool.scans),
        "bytes": sum(scan.bytes for scan in pool.scans),
        "fingerprint": pool.fingerprint,
        "num_classes": classes.num_classes,
        "classes": [
            {"id": i, "name": classes.names[i] if i < len(classes.names) else "", "samples": count}
            for i, count in enumerate(classes.counts)
        ],
        "unlabelled": pool.unlabelled,
        "unmatched_labels": len(rows),
        "decoded": pool.total - len(bad) if decode else None,
        "bad": len(bad),
        "bad_samples": [vars(sample) for sample in sorted(bad, key=lambda b: (b.shard, b.ordinal))],
    }


def undecodable(pool: Pool, progress: Progress) -> list[BadSample]:
    """Returns the samples whose image or text cannot be decoded, beside those that the scan found bad."""
    bad, done, is_text = [], 0, pool.kind == "text"
    for index, scan in enumerate(pool.scans):
        table = pool.read(index, ["key", "reason", "image_start", "image_size"])
        at = 0
        shard = pool.shard(index)
        with open_source(shard.path, shard.name) as stream:
            for ordinal, row in enumerate(table.to_pylist()):
                progress.at(done + ordinal, scan.name)
                if row["reason"] is not None:
                    continue
                stream.skip(row["image_start"] - at)
                data = stream.read(min(row["image_size"], MAX_TEXT_BYTES) if is_text else row["image_size"])
                at = row["image_start"] + len(data)
                try:
                    if is_text:
                        read_text(data, pool.text_field)
                    else:
                        decode_image(data, size_px=CHECK_PX, channels=3)
                except SampleError as error:
                    bad.append(BadSample(scan.name, ordinal, row["key"], str(error)))
        done += scan.samples
    return bad
