"""Runs the benchmarks side by side with their peers and the limits.

Run: python -m benchmarks [NAME...] [--quick] [--large] [--json FILE]

One table at the end: ours, each peer and the limit, the ratio to each, peak memory, the target and whether it
is met. A peer that is not installed, a missing GPU or dataset, too little disk: the table says so.
`CURATE_PEERS` names a Python that has the peers of benchmarks/peers.txt (benchmarks/peers.sh makes one),
`CURATE_DATA` a folder of real datasets.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
import traceback
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.page import missed, table
from benchmarks.suite import Benchmark, Setting, case_of, machine

MODULES = {
    "scan": "scan", "pixels": "pixels", "epoch": "training", "members": "scoring", "select": "select",
    "k_centers": "k_centers", "materialize": "materialize", "reading": "reading", "whole": "whole", "growth": "growth",
    "text": "text", "gpu": "gpu",
}  # fmt: skip
NAMES = tuple(MODULES)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--quick", action="store_true", help="small and once: says that all runs, not how fast")
    parser.add_argument("--large", action="store_true", help="also what takes long or much disk")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the results")
    parser.add_argument("--folder", type=Path, help="for large files, instead of the system's temporary folder")
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.names) - set(NAMES))
    if unknown:
        parser.error(f"no benchmark '{unknown[0]}'; known: {', '.join(NAMES)}")
    results = _kept(arguments.json) | {"machine": machine(), "quick": arguments.quick}
    results["repeats"] = 1 if arguments.quick else 5
    names = arguments.names or list(NAMES)
    for name in names:
        started = time.perf_counter()
        print(f"{name} …", file=sys.stderr, flush=True)
        results["benchmarks"][name] = _result(name, arguments)
        print(f"{name}: {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)
        _print(name, results["benchmarks"][name])
        if arguments.json:
            arguments.json.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    shown = {name: results["benchmarks"][name] for name in names}
    unmet = missed({"benchmarks": shown})
    print("\nEvery target is met." if not unmet else "\nMissed or not measured:\n" + "\n".join(f"- {m}" for m in unmet))
    return 1 if any("failed" in result for result in shown.values()) else 0


def _kept(path: Path | None) -> dict[str, Any]:
    """Returns the results of other benchmarks that a file already holds: one can be measured again alone."""
    if path is None or not path.exists():
        return {"benchmarks": {}}
    return dict(json.loads(path.read_bytes()))


def _result(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    benchmark: Benchmark = import_module(f"benchmarks.{MODULES[name]}").BENCHMARK
    where = arguments.folder or Path(tempfile.gettempdir())
    free = shutil.disk_usage(where).free / 2**30
    if free < benchmark.needs_gib:
        return {
            "line": benchmark.line,
            "failed": f"{free:.1f} GiB free in {where}, {benchmark.needs_gib} needed; name another with --folder",
        }
    data = Path(os.environ["CURATE_DATA"]) if os.environ.get("CURATE_DATA") else None
    with tempfile.TemporaryDirectory(prefix="curate-bench-", dir=arguments.folder) as folder:
        setting = Setting(arguments.quick, arguments.large, Path(folder), data)
        try:
            return {
                "line": benchmark.line,
                "why": benchmark.why,
                "cases": [case.record() for case in benchmark.run(setting)],
            }
        except Exception as error:  # one that fails must not take the others' figures with it
            traceback.print_exc()
            return {"line": benchmark.line, "failed": f"{type(error).__name__}: {error}"[:300]}


def _print(name: str, result: dict[str, Any]) -> None:
    cases = [case_of(record) for record in result.get("cases", [])]
    print(f"\n## {name}: {result['line']}\n")
    print(table(cases) if cases else f"not measured: {result['failed']}")
    print("".join(f"\n{case.name}: {case.note}" for case in cases if case.note), flush=True)


if __name__ == "__main__":
    sys.exit(main())
