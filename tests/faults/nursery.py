"""A process that has imported what takes long, and forks a child for every command it is sent.

One JSON request a line on stdin, one JSON answer a line on stdout. A child runs one command line of
`curate` as the console script does; a signal reaches it at the n-th change it makes to files (see
dying.c, which this process is preloaded with), or after some time.
"""

import ctypes
import json
import os
import select
import signal
import sys
import threading
import time
from importlib import import_module
from pathlib import Path
from typing import Any

WHEN = ("before", "amid", "after", "fails", "lies")
NEVER = 2**62
LIMIT_SECONDS = 120.0


def live(request: dict[str, Any], into: Path) -> None:
    """The child: never returns."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for stream, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(into / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
    shim = ctypes.CDLL(None)
    code = 1
    try:
        run = import_module("curate.cli").run
        at = request.get("at", NEVER)
        shim.dying_arm(ctypes.c_long(at), request["signal"], WHEN.index(request["when"]), request["below"].encode())
        if "flaky" in request:
            times, error, below = request["flaky"]
            shim.dying_flaky(times, error, below.encode())
        code = run(request["words"])
    finally:
        shim.dying_count.restype = ctypes.c_long
        (into / "count").write_text(str(shim.dying_count()))
        sys.stdout.flush()
        sys.stderr.flush()
        threading._shutdown()  # type: ignore[attr-defined]  # waits for threads, as the end of a process does
        os._exit(code)


def answer(request: dict[str, Any], into: Path) -> dict[str, Any]:
    (into / "count").unlink(missing_ok=True)
    begun = time.monotonic()
    child = os.fork()
    if not child:
        live(request, into)
    descriptor = os.pidfd_open(child)
    after = request.get("after_seconds")
    if after is not None and not select.select([descriptor], [], [], after)[0]:
        os.kill(child, request["signal"])
    hangs = not select.select([descriptor], [], [], LIMIT_SECONDS)[0]
    if hangs:
        os.kill(child, signal.SIGKILL)
    os.close(descriptor)
    _, status = os.waitpid(child, 0)
    count = into / "count"
    changes = count.read_text() if count.exists() else ""  # empty where the child died as it wrote it
    return {
        "code": "hangs" if hangs else os.waitstatus_to_exitcode(status),
        "seconds": time.monotonic() - begun,
        "changes": int(changes) if changes else None,
        "out": (into / "out").read_text(),
        "err": (into / "err").read_text(),
    }


def main() -> None:
    into = Path(sys.argv[1])
    for name in sys.argv[2:]:
        import_module(name)
    for line in sys.stdin:
        sys.stdout.write(json.dumps(answer(json.loads(line), into)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
