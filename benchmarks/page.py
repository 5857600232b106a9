"""The table of a run of the suite, and docs/performance.md made of the kept runs of named machines."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.suite import LIMIT, OURS, Case, Target, case_of

RESULTS = Path(__file__).parent.parent / "docs" / "performance"
HEAD = """# Performance

Generated from the runs in `docs/performance`, one file a machine; do not edit. `python -m benchmarks --json FILE` makes
such a file, and its table anywhere.

Arms run side by side, each in a process of its own, in turn. A value is the median over the runs; memory is the peak of
the arm's largest process. *Ratio* is of speed, ours by theirs: 2 is twice as fast, 0.5 takes twice the time, also
against the limit, which is what the machine itself takes for the part of the work that nobody can leave out. What could
not be measured says why.
"""
COLUMNS = """| case | ours | beside | its value | ratio | peak MiB, ours and its | target | met |
|---|---|---|---|---|---|---|---|"""


def table(cases: Iterable[Case]) -> str:
    """Returns the lines of a Markdown table: one for each arm beside ours."""
    lines = [COLUMNS]
    for case in cases:
        lines += _lines(case)
    return "\n".join(lines)


def page() -> str:
    """Returns docs/performance.md."""
    parts = [HEAD]
    for path in sorted(RESULTS.glob("*.json")):
        parts += _machine(path.stem, json.loads(path.read_bytes()))
    return "\n".join(parts)


def missed(results: Mapping[str, Any]) -> list[str]:
    """Returns a line for each target that a run did not meet, or could not measure."""
    found = []
    for name, benchmark in results["benchmarks"].items():
        if "failed" in benchmark:
            found.append(f"{name}: {benchmark['failed']}")
        for case in map(case_of, benchmark.get("cases", [])):
            for target, reached, is_met in case.verdicts():
                if not is_met:
                    why = "not measured" if is_met is None else f"reached {reached:.3g}. {benchmark.get('why', '')}"
                    found.append(f"{name}, {case.name}: {_asked(target)} of {target.arm}: {why}".strip())
    return found


def _machine(name: str, results: Mapping[str, Any]) -> list[str]:
    machine = results["machine"]
    versions = ", ".join(f"{package} {number}" for package, number in machine["versions"].items())
    parts = [
        f"## {name}\n",
        *(["A quick run: it says that all runs, not how fast.\n"] if results["quick"] else []),
        f"{', '.join([*machine.get('gpus', []), machine['processor']])}, {machine['cores']} cores, "
        f"{machine['memory_gib']} GiB, {machine['system']}, "
        f"Python {machine['python']}; {versions}. Runs of each arm: {results['repeats']}.\n",
    ]
    for benchmark, result in results["benchmarks"].items():
        parts.append(f"### {benchmark}\n\n{result['line']}\n")
        cases = [case_of(record) for record in result.get("cases", [])]
        if cases:
            parts.append(table(cases) + "\n")
        parts += [f"- {case.name}: {case.note}" for case in cases if case.note]
        parts.append(f"\nNot measured: {result['failed']}\n" if "failed" in result else "")
    unmet = missed(results)
    if unmet:
        parts += ["### Targets that are missed, or could not be measured here\n", *(f"- {line}" for line in unmet), ""]
    return parts


def _lines(case: Case) -> list[str]:
    ours = case.measured.get(OURS)
    value = f"{_number(ours.median)} {case.unit}" if ours else f"not measured: {case.absent.get(OURS, 'no result')}"
    lines = []
    verdicts = case.verdicts()
    others = [name for name in (*case.measured, *case.absent) if name != OURS]
    alone = [verdict for verdict in verdicts if verdict[0].arm == OURS]
    for name in sorted(others, key=lambda other: other.startswith(LIMIT)):
        targets = [verdict for verdict in verdicts if verdict[0].arm == name]
        lines.append(_line(case, value, name, targets))
    if alone or not others:
        peak = f"{ours.peak_mib:,.0f}" if ours else ""
        lines.append(f"| {case.name} | {value} | | | | {peak} | {_targets(alone)} |")
    return lines


def _line(case: Case, value: str, name: str, targets: list[tuple[Target, float | None, bool | None]]) -> str:
    if name in case.absent:
        return f"| {case.name} | {value} | {name} | not measured: {case.absent[name]} | | | {_targets(targets)} |"
    other, speed = case.measured[name], case.speed(name)
    ours = case.measured.get(OURS)
    peaks = f"{ours.peak_mib:,.0f}, {other.peak_mib:,.0f}" if ours else f", {other.peak_mib:,.0f}"
    ratio = "" if speed is None else f"{speed:.3g}"
    return f"| {case.name} | {value} | {name} | {_number(other.median)} | {ratio} | {peaks} | {_targets(targets)} |"


def _targets(verdicts: list[tuple[Target, float | None, bool | None]]) -> str:
    asked = "; ".join(_asked(target) for target, _, _ in verdicts)
    words = {True: "yes", False: "**no**", None: "not measured"}
    return f"{asked} | {'; '.join(words[is_met] for _, _, is_met in verdicts)}"


def _asked(target: Target) -> str:
    if target.speed:
        return f"≥ {target.speed:.3g}"
    if target.value:
        return f"≤ {target.value:.3g}"
    return f"≤ {target.memory:,.0f} MiB" if target.arm == OURS else f"≤ {target.memory:.3g} of its memory"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
