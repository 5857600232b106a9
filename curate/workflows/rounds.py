"""The rounds of active learning on disk, and their table: how much was labelled, how good, what it took to choose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curate import durable
from curate.manifest.lines import manifest_digest
from curate.manifest.schema import load_head
from curate.scores import SUMMARY, read_record
from curate.workflows.cost import seconds_spent
from curate.workflows.run import LOG

MANIFEST, SCORES, SELECTED, ANSWERS = "manifest", "scores", "selected.json", "labels.csv"
JSON, MARKDOWN = "rounds.json", "rounds.md"
COLUMNS = (
    "round",
    "labelled",
    "share",
    "accuracy",
    "one member",
    "training and scoring s",
    "choosing s",
    "all so far s",
)


@dataclass(frozen=True)
class Round:
    """One round: a size, and the folder of its manifest and of the scores by members trained on it."""

    number: int
    keep: str
    folder: Path

    @property
    def manifest(self) -> Path:
        return self.folder / MANIFEST

    @property
    def scores(self) -> Path:
        return self.folder / SCORES

    @property
    def answers(self) -> Path:
        """What people answered, whole: it is written once nothing is left to ask."""
        return self.folder / ANSWERS

    @property
    def is_selected(self) -> bool:
        """Says whether its manifest is there, and how long that took."""
        return (self.folder / SELECTED).exists() and self.manifest.exists()

    def is_scored(self, *, with_test: bool) -> bool:
        """Says whether its members have scored everything and, if asked for, have been measured."""
        path = self.scores / SUMMARY
        return path.exists() and (not with_test or "test" in read_record(path)["ensemble"])


def write_rounds(out: Path, rounds: Sequence[Round], samples: int) -> list[dict[str, Any]]:
    """Writes `rounds.json` and `rounds.md` of the rounds that are there; returns their records.

    A record has: round, keep, labelled, added, share (of all `samples`), digest, manifest; accuracy of the members
    together and the mean of each alone on the test set, null without one; seconds: of training the members of the
    round before and scoring with them, of choosing by those scores, and of all this so far. Decoding and
    measuring on the test set are in none of them.
    """
    records, before, so_far = list[dict[str, Any]](), 0, 0.0
    for this in rounds:
        head, selected = load_head(this.manifest), read_record(this.folder / SELECTED)
        # Chance asks no member.
        scored = 0.0 if head.selection.fn == "random" else _scoring_seconds(rounds[this.number - 1])
        so_far += scored + selected["seconds"]
        records.append({
            "round": this.number, "keep": this.keep, "labelled": head.totals.kept, "added": head.totals.kept - before,
            "share": head.totals.kept / samples, "digest": manifest_digest(this.manifest),
            "manifest": str(this.manifest), **_accuracy(this), "scoring_seconds": round(scored, 3),
            "choosing_seconds": selected["seconds"], "selection_seconds": round(so_far, 3),
        })  # fmt: skip
        before = head.totals.kept
    durable.write_json(out / JSON, {"rounds": records})
    durable.write_bytes(out / MARKDOWN, as_markdown(records).encode())
    return records


def _scoring_seconds(before: Round) -> float:
    # The last event comes after the members were measured on the test set, which is no part of choosing.
    return seconds_spent(before.scores / LOG, without="done")


def _accuracy(this: Round) -> dict[str, float | None]:
    if not this.is_scored(with_test=True):
        return {"accuracy": None, "one_member": None}
    summary = read_record(this.scores / SUMMARY)
    members = [member["test"] for member in summary["members"]]
    return {"accuracy": summary["ensemble"]["test"], "one_member": sum(members) / len(members)}


def cells_of(record: dict[str, Any]) -> tuple[str, ...]:
    """Returns a record as text, one cell for each of `COLUMNS`; accuracy in %."""
    accuracies = ("" if record[name] is None else f"{100 * record[name]:.2f}" for name in ("accuracy", "one_member"))
    seconds = (f"{record[name]:,.1f}" for name in ("scoring_seconds", "choosing_seconds", "selection_seconds"))
    return str(record["round"]), f"{record['labelled']:,}", f"{record['share']:.1%}", *accuracies, *seconds


def as_markdown(records: Sequence[dict[str, Any]]) -> str:
    """Returns the table as Markdown."""
    head = "| " + " | ".join(COLUMNS) + " |\n|" + "---:|" * len(COLUMNS)
    return "\n".join([head, *("| " + " | ".join(cells_of(record)) + " |" for record in records)]) + "\n"
