"""Shards into the index of their pool: one after the other, and in processes as soon as those are worth their start.

A shard's file appears there under its final name only when its scan is complete, so a killed scan goes on
where it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curate.apart import spread, work
from curate.errors import RunError
from curate.pool.labels import LabelSource, read_label_table
from curate.pool.scan import Scan, scan_shard, stat
from curate.pool.shards import Shard
from curate.tables import read_metadata, write_table

MODULE = "curate.pool.scanning"
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Scanning:
    """How shards are scanned.

    Attributes:
        folder: of the index.
        labels: where labels come from.
        skip_faults: the samples of a damaged shard count as failed, and it does not end.
        copied: a shard that has its old size and another time is scanned again; it must hold the same samples.
    """

    folder: Path
    labels: LabelSource
    skip_faults: bool = False
    copied: bool = False

    def scan(self, shard: Shard) -> Scan:
        """Returns what the index knows of a shard, scanned first where it is not there yet or a copy.

        Raises:
            RunError: it changed since it was indexed.
            ShardError: it is damaged.
        """
        path = self.folder / f"{shard.name}.parquet"
        known = Scan(**read_metadata(path)) if path.exists() else None
        if known:
            status = stat(shard)
            is_same_time = known.mtime_ns == status.st_mtime_ns
            if known.bytes != status.st_size:
                raise self._changed(shard, f"{known.bytes:,} bytes then, {status.st_size:,} now")
            if not (is_same_time or self.copied):
                raise self._changed(shard, "as long as it was, but written at another time")
            if is_same_time and (self.skip_faults or not known.fault):
                return known
        scan, table = scan_shard(shard, self.labels, skip_faults=self.skip_faults)
        if known and known.digest != scan.digest:
            raise self._changed(shard, "its samples are others")
        write_table(path, table, vars(scan))
        return scan

    def scan_all(self, shards: Sequence[Shard], progress: Progress, *, processes: int = 0) -> list[Scan]:
        """Returns what the index knows of every shard.

        Args:
            shards: of the pool.
            progress: called with shards done, shards in all and a name.
            processes: that scan at once; 0 for what the work and the machine are worth.

        Raises:
            RunError, ShardError: as `scan`.
        """
        here: dict[str, Scan] = {}

        def act(shard: Shard) -> str:
            here[shard.name] = self.scan(shard)
            return ""

        progress(0, len(shards), "")
        if self.labels.table and not self.labels.field:  # of no file that a process could read
            processes = 1
        with closing(spread(shards, act, MODULE, self._told, out=self.folder, processes=processes)) as scanned:
            for done, (place, _) in enumerate(scanned, 1):
                progress(done, len(shards), shards[place].name)
        return [here.get(shard.name) or self.scan(shard) for shard in shards]  # what processes scanned is known by now

    def _told(self, shards: Sequence[Shard]) -> list[object]:
        labels = [self.labels.kind, self.labels.field, self.labels.text_field]
        return [str(self.folder), [[s.name, str(s.path)] for s in shards], labels, self.skip_faults, self.copied]

    def _changed(self, shard: Shard, how: str) -> RunError:
        return RunError(
            f"{shard.name} changed since it was indexed ({how}).",
            hint=f"Scores of the old bytes say nothing of the new ones. Choose another --out, or delete {self.folder}. "
            "Where it was only copied, and has another time since: --copied.",
        )


def _scan_told(job: list[Any]) -> Iterator[str]:
    folder, shards, (kind, field, text_field), skip_faults, copied = job
    names = {"", *(name for name, _ in shards)}
    table = read_label_table(Path(field), names) if kind == "csv" else {}
    labels = LabelSource(kind, field, table, text_field)
    scanning = Scanning(Path(folder), labels, skip_faults, copied)
    for name, path in shards:
        scanning.scan(Shard(name, Path(path)))
        yield ""


if __name__ == "__main__":
    work(_scan_told)
