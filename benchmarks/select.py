"""Seconds of exact selection from a column of scores, beside numpy, polars and duckdb, with peak memory.

Run: python -m benchmarks.select FILE --arm curate|numpy|polars|duckdb|limit

    curate   `curate.selection.radix.take_first_of`, the row groups of the file as parts
    numpy    the column read whole by pyarrow, `numpy.partition`
    polars   the threshold by `top_k` of a lazy scan in memory, then the rows above it, streaming
             (`top_k` itself streamed took 30 times as long, sort and quantile four times)
    duckdb   the threshold by `quantile_disc`, then the rows above it
    limit    the bytes of the scores' column read once, nothing done with them

The file is Parquet with zstd, as score tables are: float32 scores and 64-bit identities. Every arm keeps the
upper half, equal scores by identity, and says the sum of the kept rows' numbers: all must agree.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.arms import Absent, Arm, drop_cache, module, peer, report
from benchmarks.suite import LIMIT, OURS, Benchmark, Case, Setting, Target, compared

ROWS = 1 << 20  # of a row group
BLOCK = 1 << 20


def write_scores(path: Path, size: int) -> None:
    """Writes a table of made-up scores; few of them are equal."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    random = np.random.default_rng(0)
    schema = pa.schema([("score", pa.float32()), ("identity", pa.uint64())])
    with pq.ParquetWriter(path, schema, compression="zstd", write_statistics=False, use_dictionary=False) as file:
        for start in range(0, size, ROWS):
            rows = min(ROWS, size - start)
            columns = [random.random(rows, np.float32), random.integers(0, 2**64, rows, np.uint64)]
            file.write_table(pa.table([pa.array(column) for column in columns], schema=schema))


def by_curate(path: Path) -> tuple[int, int]:
    import pyarrow.parquet as pq

    from curate.selection.radix import Column, Parts, take_first_of

    file = pq.ParquetFile(path, pre_buffer=False)
    sizes = [file.metadata.row_group(part).num_rows for part in range(file.num_row_groups)]

    def column(name: str) -> Column:
        return lambda part: file.read_row_group(part, columns=[name], use_threads=False)[name].to_numpy()

    masks = take_first_of(Parts(sizes, column("score"), None, column("identity")), count=sum(sizes) // 2)
    return sum(sizes) // 2, sum_of_rows(masks, sizes)


def sum_of_rows(masks: Sequence[NDArray[np.uint8]], sizes: Sequence[int]) -> int:
    """Returns the sum of the numbers of the rows that packed masks name."""
    inside = np.array([sum(n for n in range(8) if byte >> (7 - n) & 1) for byte in range(256)])
    total, start = 0, 0
    for bits, size in zip(masks, sizes, strict=True):
        count = np.bitwise_count(bits).astype(np.int64)
        total += int(inside[bits].sum() + count @ np.arange(0, 8 * len(bits), 8)) + start * int(count.sum())
        start += size
    return total


def by_numpy(path: Path) -> tuple[int, int]:
    import pyarrow.parquet as pq

    score = pq.read_table(path, columns=["score"])["score"].to_numpy()
    kept = len(score) // 2
    threshold = np.partition(score, len(score) - kept)[len(score) - kept]
    above, tied = np.flatnonzero(score > threshold), np.flatnonzero(score == threshold)
    identity = pq.read_table(path, columns=["identity"])["identity"].to_numpy()[tied]
    tied = tied[np.argsort(identity)][: kept - len(above)]
    return kept, int(above.sum() + tied.sum())


def by_polars(path: Path) -> tuple[int, int]:
    import polars as pl

    scan = pl.scan_parquet(path)
    kept = scan.select(pl.len()).collect().item() // 2
    threshold = scan.select(pl.col("score").top_k(kept).min()).collect(engine="in-memory").item()
    rows = scan.with_row_index("row")
    sums = pl.len().alias("rows"), pl.col("row").cast(pl.UInt64).sum()
    above, total = rows.filter(pl.col("score") > threshold).select(sums).collect(engine="streaming").row(0)
    tied = rows.filter(pl.col("score") == threshold).collect(engine="streaming").sort("identity").head(kept - above)
    return kept, int(total) + int(tied["row"].sum())


def by_duckdb(path: Path) -> tuple[int, int]:
    import duckdb

    scores = f"read_parquet('{path}', file_row_number=true)"
    ask = duckdb.connect().execute
    (size,) = ask(f"SELECT count(*) FROM {scores}").fetchone()  # noqa: S608  (a path of our own, here and below)
    kept = size // 2
    # The rank of the threshold among the ascending scores, by the middle of its interval.
    place = (size - kept + 0.5) / size
    (threshold,) = ask(f"SELECT quantile_disc(score, {place}) FROM {scores}").fetchone()  # noqa: S608
    where = f"FROM {scores} WHERE score"
    above, total = ask(f"SELECT count(*), sum(file_row_number) {where} > {threshold}::FLOAT").fetchone()
    order = f"ORDER BY identity LIMIT {kept - above}"
    tied = ask(f"SELECT file_row_number {where} = {threshold}::FLOAT {order}").fetchall()
    return above + len(tied), int(total) + sum(row for (row,) in tied)


ARMS: dict[str, Callable[[Path], tuple[int, int]]] = {
    OURS: by_curate,
    "numpy": by_numpy,
    "polars": by_polars,
    "duckdb": by_duckdb,
}


def read_bytes(path: Path) -> int:
    """Reads the bytes of the scores' column once; returns how many."""
    import pyarrow.parquet as pq

    about, total, buffer = pq.read_metadata(path), 0, bytearray(BLOCK)
    with path.open("rb", buffering=0) as file:
        for part in range(about.num_row_groups):
            chunk = about.row_group(part).column(0)
            file.seek(chunk.data_page_offset)
            left = chunk.total_compressed_size
            while left > 0:
                left -= file.readinto(memoryview(buffer)[: min(BLOCK, left)]) or left
            total += chunk.total_compressed_size
    return total


def bench(setting: Setting) -> list[Case]:
    cases = []
    for size in (100_000,) if setting.quick else (10**6, 10**7, 10**8):
        path = setting.folder / f"{size}.parquet"
        write_scores(path, size)
        arms: dict[str, Arm | Absent] = {name: Arm(module("select", path, "--arm", name)) for name in (OURS, "numpy")}
        arms |= {name: peer(name, "select", path, "--arm", name) for name in ("polars", "duckdb")}
        arms[LIMIT] = Arm(module("select", path, "--arm", LIMIT))
        targets = [Target("polars", 1, 0), Target("duckdb", 1, 0), Target("polars", memory=0.25),
                   Target("duckdb", memory=0.25)] if size == 10**8 else []  # fmt: skip
        case = compared(f"10^{len(str(size)) - 1} scores, page cache", "s", arms, repeats=setting.repeats,
                        targets=targets, note="limit: the column's bytes read once from memory")  # fmt: skip
        sums = {name: arm.also["sum"] for name, arm in case.measured.items() if name != LIMIT}
        for name in [name for name, total in sums.items() if total != sums[OURS]]:
            case.absent[name] = f"keeps other rows: sum {case.measured.pop(name).also['sum']}, not {sums[OURS]}"
        cases.append(case)
        if size < 10**8 and not setting.quick:
            path.unlink()
    cases.append(from_storage(setting, path, size))
    path.unlink()
    if setting.large:
        path = setting.folder / "large.parquet"
        write_scores(path, 10**9)
        return [*cases, from_storage(setting, path, 10**9)]
    reason = "12 GB of disk and a quarter of an hour: with --large"
    absent = dict.fromkeys((OURS, LIMIT), reason)
    return [*cases, Case("10^9 scores, from storage", "s", absent=absent, targets=FROM_STORAGE)]


FROM_STORAGE = (Target(LIMIT, 0.1), Target(OURS, memory=2048))


def from_storage(setting: Setting, path: Path, size: int) -> Case:
    """Returns ours beside the bare read, the page cache dropped before each."""
    arms = {name: Arm(module("select", path, "--arm", name), before=lambda: drop_cache(path)) for name in (OURS, LIMIT)}
    return compared(
        f"10^{len(str(size)) - 1} scores, from storage", "s", arms, repeats=setting.repeats,
        targets=FROM_STORAGE,
        note="limit: the column's bytes read once, the file's pages dropped from the cache before",
    )  # fmt: skip


BENCHMARK = Benchmark(bench, "Exact selection of the upper half by score, equal scores by identity.", needs_gib=3)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("file", type=Path)
    parser.add_argument("--arm", choices=(*ARMS, LIMIT), required=True)
    arguments = parser.parse_args()
    if arguments.arm == LIMIT:
        import pyarrow.parquet

        started = time.perf_counter()
        size = read_bytes(arguments.file)
        report(value=time.perf_counter() - started, bytes=size)
        return
    imported = {OURS: "curate.selection.radix", "numpy": "pyarrow.parquet"}.get(arguments.arm, arguments.arm)
    __import__(imported)
    if arguments.arm == OURS:
        import pyarrow.parquet  # noqa: F401
    started = time.perf_counter()
    kept, total = ARMS[arguments.arm](arguments.file)
    report(value=time.perf_counter() - started, kept=kept, sum=total)


if __name__ == "__main__":
    main()
