"""Megatron Energon's view of a pool: links to the tars, an index of each, a split that excludes what was dropped.

Energon takes a sample to end where the next one begins, so its index must name the dropped ones too.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from braceexpand import UnbalancedBracesError, braceexpand  # type: ignore[attr-defined]  # its type information lacks it

from curate.errors import ManifestError, UsageError
from curate.manifest.extents import kept_extents
from curate.manifest.lines import Line
from curate.manifest.stream import split_of
from curate.pool.sources import open_source
from curate.pool.tar import Tally, entries, printable, split_key

META, BLEND = ".nv-meta", "metadataset.yaml"
CRUDE = "__module__: megatron.energon\n__class__: CrudeWebdataset\n"


def write_view(lines: Sequence[Line], root: Path, build: Path) -> None:
    """Fills a folder that Energon opens as a dataset, and writes a metadataset of it to blend.

    `dataset.yaml` is the pool's own where it has one.

    Source: megatron-energon 7.4, `flavors/webdataset/metadata.py` and `itar.py`.
    Cost: the headers of every sample of every shard that keeps any.

    Args:
        lines: the shards that keep anything, all plain.
        root: where they lie.
        build: the folder.

    Raises:
        ManifestError: a source is not what was pruned.
        UsageError: a name that Energon would expand to another one.
    """
    splits: dict[str, list[str]] = {}
    counts, excluded = {}, list[str]()
    for line in lines:
        source, link = root / line.name, build / line.name
        keys, starts = _samples(line, source)
        is_kept = np.zeros(len(keys), dtype=np.bool_)
        is_kept[_kept_ordinals(line)] = True
        _check(line, source, [key for key, kept in zip(keys, is_kept.tolist(), strict=True) if kept])
        excluded += [f"{line.name}/{key}" for key, kept in zip(keys, is_kept.tolist(), strict=True) if not kept]
        splits.setdefault(split_of(line.name), []).append(line.name)
        counts[line.name] = len(keys)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(source.absolute())
        link.with_name(f"{link.name}.idx").write_bytes(np.array(starts, dtype="<u8").tobytes())
    _refuse_braces([*counts, *excluded])
    (build / META).mkdir()
    _write_json(build / META / ".info.json", {"shard_counts": counts})
    _write_json(build / META / "split.json", {"split_parts": splits, "exclude": excluded})
    parts = {split: {"path": ".", "split_part": split, "split_config": "split.json"} for split in splits}
    # JSON is YAML; the name is what Energon goes by.
    _write_json(build / BLEND, {"__module__": "megatron.energon", "__class__": "MetadatasetV2", "splits": parts})
    own = root / META / "dataset.yaml"
    if own.is_file():
        shutil.copyfile(own, build / META / "dataset.yaml")
    else:
        (build / META / "dataset.yaml").write_text(CRUDE)


def _samples(line: Line, path: Path) -> tuple[list[str], list[int]]:
    """Returns the keys of all samples, and where each begins, followed by where the last one ends."""
    keys, starts, tally = list[str](), list[int](), Tally()
    with open_source(path, line.name, buffering=0) as stream:
        for entry in entries(stream, line.name, tally):
            parts = split_key(entry.name)
            if parts and (not keys or keys[-1] != parts[0]):
                keys.append(parts[0])
                starts.append(entry.start)
    if len(keys) != line.samples:
        raise ManifestError(
            f"{line.name} has {len(keys):,} samples and had {line.samples:,}.", hint="Score and prune the new shards."
        )
    return keys, [*starts, tally.end]


def _kept_ordinals(line: Line) -> list[int]:
    edges = np.cumsum(line.runs).tolist()
    return [n for begin, end in zip(edges[::2], edges[1::2], strict=True) for n in range(begin, end)]


def _check(line: Line, path: Path, keys: list[str]) -> None:
    if [extent.key for extent in kept_extents(line, path)] != keys:
        raise ManifestError(
            f"{line.name}: its kept samples are not where the manifest says.", hint="Score and prune the new shards."
        )


def _refuse_braces(names: Sequence[str]) -> None:
    for name in names:
        try:
            is_plain = list(braceexpand(name)) == [name]
        except UnbalancedBracesError:
            is_plain = False
        if not is_plain:
            raise UsageError(f"Energon would expand the name '{printable(name)}'.", hint="Use `curate materialize`.")


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n")
