"""What `curate build-up` takes beside training and scoring, as a share of its whole time.

Run: python -m benchmarks.build_up [SHARDS...] [--images 4096] [--epochs 4] [--seeds 2]

The parts are read off the logs that its iterations leave:

    decode    index and pixels, once for all iterations
    work      training of the members, and scoring of every sample
    rest      everything else: manifests, indexes of the iterations, checks; the aim is less than 2 % of the whole
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

from benchmarks.pools import write_pool
from curate.progress import Silent
from curate.recipe import Proxy, Recipe, Train
from curate.workflows.build_up import Request, build_up

SCHEDULE = ("0.2", "0.4", "0.8")


class Clock(Silent):
    """Notes when pixels are decoded and the first iteration begins."""

    begun = 0.0

    def note(self, message: str) -> None:
        if message.startswith("Iteration 0"):
            self.begun = time.monotonic()


def worked(out: Path) -> float:
    """Returns the seconds of training and scoring, from the start to the end of each run's own log."""
    events = [
        json.loads(line) for log in out.glob("iteration-*/scores/log.jsonl") for line in log.read_text().splitlines()
    ]
    return float(sum(event["seconds"] for event in events if event["event"] == "done"))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("shards", nargs="*")
    parser.add_argument("--images", type=int, default=4096)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--proxy", default="preact_resnet20")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=4)
    arguments = parser.parse_args()
    train = Train(seeds=arguments.seeds, epochs=arguments.epochs, checkpoints=2)
    recipe = Recipe(proxy=Proxy(name=arguments.proxy), train=train)
    with tempfile.TemporaryDirectory(prefix="curate-bench-") as folder:
        if not arguments.shards:
            write_pool(Path(folder) / "shards", arguments.images, arguments.size)
        out, clock = Path(folder) / "out", Clock()
        started = time.monotonic()
        build_up(Request(arguments.shards or [str(Path(folder) / "shards")], out, SCHEDULE, "entropy", recipe), clock)
        ended = time.monotonic()
        work = worked(out)
    whole, decode = ended - started, clock.begun - started
    rest = whole - decode - work
    print(json.dumps({
        "whole": round(whole, 2), "decode": round(decode, 2), "work": round(work, 2), "rest": round(rest, 2),
        "share": round(rest / whole, 4), "share_with_decode": round((rest + decode) / whole, 4),
    }))  # fmt: skip


if __name__ == "__main__":
    main()
