"""Coverage-guided fuzzing of the reader of tars and the reader of manifests, each against an independent oracle.

Needs atheris, in an environment of its own: `pip install '.[fuzz]'`, then
`python tests/faults/guided.py tar FOLDER -max_total_time=300` (or `manifest`). FOLDER keeps the corpus; what follows
are libFuzzer's flags. A finding is a crash that libFuzzer reports with the input that made it.
"""

import io
import json
import sys
import tarfile
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["curate"]):
    from curate.errors import CurateError
    from curate.manifest.lines import HEAD, INDEX, LINES, Line, find_line, read_lines, write_lines
    from curate.pool.sources import DecompressedStream
    from curate.pool.tar import Entry, Tally, entries

LIMITS = ["-rss_limit_mb=2048", "-timeout=30"]


def tars() -> list[bytes]:
    found = []
    for kind in (tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=kind, pax_headers={"comment": "x"}) as tar:
            for name in ("a.png", "n" * 60 + "/" + "n" * 60 + ".cls", "d/b.png"):
                entry = tarfile.TarInfo(name)
                entry.size = 3
                tar.addfile(entry, io.BytesIO(b"abc"))
        data = out.getvalue()
        found.append(data[: len(data.rstrip(b"\0")) // 512 * 512 + 1536])
    return found


def try_tar(data: bytes) -> None:
    """What curate takes for a whole archive, tarfile reads alike; nobody finds a key in a name that ends in a slash."""
    stream = DecompressedStream(io.BytesIO(data))
    try:
        ours: list[Entry] = list(entries(stream, "x.tar", Tally(), wanted=lambda name, size: True))
    except CurateError:
        return
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:", errors="surrogateescape") as tar:
        theirs = [(m.name, tar.extractfile(m).read()) for m in tar if m.isreg() and not m.name.endswith("/")]  # type: ignore[union-attr]
    assert [(entry.name.rstrip("/"), entry.content) for entry in ours] == theirs


def manifests(folder: Path) -> list[bytes]:
    line = Line("a/x.tar", "tar", 10240, "0" * 32, "0" * 32, 4, 2, {"rank": 2}, {}, 0, [1, 2], [2, 4], 2048)
    write_lines(folder, [line, line._replace(name="b/y.tar.zst", codec="tar.zst")])
    (folder / HEAD).write_text(json.dumps({"format_version": 1}))
    rows, frames = (folder / INDEX).read_bytes(), (folder / LINES).read_bytes()
    return [b"\0" + rows, b"\1" + frames]


def try_manifest(folder: Path, whole: dict[str, bytes], data: bytes) -> None:
    """Of two changed files a reader gives the lines that were written, or a clear error."""
    name = (INDEX, LINES)[data[0] & 1] if data else INDEX
    (folder / name).write_bytes(data[1:])
    for shard in ("a/x.tar", "y.tar.zst", "nowhere.tar"):
        try:
            found = find_line(folder, shard)
        except CurateError:
            continue
        assert found.name.endswith(shard)
        assert found.runs == [1, 2]
    try:
        for line in read_lines(folder):
            assert ".." not in line.name.split("/")
    except CurateError:
        pass
    (folder / name).write_bytes(whole[name])


def main() -> None:
    target, corpus, *flags = sys.argv[1:]
    Path(corpus).mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="curate-guided-"))
    seeds = tars() if target == "tar" else manifests(work)
    for number, seed in enumerate(seeds):
        (Path(corpus) / f"seed-{number}").write_bytes(seed)
    whole = {path.name: path.read_bytes() for path in work.iterdir()}
    run = try_tar if target == "tar" else lambda data: try_manifest(work, whole, data)
    atheris.Setup([sys.argv[0], corpus, f"-artifact_prefix={corpus}/../", *LIMITS, *flags], run)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
