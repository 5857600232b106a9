"""What a benchmark hands over: cases, each with ours, its peers and the limit, and what is asked of their ratios.

All ratios are of speed, ours by theirs: 2 is twice as fast, 0.5 takes twice the time. A case that could not
be measured says why, and holds no number.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.arms import PEERS, ROOT, Absent, Arm, Measured, measure

OURS, LIMIT = "curate", "limit"
PACKAGES = ("curate", "numpy", "pyarrow", "pillow", "torch", "torchvision", "timm", "webdataset")


@dataclass(frozen=True)
class Target:
    """What is asked: ours at least `speed` times as fast as `arm`, or with at most `memory` of its memory.

    With the arm `OURS`, `memory` is in MiB, and `value` is the most that ours may be, in the unit of its case.
    """

    arm: str
    speed: float = 0.0
    memory: float = 0.0
    value: float = 0.0


@dataclass
class Case:
    """One comparison.

    Attributes:
        name: what is done, with its size.
        unit: of all values; rates end in "/s" and are better higher, all else is better lower.
        measured: the arms that ran, `OURS` and `LIMIT` among them.
        absent: why the others did not.
        targets: what is asked of it.
        note: how the limit was measured, what the data are.
    """

    name: str
    unit: str
    measured: dict[str, Measured] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    targets: Sequence[Target] = ()
    note: str = ""

    def speed(self, arm: str) -> float | None:
        """Returns how many times as fast as an arm ours is, None where one of them was not measured."""
        if OURS not in self.measured or arm not in self.measured:
            return None
        ours, other = self.measured[OURS].median, self.measured[arm].median
        return ours / other if self.unit.endswith("/s") else other / ours

    def verdicts(self) -> list[tuple[Target, float | None, bool | None]]:
        """Returns each target with what was reached and whether that is enough; None where it was not measured."""
        return [(target, *self._verdict(target)) for target in self.targets]

    def _verdict(self, target: Target) -> tuple[float | None, bool | None]:
        if target.speed:
            reached = self.speed(target.arm)
            return reached, None if reached is None else reached >= target.speed
        if OURS not in self.measured or target.arm not in self.measured:
            return None, None
        if target.value:
            reached = self.measured[OURS].median
            return reached, reached <= target.value
        of = 1.0 if target.arm == OURS else self.measured[target.arm].peak_mib
        reached = self.measured[OURS].peak_mib / of
        return reached, reached <= target.memory

    def record(self) -> dict[str, Any]:
        """Returns the case as plain values, for JSON."""
        return {**asdict(self), "targets": [asdict(target) for target in self.targets]}


def case_of(record: Mapping[str, Any]) -> Case:
    """Returns the case that `Case.record` wrote."""
    measured = {name: Measured(**arm) for name, arm in record["measured"].items()}
    targets = [Target(**target) for target in record["targets"]]
    return Case(**{**record, "measured": measured, "targets": targets})


def compared(
    name: str,
    unit: str,
    arms: Mapping[str, Arm | Absent],
    *,
    repeats: int,
    targets: Sequence[Target],
    note: str = "",
    warm_up: int = 0,
) -> Case:
    """Returns a case whose arms were run in turn."""
    measured, absent = measure(arms, repeats=repeats, warm_up=warm_up)
    return Case(name, unit, measured, absent, targets, note)


@dataclass(frozen=True)
class Setting:
    """What a benchmark is given.

    Attributes:
        quick: small sizes and few repeats: says that it runs, not how fast.
        large: also what takes long or much disk.
        folder: a place for its files, deleted afterwards.
        data: real datasets, where CURATE_DATA names them.
    """

    quick: bool
    large: bool
    folder: Path
    data: Path | None

    @property
    def repeats(self) -> int:
        return 1 if self.quick else 5


@dataclass(frozen=True)
class Benchmark:
    """A row of the suite's table.

    Attributes:
        run: measures its cases.
        line: what is done.
        needs_gib: of disk.
        why: what keeps it from targets that it is known to miss.
    """

    run: Callable[[Setting], list[Case]]
    line: str
    needs_gib: float = 0.5
    why: str = ""


def versions_of(packages: Sequence[str]) -> dict[str, str]:
    """Returns the versions of those packages that are installed."""
    versions = {}
    for package in packages:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions


def peer_versions() -> dict[str, str]:
    """Returns the versions of the peers that the Python of CURATE_PEERS has and this one has not."""
    names = [line for line in (ROOT / "benchmarks" / "peers.txt").read_text().splitlines() if line[:1].isalpha()]
    if not os.environ.get(PEERS):
        return versions_of(names)
    code = f"import json; from benchmarks.suite import versions_of; print(json.dumps(versions_of({names})))"
    words = [os.environ[PEERS], "-c", code]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    found: dict[str, str] = json.loads(done.stdout) if done.returncode == 0 else {}
    return {name: number for name, number in found.items() if name not in PACKAGES}


def machine() -> dict[str, Any]:
    """Returns what the figures were measured on."""
    versions = versions_of(PACKAGES) | peer_versions()
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    gpus = [path.read_text() for path in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))]
    return {
        "gpus": [line.partition(":")[2].strip() for text in gpus for line in text.splitlines() if line[:6] == "Model:"],
        "processor": models[0] if models else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": versions,
    }
