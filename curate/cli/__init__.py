"""The command line: flags say where and how much, everything else is in the recipe. The only room
that knows typer. Bodies are short: they turn flags into a request and a result into lines.
"""

from __future__ import annotations

import errno
import shlex
import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from functools import cache
from typing import Annotated, Any

import typer

from curate import __version__, console
from curate.cli import building, evaluating, people, pool, readers, scoring  # noqa: F401  (commands register themselves)
from curate.cli.examples import name_of, show_examples
from curate.cli.options import ORDER, app
from curate.errors import CurateError, TimeUpError, UsageError

INTERRUPTED = 130
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
SHARD_OPTIONS = ("--test", "--val", "--shards")
# typer carries its own copy of click or uses the installed one, by version; this is the one it raises.
ClickException: Any = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException")


show_examples(app)


_STRUCK: list[bool] = []  # whether an interrupt came


def run(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code. Every error is one readable message."""
    console.speak_any_encoding()
    _STRUCK.clear()
    given = list(sys.argv[1:] if arguments is None else arguments)
    is_debugging = "--debug" in given
    words = list(_spread(word for word in given if word != "--debug"))
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:  # a shell has a command in the background ignore one
            signal.signal(number, _interrupt)
    try:
        result = _invoked(words)
    except TimeUpError as error:
        console.note(f"{error.message} What is finished is kept. Go on with: curate {shlex.join(given)}")
        return error.exit_code
    except CurateError as error:
        return _fail(error, is_debugging)
    except ClickException as error:
        error.show()
        return UsageError.exit_code
    except (KeyboardInterrupt, typer.Abort):
        console.note(f"Interrupted; what is finished is kept. Go on with: curate {shlex.join(given)}")
        return INTERRUPTED
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "curate":
            raise
        failure = CurateError(
            f"This command needs '{error.name}', which is not installed here.",
            hint="Install curate with all it depends on, or use its gpu or cpu image.",
        )
        return _fail(failure, is_debugging)
    except OSError as error:
        hint = "Make room and run the same command again." if error.errno in NO_ROOM else ""
        failure = CurateError(f"{error.filename or 'The system'}: {error.strerror or error}.", hint=hint)
        return _fail(failure, is_debugging)
    return result if isinstance(result, int) else 0


def _invoked(words: list[str]) -> Any:
    """Runs a command. After an interrupt any error is one: libraries in C make others of it, as of damaged files."""
    try:
        word = next((word for word in words[:1] if word in ORDER), "")
        result = _commands(word)(words, standalone_mode=False, prog_name="curate")
    except Exception as error:
        if _STRUCK:
            raise KeyboardInterrupt from error
        raise
    if result == INTERRUPTED:  # what typer makes of an interrupt
        raise KeyboardInterrupt
    return result


@cache
def _commands(word: str) -> Any:
    """Returns the command that a word names, in its group; all of them where it names none or a group.

    Making all of them takes a tenth of a second, a fifth of what a light command takes in all.
    """
    named = [command for command in app.registered_commands if name_of(command) == word]
    if not named:
        return typer.main.get_command(app)
    only = copy(app)
    only.registered_commands, only.registered_groups = named, []
    return typer.main.get_command(only)


def _spread(words: Iterable[str]) -> Iterator[str]:
    """Repeats an option that takes shards before each word after it, up to the next option.

    A shell writes `--test test-*.tar` as one option and many words. Without this the second test
    shard would silently become a shard of the pool.
    """
    option, values = "", 0
    for word in words:
        if word.startswith("-"):
            option, given, _ = word.partition("=")
            values = len(given)  # --test=a b is --test a b
        else:
            if option in SHARD_OPTIONS and values:
                yield option
            values += 1
        yield word


def _fail(error: CurateError, is_debugging: bool) -> int:
    if is_debugging:
        raise error
    console.show_error(error)
    return error.exit_code


def _interrupt(_number: int, _frame: object) -> None:
    _STRUCK.append(True)
    raise KeyboardInterrupt


def _version(asked: bool) -> None:
    if asked:
        console.say(f"curate {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None: ...
