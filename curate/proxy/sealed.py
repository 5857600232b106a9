"""Tensors on disk, and in their header the digest of all of them: damage is never taken for weights.

safetensors checks shapes and sizes and no values; a bit that flips on a disk would be another member.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, uint8

from curate import durable
from curate.errors import RunError

DIGEST = "digest"


def save_sealed(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Writes contiguous tensors of the CPU with their digest, under a temporary name that is then renamed."""
    sealed = {**metadata, DIGEST: _digest(tensors, metadata)}
    data = memoryview(save(dict(tensors), metadata=sealed))
    end = 8 + int.from_bytes(data[:8], "little")
    with durable.replace(path) as file:
        file.write(_in_order(bytes(data[8:end])))
        file.write(data[end:])


def load_sealed(path: Path, *, must: bool = True) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Returns tensors and metadata of a file.

    Args:
        path: what `save_sealed` wrote.
        must: refuse a file without a digest; else it is one from elsewhere, and is taken as it is.

    Raises:
        RunError: missing, damaged, or not what was written.
    """
    try:
        with safe_open(path, "pt") as file:
            metadata = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no dict)
    except Exception as error:  # safetensors raises many kinds for a damaged file; all mean the same
        raise _damaged(path, str(error)) from error
    known = metadata.pop(DIGEST, None)
    if (known is not None or must) and known != _digest(tensors, metadata):
        raise _damaged(path, "its tensors are not those that were written")
    return tensors, metadata


def read_header(path: Path) -> dict[str, str]:
    """Returns the metadata of a file; nothing else of it is read.

    Raises:
        RunError: missing or damaged.
    """
    try:
        with safe_open(path, "pt") as file:
            return dict(file.metadata() or {})
    except Exception as error:  # as above
        raise _damaged(path, str(error)) from error


def _in_order(header: bytes) -> bytes:
    """Returns a file's header and its length with sorted keys: safetensors writes metadata in an order that varies."""
    text = json.dumps(json.loads(header), sort_keys=True, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    digest = hashlib.blake2b(json.dumps(metadata, sort_keys=True).encode(), digest_size=16)
    for name, tensor in sorted(tensors.items()):
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.contiguous().reshape(-1).view(uint8).numpy().data)
    return digest.hexdigest()


def _damaged(path: Path, how: str) -> RunError:
    return RunError(f"{path}: damaged ({how}).", hint="Delete it and run the same command again.")
