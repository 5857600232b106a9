"""Runs one command and says what it took: a process so small that its memory hides nobody's.

Run: python -I -S benchmarks/launch.py REPORT COMMAND...

A child's peak memory begins with that of the process it was started from. A benchmark that has imported
torch would lend its own to every command it measures; this one lends 10 MiB.
"""

import json
import os
import sys
import time


def main() -> None:
    report, *command = sys.argv[1:]
    started = time.perf_counter()
    process = os.posix_spawnp(command[0], command, os.environ)
    _, status, usage = os.wait4(process, 0)
    seconds = time.perf_counter() - started
    with open(report, "w") as file:  # noqa: PTH123  (pathlib would take as long to import as all the rest)
        json.dump(
            {
                "code": os.waitstatus_to_exitcode(status),
                "seconds": seconds,
                "processor_seconds": usage.ru_utime + usage.ru_stime,
                "peak_mib": usage.ru_maxrss / 1024,
            },
            file,
        )


if __name__ == "__main__":
    main()
