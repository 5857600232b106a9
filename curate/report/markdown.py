"""Markdown that shows in step summaries and merge requests, bounded in size whatever the pool holds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from curate.pool.tar import printable
from curate.workflows.diff import ClassChange, Diff

MAX_CLASSES = 50
MAX_CELL = 80
# Whatever Markdown or HTML would take for itself; a class may be called anything.
ESCAPES = {ord(c): f"&#{ord(c)};" for c in "&<>|`*_[]()#@\\~!$"}


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns a table; the first column is text, the others are figures."""
    head = ["| " + " | ".join(columns) + " |", "|---" + "|---:" * (len(columns) - 1) + "|"]
    return "\n".join([*head, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"


def cell(text: str) -> str:
    """Returns text that means only itself, cut after 80 characters."""
    plain = printable(text)
    return (plain if len(plain) <= MAX_CELL else plain[: MAX_CELL - 1] + "…").translate(ESCAPES)


def diff_markdown(result: Diff) -> str:
    """Returns what changed between two manifests: the counts, and the classes that changed most."""
    counts = result.counts
    moved = f"{counts['moved']:,}" if result.moves_known else "not known"
    rows = [
        ("kept before", f"{result.kept_a:,}"),
        ("kept after", f"{result.kept_b:,}"),
        ("added", f"{counts['added']:,}"),
        ("removed", f"{counts['removed']:,}"),
        ("moved", moved),
        ("churn (1 - Jaccard)", f"{result.churn:.2%}"),
    ]
    title = f"### curate diff\n\n`{result.digest_a[:12]}` → `{result.digest_b[:12]}`"
    title += "" if result.same_pool else ", of different pools"
    return f"{title}\n\n{table(('samples', ''), rows)}\n{_classes(result.classes)}"


def changed_most(classes: Sequence[ClassChange], count: int = MAX_CLASSES) -> list[ClassChange]:
    """Returns the classes whose share changed most, at most `count`, and none that did not change at all."""
    changed = [c for c in classes if c.before != c.after]
    return sorted(changed, key=lambda c: (-abs(c.share_after - c.share_before), -abs(c.after - c.before), c.name))[
        :count
    ]


def class_row(change: ClassChange) -> tuple[str, ...]:
    """Returns one class's figures: before, after, change, share before, share after."""
    return (
        change.name, f"{change.before:,}", f"{change.after:,}", f"{change.after - change.before:+,}",
        f"{change.share_before:.2%}", f"{change.share_after:.2%}",
    )  # fmt: skip


CLASS_COLUMNS = ("class", "before", "after", "change", "share before", "share after")


def _classes(classes: Sequence[ClassChange]) -> str:
    shown = changed_most(classes)
    rest = len(classes) - len(shown)
    rows = ((cell(name), *figures) for name, *figures in map(class_row, shown))
    more = f"\n{rest:,} other classes are not shown: they changed less or not at all.\n" if rest else ""
    return (table(CLASS_COLUMNS, rows) if shown else "No class keeps another number of samples.\n") + more
