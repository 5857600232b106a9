"""Jobs in processes of their own, which end with whoever began them.

A worker is a module that is run with its job on stdin, one line of JSON. It says in a line on stdout, which all
workers share, each part of the job that is done, or why one cannot be. It ends when its stdin does, so it never
outlives who began it. The standard library alone: workers start for every job.
"""

from __future__ import annotations

import gc
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from threading import Thread
from typing import IO, Any, TypeVar

from curate import durable, errors
from curate.errors import CurateError, RunError

Item = TypeVar("Item")
MOST_PROCESSES = 8
WORTH_SECONDS = 2.0  # of work that is left: a process is ready after a tenth to a third of a second


def most_processes() -> int:
    """Returns how many workers this machine is worth: one a core, and at most eight."""
    return min(len(os.sched_getaffinity(0)), MOST_PROCESSES)


def spread(
    items: Sequence[Item],
    act: Callable[[Item], str],
    module: str,
    told: Callable[[Sequence[Item]], object],
    *,
    out: Path | None = None,
    processes: int = 0,
) -> Generator[tuple[int, str], None, None]:
    """Does something with every item: here, and in processes as soon as what is left is worth their start.

    Args:
        items: what there is to do.
        act: does it here with one item; returns what there is to say of it, in short.
        module, out: as of `run_apart`.
        told: the job that has the module do it with some items, saying the same of each.
        processes: to begin with at once; 0 for what the work and the machine are worth.

    Yields:
        The place of each item that is done, and what there is to say of it; of a process, in any order. Processes
        end when the generator is closed: who may leave it early closes it.
    """
    at_once, started = processes or most_processes(), time.monotonic()
    for done, item in enumerate(items):
        seconds_left = (len(items) / done - 1) * (time.monotonic() - started) if done else 0.0
        if at_once > 1 and (processes or seconds_left > WORTH_SECONDS):
            places = [range(len(items))[first::at_once] for first in range(done, min(done + at_once, len(items)))]
            jobs = [told([items[place] for place in part]) for part in places]
            for job, part, word in run_apart(module, jobs, out):
                yield places[job][part], word
            return
        yield done, act(item)


def run_apart(module: str, jobs: Sequence[object], out: Path | None) -> Iterator[tuple[int, int, str]]:
    """Runs every job in a process of its own; yields (job, part, word), both by number, as parts are done.

    Args:
        module: of the worker, whose main is `work`.
        jobs: what JSON can say.
        out: the folder that they write to, if any; what a worker left half-written there that had to be ended goes.

    Raises:
        CurateError, OSError: from the first worker that fails; the others are ended.
        RunError: a worker was killed.
    """
    ours, theirs = os.pipe()
    with ExitStack() as stack:
        said = stack.enter_context(os.fdopen(ours, "rb"))
        with os.fdopen(theirs, "wb") as end:
            workers = [stack.enter_context(_worker(module, end)) for _ in jobs]
        stack.callback(_end, workers, out)
        for number, (worker, job) in enumerate(zip(workers, jobs, strict=True)):
            _tell(worker, [number, job])
        for line in said:  # until all have ended
            yield _part(json.loads(line), out)
        for worker in workers:
            if worker.wait():
                raise RunError(
                    f"A process that worked for this one ended with code {worker.returncode}.",
                    hint="Run the same command again: what is whole is kept.",
                )


def work(act: Callable[[Any], Iterator[str]]) -> None:
    """Does the job that stdin tells: `act` yields after each of its parts what there is to say of it."""
    gc.set_threshold(100_000)  # as the command itself does: records by the thousand, none in a cycle
    told = sys.stdin.buffer.readline()
    if not told.endswith(b"\n"):  # who began this one has ended meanwhile
        return
    number, job = json.loads(told)
    Thread(target=_end_with_stdin, daemon=True).start()
    try:
        for part, word in enumerate(act(job)):
            _say(job=number, part=part, word=word)
    except CurateError as error:
        _say(kind=type(error).__name__, message=error.message, hint=error.hint)
    except OSError as error:
        _say(errno=error.errno, message=error.strerror or str(error), file=str(error.filename or ""))


def _worker(module: str, said: IO[bytes]) -> subprocess.Popen[bytes]:
    package = str(Path(errors.__file__).parents[1])  # however it was found here
    path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
    words = [sys.executable, "-P", "-m", module]  # nothing is imported from the folder that the user is in
    return subprocess.Popen(  # noqa: S603  (our own words); in a session of its own no terminal interrupts it
        words, stdin=subprocess.PIPE, stdout=said, env={**os.environ, "PYTHONPATH": path}, start_new_session=True
    )


def _tell(worker: subprocess.Popen[bytes], words: object) -> None:
    assert worker.stdin is not None
    try:
        worker.stdin.write(json.dumps(words).encode() + b"\n")
        worker.stdin.flush()
    except BrokenPipeError:  # it has died, which its code says later
        with suppress(BrokenPipeError):
            worker.stdin.close()  # which tries to write what is left


def _part(record: dict[str, Any], out: Path | None) -> tuple[int, int, str]:
    """Returns what a worker says is done; raises the error that it says."""
    if "part" in record:
        return record["job"], record["part"], record["word"]
    if "errno" in record:
        raise OSError(record["errno"], record["message"], record["file"] or str(out or ""))
    kind: type[CurateError] = getattr(errors, record["kind"])
    raise kind(record["message"], hint=record["hint"])


def _end(workers: Sequence[subprocess.Popen[bytes]], out: Path | None) -> None:
    alive = [worker for worker in workers if worker.poll() is None]
    for worker in alive:
        worker.kill()
    for worker in alive:
        worker.wait()
    if alive and out:
        durable.remove_leftovers(out, below=True)


def _say(**record: Any) -> None:
    """Writes a line. Up to `PIPE_BUF` bytes it is whole, whoever else writes; longer messages are cut."""
    while len(line := json.dumps(record).encode() + b"\n") > select.PIPE_BUF:
        longest = max({"word", "message", "hint", "file"} & set(record), key=lambda name: len(record[name]))
        record[longest] = record[longest][: len(record[longest]) // 2]
    os.write(1, line)


def _end_with_stdin() -> None:
    while os.read(0, 1):
        pass
    os._exit(1)
