"""Runs the arms of a benchmark: each in a process of its own, interleaved, medians at the end.

An arm prints one JSON object as its last line; `value` is what is compared. Its peak memory is
that of its largest process.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any


def report(**result: Any) -> None:
    """Prints an arm's result, with the peak memory of this process and of its largest child."""
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    print(json.dumps({**result, "peak_mib": peak / 1024}))


def module(name: str, *words: object) -> list[str]:
    """Returns the command of an arm that is a benchmark's own module."""
    return [sys.executable, "-m", f"benchmarks.{name}", *map(str, words)]


def compare(arms: Mapping[str, Sequence[str]], *, repeats: int, unit: str, warm_up: int = 0) -> dict[str, float]:
    """Runs every arm in turn, prints a table of medians with the spread, and returns the medians."""
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in arms}
    for turn in range(warm_up + repeats):
        for name, command in arms.items():
            result = _run(command)
            if turn >= warm_up:
                results[name].append(result)
    print(f"\n| arm | {unit}, median of {repeats} | lowest to highest | peak MiB | also |\n|---|---|---|---|---|")
    medians = {}
    for name, rows in results.items():
        values = [row.pop("value") for row in rows]
        peak = statistics.median(row.pop("peak_mib") for row in rows)
        medians[name] = statistics.median(values)
        also = ", ".join(f"{key} {value}" for key, value in rows[-1].items())
        print(f"| {name} | {medians[name]:,.4g} | {min(values):,.4g} to {max(values):,.4g} | {peak:,.0f} | {also} |")
    return medians


def _run(command: Sequence[str]) -> dict[str, Any]:
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env={**os.environ, "COLUMNS": "200"})
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))
