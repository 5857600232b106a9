"""`curate check`: a manifest against a file of limits. Passed, failed or skipped by name; nothing else."""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from curate.errors import UsageError, did_you_mean
from curate.workflows.gates import GATES, Evidence, Gate, Unit

Status = Literal["passed", "failed", "skipped"]
# A share that is exactly the limit may differ from it in its last bit.
SLACK = 1e-12


@dataclass(frozen=True)
class Outcome:
    """What came of one gate.

    Attributes:
        value: what was measured; None where it could not be, or was skipped.
        where: where it was measured, or why it was not.
    """

    gate: str
    status: Status
    value: float | None
    limit: float
    is_upper: bool
    unit: Unit
    where: str
    line: str


def check(limits: Mapping[str, float], evidence: Evidence, *, skip: Collection[str] = ()) -> list[Outcome]:
    """Returns what came of every gate in a file of limits, in its order.

    A gate that cannot be measured fails; only one that is skipped by name does not count.

    Raises:
        UsageError: a gate needs evidence that was not given, or one is skipped that is not in the file.
    """
    for name in skip:
        if name not in limits:
            raise UsageError(f"--skip {name}: no such gate in the file.", hint=did_you_mean(name, limits))
    for name in limits:
        needs = GATES[name].needs
        if needs and name not in skip and getattr(evidence, needs) is None:
            raise UsageError(f"Gate '{name}' needs --{needs}.", hint=f"Give it, or say --skip {name}.")
    return [_outcome(name, limit, evidence, name in skip) for name, limit in limits.items()]


def _outcome(name: str, limit: float, evidence: Evidence, is_skipped: bool) -> Outcome:
    gate = GATES[name]
    if is_skipped:
        return Outcome(name, "skipped", None, limit, gate.is_upper, gate.unit, "skipped by name", gate.line)
    found = gate.measure(evidence)
    passes = found.value is not None and _passes(gate, found.value, limit)
    status: Status = "passed" if passes else "failed"
    return Outcome(name, status, found.value, limit, gate.is_upper, gate.unit, found.where, gate.line)


def _passes(gate: Gate, value: float, limit: float) -> bool:
    return value <= limit + SLACK if gate.is_upper else value >= limit - SLACK


def read_gates(path: Path) -> dict[str, float]:
    """Returns the limits of a TOML file, `[gates]` with one `name = number` a line.

    Raises:
        UsageError: it cannot be read, has no gate, an unknown one, or a limit out of range.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: cannot be read as TOML ({error}).", hint="See ci/gates.toml.") from error
    unknown = [name for name in document if name != "gates"]
    gates = document.get("gates")
    if unknown or not isinstance(gates, dict) or not gates:
        what = f"unknown table '{unknown[0]}'" if unknown else "no gates"
        raise UsageError(f"{path}: {what}.", hint="Expected one table, [gates], with a line such as max_drop = 0.5.")
    return {name: _limit(path, name, value) for name, value in gates.items()}


def _limit(path: Path, name: str, value: object) -> float:
    if name not in GATES:
        raise UsageError(f"{path}: unknown gate '{name}'.", hint=did_you_mean(name, GATES))
    gate = GATES[name]
    is_count = gate.unit == "samples"
    is_number = isinstance(value, int if is_count else int | float) and not isinstance(value, bool)
    if not is_number or not gate.lowest <= value <= (float("inf") if is_count else 1.0):  # type: ignore[operator]  # a number
        expected = "a whole number from 0" if is_count else f"a number from {gate.lowest:g} to 1"
        raise UsageError(f"{path}: {name} = {value!r}.", hint=f"Expected {expected}: {gate.line}.")
    return float(value)  # type: ignore[arg-type]  # a number
