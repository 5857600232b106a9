"""The training runs of `curate score`: one a seed, after each other or side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from threading import Event
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import nn

from curate.acquisition import ACQUISITIONS
from curate.acquisition.difficulty import correctness, forgetting, never_learned
from curate.acquisition.dynamics import Dynamics
from curate.errors import DivergedError
from curate.proxy.pixels import Pixels, chunked
from curate.proxy.predict import predict
from curate.proxy.training import check_state, is_trained, train_member
from curate.scores import write_scores
from curate.workflows.held_out import HeldOut, Validate, split, validation
from curate.workflows.run import Run

Seen = Callable[[int, int], None]


class _StoppedError(Exception):
    """Another training, or the user, has ended the run; nobody is told."""


def train_seeds(run: Run, pixels: Pixels) -> tuple[int, HeldOut | None]:
    """Trains every seed that is not trained yet, and leaves out those that diverge.

    Returns how many samples were trained on, and what was held out.

    Steps over bags of words are too small to be shared among threads; there each thread trains a seed. What a
    seed comes to does not depend on how many are trained beside it.

    Raises:
        DivergedError: of the last seed that was left.
    """
    train_K, val = split(run, pixels)
    validate = validation(run, val, run.plan)
    todo = [seed for seed in run.seeds if not _is_trained(run, seed)]
    setting = run.setting
    has_small_steps = setting.reads == "words" and setting.device == "cpu" and setting.store != "stream"
    at_once = setting.threads if has_small_steps else 1
    with _threads(setting.threads // at_once):
        for seeds in chunked(todo, at_once):
            _train_together(run, pixels, train_K, seeds, validate)
    return len(train_K), val


def _is_trained(run: Run, seed: int) -> bool:
    if not is_trained(run.folder(seed), run.plan.train):
        return False
    check_state(run.folder(seed))
    return True


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _train_together(
    run: Run, pixels: Pixels, rows_K: NDArray[np.int64], seeds: Sequence[int], validate: Validate | None
) -> None:
    epochs, stop, seen = run.plan.train.epochs, Event(), dict.fromkeys(seeds, 0)
    name = f"train seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"
    run.progress.stage(name, len(seeds) * epochs * len(rows_K), run.setting.unit)

    def train(seed: int) -> None:
        def look(epoch: int, rows: int) -> None:
            if stop.is_set():
                raise _StoppedError
            seen[seed] = epoch * len(rows_K) + rows
            run.progress.at(sum(seen.values()), f"epoch {epoch + 1}/{epochs}")

        _train(run, pixels, rows_K, validate, seed, look)

    for error in _diverged(train, seeds, stop):
        run.exclude(error.seed, error)


def _diverged(train: Callable[[int], None], seeds: Sequence[int], stop: Event) -> Iterator[DivergedError]:
    """Trains seeds side by side, one alone in the caller's thread; yields the errors of those that diverge."""
    if len(seeds) == 1:
        try:
            train(seeds[0])
        except DivergedError as error:
            yield error
        return
    with ThreadPoolExecutor(len(seeds)) as pool:
        try:
            for done in as_completed([pool.submit(train, seed) for seed in seeds]):
                failure = done.exception()
                if isinstance(failure, DivergedError):
                    yield failure
                elif failure:
                    raise failure
        except BaseException:
            stop.set()  # the others end at their next batch; the pool waits for that
            raise


def _train(
    run: Run, pixels: Pixels, rows_K: NDArray[np.int64], validate: Validate | None, seed: int, look: Seen
) -> None:
    dynamics = Dynamics(len(pixels.rows), early_epochs=run.request.recipe.score.early_epochs)

    def on_epoch(epoch: int, model: nn.Module, record: dict[str, Any]) -> None:
        if run.request.recipe.score.trace:
            _trace(run, pixels, model, dynamics, f"seed-{seed:03d}/epoch-{epoch:03d}")
        run.log(event="epoch", seed=seed, **record)

    train_member(
        run.plan, pixels, rows_K, seed=seed, folder=run.folder(seed), progress=look, on_epoch=on_epoch,
        dynamics=dynamics, validate=validate,
    )  # fmt: skip


def _trace(run: Run, pixels: Pixels, model: nn.Module, dynamics: Dynamics, name: str) -> None:
    """Writes entropy of every sample, and whether it is right, on the plain image; and its dynamics so far."""
    model.eval()
    out, batch_size = run.request.out / "trace" / name, run.request.recipe.score.batch_size
    parts = list[tuple[NDArray[Any], ...]]()
    for index, part in predict(run.plan, [(0, model)], pixels, range(len(run.pool.scans)), batch_size=batch_size):
        first, last = pixels.rows.offset_S[index : index + 2].tolist()
        if part:
            entropy_B = ACQUISITIONS["entropy"].function(part.whole)
            parts.append((part.rows_B - first, entropy_B, np.asarray(part.whole.errors_B)))
        elif parts:  # else a shard of bad samples alone
            ordinal_N, entropy_N, errors_N = (np.concatenate(column) for column in zip(*parts, strict=True))
            # Of what has no label nothing is right or wrong.
            correct_N = pa.array(errors_N == 0, mask=run.pool.labels(index)[ordinal_N] < 0)
            columns = {"ordinal": ordinal_N, "entropy": entropy_N, "correct": correct_N}
            so_far = dynamics.of_rows(first, last)
            columns |= {f.__name__: f(so_far)[ordinal_N] for f in (correctness, forgetting, never_learned)}
            write_scores(out, run.pool.scans[index].name, columns)
            parts = []
