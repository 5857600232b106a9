"""Runs the arms of a benchmark: each in a process of its own, interleaved, medians at the end.

An arm is a command, or a reason why there is none here. What is compared is the `value` of the JSON object
in its last line, or the seconds of the whole process where it prints none. Its peak memory is that of its
largest process.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
PEERS = "CURATE_PEERS"  # names a Python that has the peers which are no dependency of this project
BYTECODE = Path(tempfile.gettempdir()) / "curate-bench-bytecode"  # what an installer compiles once, nobody measures
SECONDS = 180  # after which an arm counts as absent
Run = Callable[[], None]


@dataclass(frozen=True)
class Absent:
    """Why an arm is not measured here."""

    reason: str


@dataclass(frozen=True)
class Arm:
    """What one arm runs.

    Attributes:
        command: its words.
        before: called before each run, outside of its time.
        is_timed: compare the seconds of the whole process; else the `value` that it prints.
    """

    command: Sequence[str]
    before: Run = lambda: None
    is_timed: bool = False


@dataclass
class Measured:
    """What the runs of an arm gave.

    Attributes:
        values: one a run, in the unit of its case.
        peak_mib: median over the runs.
        also: what the last run said besides.
    """

    values: list[float]
    peak_mib: float
    also: dict[str, Any] = field(default_factory=dict)

    @property
    def median(self) -> float:
        return statistics.median(self.values)


def drop_cache(path: Path) -> None:
    """Asks the system to forget a file's pages, so that the next read is from storage."""
    file = os.open(path, os.O_RDONLY)
    os.fsync(file)
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(file)


def drop_shards(folder: Path) -> None:
    """Drops the pages of all shards below a folder from the cache."""
    for path in folder.rglob("*.tar"):
        drop_cache(path)


def report(**result: Any) -> None:
    """Prints an arm's result."""
    print(json.dumps(result))


def module(name: str, *words: object) -> list[str]:
    """Returns the command of an arm that is a benchmark's own module."""
    return [sys.executable, "-m", f"benchmarks.{name}", *map(str, words)]


def timed(*command: object, before: Run = lambda: None) -> Arm:
    """Returns an arm that is any command, its whole process timed."""
    return Arm([str(word) for word in command], before, is_timed=True)


def peer(package: str, name: str, *words: object, before: Run = lambda: None) -> Arm | Absent:
    """Returns an arm of a benchmark's module in the first Python that has a package: this one, or CURATE_PEERS."""
    pythons = [sys.executable, *filter(None, [os.environ.get(PEERS)])]
    for python in pythons:
        found = subprocess.run([python, "-c", f"import {package}"], capture_output=True, check=False, cwd=ROOT)
        if found.returncode == 0:
            return Arm([python, *module(name, *words)[1:]], before)
    where = "nor in the Python of" if len(pythons) > 1 else "and there is no"
    return Absent(f"{package} is not installed here {where} {PEERS}")


def measure(
    arms: Mapping[str, Arm | Absent], *, repeats: int, warm_up: int = 0
) -> tuple[dict[str, Measured], dict[str, str]]:
    """Runs every arm in turn. Returns what was measured, and why the other arms were not."""
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in arms}
    absent = {name: arm.reason for name, arm in arms.items() if isinstance(arm, Absent)}
    for turn in range(warm_up + repeats):
        for name, arm in arms.items():
            if name in absent or isinstance(arm, Absent):
                continue
            result = _run(arm)
            if isinstance(result, Absent):
                absent[name] = result.reason
            elif turn >= warm_up:
                runs[name].append(result)
    return {name: _measured(rows) for name, rows in runs.items() if name not in absent}, absent


def compare(arms: Mapping[str, Sequence[str]], *, repeats: int, unit: str, warm_up: int = 0) -> dict[str, float]:
    """Runs every arm in turn, prints a table of medians with the spread, and returns the medians.

    Raises:
        SystemExit: an arm failed.
    """
    measured, absent = measure({name: Arm(words) for name, words in arms.items()}, repeats=repeats, warm_up=warm_up)
    if absent:
        raise SystemExit("\n".join(f"{name}: {reason}" for name, reason in absent.items()))
    print(f"\n| arm | {unit}, median of {repeats} | lowest to highest | peak MiB | also |\n|---|---|---|---|---|")
    for name, arm in measured.items():
        also = ", ".join(f"{key} {value}" for key, value in arm.also.items())
        spread = f"{min(arm.values):,.4g} to {max(arm.values):,.4g}"
        print(f"| {name} | {arm.median:,.4g} | {spread} | {arm.peak_mib:,.0f} | {also} |")
    return {name: arm.median for name, arm in measured.items()}


def _measured(rows: list[dict[str, Any]]) -> Measured:
    values = [row.pop("value") for row in rows]
    peak = statistics.median(row.pop("peak_mib") for row in rows)
    return Measured(values, peak, rows[-1])


def _without_places(errors: str) -> str:
    """Returns the last line of what a process said, without where things lie here: it may be kept."""
    last = (errors.strip().splitlines() or ["no message"])[-1]
    return last.replace(str(ROOT), ".").replace(sys.prefix, "PYTHON").replace("|", "/")[:200]


def _run(arm: Arm) -> dict[str, Any] | Absent:
    arm.before()
    environment = {**os.environ, "COLUMNS": "200", "PYTHONPATH": str(ROOT), "PYTHONPYCACHEPREFIX": str(BYTECODE)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    with tempfile.TemporaryDirectory(prefix="curate-bench-") as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-I", "-S", str(ROOT / "benchmarks" / "launch.py"), str(report), *arm.command]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace", env=environment,
            start_new_session=True,
        )  # fmt: skip
        try:
            out, errors = process.communicate(timeout=SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            process.wait()
            return Absent(f"took more than {SECONDS} s")
        taken = json.loads(report.read_text()) if report.exists() else {"code": process.returncode}
    if taken["code"] != 0:
        return Absent(f"failed with {taken['code']}: {_without_places(errors)}")
    said = (out.strip().splitlines() or [""])[-1]
    about = {"peak_mib": taken["peak_mib"], "processor_seconds": round(taken["processor_seconds"], 3)}
    if arm.is_timed:
        about["value"] = taken["seconds"]
    return about | (json.loads(said) if said.startswith("{") else {})
