"""What a sample is called, and how it is told from every other.

Shape suffixes on arrays, used wherever two axes could be confused:

    N pool samples   B batch   C classes   M members   E epochs   D embedding   K kept

The identity of a sample is (shard name, key). Its hash decides ties, strata and random order,
so that no result depends on position, on the order of shards, or on the number of workers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

IdentityArray = NDArray[np.uint64]


def identities(shard: str, keys: Iterable[str]) -> IdentityArray:
    """Returns the identity hashes of one shard's samples, shape (N,), uint64.

    BLAKE2b-64 of `shard name, NUL, key`, read as a little-endian integer. Lone surrogates (bytes of
    a tar name that are not UTF-8) are hashed as the bytes they stand for.
    """
    prefix = hashlib.blake2b(shard.encode("utf-8", "surrogateescape") + b"\0", digest_size=8)
    digests = bytearray()
    for key in keys:
        state = prefix.copy()
        state.update(key.encode("utf-8", "surrogateescape"))
        digests += state.digest()
    return np.frombuffer(bytes(digests), dtype="<u8").astype(np.uint64)


def shuffled(identity_N: IdentityArray, *, seed: int) -> IdentityArray:
    """Returns a second hash of each identity under a seed, shape (N,), uint64.

    The finaliser of SplitMix64 (Steele, Lea and Flood 2014), applied to identity + finalised seed:
    a bijection, so two samples collide only if their identities do.
    """
    with np.errstate(over="ignore"):
        offset = _finalise(np.array([seed % 2**64], dtype=np.uint64) + np.uint64(0x9E3779B97F4A7C15))
        return _finalise(identity_N + offset)


def uniform(hash_N: IdentityArray) -> NDArray[np.float64]:
    """Returns hashes as floats in [0, 1), shape (N,), float64; the top 53 bits are kept."""
    return (hash_N >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _finalise(x: IdentityArray) -> IdentityArray:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
