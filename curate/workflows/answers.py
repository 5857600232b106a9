"""What people answered: CSVs of labels, checked against what was asked before a single one is taken over."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from curate import durable
from curate.errors import RunError, UsageError, did_you_mean
from curate.manifest.algebra import kept_mask
from curate.manifest.lines import read_lines
from curate.pool.classes import class_names
from curate.pool.index import Answers, Pool
from curate.pool.labels import LabelRow, is_class_id, read_label_rows
from curate.pool.tar import printable

COLUMNS = ("shard", "key", "label")
SHOWN = 3
DRAW_MORE = "draw more: a larger --initial in another --out begins with the same samples and takes --answers."


@dataclass(frozen=True)
class Question:
    """A sample whose label is asked for: `place` is its shard's in the pool."""

    place: int
    ordinal: int
    shard: str
    key: str

    @property
    def identity(self) -> tuple[str, str]:
        return self.shard, self.key


@dataclass(frozen=True)
class Asked:
    """What a manifest keeps: the samples whose label is asked for, and the labels that are known."""

    questions: Sequence[Question]
    known: Answers


@dataclass(frozen=True)
class Vocabulary:
    """What a label may be called.

    Attributes:
        texts: what people may write, and what stands for it in the labels.
        others: `any`, `ids` or `names` that are in no list, while no list is known; empty for none.
        is_listed: a list settles the classes, and not what the first round was labelled.
    """

    texts: Mapping[str, str]
    others: str = ""
    is_listed: bool = True

    @property
    def names(self) -> list[str]:
        """The classes as people are shown them: by name, by id where there is none; empty while not known."""
        shown: dict[str, str] = {}
        for name, text in self.texts.items():
            shown.setdefault(text, name)
        return [] if self.others else list(shown.values())

    def meaning(self, row: LabelRow) -> str:
        """Returns the text that stands for what was written.

        Raises:
            UsageError: no such class.
        """
        label = row.label if row.label in self.texts else _plain(row.label)
        if label in self.texts:
            return self.texts[label]
        if self.others == "any" or self.others == ("ids" if is_class_id(label) else "names"):
            return label
        expected = f"Expected class {self.others}." if self.others else did_you_mean(row.label, self.texts)
        late = (
            "" if self.is_listed else "\nA class that the first round lacked is known by a list alone: --classes FILE."
        )
        raise UsageError(f"{row.where}: unknown class '{printable(row.label)}'.", hint=expected + late)


def vocabulary(pool: Pool, listed: Sequence[str], answers: Answers, *, is_first: bool) -> Vocabulary:
    """Returns what a label may be called.

    A list settles it: `--classes`, or classes.txt beside the shards. Without one it is what the shards' own
    labels and the first round's say.

    Args:
        pool: with the shards' own labels.
        listed: the names of `--classes`; by id, where the shards' own labels are ids.
        answers: those of the rounds before.
        is_first: no label has been answered yet.

    Raises:
        UsageError: the list leaves out a class that the shards have.
    """
    kind, own = pool.classes.kind, pool.classes.names if pool.classes.kind == "name" else ()
    listed = [name.strip() for name in listed]
    names = listed or class_names(pool.root)
    if kind == "id" or (kind == "none" and names and not listed):
        ids = [str(i) for i in range(max(len(names), pool.classes.num_classes if names else 0))]
        seen = {str(i): str(i) for i, count in enumerate(pool.classes.counts) if count}
        seen |= {text: text for text in answers.values()}
        counts = Counter(names)  # a name that two classes share says nothing
        by_name = {name: i for name, i in zip(names, ids, strict=False) if name and counts[name] == 1}
        others = "ids" if is_first and not names else ""
        return Vocabulary({**by_name, **{i: i for i in ids}, **seen}, others, is_listed=bool(names))
    listed = [name for name in listed if name]
    missing = sorted(set(own) - set(listed))
    if listed and missing:
        raise UsageError(
            f"--classes has no '{printable(missing[0])}', which is a label in the shards.",
            hint="Expected every class, one name a line.",
        )
    seen = {text: text for text in listed or sorted({*own, *answers.values()})}
    others = "" if listed or not is_first else "names" if own else "any"
    return Vocabulary(seen, others, is_listed=bool(listed))


def asked_of(pool: Pool, manifest: Path, answers: Answers) -> Asked:
    """Returns what a manifest keeps, told apart by whether its label is in the shards or was answered before.

    Cost: reads the keys and labels of the shards of which something is kept.
    """
    place_of = {scan.name: place for place, scan in enumerate(pool.scans)}
    questions, known = list[Question](), dict[tuple[str, str], str]()
    for line in read_lines(manifest):
        if not line.kept:
            continue
        table = pool.read(place_of[line.name], ["key", "label"])
        keys, labels = (table[name].to_pylist() for name in ("key", "label"))
        for ordinal in kept_mask(line).nonzero()[0].tolist():
            question = Question(place_of[line.name], ordinal, line.name, keys[ordinal])
            label = answers.get(question.identity) if labels[ordinal] is None else labels[ordinal]
            if label is None:
                questions.append(question)
            else:
                known[question.identity] = label if pool.classes.kind == "name" else _plain(label)
    return Asked(questions, known)


def read_answers(paths: Iterable[Path], asked: Asked, words: Vocabulary) -> dict[tuple[str, str], str]:
    """Returns the labels of the questions that are answered, from several CSVs together. Empty labels are no answers.

    Raises:
        UsageError: a key that was not asked for, that is repeated or that several shards have, an unknown class,
            a label other than the one that is known; each with file and line.
    """
    open_ = {question.identity for question in asked.questions}
    identities: dict[str, list[tuple[str, str]]] = {}
    for identity in (*open_, *asked.known):
        identities.setdefault(identity[1], []).append(identity)
    answers: dict[tuple[str, str], str] = {}
    for path in paths:
        seen: dict[tuple[str, str], str] = {}
        for row in read_label_rows(path):
            identity = _identity(row, identities)
            if identity in seen:
                raise UsageError(
                    f"{row.where}: '{printable(identity[1])}' is repeated, it is in {seen[identity]} too.",
                    hint="Expected one row a key.",
                )
            seen[identity] = row.where.rpartition(", ")[2]
            if row.label:
                _take(answers, identity, row, asked.known, words.meaning(row))
    return {
        question.identity: answers[question.identity] for question in asked.questions if question.identity in answers
    }


def _identity(row: LabelRow, identities: Mapping[str, Sequence[tuple[str, str]]]) -> tuple[str, str]:
    shard, key = row.identity
    found = [identity for identity in identities.get(key, ()) if shard in ("", identity[0])]
    if len(found) != 1:
        what = f"is the key of {len(found)} samples" if found else "was not asked for"
        of = f" of '{printable(shard)}'" if shard else ""
        raise UsageError(
            f"{row.where}: '{printable(key)}'{of} {what}.",
            hint="Expected shard and key as in to_label.csv. Nothing was taken over.",
        )
    return found[0]


def _take(
    answers: dict[tuple[str, str], str], identity: tuple[str, str], row: LabelRow, known: Answers, text: str
) -> None:
    before = known.get(identity, text)
    if before != text:
        raise UsageError(
            f"{row.where}: '{printable(identity[1])}' is '{printable(row.label)}' here, but its label is "
            f"'{printable(before)}' already, in {printable(identity[0])} or by an earlier round.",
            hint="Labels in the shards and of finished rounds stay. Empty the row, or correct it.",
        )
    if answers.setdefault(identity, text) != text:
        raise UsageError(
            f"{row.where}: '{printable(identity[1])}' has another label in another file.",
            hint="Expected one label a key.",
        )


def check_all_answered(number: int, asked: Asked, answers: Answers, files: Sequence[Path]) -> None:
    """Refuses a round that is answered in part.

    Raises:
        RunError: says how many are left, and how many of them are in no file.
    """
    left = [question for question in asked.questions if question.identity not in answers]
    if not left:
        return
    rows = {row.identity[1] for path in files for row in read_label_rows(path)}
    gone = sum(question.key not in rows for question in left)
    first = ", ".join(f"'{printable(question.key)}' of {printable(question.shard)}" for question in left[:SHOWN])
    raise RunError(
        f"Round {number}: {len(left):,} of {len(asked.questions):,} samples are left to label, {gone:,} of them "
        f"are in no file: {first}{', …' if len(left) > SHOWN else ''}.",
        hint=f"Fill in the others in {files[0]}, or name files with --answers, those of before too: labels are taken "
        "over when a round is whole.",
    )


def check_first_labels(words: Vocabulary, labels: Collection[str], tested: Collection[str] = ()) -> None:
    """Refuses to begin where a class that is listed, or that accuracy is measured on, has no label: members would never
    learn it.

    Args:
        words: what a label may be called.
        labels: those of the initial subset.
        tested: those of the test shards.

    Raises:
        UsageError: names the classes; or labels without a list are ids and names mixed.
    """
    ids = sum(map(is_class_id, labels))
    if words.others == "any" and 0 < ids < len(labels):
        raise UsageError(
            f"{ids:,} of the {len(labels):,} classes in the answers are ids, the others are names.",
            hint="Expected one of both; --classes FILE lists what a label may be.",
        )
    check_tested(labels, tested)
    listed = [name for name in words.names if words.texts[name] not in labels]
    if listed:
        raise UsageError(
            f"No sample of the initial subset is of class {_some(listed)}: it would not be learned.",
            hint=f"Take a class that does not exist off the list; or {DRAW_MORE}",
        )


def check_tested(labels: Collection[str], tested: Collection[str]) -> None:
    """Refuses to measure on classes that have no label in the initial subset.

    Raises:
        UsageError: names the classes; or says that labels are of another kind.
    """
    if not tested or not labels:
        return
    kinds = ["ids" if all(map(is_class_id, texts)) else "names" for texts in (tested, labels)]
    if kinds[0] != kinds[1]:
        raise UsageError(
            f"The labels of the --test shards are {kinds[0]}, those of the initial subset {kinds[1]}.",
            hint="Leave out --test, or name shards whose labels are written as the answers are, in another --out.",
        )
    unseen = sorted(set(tested) - {*labels}, key=lambda text: (int(text) if is_class_id(text) else 0, text))
    if unseen:
        raise UsageError(
            f"No sample of the initial subset is of class {_some(unseen)}, which --test measures: it would not be "
            "learned. Nothing was taken over.",
            hint=f"Leave out --test; or {DRAW_MORE}",
        )


def _some(names: Sequence[str]) -> str:
    return ", ".join(f"'{printable(name)}'" for name in names[:SHOWN]) + (", …" if len(names) > SHOWN else "")


def _plain(label: str) -> str:
    """Returns a class id without leading zeros, any other text as it is."""
    return str(int(label)) if is_class_id(label) else label


def as_csv(rows: Iterable[Sequence[str]], more: Sequence[str] = ()) -> bytes:
    """Returns a CSV of shard, key, label, and more columns."""
    out, listed = io.StringIO(), [(*COLUMNS, *more), *rows]
    # Python's reader ends a row at a bare carriage return, which its writer does not quote.
    is_quoted = any("\r" in text for row in listed for text in row)
    csv.writer(
        out, lineterminator="\n", quoting=csv.QUOTE_ALL if is_quoted else csv.QUOTE_MINIMAL
    ).writerows(listed)  # fmt: skip
    return out.getvalue().encode()


def write_answers(path: Path, answers: Answers) -> None:
    """Writes answers as a CSV that `--labels` reads too."""
    durable.write_bytes(path, as_csv((shard, key, label) for (shard, key), label in answers.items()))
