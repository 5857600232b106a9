"""The console script. `cat` is dispatched before typer is imported: readers start it once a shard."""

from __future__ import annotations

import gc
import os
import shlex
import signal
import sys
from types import FrameType
from typing import NoReturn


def _leave(_number: int, _frame: FrameType | None) -> None:
    """Ends while modules are still imported: nothing has begun, and half an import raises anything."""
    again = f"Interrupted before anything began. Go on with: curate {shlex.join(sys.argv[1:])}\n"
    os.write(2, again.encode("utf-8", "backslashreplace"))
    os._exit(130)


def _exit(code: int) -> NoReturn:
    """Ends with a code, also where an interrupt was caught that came while a string was executed.

    Dataclasses are made so, while modules are imported. Python takes note of it, and as `python -m curate` would in
    the end die of SIGINT instead. The next string that it executes makes it forget.
    """
    exec("")  # noqa: S102
    sys.exit(code)


def main() -> None:
    """Runs the command line and ends the process with its exit code."""
    arguments = sys.argv[1:]
    if arguments[:1] == ["cat"] and "--help" not in arguments:
        from curate.manifest.stream import main as cat

        code = cat(arguments[1:])
        if sys.stderr:
            sys.stderr.flush()
        os._exit(code)  # everything is written, and its reader waits for the end of the process
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _leave)
    # Pydantic would read what every installed package announces, to find plugins of its own: a fifth of the start-up.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    # Records by the thousand, none in a cycle: looking for cycles after every 700 was a tenth to a third of the work.
    gc.set_threshold(100_000)
    from curate.cli import run

    _exit(run())


if __name__ == "__main__":
    main()
