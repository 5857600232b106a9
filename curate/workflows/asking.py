"""What a person is given to label: a CSV to fill in, pictures to look at, and the same as Label Studio tasks.

Nothing that a shard calls a sample becomes a file's name or markup, and no byte of an image is passed on: it is
decoded here and encoded again, small.
"""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from curate import durable
from curate.errors import SampleError, UsageError
from curate.pool.images import thumbnail
from curate.pool.index import Answers, Pool
from curate.pool.labels import read_label_table
from curate.pool.tar import printable
from curate.pool.texts import read_text
from curate.proxy.pixels import read_images, rows_of
from curate.workflows.answers import (
    Question,
    as_csv,
    asked_of,
    check_all_answered,
    check_first_labels,
    read_answers,
    vocabulary,
    write_answers,
)
from curate.workflows.rounds import Round

TO_LABEL, PICTURES = "to_label.csv", "pictures"
PAGE, TASKS, CONFIG, IMAGES = "index.html", "label_studio.json", "label_studio.xml", "images"
PICTURE_PX, QUALITY, TEXT_CHARACTERS, WORDS_CHARACTERS = 224, 90, 20_000, 300
HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="script-src 'none'">
<title>{title}</title>
<style>
body {{ font-family: sans-serif }}
main {{ display: flex; flex-wrap: wrap; gap: 1em }}
figure {{ margin: 0; width: 224px; overflow-wrap: anywhere }}
img {{ width: 224px; height: 224px; image-rendering: pixelated }}
</style>
</head>
<body>
<h1>{title}</h1>
<p>In the order of to_label.csv.</p>
<main>
"""


@dataclass(frozen=True)
class Waiting:
    """A round that people have to answer before there is another one."""

    number: int
    questions: int
    to_label: Path
    pictures: Path


def asked_and_answered(
    pool: Pool,
    this: Round,
    before: Answers,
    classes: Sequence[str],
    files: Sequence[Path],
    *,
    tested: Sequence[str] = (),
) -> Waiting | None:
    """Asks for the labels that a round's manifest lacks; takes the answers over once all are there.

    Args:
        pool: with the labels in the shards.
        this: the round; its `labels.csv` is written when it is answered.
        before: the answers of the rounds before.
        classes: the names of all classes, where they are known.
        files: CSVs of answers beside the round's `to_label.csv`.
        tested: the labels of what accuracy is measured on.

    Returns:
        The round, if nobody has answered yet.

    Raises:
        UsageError: answers that do not fit; nothing is taken over.
        RunError: only a part is answered.
    """
    words = vocabulary(pool, classes, before, is_first=this.number == 0)
    asked = asked_of(pool, this.manifest, before)
    path, pictures = this.folder / TO_LABEL, this.folder / PICTURES
    if not path.exists():
        title = f"Round {this.number}: {len(asked.questions):,} samples to label"
        seen = _write_pictures(pictures, pool, asked.questions, words.names, title)
        # Last: it says that the rest is there. Once there it is people's, and never written again.
        rows = [(*question.identity, "", one) for question, one in zip(asked.questions, seen, strict=True)]
        durable.write_bytes(path, as_csv(rows, more=["text" if pool.kind == "text" else "picture"]))
    answers = read_answers([path, *files], asked, words)
    if asked.questions and not answers:
        return Waiting(this.number, len(asked.questions), path, pictures)
    check_all_answered(this.number, asked, answers, [path, *files])
    if this.number == 0:
        check_first_labels(words, {*asked.known.values(), *answers.values()}, tested)
    write_answers(this.answers, answers)
    return None


def first_labels(pool: Pool, first: Round) -> set[str]:
    """Returns the labels of the initial subset once it is answered, none before."""
    if not first.answers.exists():
        return set()
    answers = read_label_table(first.answers)
    return {*asked_of(pool, first.manifest, {}).known.values(), *answers.values()}


def check_answers_stand(pool: Pool, this: Round, before: Answers, classes: Sequence[str]) -> None:
    """Refuses a finished round whose `to_label.csv` says something else by now: members were trained on what it said.

    Raises:
        UsageError: names the first sample.
    """
    path = this.folder / TO_LABEL
    if not path.exists():  # the shards' labels answered
        return
    words = vocabulary(pool, classes, before, is_first=this.number == 0)
    taken = read_label_table(this.answers)
    for identity, label in read_answers([path], asked_of(pool, this.manifest, before), words).items():
        if taken.get(identity, label) != label:
            raise UsageError(
                f"{path}: '{printable(identity[1])}' is '{printable(label)}' here, and round {this.number} was done "
                f"with '{printable(taken[identity])}'.",
                hint="Labels of finished rounds stay: undo it, or begin in another --out with these --answers.",
            )


def _write_pictures(
    out: Path, pool: Pool, questions: Sequence[Question], classes: Sequence[str], title: str
) -> list[str]:
    """Writes what people look at; returns what a row of the CSV shows of each: where its picture lies, or its words."""
    is_text, shown = pool.kind == "text", list[str]()
    with durable.building(out) as build:
        if not is_text:
            (build / IMAGES).mkdir()
        with (build / PAGE).open("w", encoding="utf-8") as page, (build / TASKS).open("w") as tasks:
            page.write(HEAD.format(title=html.escape(title)))
            tasks.write("[")
            for number, (question, data) in enumerate(_entries(pool, questions)):
                if is_text:
                    seen = {"text": _text(data, pool.text_field)}
                    shown.append(_quoted(seen["text"]))
                    page.write(_figure(f"<p>{html.escape(seen['text'])}</p>", question))
                else:
                    picture, name = _picture(data), f"{IMAGES}/{number:06d}.jpg"
                    shown.append(f"{PICTURES}/{name}")
                    (build / name).write_bytes(picture)
                    seen = {"image": f"data:image/jpeg;base64,{base64.standard_b64encode(picture).decode()}"}
                    page.write(_figure(f'<img src="{name}" alt="" loading="lazy">', question))
                tasks.write(("," if number else "") + "\n" + _task(seen, question))
            tasks.write("\n]\n")
            page.write("</main>\n</body>\n</html>\n")
        (build / CONFIG).write_text(_config(classes, "Text" if is_text else "Image"), encoding="utf-8")
        durable.replace_folder(build, out)
    return shown


def _entries(pool: Pool, questions: Sequence[Question]) -> Iterator[tuple[Question, bytes]]:
    rows = rows_of(pool)
    for place, group in groupby(questions, key=lambda question: question.place):
        own = list(group)
        row_K = rows.offset_S[place] + np.array([question.ordinal for question in own])
        for question, (_, data) in zip(own, read_images(rows, place, row_K), strict=True):
            yield question, data


def _quoted(text: str) -> str:
    """Returns the first words of a text in quotes, on one line; no spreadsheet takes it for a formula then."""
    words = " ".join(text.split())
    return "“" + printable(words[:WORDS_CHARACTERS]) + ("…" if len(words) > WORDS_CHARACTERS else "") + "”"


def _text(data: bytes, field: str) -> str:
    """Returns a text as far as a person will read it; nothing for one that is bad."""
    try:
        text = read_text(data, field)
    except SampleError:
        return ""
    return text[:TEXT_CHARACTERS] + ("…" if len(text) > TEXT_CHARACTERS else "")


def _picture(data: bytes) -> bytes:
    """Returns the middle of an image as a small JPEG; a grey square for one that cannot be decoded."""
    try:
        return thumbnail(data, size_px=PICTURE_PX, quality=QUALITY)
    except SampleError:
        out = io.BytesIO()
        Image.new("RGB", (1, 1), (128, 128, 128)).save(out, "JPEG", quality=QUALITY, subsampling=0)
        return out.getvalue()


def _figure(seen: str, question: Question) -> str:
    shard, key = (html.escape(printable(text)) for text in question.identity)
    return f"<figure>{seen}<figcaption>{key}<br>{shard}</figcaption></figure>\n"


def _task(seen: Mapping[str, str], question: Question) -> str:
    return json.dumps({"data": {**seen, "shard": question.shard, "key": question.key}})


def _config(classes: Sequence[str], tag: str) -> str:
    """Returns a labelling configuration whose CSV export has the columns of `to_label.csv`.

    Where no class is known yet, people write one.
    """
    view = ElementTree.Element("View")
    name = tag.lower()
    ElementTree.SubElement(view, tag, name=name, value=f"${name}")
    if classes:
        choices = ElementTree.SubElement(view, "Choices", name="label", toName=name, choice="single")
    else:
        ElementTree.SubElement(view, "TextArea", name="label", toName=name, maxSubmissions="1", editable="true")
    for name in classes:
        ElementTree.SubElement(choices, "Choice", value=printable(name))
    ElementTree.indent(view)
    text: str = ElementTree.tostring(view, encoding="unicode")
    return text + "\n"
