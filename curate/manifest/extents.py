"""Where the kept samples of a shard lie: their headers and byte ranges, checked against the manifest."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from curate.errors import ManifestError
from curate.manifest.lines import Line
from curate.manifest.stream import DIGEST_BYTES, Source, check_source, walk_kept
from curate.pool.sources import ReadAhead
from curate.pool.tar import BLOCK, Header, split_key, usual_header


class Extent(NamedTuple):
    """One kept sample: its key, the headers of its entries, which say what bytes they fill, and their extensions."""

    key: str
    entries: list[Header]
    extensions: list[str]


def kept_extents(line: Line, path: Path, *, ahead: tuple[int, int] = (0, 0)) -> list[Extent]:
    """Returns the kept samples of a source, their headers checked against the manifest.

    Args:
        line: what is kept.
        path: the source.
        ahead: from which kept sample to before which the data will be read next: the system is asked for about
            these bytes, so that their headers are not waited for one by one.

    Cost: of a plain source only the kept headers are read, and what is asked for.

    Raises:
        ManifestError: the source is not the one that was pruned.
        ShardError: the source cannot be read.
    """
    if line.codec == "tar" and not line.preamble:
        check_source(line, path)
        headers = _known_headers(line, path, ahead)
        if headers is not None:
            return _grouped(headers)
    return _grouped(_walked_headers(line, path))


def byte_runs(extents: Sequence[Extent], preamble: int) -> list[tuple[int, int]]:
    """Returns (start, end) of the bytes of a plain source that make up the kept entries, touching ones joined."""
    runs = [[0, preamble]] if preamble else []
    for extent in extents:
        for header in extent.entries:
            start, end = header.data - len(header.blocks), header.data + header.padded
            if runs and runs[-1][1] == start:
                runs[-1][1] = end
            else:
                runs.append([start, end])
    return [(start, end) for start, end in runs]


def _grouped(headers: Iterable[Header]) -> list[Extent]:
    extents = list[Extent]()
    for header in headers:
        key, extension = split_key(header.name) or ("", "")
        if not extents or extents[-1].key != key:
            extents.append(Extent(key, [], []))
        extents[-1].entries.append(header)
        extents[-1].extensions.append(extension)
    return extents


def _known_headers(line: Line, path: Path, ahead: tuple[int, int]) -> list[Header] | None:
    """Returns the kept headers of a plain source if all are usual ones and the very bytes that were scanned.

    Their digest says that they are, so that nothing has to be checked in them that the scan has
    checked. None where one is not, or cannot be read: then whoever reads with care says what it is.
    """
    digest, headers = hashlib.blake2b(digest_size=16), list[Header]()
    with path.open("rb", buffering=0) as file:
        number = file.fileno()
        asked = ReadAhead(file, _about(line, *ahead))
        for at, end in line.spans():
            while at < end:
                asked.reached(at)
                try:
                    block = os.pread(number, BLOCK, at)
                except OSError:
                    return None
                header = usual_header(block, at)
                if header is None:
                    return None
                digest.update(hashlib.blake2b(block, digest_size=DIGEST_BYTES).digest())
                headers.append(header)
                at = header.data + header.padded
            if at != end:
                return None
    return headers if digest.hexdigest() == line.headers else None


def _about(line: Line, first: int, end: int) -> Iterator[tuple[int, int]]:
    """Yields the spans of bytes of the samples from `first` to before `end`, were all of one size."""
    low, high = (line.kept_bytes * number // line.kept for number in (first, end))
    for start, stop in line.spans():
        part = start + max(0, low), min(stop, start + high)
        if part[0] < part[1]:
            yield part
        low, high = low - (stop - start), high - (stop - start)


def _walked_headers(line: Line, path: Path) -> list[Header]:
    headers: list[Header] = []

    def visit(header: Header, stream: Source) -> None:
        headers.append(header)
        if stream.skip(header.padded) != header.padded:
            raise ManifestError(f"{line.name} is cut short.", hint="Score and prune the new shards.")

    walk_kept(line, path, visit)
    return headers
