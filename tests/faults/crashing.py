"""Commands that are struck down and run again: how a test asks the nursery for it, and what it compares."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from curate.manifest.lines import SOURCE

HERE = Path(__file__).parent
UNEQUAL = {"log.jsonl", ".lock"}  # times and process numbers
FULLY_LOADED = ("curate.cli", "curate.workflows.build_up", "curate.workflows.score", "timm", "torch.optim")
LIGHT = ("curate.cli", "curate.workflows.prune", "curate.workflows.index", "curate.manifest.materialize")


@dataclass
class Nursery:
    """A process that runs commands in children; counts how often it struck one down."""

    process: subprocess.Popen[str]
    struck: dict[str, int] = field(default_factory=dict)

    def run(self, words: Sequence[str], below: Path, **how: Any) -> dict[str, Any]:
        """Runs a command; `at` and `when`, or `after_seconds`, say when it is sent `signal`."""
        request = {"words": list(words), "below": str(below), "signal": signal.SIGKILL, "when": "before", **how}
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer


@contextmanager
def nursery(folder: Path, modules: Sequence[str]) -> Iterator[Nursery]:
    """Yields a nursery that has imported some modules."""
    library = folder / "dying.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-O2", "-o", library, HERE / "dying.c", "-ldl"], check=True)
    environment = {**os.environ, "LD_PRELOAD": str(library), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(HERE / "nursery.py"), str(folder), *modules]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        yield Nursery(process)


def digest(folder: Path) -> dict[str, str]:
    """Returns the digest of every file below a folder, but for those that hold times."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in UNEQUAL)
    return {str(path.relative_to(folder)): hashlib.sha256(_without_times(path)).hexdigest() for path in paths}


def _without_times(path: Path) -> bytes:
    """Returns a file's bytes; of what a manifest was made from, which is not hashed, all but how long that took."""
    data = path.read_bytes()
    if path.name != SOURCE:
        return data
    record = json.loads(data)
    record.pop("seconds", None)
    return json.dumps(record, sort_keys=True).encode()


@dataclass
class Trial:
    """One command, what it works in, and what it leaves there when nothing disturbs it."""

    name: str
    nursery: Nursery
    words: list[str]
    out: Path
    changes: int = 0
    seconds: float = 0.0
    whole: dict[str, str] = field(default_factory=dict)

    def undisturbed(self) -> "Trial":
        answer = self.nursery.run(self.words, self.out)
        assert answer["code"] == 0, answer["err"]
        self.changes, self.seconds, self.whole = answer["changes"], answer["seconds"], digest(self.out)
        assert self.changes > 0
        return self

    def fail(self, error: int, at: int, when: str = "fails") -> bool:
        """Runs the command while one change fails, or is said to, then again; says whether the first run failed."""
        shutil.rmtree(self.out)
        self.out.mkdir()
        answer = self.nursery.run(self.words, self.out, signal=error, at=at, when=when)
        what = (self.name, error, at, answer)
        assert answer["code"] in (0, 1), what
        assert "Traceback" not in answer["err"], what
        if answer["code"] == 0:
            assert digest(self.out) == self.whole, what
            return False
        assert "error: " in answer["err"], what
        assert os.strerror(error) in answer["err"], what
        self.nursery.struck[f"{self.name}, failing"] = self.nursery.struck.get(f"{self.name}, failing", 0) + 1
        again = self.nursery.run(self.words, self.out)
        assert again["code"] == 0, (what, again)
        assert digest(self.out) == self.whole, (what, set(digest(self.out).items()) ^ set(self.whole.items()))
        return True

    def strike(self, number: int = signal.SIGKILL, **how: Any) -> bool:
        """Runs the command, strikes it down, runs it again; says whether it was struck before its end."""
        shutil.rmtree(self.out)
        self.out.mkdir()
        answer = self.nursery.run(self.words, self.out, signal=number, **how)
        what = (self.name, number, how, answer)
        if answer["code"] == 0:
            assert digest(self.out) == self.whole, what
            return False
        assert "Traceback" not in answer["err"], what
        if number == signal.SIGKILL:
            assert answer["code"] == -signal.SIGKILL, what
        else:
            assert answer["code"] == 130, what
            assert "Go on with: curate " in answer["err"], what
            assert not [path for path in self.out.rglob(".*") if path.name.endswith(".tmp")], what
        self.nursery.struck[self.name] = self.nursery.struck.get(self.name, 0) + 1
        again = self.nursery.run(self.words, self.out)
        assert again["code"] == 0, (what, again)
        assert digest(self.out) == self.whole, (what, set(digest(self.out).items()) ^ set(self.whole.items()))
        return True
