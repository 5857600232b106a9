"""Is a manifest whole, and are its sources still what was pruned? Says which shard differs, and how."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from curate.errors import ManifestError
from curate.manifest.lines import Line, file_digest, find_rows, manifest_digest, read_lines, read_root
from curate.manifest.schema import Head, load_head
from curate.manifest.walks import faults_of


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong: where, and what."""

    where: str
    what: str


@dataclass(frozen=True)
class Verdict:
    """The result: what was checked, and everything found wrong."""

    digest: str
    head: Head
    shards: int
    findings: tuple[Finding, ...]


def verify(
    folder: Path,
    *,
    root: Path | None = None,
    sources: bool = True,
    processes: int = 0,
    progress: Callable[[int, int, str], None] = lambda done, total, name: None,
) -> Verdict:
    """Checks a manifest's files, digests and counts, then every source shard it names.

    Args:
        folder: the manifest.
        root: where the shards lie, if not where they were pruned.
        sources: walk the kept headers of every source; without it only the manifest is checked.
        processes: that walk sources at once; 0 for what the work and the machine are worth.
        progress: called with shards done, shards in all and a name.

    Raises:
        ManifestError: the manifest cannot be read at all.
    """
    head = load_head(folder)
    findings = list(_files(folder, head))
    lines = list(read_lines(folder)) if not findings else []
    if not findings:
        findings += _counts(lines, head)
        findings += _rows(folder, lines)
    if sources and not findings:
        faults = faults_of(lines, root or read_root(folder), progress, processes=processes)
        findings += [Finding(line.name, fault) for line, fault in zip(lines, faults, strict=True) if fault]
    return Verdict(manifest_digest(folder), head, len(lines), tuple(findings))


def load_whole(folder: Path) -> Head:
    """Returns a manifest's head once its other files have the digests that it records.

    Raises:
        ManifestError: a file is missing or is not the one that was written.
    """
    head = load_head(folder)
    for finding in _files(folder, head):
        raise ManifestError(
            f"{folder / finding.where}: {finding.what}.", hint="Copy the manifest again, or prune again."
        )
    return head


def _files(folder: Path, head: Head) -> Iterator[Finding]:
    for name, digest in head.files.items():
        try:
            found = file_digest(folder / name)
        except ManifestError as error:
            yield Finding(name, error.message)
            continue
        if found != digest:
            yield Finding(name, f"has digest {found}, and manifest.json says {digest}")


def _counts(lines: list[Line], head: Head) -> Iterator[Finding]:
    for line in lines:
        total = line.kept + sum(line.dropped.values()) + sum(line.failed.values())
        if total != line.samples or line.kept != sum(line.runs[1::2]) or sum(line.runs) > line.samples:
            yield Finding(line.name, f"its counts do not add up to its {line.samples:,} samples")
    sums = {
        "samples": (sum(line.samples for line in lines), head.totals.samples),
        "kept samples": (sum(line.kept for line in lines), head.totals.kept),
        "kept bytes": (sum(line.kept_bytes for line in lines), head.totals.kept_bytes),
        "shards": (len(lines), head.totals.shards),
        "budget": (sum(line.kept for line in lines), head.selection.budget),
    }
    for what, (found, recorded) in sums.items():
        if found != recorded:
            yield Finding("manifest.json", f"records {recorded:,} {what}; the lines hold {found:,}")
    if head.classes.after and sum(head.classes.after) > head.totals.kept:
        yield Finding("manifest.json", "keeps more samples by class than in all")


def _rows(folder: Path, lines: list[Line]) -> Iterator[Finding]:
    for line in lines:
        if [name for name, _, _ in find_rows(folder, line.name)] != [line.name]:
            yield Finding(line.name, "is not found through shards.idx")
