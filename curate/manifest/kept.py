"""The kept samples of a manifest, by number or in order, read from the unchanged shards.

A sample is a dict as webdataset has it: `__key__`, `__url__`, and bytes by extension. Of a plain tar
only the kept samples are read, each in one piece, at any place. A compressed one is decompressed from
its first byte to the last sample that is asked for. Nothing here knows torch.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.errors import ManifestError
from curate.manifest.extents import kept_extents
from curate.manifest.lines import Line, check_files, find_line, manifest_digest, read_lines, read_root
from curate.manifest.stream import Source, changed, check_source, headers_between, kept_headers, skip
from curate.pool.sources import PatientFile, ReadAhead, open_source, unreadable
from curate.pool.tar import Header, split_key

OPEN_FILES = 64
Sample = dict[str, Any]  # str under `__key__` and `__url__`, bytes under each extension


Stamp = tuple[int, int, int, int]  # device, inode, bytes, time of the last change


class KeptReader:
    """The kept samples of a manifest: shards in its order, samples in theirs.

    Pickles and forks; holds 16 bytes for each kept sample of the plain shards it has read from. A shard that is
    written again or replaced in the meantime is looked at anew, and refused where it is another one.

    Attributes:
        digest: the manifest's.
        names: the shards that keep anything.
        kept_S: kept samples of each, shape (S,), int64.
    """

    def __init__(self, folder: Path, root: Path | None = None) -> None:
        check_files(folder)
        self.digest = manifest_digest(folder)
        rows = [(line.name, line.codec, line.bytes, line.kept) for line in read_lines(folder) if line.kept]
        if not rows:
            raise ManifestError(f"{folder} keeps no sample.", hint="There is nothing to read.")
        self.names, self._codecs, self._bytes, counts = map(list, zip(*rows, strict=True))
        self.kept_S: NDArray[np.int64] = np.array(counts, dtype=np.int64)
        self._first_S = np.concatenate([[0], np.cumsum(self.kept_S)])
        self._folder, self._root = folder, root or read_root(folder)
        self._ranges: dict[int, tuple[Stamp, NDArray[np.int64]]] = {}
        self._files: dict[int, _File] = {}  # the last used ones, in their order

    def __len__(self) -> int:
        return int(self._first_S[-1])

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_files": {}}

    def is_plain(self, shard: int) -> bool:
        """Says whether a shard can be read at any place."""
        return bool(self._codecs[shard] == "tar")

    def first(self, shard: int) -> int:
        """Returns the number of a shard's first kept sample."""
        return int(self._first_S[shard])

    def read(self, number: int) -> Sample:
        """Returns a sample by its number; its shard must be plain.

        Cost: one read of the sample's bytes. The first call for a shard reads its kept headers.

        Raises:
            ManifestError, ShardError: the source is missing, or not what was pruned.
        """
        shard, start, end = self._place(number)
        try:
            data = self._open(shard).read_at(end - start, start)
        except OSError as error:
            raise unreadable(self._path(shard), self.names[shard], error) from error
        if len(data) != end - start:
            raise changed(self.names[shard], "it is cut short")
        stream = _Bytes(data)
        headers = headers_between(self.names[shard], stream, start, end)
        return self._sample(shard, headers, stream)

    def shard_of(self, number: int) -> int:
        """Returns the shard of a sample."""
        return int(np.searchsorted(self._first_S, number, side="right")) - 1

    def is_known(self, shard: int) -> bool:
        """Says whether the kept headers of a plain shard have been read."""
        return shard in self._ranges

    def expect(self, number: int) -> None:
        """Asks the system for the bytes of a sample of a plain shard that will be read soon.

        Raises:
            ManifestError, ShardError: the source is missing, or not what was pruned.
        """
        shard, start, end = self._place(number)
        ReadAhead(self._open(shard), [(start, end)]).reached(start)

    def stream(self, shard: int, first: int, end: int) -> Iterator[Sample]:
        """Yields a shard's kept samples from the `first` to before the `end`, whatever its codec.

        Raises:
            ManifestError, ShardError: the source is missing, or not what was pruned.
        """
        line = self._line(shard)
        check_source(line, self._path(shard))
        with open_source(self._path(shard), line.name) as source:
            groups = groupby(kept_headers(line, source), key=_key)
            for number, (_, headers) in enumerate(groups):
                if number == end:
                    return
                if number >= first:
                    yield self._sample(shard, headers, source)
                else:
                    for header in headers:
                        skip(line.name, source, header.padded)

    def ranges(self, shard: int, *, ahead: tuple[int, int] = (0, 0)) -> NDArray[np.int64]:
        """Returns where a plain shard's kept samples begin and end, shape (K, 2), in bytes.

        Args:
            shard: which.
            ahead: which of its kept samples will be read soon, as `kept_extents` takes it.
        """
        stamp = self._stamp(shard)
        if shard not in self._ranges or self._ranges[shard][0] != stamp:
            line = self._line(shard)
            extents = kept_extents(line, self._path(shard), ahead=ahead)
            if len(extents) != line.kept:
                raise changed(line.name, f"it has {len(extents):,} of the {line.kept:,} kept samples")
            edges = [(extent.entries[0], extent.entries[-1]) for extent in extents]
            found = np.array([(one.start, last.data + last.padded) for one, last in edges], dtype=np.int64)
            self._ranges[shard] = (stamp, found)
        return self._ranges[shard][1]

    def _stamp(self, shard: int) -> Stamp:
        """Returns which file a shard is, as it is open here, and when it was last written."""
        status = os.fstat(self._open(shard).fileno())
        return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns

    def _place(self, number: int) -> tuple[int, int, int]:
        """Returns the shard of a sample, and the bytes that it fills there."""
        shard = self.shard_of(number)
        start, end = self.ranges(shard)[number - self.first(shard)].tolist()
        return shard, start, end

    def _line(self, shard: int) -> Line:
        if manifest_digest(self._folder) != self.digest:
            raise ManifestError(f"{self._folder} changed while it was read.", hint="Start again with the new manifest.")
        return find_line(self._folder, self.names[shard])

    def _path(self, shard: int) -> Path:
        return self._root / str(self.names[shard])

    def _open(self, shard: int) -> _File:
        file = self._files.pop(shard, None) or self._opened(shard)
        self._files[shard] = file
        if len(self._files) > OPEN_FILES:
            self._files.pop(next(iter(self._files)))
        return file

    def _opened(self, shard: int) -> _File:
        try:
            file = _File(self._path(shard))
        except OSError as error:
            check_source(self._line(shard), self._path(shard))  # of one that is gone it says what to do
            raise unreadable(self._path(shard), self.names[shard], error) from error
        size = os.fstat(file.fileno()).st_size
        if size != self._bytes[shard]:
            raise changed(self.names[shard], f"it has {size:,} bytes and had {self._bytes[shard]:,}")
        return file

    def _sample(self, shard: int, headers: Iterator[Header], stream: Source | _Bytes) -> Sample:
        sample: Sample = {}
        for header in headers:
            key, extension = split_key(header.name) or ("", "")
            data = stream.read(header.padded)
            if len(data) != header.padded:
                raise changed(self.names[shard], "it is cut short")
            if not sample:
                sample = {"__key__": key, "__url__": str(self._path(shard))}
            sample[extension] = data[: header.size]
        return sample


def _key(header: Header) -> str:
    return (split_key(header.name) or ("", ""))[0]


class _Bytes(io.BytesIO):
    def skip(self, size: int, /) -> int:
        at = self.tell()
        return min(self.seek(at + size), len(self.getbuffer())) - at


class _File(PatientFile):
    """A file that is open as long as someone holds this."""

    def __del__(self) -> None:
        self.close()
