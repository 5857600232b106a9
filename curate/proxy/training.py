"""One training run of a proxy, from the first epoch or from the last one that was saved.

Everything random is drawn from (seed, epoch), so a run that is killed and resumed takes the same
steps. State and members are safetensors, renamed into place: nothing read back is executed.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from torch import Tensor, nn

from curate import durable
from curate.acquisition.dynamics import STATE as DYNAMICS_STATE
from curate.acquisition.dynamics import Dynamics
from curate.errors import DivergedError, RunError
from curate.proxy.augment import augmented
from curate.proxy.models import build_model
from curate.proxy.pixels import Pixels
from curate.proxy.plan import Plan, normalised
from curate.proxy.schedule import drops, has_ended, may_be_member, member_epochs, rate_at
from curate.proxy.sealed import load_sealed, read_header, save_sealed
from curate.proxy.step import Shown, Step
from curate.proxy.watch import Watch
from curate.recipe import Train

STATE = "state.safetensors"
MOMENTUM, DYNAMICS = "momentum/", "dynamics/"
LOOK_EVERY = 32  # steps: to look at a loss is to wait for a GPU
SAVE_EVERY = {"cpu": 0.0, "cuda": 5.0}  # seconds: where an epoch takes one, writing its state would take as long


def train_member(
    plan: Plan,
    pixels: Pixels,
    rows_K: NDArray[np.int64],
    *,
    seed: int,
    folder: Path,
    progress: Callable[[int, int], None],
    on_epoch: Callable[[int, nn.Module, dict[str, Any]], None],
    dynamics: Dynamics | None = None,
    validate: Callable[[nn.Module], float] | None = None,
) -> None:
    """Trains one seed on some rows and leaves its members in `folder`; goes on where it stopped.

    Args:
        plan: the network and how to train it.
        pixels: where the rows' pixels come from.
        rows_K: the rows to train on, all labelled.
        seed: of the initialisation, the order and the augmentation.
        folder: `epoch-NNN.safetensors` for each member, and the state of the last epoch.
        progress: called with (epoch, rows seen in it).
        on_epoch: called after each epoch with its number from 1, the network and its record: rows, mean loss,
            accuracy, the last step's rate and, where measured, `val`.
        dynamics: what is told of every epoch, one row for each of the pixels' rows; what was saved with
            the last epoch takes its place first.
        validate: returns the accuracy on held-out samples; asked after each epoch where `plan.train.needs_val`.

    Raises:
        DivergedError: the loss is not finite.
        RunError: training is to be steered by an accuracy that nobody measures.
        ScoreError: the state of the last epoch holds no dynamics, or those of another pool.
    """
    folder.mkdir(parents=True, exist_ok=True)
    durable.remove_leftovers(folder)
    train = plan.train
    if train.needs_val and validate is None:
        raise RunError("Training is steered by held-out samples, and there are none.", hint="Give --val.")
    model = build_model(plan.spec, seed=seed).to(plan.device)
    optimizer = build_optimizer(model, train)
    history = _resume(folder / STATE, model, optimizer, dynamics)
    watch = Watch(model) if dynamics is not None else None
    step = Step(plan, model, optimizer, watch)
    saved = time.monotonic()
    while not has_ended(len(history), _val(history), train):
        model.train()
        record = _epoch(plan, step, pixels, rows_K, seed=seed, history=history, progress=progress, watch=watch)
        if dynamics is not None and watch is not None:
            dynamics.add_epoch(*watch.finish())
        if train.needs_val and validate is not None:
            record["val"] = validate(model.eval())
        history.append(record)
        epoch = len(history)
        on_epoch(epoch, model, record)
        if may_be_member(epoch, epoch, _val(history), train):
            save_member(member_path(folder, epoch), model, plan, seed=seed, epoch=epoch)
        if has_ended(epoch, _val(history), train) or time.monotonic() - saved >= SAVE_EVERY[plan.kind]:
            _save_state(folder / STATE, model, optimizer, history, dynamics)
            saved = time.monotonic()
            # Not before: a run that is killed goes on from the state, and its members may turn out others.
            _keep_members(folder, [e for e in range(1, epoch + 1) if may_be_member(e, epoch, _val(history), train)])


def check_state(folder: Path) -> None:
    """Raises RunError where a seed's saved state is not what was written."""
    load_sealed(folder / STATE, must=False)


def is_trained(folder: Path, train: Train) -> bool:
    """Says whether a seed's training is over."""
    history = history_of(folder)
    return has_ended(len(history), _val(history), train)


def settled_members(folder: Path, train: Train) -> list[int]:
    """Returns the epochs whose checkpoints are a trained seed's members; those kept in case are removed."""
    history = history_of(folder)
    epochs = member_epochs(len(history), _val(history), train)
    _keep_members(folder, epochs)
    return epochs


def _val(history: list[dict[str, Any]]) -> list[float]:
    return [record["val"] for record in history if "val" in record]


def _keep_members(folder: Path, epochs: Sequence[int]) -> None:
    for path in folder.glob("epoch-*.safetensors"):
        if int(path.stem.removeprefix("epoch-")) not in epochs:
            path.unlink()


def member_path(folder: Path, epoch: int) -> Path:
    """Returns where a member of a seed's folder lies."""
    return folder / f"epoch-{epoch:03d}.safetensors"


def history_of(folder: Path) -> list[dict[str, Any]]:
    """Returns the record of every finished epoch of a seed."""
    path = folder / STATE
    if not path.exists():
        return []
    try:
        history: list[dict[str, Any]] = json.loads(read_header(path)["history"])
    except (KeyError, ValueError) as error:
        raise RunError(f"{path}: damaged ({error}).", hint="Delete its folder and score again.") from error
    return history


def dynamics_of(folder: Path, first: int, last: int) -> Dynamics:
    """Returns the dynamics of the rows from `first` up to `last` that a seed's training has saved.

    Raises:
        ScoreError: there are none.
    """
    dynamics = Dynamics(last - first)
    with safe_open(folder / STATE, "numpy") as file:
        names = {name.removeprefix(DYNAMICS) for name in file.keys() if name.startswith(DYNAMICS)}  # noqa: SIM118  (no dict)
        state = {name: file.get_slice(DYNAMICS + name)[first:last] for name in names & set(DYNAMICS_STATE)}
        if "clock" in names:
            state["clock"] = file.get_tensor(DYNAMICS + "clock")
    dynamics.restore(state)
    return dynamics


def build_optimizer(model: nn.Module, train: Train) -> torch.optim.SGD:
    """Returns SGD; biases and norm weights are not decayed (He et al. 2019, Bag of Tricks, 3.1).

    Nor are tables of which a step touches a few rows: momentum and decay would touch all of them.
    """
    sparse = [m.weight for m in model.modules() if isinstance(m, nn.EmbeddingBag) and m.sparse]
    rows = {id(p) for p in sparse}
    decayed = [p for p in model.parameters() if p.ndim > 1 and id(p) not in rows]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": train.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    if sparse:
        groups.append({"params": sparse, "weight_decay": 0.0, "momentum": 0.0, "nesterov": False})
    fused = not sparse and next(model.parameters()).is_cuda
    return torch.optim.SGD(groups, lr=train.rate, momentum=train.momentum, nesterov=train.nesterov, fused=fused or None)


def _epoch(
    plan: Plan,
    step: Step,
    pixels: Pixels,
    rows_K: NDArray[np.int64],
    *,
    seed: int,
    history: list[dict[str, Any]],
    progress: Callable[[int, int], None],
    watch: Watch | None,
) -> dict[str, Any]:
    epoch, dropped = len(history), drops(_val(history), plan.train)
    draw = np.random.default_rng([plan.train.seed, seed, epoch, 1])
    tally, seen, rate = _Tally(), 0, 0.0
    for rows_B, pixels_B in pixels.epoch(
        rows_K, batch_size=plan.train.batch_size, seed=(plan.train.seed, seed, epoch, 0)
    ):
        label_B = pixels.rows.labels_on(plan.device, rows_B)
        inputs = normalised(augmented(pixels_B.to(plan.device, non_blocking=True), plan.augment, draw), plan)
        rate = rate_at(epoch + seen / len(rows_K), plan.train, dropped=dropped)
        shown = step(inputs, label_B, rate)
        if watch is not None and shown.watched is not None:
            watch.add(rows_B, shown.watched)
        tally.add(rows_B, shown)
        seen += len(rows_B)
        if len(tally) == LOOK_EVERY and (wrong := tally.look()) is not None:
            raise _diverged(pixels, wrong, seed=seed, epoch=epoch)
        progress(epoch, seen)
    if (wrong := tally.look()) is not None:
        raise _diverged(pixels, wrong, seed=seed, epoch=epoch)
    size = max(1, seen)
    return {"epoch": epoch + 1, "rows": seen, "loss": tally.loss / size, "accuracy": tally.hits / size, "rate": rate}


class _Tally:
    """Sums of an epoch, brought from the device some steps at a time."""

    def __init__(self) -> None:
        self.loss, self.hits = 0.0, 0
        self._steps: list[tuple[NDArray[np.int64], Shown]] = []

    def __len__(self) -> int:
        return len(self._steps)

    def add(self, rows_B: NDArray[np.int64], shown: Shown) -> None:
        self._steps.append((rows_B, shown))

    def look(self) -> NDArray[np.int64] | None:
        """Takes in the steps since the last look; returns the rows of the first whose loss is not finite."""
        steps, self._steps = self._steps, []
        if not steps:
            return None
        losses = torch.stack([shown.loss for _, shown in steps]).tolist()
        self.hits += int(torch.stack([shown.hits for _, shown in steps]).sum())
        for (rows_B, _), loss in zip(steps, losses, strict=True):
            if not np.isfinite(loss):
                return rows_B
            self.loss += loss * len(rows_B)
        return None


def _diverged(pixels: Pixels, rows_B: NDArray[np.int64], *, seed: int, epoch: int) -> DivergedError:
    row = int(rows_B[0])
    shard = pixels.rows.shard_of(row)
    return DivergedError(
        f"The loss of seed {seed} is not finite in epoch {epoch + 1}, in the batch that begins with sample "
        f"{row - int(pixels.rows.offset_S[shard])} of {pixels.rows.shards[shard].name}.",
        seed=seed,
    )


def _resume(
    path: Path, model: nn.Module, optimizer: torch.optim.SGD, dynamics: Dynamics | None
) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    state, _ = load_sealed(path, must=False)
    model.load_state_dict({name: state[name] for name in state if not name.startswith((MOMENTUM, DYNAMICS))})
    for name, parameter in model.named_parameters():
        if (momentum := state.get(MOMENTUM + name)) is not None:
            buffer = torch.empty_like(parameter)
            buffer.copy_(momentum)
            optimizer.state[parameter]["momentum_buffer"] = buffer
    if dynamics is not None:
        saved = {name: tensor.numpy() for name, tensor in state.items() if name.startswith(DYNAMICS)}
        dynamics.restore({name.removeprefix(DYNAMICS): array for name, array in saved.items()})
    return history_of(path.parent)


def _save_state(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.SGD,
    history: list[dict[str, Any]],
    dynamics: Dynamics | None,
) -> None:
    tensors = dict(_plain(model))
    if dynamics is not None:
        tensors |= {DYNAMICS + name: torch.from_numpy(array) for name, array in dynamics.state().items()}
    for name, parameter in model.named_parameters():
        buffer = optimizer.state[parameter].get("momentum_buffer")
        if buffer is not None:
            tensors[MOMENTUM + name] = buffer.detach().cpu().contiguous()
    save_sealed(path, tensors, {"history": json.dumps(history)})


def save_member(path: Path, model: nn.Module, plan: Plan, *, seed: int, epoch: int) -> None:
    """Writes a member: its weights, and in the header all that is needed to build it again."""
    about = {"spec": asdict(plan.spec), "seed": seed, "epoch": epoch, "mean": plan.mean, "std": plan.std}
    save_sealed(path, dict(_plain(model)), {"curate": json.dumps(about, sort_keys=True)})


def _plain(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    return ((name, tensor.detach().cpu().contiguous()) for name, tensor in model.state_dict().items())
