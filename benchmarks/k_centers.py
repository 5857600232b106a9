"""Milliseconds a center of greedy k-centers, beside scikit-activeml's CoreSet and plain scipy.

Run: python -m benchmarks.k_centers [--peers PYTHON] [--kind thin --samples 20000 --centers 30 --start 1]
     python -m benchmarks.k_centers --alone --samples 50000 --centers 25000
     python -m benchmarks.k_centers --scaling --centers 100

    curate            `curate.selection.k_centers`, the whole call
    scipy             a running minimum over `cdist` with each new center, the whole call
    scikit-activeml   `CoreSet().query`, the start as labelled samples, the whole call

PYTHON is an interpreter that has scipy and scikit-activeml. Every arm gets the same float32 embeddings,
rounded to float16 before, and the same start; the table says whether all chose the same order. Seconds are the fewest
of two calls. Of a start of one sample the whole call counts; of a longer one what the first center takes with the start
is taken off, and what is left is shared by the other centers.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from benchmarks.arms import Absent, Arm, compare, peer, report
from benchmarks.suite import LIMIT, OURS, Benchmark, Case, Setting, Target, compared

KINDS = ("thin", "clustered", "isotropic")
Array = NDArray[np.float32]


def embeddings(kind: str, samples: int, dimensions: int) -> Array:
    """Returns made-up features: of ten directions and rectified, of ten clusters, or of no structure."""
    random = np.random.default_rng(0)

    def normal(rows: int, columns: int) -> Array:
        return random.standard_normal((rows, columns), dtype=np.float32)

    if kind == "thin":
        x = normal(samples, 10) @ normal(10, dimensions)
        x += 0.1 * normal(samples, dimensions)
        np.maximum(x, 0, out=x)
    elif kind == "clustered":
        x = 4 * normal(10, dimensions)[random.integers(0, 10, samples)]
        x += normal(samples, dimensions)
    else:
        x = normal(samples, dimensions)
    x[:] = x.astype(np.float16)
    return x


def by_curate(x: Array, start: NDArray[np.int64], centers: int) -> list[int]:
    from curate.selection.k_centers import k_centers

    return k_centers(x, centers, start=start).order_K.tolist()


def by_scipy(x: Array, start: NDArray[np.int64], centers: int) -> list[int]:
    from scipy.spatial.distance import cdist

    nearest = np.full(len(x), np.inf)
    for first in range(0, len(start), 100):
        np.minimum(nearest, cdist(x, x[start[first : first + 100]]).min(axis=1), out=nearest)
    order: list[int] = []
    while len(order) < centers:
        order.append(int(np.argmax(nearest)))
        np.minimum(nearest, cdist(x, x[order[-1:]])[:, 0], out=nearest)
    return order


def by_activeml(x: Array, start: NDArray[np.int64], centers: int) -> list[int]:
    from skactiveml.pool import CoreSet

    label = np.full(len(x), np.nan)
    label[start] = 0
    return [int(row) for row in CoreSet(random_state=0).query(x, label, batch_size=centers)]


def by_products(x: Array, _: NDArray[np.int64], centers: int) -> list[int]:
    """One product with all embeddings a center, and nothing else."""
    for row in range(centers):
        x @ x[row]
    return list(range(centers))


ARMS = {"curate": by_curate, "scipy": by_scipy, "scikit-activeml": by_activeml, "limit": by_products}


def timed(
    choose: Callable[[Array, NDArray[np.int64], int], list[int]], x: Array, start: NDArray[np.int64], centers: int
) -> tuple[float, list[int]]:
    """Returns the seconds of a center, and the order: of a start of one sample the fewest of two whole calls."""
    whole, order = _call(choose, x, start, centers)
    if len(start) == 1:
        return min(whole, _call(choose, x, start, centers)[0]) / centers, order
    return (whole - _call(choose, x, start, 1)[0]) / (centers - 1), order


def _call(
    choose: Callable[[Array, NDArray[np.int64], int], list[int]], x: Array, start: NDArray[np.int64], centers: int
) -> tuple[float, list[int]]:
    started = time.perf_counter()
    order = choose(x, start, centers)
    return time.perf_counter() - started, order


def run_arm(arguments: argparse.Namespace) -> None:
    """Measures one arm in this process, after a warm-up on few samples."""
    x = embeddings(arguments.kind, arguments.samples, arguments.dimensions)
    start = np.random.default_rng(1).permutation(len(x))[: arguments.start]
    choose = ARMS[arguments.arm]
    choose(x[:500], np.arange(3), 3)
    seconds, order = timed(choose, x, start, arguments.centers)
    above = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - x.nbytes / 2**20
    digest = hashlib.blake2b(np.array(order).tobytes(), digest_size=4).hexdigest()
    report(
        value=1000 * seconds,
        above_embeddings_mib=round(above),
        order=digest,
    )


def arm_command(arguments: argparse.Namespace, arm: str, python: str) -> list[str]:
    words = ["kind", "samples", "dimensions", "centers", "start"]
    options = [f"--{word}={getattr(arguments, word)}" for word in words]
    return [python, "-m", "benchmarks.k_centers", "--arm", arm, *options]


def scaling(arguments: argparse.Namespace) -> None:
    """Prints milliseconds a center against the number of samples, medians."""
    print("| samples x 64 | ms a center | nanoseconds a center and sample |\n|---|---|---|")
    arguments.dimensions = 64
    for samples in (62_500, 125_000, 250_000, 500_000, 1_000_000):
        arguments.samples = samples
        command = arm_command(arguments, "curate", sys.executable)
        results = [
            json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
            for _ in range(arguments.repeats)
        ]
        value = float(np.median([result["value"] for result in results]))
        print(f"| {samples:,} | {value:.3f} | {1e6 * value / samples:.2f} |", flush=True)


def bench(setting: Setting) -> list[Case]:
    samples, dimensions = (2_000, 64) if setting.quick else (20_000, 512)
    cases = []
    sizes = ((1, 10), (100, 20)) if setting.quick else ((1, 30), (1_000, 100))
    for kind, (start, centers) in itertools.product(KINDS, sizes):
        words = [f"--kind={kind}", f"--samples={samples}", f"--dimensions={dimensions}", f"--start={start}"]
        arms: dict[str, Arm | Absent] = {
            name: peer(package, "k_centers", *words, f"--centers={centers}", "--arm", name)
            for name, package in {OURS: "curate", "scipy": "scipy", "scikit-activeml": "skactiveml"}.items()
        }
        arms[LIMIT] = peer("numpy", "k_centers", *words, "--centers=3", "--arm", LIMIT)
        targets = [Target("scipy", 12), Target("scikit-activeml", 12)]
        after = f" after a start of {start:,}" if start > 1 else ""
        case = compared(f"{samples:,} x {dimensions}, {kind}, {centers} centers{after}", "ms a center", arms,
                        repeats=setting.repeats, targets=targets,
                        note="limit: one center's product with all embeddings, which reads them once")  # fmt: skip
        orders = {name: arm.also["order"] for name, arm in case.measured.items() if name != LIMIT}
        for name in [name for name, order in orders.items() if order != orders.get(OURS)]:
            case.note += f"; {name} chose another order"
        cases.append(case)
    for package in ("apricot", "submodlib"):
        cases[0].absent[package] = "facility location: the sum of similarities, not the largest distance"
    cases.append(imagenet(setting))
    return cases


def imagenet(setting: Setting) -> Case:
    """Returns a slice of ImageNet's size: what its first centers take, and what that comes to for 10 %."""
    samples, centers = (10_000, 20) if setting.quick else (160_000, 400)
    words = [f"--samples={samples}", "--dimensions=512", f"--centers={centers}", "--start=1", "--kind=clustered"]
    case = compared(f"{samples:,} x 512, {centers} centers: a slice of 1.28M x 512", "ms a center",
                    {OURS: peer("curate", "k_centers", *words, "--arm", OURS)},
                    repeats=1 if setting.quick else 2, targets=[])  # fmt: skip
    if OURS in case.measured:
        hours = case.measured[OURS].median / 1e3 * 1.28e6 / samples * 128_000 / 3600
        case.note = (
            f"extrapolated, not measured: {hours:.1f} h for 128,000 centers of 1.28M, if a center takes time in "
            "proportion to the samples and late centers as much as early ones, which pruning makes cheaper"
        )
    return case


BENCHMARK = Benchmark(
    bench,
    "Greedy k-centers over made-up features, after one sample, start included, and after 1,000, start not included.",
    why="Ours is at, or below, one reading of the embeddings a center. In clusters the farthest samples lie together: "
    "one center makes all of them near, and the others are read again for each of the first.",
)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--peers", default=sys.executable, metavar="PYTHON")
    parser.add_argument("--kind", default="thin", choices=KINDS)
    parser.add_argument("--samples", type=int, default=20_000)
    parser.add_argument("--dimensions", type=int, default=512)
    parser.add_argument("--centers", type=int, default=30)
    parser.add_argument("--start", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--alone", action="store_true")
    parser.add_argument("--scaling", action="store_true")
    parser.add_argument("--arm", default="", choices=["", *ARMS])
    arguments = parser.parse_args()
    if arguments.arm:
        return run_arm(arguments)
    if arguments.scaling:
        return scaling(arguments)
    pythons = {"curate": sys.executable, "scipy": arguments.peers, "scikit-activeml": arguments.peers}
    arms = {
        name: arm_command(arguments, name, python)
        for name, python in pythons.items()
        if name == "curate" or not arguments.alone
    }
    medians = compare(arms, repeats=arguments.repeats, unit="ms a center")
    for name in [name for name in medians if name != "curate"]:
        print(f"{name} / curate: {medians[name] / medians['curate']:.1f}")
    return None


if __name__ == "__main__":
    main()
