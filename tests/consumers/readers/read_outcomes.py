"""Prints what junitparser and Prometheus's OpenMetrics parser read: read_outcomes.py JUNIT METRICS."""

import json
import sys
from pathlib import Path

from junitparser import Failure, JUnitXml, Skipped
from prometheus_client.openmetrics.parser import text_string_to_metric_families


def main(junit: str, metrics: str) -> None:
    statuses, said = {}, {}
    for suite in JUnitXml.fromfile(junit):
        for case in suite:
            kinds = [type(result) for result in case.result]
            statuses[case.name] = "failed" if Failure in kinds else "skipped" if Skipped in kinds else "passed"
            said[case.name] = [result.message for result in case.result]
    families = text_string_to_metric_families(Path(metrics).read_text(encoding="utf-8"))
    samples = [[one.name, one.labels, one.value] for family in families for one in family.samples]
    sys.stdout.write(json.dumps({"statuses": statuses, "said": said, "samples": samples}))


main(*sys.argv[1:])
