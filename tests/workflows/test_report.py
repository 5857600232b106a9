import base64
import hashlib
import io
import json
import re
import shutil
from collections import Counter
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import BAD_KEY, COLOURS, TOY, png, write_tar
from PIL import Image

from curate import tables
from curate.cli import run
from curate.manifest.schema import load_head
from curate.workflows.report import report

HOSTILE = '"><img src=x onerror=alert(1)>'
CLASSES = ["<script>alert(1)</script>", "قطة", "🐈 cat"]


class Page(HTMLParser):
    """What a browser would make of a page: its elements with the text directly inside them."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self._open = ""
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._open = tag

    def handle_data(self, data: str) -> None:
        self.texts.setdefault(self._open, []).append(data)

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def has(self, text: str) -> bool:
        return any(text in part for parts in self.texts.values() for part in parts)


def drawn(manifest: Path, out: Path, *words: str) -> Page:
    assert run(["report", str(manifest), "--out", str(out), *words]) == 0
    return Page(out)


def pool_of(folder: Path, samples: Sequence[tuple[str, str]], *, text: str = "") -> Path:
    """Writes a shard of (key, label) and returns a manifest of half of it, by scores that go up with the ordinal."""
    members = []
    for place, (key, label) in enumerate(samples):
        members += [(f"{key}.png", png(COLOURS[place % 3], place)), (f"{key}.cls", label.encode())]
        members += [(f"{key}.txt", text.encode())] if text else []
    write_tar(folder / "pool" / "a.tar", members)
    table = {
        "shard": ["a.tar"] * len(samples),
        "ordinal": range(len(samples)),
        "mine": [i / 7 for i in range(len(samples))],
    }
    pq.write_table(pa.table({name: pa.array(list(values)) for name, values in table.items()}), folder / "s.parquet")
    assert run(["index", str(folder / "pool"), "--out", str(folder / "index")]) == 0
    words = ["--scores", str(folder / "s.parquet"), "--index", str(folder / "index"), "--fn", "mine"]
    assert run(["prune", *words, "--keep", "0.5", "--out", str(folder / "m")]) == 0
    return folder / "m"


def test_it_says_the_manifests_counts_and_shows_every_sample_it_links_to(toy_manifest: Path, tmp_path: Path) -> None:
    page, totals = drawn(toy_manifest, tmp_path / "r.html"), load_head(toy_manifest).totals
    cards = [text for text in page.texts["dd"] if text.strip()]
    assert [f"{totals.kept}", f"{sum(totals.dropped.values())}", f"{sum(totals.failed.values())}"] == [
        text for text in cards if text.isdigit()
    ][:3]
    links = {a["href"] for a in page.named("a")}
    anchors = {f"#{attributes['id']}" for _, attributes in page.elements if "id" in attributes}
    assert links <= anchors
    assert len(page.named("article")) == totals.samples  # of so few samples all are shown
    assert page.has(BAD_KEY) and page.has("rank")
    assert len(page.named("figcaption")) > 10  # a histogram of every score


def test_a_page_is_one_file_and_its_policy_names_its_own_script_alone(toy_manifest: Path, tmp_path: Path) -> None:
    page = drawn(toy_manifest, tmp_path / "r.html")
    assert not re.search(r"https?:|//[a-z]|url\(|@import", page.source)
    assert not page.named("link") and not page.named("iframe")
    assert all(str(image["src"]).startswith("data:image/jpeg;base64,") and image["alt"] for image in page.named("img"))
    assert [script for script in page.named("script") if script] == []
    (policy,) = (m["content"] for m in page.named("meta") if m.get("http-equiv") == "Content-Security-Policy")
    for tag in ("script", "style"):
        (text,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page.source, re.DOTALL)
        assert f"{tag}-src 'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" in str(policy)
    assert not [
        attributes for _, attributes in page.elements if any(n.startswith("on") or n == "style" for n in attributes)
    ]


def test_the_same_manifest_gives_the_same_bytes(toy_manifest: Path, tmp_path: Path) -> None:
    first, second = (drawn(toy_manifest, tmp_path / name).source for name in ("a.html", "b.html"))
    assert first == second


def test_the_histogram_counts_every_scored_sample_once(toy_manifest: Path, tmp_path: Path) -> None:
    from curate.workflows.report import report

    found, totals = report(toy_manifest), load_head(toy_manifest).totals
    for histogram in found.histograms:
        if not histogram.name.startswith("first"):
            assert sum(histogram.kept) == totals.kept, histogram.name
    assert (
        sum(map(sum, (found.histograms[0].kept, found.histograms[0].dropped, found.histograms[0].outliers)))
        == found.scored
    )


def test_the_ranks_are_those_of_explain(toy_manifest: Path) -> None:
    from curate.workflows.explain import explain
    from curate.workflows.report import report

    samples = report(toy_manifest).samples.values()
    assert len(samples) > 10
    for sample in list(samples)[:5]:
        found = explain(sample.key, manifest=toy_manifest)
        assert {s.name: (s.value, s.rank) for s in found.scores if "@" not in s.name and s.rank} == {
            name: (value, rank) for name, value, rank in sample.scores
        }
        assert found.decision is not None and found.decision.state == sample.state


def test_a_sample_says_how_far_from_the_cut_it_is(toy_scores: Path, tmp_path: Path) -> None:
    words = ["--scores", str(toy_scores), "--keep", "20", "--fn", "entropy", "--out", str(tmp_path / "m")]
    assert run(["prune", *words]) == 0
    page = drawn(tmp_path / "m", tmp_path / "r.html")
    said = [text.strip() for parts in page.texts.values() for text in parts if "by entropy" in text]
    rows = 47  # with a score: 19 before the last one kept, 27 after it
    expected = [f", {n:,} places before the cut by entropy" for n in range(1, 20)]
    expected += [f", {n:,} places after the cut by entropy" for n in range(1, rows - 19)]
    assert sorted(text for text in said if "places" in text or "last" in text) == sorted(
        [*expected, ", the last one kept by entropy"]
    )


def test_names_from_a_pool_are_text(tmp_path: Path) -> None:
    samples = [(f"{HOSTILE}{place}", CLASSES[place % 3]) for place in range(12)]
    page = drawn(pool_of(tmp_path, samples, text="</article><script>alert(2)</script> مرحبا 👋"), tmp_path / "r.html")
    assert len(page.named("script")) == 1
    assert not [image for image in page.named("img") if image.get("src") == "x"]
    assert page.has(HOSTILE) and all(page.has(name) for name in CLASSES)
    assert page.has("</article><script>alert(2)</script> مرحبا 👋")
    assert len(page.named("article")) == 12


def test_a_sample_without_an_image_shows_its_text(tmp_path: Path) -> None:
    manifest = pool_of(tmp_path / "x", [(f"k{i}", "0") for i in range(4)])
    folder = tmp_path / "t"
    write_tar(
        folder / "pool" / "a.tar",
        [("i.png", png(COLOURS[0], 1)), ("i.cls", b"0"), ("w.txt", b"words alone"), ("w.cls", b"0")],
    )
    assert run(["index", str(folder / "pool"), "--out", str(folder / "index")]) == 0
    pq.write_table(pa.table({"shard": ["a.tar"], "ordinal": [0], "mine": [1.0]}), folder / "s.parquet")
    words = ["--scores", str(folder / "s.parquet"), "--index", str(folder / "index"), "--fn", "mine"]
    assert run(["prune", *words, "--keep", "1.0", "--out", str(folder / "m")]) == 0
    assert drawn(folder / "m", tmp_path / "r.html").has("words alone")
    assert not drawn(manifest, tmp_path / "r.html").has("words alone")


def test_half_a_character_of_a_text_is_a_mark(tmp_path: Path) -> None:
    """JSON can say it: a text that was cut within an emoji, for one."""
    entry = json.dumps({"text": "so nice \ud83d", "label": 0}).encode()
    write_tar(tmp_path / "pool" / "a.tar", [(f"{n}.json", entry) for n in range(4)])
    words = ["--text-field", "text", "--label-field", "label", "--out", str(tmp_path / "index")]
    assert run(["index", str(tmp_path / "pool"), *words]) == 0
    table = pa.table({"shard": ["a.tar"] * 4, "ordinal": range(4), "mine": [0.0, 1.0, 2.0, 3.0]})
    pq.write_table(table, tmp_path / "s.parquet")
    words = ["--scores", str(tmp_path / "s.parquet"), "--index", str(tmp_path / "index"), "--fn", "mine"]
    assert run(["prune", *words, "--keep", "2", "--out", str(tmp_path / "m")]) == 0
    assert drawn(tmp_path / "m", tmp_path / "r.html").has("so nice ?")


def test_a_first_shard_that_nobody_can_decode_hides_no_scores(tmp_path: Path) -> None:
    write_tar(tmp_path / "pool" / "a.tar", [("x.png", b"no image"), ("x.cls", b"0")])
    members = []
    for n in range(12):
        members += [(f"k{n}.png", png(COLOURS[n % 3], n)), (f"k{n}.cls", str(n % 3).encode())]
    write_tar(tmp_path / "pool" / "b.tar", members)
    scores = ["--out", str(tmp_path / "s")]
    assert run(["score", str(tmp_path / "pool"), *scores, *TOY]) == 0
    words = ["--scores", str(tmp_path / "s"), "--fn", "entropy", "--keep", "6", "--out", str(tmp_path / "m")]
    assert run(["prune", *words]) == 0
    shown = report(tmp_path / "m").samples.values()
    assert {"entropy", "margin", "aum"} <= {name for sample in shown for name, *_ in sample.scores}


@pytest.mark.parametrize("count", [1, 1000])
def test_one_class_and_a_thousand(count: int, tmp_path: Path) -> None:
    page = drawn(pool_of(tmp_path, [(f"k{i}", str(i % count)) for i in range(1000)]), tmp_path / "r.html")
    assert len([row for row in page.named("tr") if "data-class" in row]) == count
    assert len(page.source) < 10_000_000


def test_the_classes_of_a_long_table_are_the_most_pruned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("curate.report.page.CLASSES_SHOWN", 5)
    page = drawn(pool_of(tmp_path, [(f"k{i}", str(i % 8)) for i in range(40)]), tmp_path / "r.html")
    assert len([row for row in page.named("tr") if "data-class" in row]) == 5
    assert page.has("8 classes with samples, the most pruned first, 5 of them.")


def test_a_page_without_room_shows_fewer_of_each_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is shown without asking stays; every class loses the same."""
    manifest = pool_of(tmp_path, [(f"k{i}", str(i % 20)) for i in range(160)])
    seen = {}
    for room in (6_000_000, 450_000, 0):
        monkeypatch.setattr("curate.workflows.report.PAGE_BYTES", room)
        page = drawn(manifest, tmp_path / "r.html")
        items = [item for item in page.named("li") if "data-class" in item]
        more = Counter(item["data-class"] for item in items if "data-more" in item)
        seen[room] = (len(items) - more.total(), max(more.values(), default=0))
        assert {link["href"] for link in page.named("a")} >= {f"#{one['id']}" for one in page.named("article")}
    assert seen[6_000_000][0] == seen[450_000][0] == seen[0][0] == 3 * 24
    assert seen[6_000_000][1] > seen[450_000][1] > seen[0][1] == 0


@pytest.mark.slow
def test_a_page_of_noise_is_under_ten_megabytes(tmp_path: Path) -> None:
    """Forty classes of pictures that nothing compresses, and names of a thousand characters."""
    noise = np.random.default_rng(0).integers(0, 256, (480, 112, 112, 3), dtype=np.uint8)
    members = []
    for place, pixels in enumerate(noise):
        out = io.BytesIO()
        Image.fromarray(pixels).save(out, "PNG", compress_level=1)
        name = f"{place % 40:03d}" + "&" * 1000
        members += [(f"k{place}.png", out.getvalue()), (f"k{place}.cls", name.encode())]
    write_tar(tmp_path / "pool" / "a.tar", members)
    table = {"shard": ["a.tar"] * 480, "ordinal": list(range(480)), "mine": [i / 7 for i in range(480)]}
    pq.write_table(pa.table(table), tmp_path / "s.parquet")
    assert run(["index", str(tmp_path / "pool"), "--out", str(tmp_path / "index")]) == 0
    words = ["--scores", str(tmp_path / "s.parquet"), "--index", str(tmp_path / "index"), "--fn", "mine"]
    assert run(["prune", *words, "--keep", "0.5", "--out", str(tmp_path / "m")]) == 0
    page = drawn(tmp_path / "m", tmp_path / "r.html")
    assert len(page.named("article")) > 100
    assert len(page.source.encode()) < 10_000_000


def test_shards_that_moved_away_leave_a_report_without_pictures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = pool_of(tmp_path, [(f"k{i}", "0") for i in range(8)])
    with_pictures = drawn(manifest, tmp_path / "a.html")
    (tmp_path / "pool").rename(tmp_path / "moved")
    without = drawn(manifest, tmp_path / "b.html")
    assert "no pictures of theirs" in capsys.readouterr().err
    assert with_pictures.named("img") and not without.named("img")
    assert without.has("no pictures of theirs") and without.has("k0")
    assert drawn(manifest, tmp_path / "c.html", "--root", str(tmp_path / "moved")).source == with_pictures.source


def test_scores_that_are_gone_leave_the_summary_and_the_classes(toy_manifest: Path, tmp_path: Path) -> None:
    source = (toy_manifest / "source.json").read_text()
    (toy_manifest / "source.json").write_text(re.sub(r'"scores": "[^"]*"', '"scores": "/nowhere"', source))
    page = drawn(toy_manifest, tmp_path / "r.html")
    assert page.has("No scores") and not page.named("article")
    assert len([row for row in page.named("tr") if "data-class" in row]) == 3
    assert (
        run(["report", str(toy_manifest), "--scores", str(tmp_path / "none"), "--out", str(tmp_path / "x.html")]) == 1
    )
    assert not (tmp_path / "x.html").exists()


def test_manifests_that_grew_that_were_merged_and_by_quotas(toy_scores: Path, tmp_path: Path) -> None:
    words = ["prune", "--scores", str(toy_scores), "--fn", "entropy"]
    assert run([*words, "--keep", "0.25", "--out", str(tmp_path / "base")]) == 0
    assert run([*words, "--keep", "0.5", "--base", str(tmp_path / "base"), "--out", str(tmp_path / "grown")]) == 0
    assert (
        run([*words, "--keep", "0.5", "--per-class", "equal", "--outliers", "0.1", "--out", str(tmp_path / "quotas")])
        == 0
    )
    assert (
        run(["manifest", "merge", str(tmp_path / "base"), str(tmp_path / "quotas"), "--out", str(tmp_path / "both")])
        == 0
    )
    assert drawn(tmp_path / "grown", tmp_path / "r.html").has("samples added")
    assert drawn(tmp_path / "quotas", tmp_path / "r.html").has("Outliers set aside")
    assert drawn(tmp_path / "both", tmp_path / "r.html").has("goes by no single score")


def test_an_evaluation_is_said_and_a_damaged_one_refused(toy_manifest: Path, tmp_path: Path) -> None:
    from curate.manifest.lines import manifest_digest

    digest = manifest_digest(toy_manifest)
    row = (
        f'{{"target": "resnet18", "arm": "manifest-{digest[:8]}", "label": "half", "kind": "manifest", "samples": 24,'
        '"n": 3, "accuracy": 0.9125, "spread": 0.01, "worst_class": 0.5, "gain": {"mean": 0.0125, "low": 0.01,'
        '"high": 0.015, "n": 3}, "loss": null, "selection": null, "seconds": 1.0, "speed_up": null}'
    )
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation" / "table.json").write_text(f'{{"rows": [{row}], "runs": 3}}')
    page = drawn(toy_manifest, tmp_path / "r.html", "--evaluation", str(tmp_path / "evaluation"))
    assert page.has("91.25 %") and page.has("+1.25 points over random")
    (tmp_path / "evaluation" / "table.json").write_text("[]")
    words = ["--evaluation", str(tmp_path / "evaluation"), "--out", str(tmp_path / "x.html")]
    assert run(["report", str(toy_manifest), *words]) == 2


def test_a_changed_manifest_is_refused(toy_manifest: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(toy_manifest, tmp_path / "copy")
    (copy / "shards.jsonl.zst").write_bytes(b"")
    assert run(["report", str(copy), "--out", str(tmp_path / "x.html")]) == 1


def test_it_says_how_members_disagree_and_what_was_added_and_draws_the_curve(
    toy_scores: Path, pool_folder: Path, tmp_path: Path
) -> None:
    pool = shutil.copytree(pool_folder, tmp_path / "pool")
    write_tar(pool / "toy-0009.tar", [("new.png", png((250, 250, 9), 1)), ("new.cls", b"0")])
    scores, manifest = tmp_path / "scores", tmp_path / "m"
    assert run(["score", str(pool), "--base", str(toy_scores), "--out", str(scores)]) == 0
    assert run(["prune", "--scores", str(scores), "--keep", "0.5", "--fn", "entropy", "--out", str(manifest)]) == 0
    plain = {"target": "t", "n": 2, "spread": 0.01, "worst_class": 0, "gain": None, "loss": None, "selection": None}
    plain |= {"seconds": 1, "speed_up": None}
    rows = [
        {**plain, "arm": f"a{n}", "kind": kind, "label": label, "samples": samples, "accuracy": accuracy}
        for n, (kind, label, samples, accuracy) in enumerate(
            (("manifest", "x 0.2", 9, 0.8), ("manifest", "x 0.5", 24, 0.9), ("random", "random", 9, 0.7), ("all", "all", 47, 0.95))
        )
    ]  # fmt: skip
    (tmp_path / "table.json").write_text(json.dumps({"rows": rows}))
    page = drawn(manifest, tmp_path / "r.html", "--evaluation", str(tmp_path / "table.json"))
    assert page.has("1 samples in 1 shards were scored by members that were trained without them")
    assert len([c for c in page.named("circle") if "dot" in str(c["class"])]) == 4
    assert page.has("x, 51.1% kept: 90.00 ± 1.00")
    assert any(section.get("id") == "g-disputed" for section in page.named("section"))
    tables = [pq.read_table(path).to_pylist() for path in sorted(scores.glob("tables/*.parquet"))]
    agree = [f"{round(4 * (1 - row['variation_ratio']))} of 4 vote for " for table in tables for row in table]
    assert sorted(text for text in page.texts["dd"] if "vote for" in text) == sorted(agree)


def test_a_table_is_opened_a_few_times_however_many_scores_it_has(
    toy_manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what is said is the same where the scores are too many to hold and are read one by one."""
    opened = list[Path]()
    monkeypatch.setattr(tables, "open_table", lambda path, read=tables.open_table: (opened.append(path), read(path))[1])
    monkeypatch.setattr("curate.scores.open_table", tables.open_table)
    page = drawn(toy_manifest, tmp_path / "a.html").source
    most = Counter(path for path in opened if path.parent.name == "tables").most_common(1)[0][1]
    assert most <= 5
    monkeypatch.setattr("curate.workflows.report.HELD_BYTES", 0)
    assert drawn(toy_manifest, tmp_path / "b.html").source == page
    assert len(opened) > 40


def test_a_random_score_comes_last_and_a_random_choice_has_no_order(
    toy_scores: Path, toy_manifest: Path, tmp_path: Path
) -> None:
    words = ["--scores", str(toy_scores), "--keep", "9", "--fn", "random", "--out", str(tmp_path / "m")]
    assert run(["prune", *words]) == 0
    chosen, others = drawn(tmp_path / "m", tmp_path / "a.html"), drawn(toy_manifest, tmp_path / "b.html")
    assert "Chosen by <strong>random</strong>, keep 9" in chosen.source
    assert "</strong>, hardest first, keep" in others.source
    names = re.findall(r"<figcaption><strong>(.*?)</strong>", others.source)
    assert (names[-1], names.count("random")) == ("random", 1)
    assert "outlier, set aside" not in chosen.source


@pytest.mark.parametrize(
    "words", [["--fn", "random", "--seed", "5"], ["--fn", "forgetting", "--never-learned", "last"], ["--fn", "entropy"]]
)
def test_what_is_kept_stands_before_the_cut_and_what_is_dropped_after(
    words: list[str], toy_scores: Path, tmp_path: Path
) -> None:
    manifest = tmp_path / "m"
    assert run(["prune", "--scores", str(toy_scores), *words, "--keep", "0.5", "--out", str(manifest)]) == 0
    found, fn = report(manifest), words[1]
    ranks = {(sample.state, rank) for sample in found.samples.values() for name, _, rank in sample.scores if name == fn}
    cut = found.histograms[0].cut_rank
    assert cut == 24
    assert ranks
    assert all((state == "kept") == (rank <= cut) for state, rank in ranks)


@pytest.mark.parametrize("values", [[1e15 + n % 5 for n in range(12)], [(-1) ** n * 1e308 for n in range(12)]])
def test_scores_of_any_size_have_a_histogram(values: list[float], tmp_path: Path) -> None:
    manifest = pool_of(tmp_path, [(f"k{n}", "0") for n in range(12)])
    table = pq.read_table(tmp_path / "s.parquet").to_pydict()
    pq.write_table(pa.table({**table, "mine": values}), tmp_path / "s.parquet")
    words = ["--scores", str(tmp_path / "s.parquet"), "--index", str(tmp_path / "index"), "--fn", "mine"]
    assert run(["prune", *words, "--keep", "0.5", "--out", str(manifest), "--force"]) == 0
    (histogram,) = report(manifest).histograms
    assert sum(histogram.kept) + sum(histogram.dropped) == 12
    assert "nan" not in drawn(manifest, tmp_path / "r.html").source.lower().replace("nand", "")
