"""Manifests that must never change: what is kept of a fixed pool, and how it is said. Anew: python tests/golden.py

The pool's bytes are fixed, no decoder or encoder of images is involved. Compressed bytes are left out,
because they may differ between versions of zstandard; the lines inside may not.
"""

import hashlib
import json
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from conftest import write_tar

from curate.cli import run
from curate.manifest.lines import HEAD, INDEX, LINES, read_lines

FOLDER = Path(__file__).parent / "golden"
SHARDS, PER_SHARD = ("a/train-000000.tar", "a/train-000001.tar", "b/extra.tar"), 12
CASES = {
    "half": ["--fn", "score", "--keep", "0.5"],
    "ties": ["--fn", "tied", "--keep", "7"],
    "outliers": ["--fn", "score", "--keep", "50%", "--outliers", "0.25"],
    "easiest": ["--fn", "score", "--keep", "0.3", "--order", "easiest"],
    "per_class": ["--fn", "score", "--keep", "0.4", "--per-class", "equal"],
    "proportional": ["--fn", "tied", "--keep", "0.4", "--per-class", "proportional", "--min-per-class", "2"],
    "random": ["--fn", "random", "--keep", "10", "--seed", "3"],
}


def _content(text: str) -> bytes:
    digest = hashlib.sha256(text.encode()).digest()
    return digest * (1 + digest[0] % 40)


def _write_pool(folder: Path) -> None:
    rows: dict[str, list[object]] = {"shard": [], "ordinal": [], "score": [], "tied": []}
    for shard in SHARDS:
        members = []
        for place in range(PER_SHARD):
            name, value = f"{shard}/{place}", hashlib.sha256(f"{shard}/{place}".encode()).digest()
            members += [(f"key_{place:02d}.png", _content(name)), (f"key_{place:02d}.cls", str(value[1] % 3).encode())]
            rows["shard"].append(shard)
            rows["ordinal"].append(place)
            rows["score"].append(int.from_bytes(value[2:6], "big") / 2**32)
            rows["tied"].append(value[6] % 3)
        write_tar(folder / "pool" / shard, members)
    pq.write_table(pa.table(rows), folder / "scores.parquet")
    assert run(["index", str(folder / "pool"), "--out", str(folder / "index")]) == 0


def manifests() -> dict[str, str]:
    """Returns what every case writes, as text."""
    texts = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write_pool(folder)
        given = ["--scores", str(folder / "scores.parquet"), "--index", str(folder / "index")]
        for case, words in CASES.items():
            assert run(["prune", *given, *words, "--out", str(folder / case)]) == 0
            head = json.loads((folder / case / HEAD).read_bytes())
            assert set(head.pop("files")) == {LINES, INDEX}
            lines = [line._asdict() for line in read_lines(folder / case)]
            texts[case] = json.dumps({"head": head, "lines": lines}, indent=1, sort_keys=True) + "\n"
    return texts


def write_golden() -> None:
    """Writes the files anew: only where the format or a rule of selection changes on purpose."""
    FOLDER.mkdir(exist_ok=True)
    for case, text in manifests().items():
        (FOLDER / f"{case}.json").write_text(text)


if __name__ == "__main__":
    write_golden()
