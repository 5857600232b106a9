"""What every reader script prints: one JSON line a sample, its key where the reader tells it, digests of its parts."""

import hashlib
import json
from collections.abc import Mapping


def show(key: str | None, parts: Mapping[str, bytes]) -> None:
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in parts.items()}
    print(json.dumps([key, digests], sort_keys=True), flush=True)


def show_sample(sample: Mapping[str, object]) -> None:
    """Shows a sample as webdataset has it: dunder fields beside bytes by extension."""
    parts = {name.lstrip("."): data for name, data in sample.items() if isinstance(data, bytes)}
    show(str(sample["__key__"]), parts)
