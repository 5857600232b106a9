"""Seeded mutations of bytes, and the process in which they are tried: bounded in time and memory."""

import multiprocessing
import os
import random
import resource
import signal
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curate.errors import CurateError

LIMIT_SECONDS = 30
LIMIT_BYTES = 2 << 30  # of address space, beyond what the process had before the first mutation
KINDS = ("flip", "cut", "repeat", "splice")
BLOCK = 512

# Gets the path of a mutated file and its bytes before and after; returns (class of the outcome, whether
# what an independent reader finds in it is another thing than before). A wrong outcome is an AssertionError.
Check = Callable[[bytes, bytes], tuple[str, bool]]


@dataclass(frozen=True)
class Target:
    """What is mutated: named corpora of bytes, and how each is tried."""

    name: str
    corpus: Sequence[bytes]
    check: Check
    is_tar: bool = False
    is_text: bool = False


def mutated(draw: random.Random, data: bytes, other: bytes, *, is_tar: bool, is_text: bool) -> tuple[str, bytes]:
    """Returns the kind of a mutation and the mutated bytes; of a tar, headers get their sums right again at times."""
    kind = draw.choice(KINDS)
    changed = bytearray(data)
    at = draw.randrange(len(data))
    size = min(len(data) - at, draw.choice((1, 2, 7, 64, 512, 1024, 4096)))
    if kind == "flip":
        for _ in range(draw.choice((1, 1, 2, 8))):
            place = draw.randrange(len(data))
            if is_text:
                changed[place] = draw.choice(b"0123456789-+.,:;\"'=[]{}()\n\t aAnNeE#\\\x00\x1b\xff")
            else:
                changed[place] ^= 1 << draw.randrange(8)
    elif kind == "cut":
        del changed[at : len(data) if draw.random() < 0.3 else at + size]
    elif kind == "repeat":
        changed[at:at] = data[at : at + size] * draw.choice((1, 1, 2, 5))
    else:
        start = draw.randrange(len(other))
        part = other[start : start + size]
        changed[at : at + (len(part) if draw.random() < 0.5 else 0)] = part
    if is_tar and draw.random() < 0.5:
        _mutate_header(draw, changed)
    return kind, bytes(changed)


def _mutate_header(draw: random.Random, data: bytearray) -> None:
    """Changes a field of a header block and makes its sum right: damage that a sum does not show."""
    starts = [at for at in range(0, len(data) - BLOCK + 1, BLOCK) if data[at + 257 : at + 262] == b"ustar"]
    if not starts:
        return
    at = draw.choice(starts)
    first, end = draw.choice(((0, 100), (100, 108), (124, 136), (156, 157), (157, 257), (345, 500)))
    place = draw.randrange(at + first, at + end)
    data[place] = draw.choice((0, 0x80, 0xFF, *b"01235789xgLKSV/. _-", draw.randrange(256)))
    block = data[at : at + BLOCK]
    block[148:156] = b" " * 8
    data[at + 148 : at + 156] = f"{sum(block):06o}\0 ".encode()


def tried(target: Target, times: int, *, seed: int) -> dict[str, Any]:
    """Tries mutations in a child process; returns counts: by class of outcome, by kind, changed, wrong, bytes."""
    receive, send = multiprocessing.Pipe(duplex=False)
    progress = multiprocessing.Value("q", -1)
    child = os.fork()
    if not child:
        code = 1
        try:
            receive.close()
            send.send(_try(target, times, seed, progress))
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    send.close()
    try:
        counts: dict[str, Any] = receive.recv()
    except EOFError:
        counts = {"wrong": [f"{target.name}: the process died at mutation {progress.value} of seed {seed}"]}
    os.waitpid(child, 0)
    receive.close()
    return counts


def _try(target: Target, times: int, seed: int, progress: Any) -> dict[str, Any]:
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + LIMIT_BYTES,) * 2)
    signal.signal(signal.SIGALRM, _too_slow)
    outcomes, kinds = Counter[str](), Counter[str]()
    changed = total = 0
    wrong: list[str] = []
    for number in range(times):
        progress.value = number
        draw = random.Random(f"{target.name}/{seed}/{number}")
        data, other = draw.choice(target.corpus), draw.choice(target.corpus)
        kind, after = mutated(draw, data, other, is_tar=target.is_tar, is_text=target.is_text)
        total += len(after)
        signal.setitimer(signal.ITIMER_REAL, LIMIT_SECONDS)
        try:
            outcome, is_changed = target.check(data, after)
        except Exception as error:
            shown = "".join(traceback.format_exception(error)[-3:])
            wrong.append(f"{target.name}, seed {seed}, mutation {number} ({kind}): {shown}")
            outcome, is_changed = "wrong", True
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        outcomes[outcome] += 1
        kinds[kind] += 1
        changed += is_changed
    return {
        "mutations": times, "bytes": total, "changed": changed, "outcomes": dict(outcomes), "kinds": dict(kinds),
        "wrong": wrong,
    }  # fmt: skip


def _too_slow(_number: int, _frame: object) -> None:
    raise TimeoutError(f"no outcome within {LIMIT_SECONDS} s")


def refused(error: CurateError) -> str:
    """Returns the class of a refusal; what a person reads must be clean."""
    assert all(c.isprintable() or c == "\n" for c in str(error)), repr(str(error))
    return f"refused by {type(error).__name__}"
