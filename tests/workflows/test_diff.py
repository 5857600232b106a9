"""What changed between two manifests: of one pool, of a pool that grew, of a pool packed anew."""

import json
import shutil
from pathlib import Path

import pytest
from tars import make_manifest

from curate.cli import run


def keys(first: int, last: int) -> list[str]:
    return [f"k{number}" for number in range(first, last)]


def difference(a: Path, b: Path, capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, object]:
    capsys.readouterr()
    assert run(["diff", str(a), str(b), "--json", *words]) == 0
    return dict(json.loads(capsys.readouterr().out))


def test_two_manifests_of_one_pool(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pool = {"a.tar": keys(0, 5), "b.tar": keys(5, 10)}
    a, b = make_manifest(tmp_path / "a", pool, keys(0, 6)), make_manifest(tmp_path / "b", pool, keys(4, 8))
    found = difference(a, b, capsys, "--list", str(tmp_path / "list.tsv"))
    assert (found["added"], found["removed"], found["moved"], found["both"]) == (2, 4, 0, 2)
    assert found["churn"] == pytest.approx(1 - 2 / 8)
    assert [(c["name"], c["before"], c["after"]) for c in found["classes"]] == [("0", 3, 2), ("1", 3, 2)]  # type: ignore[attr-defined]
    assert (tmp_path / "list.tsv").read_text().splitlines() == [
        "added\tb.tar\t1\tk6", "added\tb.tar\t2\tk7",
        "removed\ta.tar\t0\tk0", "removed\ta.tar\t1\tk1", "removed\ta.tar\t2\tk2", "removed\ta.tar\t3\tk3",
    ]  # fmt: skip


def test_published_manifests_are_listed_without_keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Those do not say where their shards and their index lie."""
    pool = {"a.tar": keys(0, 5)}
    a, b = make_manifest(tmp_path / "a", pool, keys(0, 2)), make_manifest(tmp_path / "b", pool, keys(0, 3))
    for folder in (a, b):
        (folder / "source.json").unlink()
    assert difference(a, b, capsys, "--list", str(tmp_path / "new" / "list.tsv"))["added"] == 1
    assert (tmp_path / "new" / "list.tsv").read_text() == "added\ta.tar\t2\t\n"


def test_exit_codes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pool = {"a.tar": keys(0, 8)}
    a, b = make_manifest(tmp_path / "a", pool, keys(0, 4)), make_manifest(tmp_path / "b", pool, keys(0, 5))
    assert run(["diff", str(a), str(b)]) == 0
    assert run(["diff", str(a), str(b), "--exit-code"]) == 5
    assert run(["diff", str(a), str(a), "--exit-code"]) == 0
    assert run(["diff", str(a), str(b), "--json", "--md"]) == 2
    assert run(["diff", str(a), str(tmp_path / "nowhere")]) == 1
    assert "churn 20.00%" in capsys.readouterr().out


def test_a_pool_that_grew_is_compared_by_its_old_shards(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = {"a.tar": keys(0, 5)}
    a = make_manifest(tmp_path / "a", old, keys(0, 3))
    b = make_manifest(tmp_path / "b", {**old, "b.tar": keys(5, 9)}, ["k1", "k2", "k3", "k7"])
    found = difference(a, b, capsys)
    assert (found["same_pool"], found["added"], found["removed"], found["both"]) == (False, 2, 1, 2)


def test_samples_that_lie_elsewhere_now_are_moved_not_lost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = make_manifest(tmp_path / "a", {"a.tar": keys(0, 4), "b.tar": keys(4, 8)}, ["k0", "k3", "k4", "k5"])
    b = make_manifest(
        tmp_path / "b", {"a.tar": ["k3", "k9", "k4"], "c.tar": ["k5", "k6", "k7"]}, ["k3", "k4", "k5", "k6"]
    )
    found = difference(a, b, capsys, "--list", str(tmp_path / "list.tsv"))
    # k3 has another ordinal, k4 and k5 another shard; k0 is gone and k6 is new.
    assert (found["added"], found["removed"], found["moved"], found["both"]) == (1, 1, 3, 3)
    assert found["churn"] == pytest.approx(1 - 3 / 5)
    moved = [line for line in (tmp_path / "list.tsv").read_text().splitlines() if line.startswith("moved")]
    assert sorted(moved) == ["moved\ta.tar\t0\tk3", "moved\ta.tar\t2\tk4", "moved\tc.tar\t0\tk5"]
    shutil.rmtree(tmp_path / "a" / "index")
    found = difference(a, b, capsys)
    assert (found["moves_known"], found["added"], found["removed"]) == (False, 4, 4)


def test_markdown_names_classes_as_they_are_and_stays_small(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evil = ["<img src=x>|`*_[a](b)", "\u202egnp.exe", "قط 🐈", "n" * 500]
    (tmp_path / "a" / "pool").mkdir(parents=True)
    (tmp_path / "a" / "pool" / "classes.txt").write_text("\n".join(evil))
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    pool = {"a.tar": keys(0, 16)}
    a = make_manifest(tmp_path / "a", pool, keys(0, 8), classes=4)
    b = make_manifest(tmp_path / "b", pool, ["k0", "k1", "k1", "k4", "k8"], classes=4)
    capsys.readouterr()
    assert run(["diff", str(a), str(b), "--md"]) == 0
    text = capsys.readouterr().out
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert all(row.count("|") in (3, 7) for row in rows)
    assert "<img" not in text
    assert "\u202e" not in text
    assert "قط 🐈" in text
    assert max(map(len, rows)) < 500


def test_a_thousand_classes_make_a_bounded_summary(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pool = {"a.tar": keys(0, 1000)}
    a = make_manifest(tmp_path / "a", pool, keys(0, 500), classes=1000)
    b = make_manifest(tmp_path / "b", pool, keys(250, 1000), classes=1000)
    capsys.readouterr()
    assert run(["diff", str(a), str(b), "--md"]) == 0
    text = capsys.readouterr().out
    assert "950 other classes are not shown" in text
    assert len(text.encode()) < 10_000
