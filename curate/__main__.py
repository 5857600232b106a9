"""The console script. `cat` is dispatched before typer is imported: readers start it once a shard."""

from __future__ import annotations

import sys


def main() -> None:
    """Runs the command line and ends the process with its exit code."""
    arguments = sys.argv[1:]
    if arguments[:1] == ["cat"] and "--help" not in arguments:
        from curate.manifest.stream import main as cat

        sys.exit(cat(arguments[1:]))
    from curate.cli import run

    sys.exit(run())


if __name__ == "__main__":
    main()
