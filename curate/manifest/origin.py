"""What a manifest was made from: the index and the scores that its unhashed `source.json` names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from curate import __version__
from curate.errors import ManifestError, RunError
from curate.foreign import read_foreign
from curate.manifest.lines import HEAD, SOURCE, manifest_digest, read_source
from curate.manifest.schema import Head
from curate.pool.index import Pool, load_pool
from curate.scores import BAD, INDEX, SUMMARY, BadSample, Columns, read_bad, read_columns


@dataclass(frozen=True)
class Origin:
    """A pool and its scores.

    Attributes:
        scores: the run's folder; with `index`, a Parquet file or folder that something else wrote.
        index: the index of scores from elsewhere, else None.
        pool: what was scored.
        bad: the samples that have no score, with reasons.
        others: further runs or files whose scores were combined with these.
    """

    scores: Path
    index: Path | None
    pool: Pool
    bad: Sequence[BadSample]
    others: tuple[Path, ...] = ()

    def columns(self, names: Sequence[str], *, null_is_nan: bool = False) -> Columns:
        """Returns columns of all scored samples, `identity` among them; one score where something else scored.

        Raises:
            ScoreError: a table or a column is missing, or a sample has no value.
        """
        if self.index is None:
            return read_columns(self.scores, self.pool, ["identity", *names], bad=self.bad, null_is_nan=null_is_nan)
        return read_foreign(self.scores, self.pool, names[0] if names else None, with_keys=False)[0]


def made_from(
    scores: Path | None,
    index: Path | None,
    others: Sequence[Path] = (),
    *,
    base: Path | None = None,
    seconds: float | None = None,
) -> dict[str, Any]:
    """Returns what `source.json` records of a manifest's making.

    Args:
        scores, index: what it was made from.
        others: what was combined with the scores.
        base: the manifest that it grew from.
        seconds: how long choosing took, scores read and centers found, without what wrote them.
    """
    record: dict[str, Any] = {"curate": __version__}
    if scores:
        record["scores"] = str(scores.absolute())
    if others:
        record["combined_with"] = [str(path.absolute()) for path in others]
    if base:
        record["base"] = str(base.absolute())
    if seconds is not None:
        record["seconds"] = round(seconds, 3)
    return {**record, "index": str(index.absolute())} if index else record


def open_origin(scores: Path, index: Path | None = None) -> Origin:
    """Returns a pool and who of it has no score; per-sample columns are read when they are asked for.

    Raises:
        RunError: no finished scores are there.
        ScoreError: scores from elsewhere do not fit the index.
    """
    if (scores / HEAD).exists():
        raise RunError(f"{scores} is a manifest, not scores.", hint="Name the folder of a run of `curate score`.")
    if index is None:
        return Origin(scores, None, load_pool(scores / INDEX), read_bad(scores / BAD))
    pool = load_pool(index)
    return Origin(scores, index, pool, read_foreign(scores, pool, None, with_keys=False)[1])


def find_origin(folder: Path, head: Head, scores: Path | None = None, index: Path | None = None) -> Origin:
    """Returns what a manifest was made from.

    Args:
        folder: the manifest.
        head: its head.
        scores, index: where they lie, if not where they were when it was written.

    Raises:
        ManifestError: they are not there, or are of another pool.
    """
    source = _source(folder)
    if not scores and not source:
        raise ManifestError(
            f"{folder} does not say what it was made from ({SOURCE} is missing).",
            hint="Name scores of its pool with --scores.",
        )
    if not scores and "scores" not in source:
        raise ManifestError(
            f"{folder} was drawn from an index alone: it has no scores.", hint="Name scores of its pool with --scores."
        )
    found = scores or Path(source["scores"])
    if not (found / SUMMARY).exists() and not index:
        index = Path(source["index"]) if "index" in source and not scores else None
    if not found.exists() or not ((found / SUMMARY).exists() or (index and index.exists())):
        raise ManifestError(
            f"{folder}: the scores it was made from are not in {found}.",
            hint="Name their folder with --scores, and with --index where something else wrote the scores.",
        )
    others = tuple(Path(path) for path in source.get("combined_with", []))
    origin = replace(open_origin(found, index), others=others)
    check_pool(origin.pool, folder, head)
    return origin


def find_pool(folder: Path, head: Head) -> Pool | None:
    """Returns the index of a manifest's pool where it still lies, else None."""
    source = _source(folder)
    index = Path(source["index"]) if "index" in source else Path(source.get("scores", "")) / INDEX
    if not (index / "pool.json").exists():
        return None
    pool = load_pool(index)
    return pool if pool.fingerprint == head.pool.fingerprint else None


def choosing_seconds(folder: Path) -> float:
    """Returns how long the choice of a manifest took; 0 for one that does not say it, such as a published one."""
    seconds = _source(folder).get("seconds", 0.0)
    return float(seconds) if isinstance(seconds, int | float) else 0.0


def scores_named(folder: Path) -> list[str]:
    """Returns where the runs lay whose scores a manifest was chosen by; nothing where it does not say it."""
    source = _source(folder)
    return [source["scores"], *source.get("combined_with", [])] if "scores" in source else []


def find_base(folder: Path, head: Head, others: Mapping[str, Path]) -> Path | None:
    """Returns the manifest that one grew from: among others, by digest, or where it was; None where it is not."""
    digest = head.selection.base or ""
    if digest in others:
        return others[digest]
    place = Path(_source(folder).get("base", ""))
    return place if (place / HEAD).is_file() and manifest_digest(place) == digest else None


def _source(folder: Path) -> dict[str, Any]:
    """Returns what a manifest was made from; nothing of one that was published, which does not say it."""
    return read_source(folder) if (folder / SOURCE).exists() else {}


def check_pool(pool: Pool, folder: Path, head: Head) -> None:
    """Accepts the index that a manifest is of.

    Raises:
        ManifestError: it is of another pool.
    """
    if pool.fingerprint != head.pool.fingerprint:
        theirs = _told(head.totals.samples, head.pool.bytes, len(head.classes.before), head.pool.fingerprint)
        size = sum(scan.bytes for scan in pool.scans)
        raise ManifestError(
            f"{folder} is of another pool: {theirs}. {pool.folder} is of "
            f"{_told(pool.total, size, pool.classes.num_classes, pool.fingerprint)}.",
            hint="Expected the shards that the manifest was made from, with their labels read in the same way.",
        )


def _told(samples: int, size: int, classes: int, fingerprint: str) -> str:
    return f"{samples:,} samples of {classes:,} classes, {size:,} bytes, fingerprint {fingerprint}"
