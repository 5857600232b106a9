"""The small files that readers want beside their shards. Pure functions from plain values to text."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import quote

from curate.errors import UsageError

SAFE_IN_A_TOKEN = "/+-_.,:;=@~()[]"  # noqa: S105  (characters, no secret)
PLAIN_TOKEN = re.compile(r"[A-Za-z0-9/+\-_.,:;=@~()\[\]]*").fullmatch


class ShardCount(NamedTuple):
    """A shard as side files name it: a path or URL, its samples, its size in bytes."""

    name: str
    samples: int
    bytes: int = 0


class IndexEntry(NamedTuple):
    """One entry of a sample: its extension, the first byte and the size of its data, its name."""

    extension: str
    start: int
    size: int
    name: str


def timm_info(name: str, splits: Mapping[str, Sequence[ShardCount]]) -> str:
    """Returns timm's `_info.json`; shards without samples are left out.

    Source: timm 1.0, `timm/data/readers/reader_wds.py`, `_load_info`.
    """
    table = {
        split: {
            "name": split,
            "num_samples": sum(shard.samples for shard in shards),
            "filenames": [shard.name for shard in shards if shard.samples],
            "shard_lengths": [shard.samples for shard in shards if shard.samples],
            "alt_label": "",
        }
        for split, shards in splits.items()
    }
    return _json({"name": name, "splits": table})


def sizes(shards: Sequence[ShardCount]) -> str:
    """Returns `sizes.json`: samples by file name. Source: open_clip 3, `open_clip_train/data.py`."""
    return _json({shard.name: shard.samples for shard in shards if shard.samples})


def wids_index(name: str, shards: Sequence[ShardCount]) -> str:
    """Returns the index of wids 0.1: URL, samples and, where it is known, bytes of each shard."""
    rows = [
        {"url": shard.name, "nsamples": shard.samples, **({"filesize": shard.bytes} if shard.bytes else {})}
        for shard in shards
        if shard.samples
    ]
    return _json({"__kind__": "wids-shard-index-v1", "wids_version": 1, "name": name, "shardlist": rows})


def dali_index(samples: Sequence[Sequence[IndexEntry]]) -> str:
    """Returns DALI's index v1.2 of one plain tar: one line a sample, in the order it is read.

    Names are percent-encoded, because a space would end the token; DALI uses them as labels only.
    An entry without an extension (`key.`) is left out: DALI has no way to name it.
    Source: DALI 1.25 to 2.4, `webdataset_loader.cc` and `tools/wds2idx.py`.

    Raises:
        UsageError: no samples, which DALI takes for a damaged file.
    """
    if not samples:
        raise UsageError("An index for DALI needs at least one sample.", hint="Leave the shard out of both lists.")
    lines = (
        " ".join(f"{_token(e.extension)} {e.start} {e.size} {_token(e.name)}" for e in entries if e.extension)
        for entries in samples
    )
    return f"v1.2 {len(samples)}\n" + "".join(f"{line}\n" for line in lines)


def hf_readme(config: str, splits: Mapping[str, Sequence[ShardCount]]) -> str:
    """Returns the README with the front matter that Hugging Face datasets reads (`configs`)."""
    files = [{"split": split, "path": [shard.name for shard in shards]} for split, shards in splits.items()]
    block = json.dumps([{"config_name": config, "data_files": files}], ensure_ascii=False)
    return f"---\nconfigs: {block}\n---\n"  # JSON is YAML


def class_map(kind: str, names: Sequence[str], before: Sequence[int], after: Sequence[int]) -> str:
    """Returns every class with its id, also those that were pruned away: ids are never renumbered."""
    rows = [
        {"id": i, "name": names[i] if i < len(names) else "", "samples": before[i], "kept": after[i]}
        for i in range(len(before))
    ]
    return _json({"kind": kind, "classes": rows})


def _token(text: str) -> str:
    # Most names need nothing, and this is called four times a sample.
    return text if PLAIN_TOKEN(text) else quote(text, safe=SAFE_IN_A_TOKEN, errors="surrogateescape")


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"
