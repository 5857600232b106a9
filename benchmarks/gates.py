"""Seconds and peak memory of `curate diff`, `curate manifest merge` and `curate check` on synthetic scores.

Run: python -m benchmarks.gates [SAMPLES]

The whole process is timed, start-up included, median of five after one warm-up. The limit beside them is
reading and parsing the lines of both manifests, in one process, without comparing anything.
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path

from benchmarks.prune import RUNS, make_scores, measure

LIMITS = {
    "max_drop": 0.3, "max_class_drop": 0.9, "min_per_class": 1, "max_share_shift": 0.1, "max_bad": 0.1,
    "max_churn": 0.9,
}  # fmt: skip
READ = """
import sys, pathlib
from curate.manifest.lines import read_lines
for folder in sys.argv[1:]:
    list(read_lines(pathlib.Path(folder)))
"""


def cpu_seconds() -> float:
    """Returns what all finished processes have used of the CPU: on a busy machine, the figure that holds."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    samples = int(sys.argv[1]) if len(sys.argv) > 1 else 1_300_000
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_scores(folder / "scores", samples)
        curate = [sys.executable, "-m", "curate"]
        a, b = str(folder / "a"), str(folder / "b")
        scores, gates, ranks = (str(folder / name) for name in ("scores", "gates.toml", "ranks.toml"))
        Path(gates).write_text("[gates]\n" + "".join(f"{name} = {limit}\n" for name, limit in LIMITS.items()))
        Path(ranks).write_text(Path(gates).read_text() + "min_rank_agreement = 0.9\n")
        for fn, out in (("variation_ratio", a), ("entropy", b)):
            words = ["--scores", scores, "--keep", "0.8", "--fn", fn, "--out", out]
            subprocess.run([*curate, "prune", *words], check=True, capture_output=True)
        arms = {
            "diff A B": [*curate, "diff", a, b],
            "manifest merge A B": [*curate, "manifest", "merge", a, b, "--out", str(folder / "merged"), "--force"],
            "check, six gates": [*curate, "check", a, "--gates", gates, "--base", b],
            "check, with rank agreement": [*curate, "check", a, "--gates", ranks, "--base", b, "--earlier", scores],
            "limit: parse both manifests": [sys.executable, "-c", READ, a, b],
        }
        for arm, command in arms.items():
            runs = [(*measure(command, folder / "bytecode"), cpu_seconds()) for _ in range(RUNS + 1)]
            used = [after[-1] - before[-1] for before, after in pairwise(runs)]
            seconds, peak, _ = (statistics.median(column) for column in zip(*runs[1:], strict=True))
            cpu = f"{statistics.median(used):.2f} s of CPU"
            print(f"{arm}: {samples:,} samples, {seconds:.2f} s, {cpu}, {peak:.0f} MiB peak, median of {RUNS}")


if __name__ == "__main__":
    main()
