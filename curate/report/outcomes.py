"""What came of the gates, as people, JUnit, OpenMetrics and GitHub read it. No times: equal input, equal bytes."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree import ElementTree

from curate.manifest.schema import Head
from curate.pool.tar import printable
from curate.report.markdown import cell, table
from curate.workflows.check import Outcome
from curate.workflows.gates import Unit

COLUMNS = ("gate", "", "value", "limit", "where")
MAX_LABEL = 200


def figure(value: float | None, unit: Unit) -> str:
    """Returns a value as it is read: a percentage, a count, or a plain number."""
    if value is None:
        return "not measured"
    return (
        f"{value:,.0f}"
        if unit == "samples"
        else f"{value:.4f}"
        if unit in ("correlation", "distance")
        else f"{value:.2%}"
    )


def row(outcome: Outcome) -> tuple[str, ...]:
    """Returns one gate's row under `COLUMNS`."""
    value = "-" if outcome.status == "skipped" else figure(outcome.value, outcome.unit)
    sign = "≤" if outcome.is_upper else "≥"
    return outcome.gate, outcome.status, value, f"{sign} {figure(outcome.limit, outcome.unit)}", outcome.where


def sentence(outcome: Outcome) -> str:
    """Returns what came of a gate, in one line."""
    gate, status, value, limit, where = row(outcome)
    return f"{gate} {status}: {value}, expected {limit} ({outcome.line}; {printable(where)})."


def check_markdown(digest: str, outcomes: Sequence[Outcome]) -> str:
    """Returns the gates as Markdown, the failed ones first."""
    ordered = sorted(outcomes, key=lambda o: ("failed", "passed", "skipped").index(o.status))
    failed = sum(o.status == "failed" for o in outcomes)
    verdict = f"{failed} of {len(outcomes)} gates failed" if failed else f"{len(outcomes)} gates, none failed"
    rows = ((f"`{gate}`", f"**{status}**" if status == "failed" else status, value, limit, cell(where))
            for gate, status, value, limit, where in map(row, ordered))  # fmt: skip
    return f"### curate check\n\n{verdict}: `{digest[:12]}`\n\n{table(COLUMNS, rows)}"


def junit(digest: str, outcomes: Sequence[Outcome]) -> str:
    """Returns the gates as a JUnit test suite, one test case a gate."""
    counts = {status: str(sum(o.status == status for o in outcomes)) for status in ("failed", "skipped")}
    suites = ElementTree.Element("testsuites")
    suite = ElementTree.SubElement(
        suites, "testsuite", name="curate check", tests=str(len(outcomes)), failures=counts["failed"],
        errors="0", skipped=counts["skipped"],
    )  # fmt: skip
    properties = ElementTree.SubElement(suite, "properties")
    ElementTree.SubElement(properties, "property", name="manifest", value=digest)
    for outcome in outcomes:
        case = ElementTree.SubElement(suite, "testcase", classname="curate.gates", name=outcome.gate)
        if outcome.status == "failed":
            ElementTree.SubElement(case, "failure", message=sentence(outcome)).text = sentence(outcome)
        elif outcome.status == "skipped":
            ElementTree.SubElement(case, "skipped", message=outcome.where)
        else:
            ElementTree.SubElement(case, "system-out").text = sentence(outcome)
    ElementTree.indent(suites)
    text: str = ElementTree.tostring(suites, encoding="unicode")
    return f'<?xml version="1.0" encoding="utf-8"?>\n{text}\n'


def openmetrics(digest: str, head: Head, outcomes: Sequence[Outcome]) -> str:
    """Returns the gates and the manifest's totals in the OpenMetrics text format, version 1.0.0."""
    totals = head.totals
    samples = {"kept": totals.kept, "dropped": sum(totals.dropped.values()), "failed": sum(totals.failed.values())}
    measured = [o for o in outcomes if o.value is not None]
    judged = [o for o in outcomes if o.status != "skipped"]
    return "".join(
        [
            _family("curate_manifest", "info", "The manifest that was checked."),
            f"curate_manifest_info{{digest={_quoted(digest)},fn={_quoted(head.selection.fn)}}} 1\n",
            _family("curate_samples", "gauge", "Samples of the pool."),
            *(f'curate_samples{{state="{state}"}} {count}\n' for state, count in samples.items()),
            _family("curate_gate_value", "gauge", "What a gate measured, as a share, a count or a correlation."),
            *(f'curate_gate_value{{gate="{o.gate}"}} {o.value!r}\n' for o in measured),
            _family("curate_gate_limit", "gauge", "What it is compared with."),
            *(f'curate_gate_limit{{gate="{o.gate}"}} {o.limit!r}\n' for o in outcomes),
            _family("curate_gate_passed", "gauge", "1 if it passed, 0 if it failed; absent if it was skipped."),
            *(f'curate_gate_passed{{gate="{o.gate}"}} {int(o.status == "passed")}\n' for o in judged),
            "# EOF\n",
        ]
    )


def github_annotations(outcomes: Sequence[Outcome], *, soft: bool) -> list[str]:
    """Returns GitHub's workflow commands, one for each failed gate."""
    level = "warning" if soft else "error"
    failed = (o for o in outcomes if o.status == "failed")
    return [f"::{level} title=curate check {o.gate}::{sentence(o).replace('%', '%25')}" for o in failed]


def _family(name: str, kind: str, text: str) -> str:
    return f"# TYPE {name} {kind}\n# HELP {name} {text}\n"


def _quoted(text: str) -> str:
    escaped = text[:MAX_LABEL].replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
    return f'"{escaped}"'
