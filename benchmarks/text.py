"""Words a second of training fastText, and of turning texts into words.

Run: python -m benchmarks.text SHARDS... --arm curate|dense|limit|words|split|together|in turn

    curate   `train_member` over tokens in memory: everything that training does
    dense    the same network and order in a loop of PyTorch's own whose table has a dense gradient
    limit    the sparse step alone, on bags of ready places: look-up, mean, linear layer, gradient, update
    words    texts in memory -> rows of hashed words
    split    the same texts through `str.split`, nothing done with the words
    together, in turn   two seeds as `curate score` trains them: on two threads side by side, or on one

Training is one epoch after a warm-up; its value counts words, not pairs, though both are learned.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from benchmarks.arms import Absent, Arm, module, report
from benchmarks.suite import LIMIT, OURS, Benchmark, Case, Setting, Target, compared
from curate.pool.index import build_index
from curate.pool.labels import LabelSource
from curate.pool.texts import words
from curate.pool.writer import write_shards
from curate.progress import Silent
from curate.proxy.models import ModelSpec, TextSpec, build_model
from curate.proxy.pixels import StoredPixels, read_images
from curate.proxy.plan import Plan
from curate.proxy.tokens import Tokens
from curate.proxy.training import build_optimizer, train_member
from curate.recipe import Augment, Recipe
from curate.workflows.run import Request, open_run
from curate.workflows.setting import open_pixels
from curate.workflows.train import train_seeds

LENGTH, WARM_UP = 256, 64
VOCABULARY, WORDS = 50_000, 230
SEEDS = {"together": 2, "in turn": 1}  # arms of two seeds, and on how many threads


def plan() -> Plan:
    """Returns how fastText is trained by default, for one epoch of two classes."""
    spec = ModelSpec("fasttext", 2, 0, 0, "native", text=TextSpec(LENGTH, 10, 2, 1 << 20, "max"))
    train = Recipe.model_validate({"proxy": {"name": "fasttext"}, "train": {"epochs": 1, "seeds": 1}}).train
    return Plan(spec, train, Augment(flip=False, translate_px=0), (), (), False, "cpu")


def stored(shards: Sequence[str], folder: Path) -> StoredPixels:
    """Returns the tokens of some shards, in memory."""
    store = StoredPixels(build_index(shards, folder, LabelSource()), Tokens("words", LENGTH), folder=None, threads=1)
    store.build(lambda done, name: None)
    return store


def train_ours(store: StoredPixels, rows: int) -> None:
    with tempfile.TemporaryDirectory(prefix="curate-bench-") as folder:
        train_member(
            plan(), store, np.arange(rows), seed=0, folder=Path(folder),
            progress=lambda epoch, seen: None, on_epoch=lambda epoch, model, record: None,
        )  # fmt: skip


def train_dense(store: StoredPixels, rows: int) -> None:
    model = build_model(plan().spec, seed=0)
    model.embedding.sparse = False  # type: ignore[union-attr]
    optimizer = build_optimizer(model, plan().train)
    for rows_B, words_BL in store.epoch(np.arange(rows), batch_size=plan().train.batch_size, seed=[0]):
        label_B = torch.from_numpy(store.rows.label_N[rows_B]).long()
        optimizer.zero_grad()
        functional.cross_entropy(model(words_BL), label_B).backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def sparse_steps(store: StoredPixels, rows: int) -> Callable[[], None]:
    """Returns the arithmetic that cannot be left out, on places worked out before."""
    model = build_model(plan().spec, seed=0)
    optimizer = build_optimizer(model, plan().train)
    table: torch.nn.EmbeddingBag = model.embedding  # type: ignore[assignment]
    ready = []
    for rows_B, words_BL in store.epoch(np.arange(rows), batch_size=plan().train.batch_size, seed=[0]):
        bags = [np.concatenate([row[row > 0]] * 2)[:-1] % table.num_embeddings for row in words_BL.numpy()]
        starts_B = torch.from_numpy(np.cumsum([0, *map(len, bags[:-1])]))
        label_B = torch.from_numpy(store.rows.label_N[rows_B]).long()
        ready.append((torch.from_numpy(np.concatenate(bags)).long(), starts_B, label_B))

    def act() -> None:
        for places, starts_B, label_B in ready:
            optimizer.zero_grad()
            functional.cross_entropy(model.fc(table(places, starts_B)), label_B).backward()  # type: ignore[operator, no-untyped-call]
            optimizer.step()

    return act


def measured(arm: str, shards: Sequence[str], folder: Path) -> float:
    """Returns words a second of one arm."""
    store = stored(shards, folder)
    count, rows = words_in(store), len(store.rows)
    act: Callable[[], object]
    if arm in ("words", "split"):
        places = range(len(store.rows.shards))
        texts = [text.decode() for i in places for _, text in read_images(store.rows, i, store.rows.of_shard(i))]
        act = (lambda: [words(t, LENGTH) for t in texts]) if arm == "words" else lambda: [t.split() for t in texts]
    elif arm == LIMIT:
        sparse_steps(store, min(rows, WARM_UP))()
        act = sparse_steps(store, rows)
    else:
        train = train_ours if arm == OURS else train_dense
        train(store, min(rows, WARM_UP))
        act = lambda: train(store, rows)  # noqa: E731
    started = time.perf_counter()
    act()
    return count / (time.perf_counter() - started)


def words_in(store: StoredPixels) -> int:
    """Returns how many words training reads in an epoch."""
    return int((store.take(np.arange(len(store.rows))).numpy() > 0).sum())


def seeds_trained(shards: Sequence[str], folder: Path, threads: int) -> float:
    """Returns words a second of two seeds as `curate score` trains them."""
    table = {"epochs": 1, "seeds": 2, "threads": threads}
    recipe = Recipe.model_validate({"proxy": {"name": "fasttext"}, "train": table, "text": {"length": LENGTH}})
    run = open_run(Request(shards=list(shards), out=folder, recipe=recipe, device="cpu"), Silent())
    store = open_pixels(run.pool, run.setting, recipe, folder / "pixels", Silent())
    assert isinstance(store, StoredPixels)
    count = words_in(store)
    started = time.perf_counter()
    train_seeds(run, store)
    return 2 * count / (time.perf_counter() - started)


def write_pool(folder: Path, texts: int) -> list[str]:
    """Writes texts whose words are as often as in language (Zipf), two classes."""
    draw = np.random.default_rng(0)
    drawn = (" ".join(f"w{word}" for word in draw.zipf(1.2, WORDS) % VOCABULARY) for _ in range(texts))
    keyed = ((f"{n:08d}", {"txt": text.encode(), "cls": str(n % 2).encode()}) for n, text in enumerate(drawn))
    return [str(path) for path in write_shards(folder, "train", keyed, total=texts, samples_per_shard=texts)]


def bench(setting: Setting) -> list[Case]:
    texts = 200 if setting.quick else 4_000
    paths = write_pool(setting.folder, texts)
    size = f"{texts:,} texts of {WORDS} words"

    def case(what: str, arms: dict[str, str], targets: Sequence[Target], note: str) -> Case:
        commands: dict[str, Arm | Absent] = {k: Arm(module("text", *paths, "--arm", v)) for k, v in arms.items()}
        return compared(f"{what}, {size}", "words/s", commands, repeats=setting.repeats, targets=targets, note=note)

    together = {OURS: "together", "one thread": "in turn"}
    trained = {OURS: OURS, "dense gradient": "dense", LIMIT: LIMIT}
    note = "asked: 300,000 words/s; limit: the sparse step alone, on ready places"
    return [
        case("fastText, one epoch, one thread", trained, [Target("dense gradient", 10)], note),
        case("fastText, two seeds on two threads", together, [], "members and states written"),
        case("texts to words, one thread", {OURS: "words", LIMIT: "split"}, [], "limit: `str.split`"),
    ]


BENCHMARK = Benchmark(
    bench, "fastText on the CPU.", why="Of a short epoch, writing the member and the state takes a third or more."
)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("shards", nargs="+")
    parser.add_argument("--arm", choices=(OURS, "dense", LIMIT, "words", "split", *SEEDS), required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="curate-bench-") as folder:
        if arguments.arm in SEEDS:
            report(value=seeds_trained(arguments.shards, Path(folder), SEEDS[arguments.arm]))
        else:
            report(value=measured(arguments.arm, arguments.shards, Path(folder)))


if __name__ == "__main__":
    main()
