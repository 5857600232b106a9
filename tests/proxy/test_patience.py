"""Training that is steered by held-out samples: killed in the middle, it ends with the same bytes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_watch import FixedPixels

from curate.errors import RunError
from curate.proxy.models import ModelSpec
from curate.proxy.plan import Plan
from curate.proxy.sealed import load_sealed, save_sealed
from curate.proxy.training import SAVE_EVERY, history_of, is_trained, member_path, settled_members, train_member
from curate.recipe import Augment, Train

VAL = [0.1, 0.5, 0.2, 0.3, 0.4, 0.45, 0.1, 0.9]
STEERED = Train(epochs=9, checkpoints=1, batch_size=5, schedule="patience", patience=2, stop_after=4, warmup_epochs=0)


def plan_of(settings: Train) -> Plan:
    return Plan(
        ModelSpec("preact_resnet20", 3, 3, 8, "small"), settings, Augment(flip=False, translate_px=0),
        (0.5,) * 3, (0.25,) * 3, False, "cpu",
    )  # fmt: skip


def train(folder: Path, settings: Train, *, stop_at: Sequence[int] = (), val: Sequence[float] = VAL) -> None:
    """Trains up to the end, killed after some epochs before their state is saved."""

    def on_epoch(epoch: int, model: Any, record: dict[str, Any]) -> None:
        if epoch in stops:
            stops.remove(epoch)
            raise KeyboardInterrupt

    stops = list(stop_at)
    while not is_trained(folder, settings):
        try:
            train_member(
                plan_of(settings), FixedPixels("rising"), np.arange(2, 12), seed=0, folder=folder,
                progress=lambda epoch, seen: None, on_epoch=on_epoch,
                validate=lambda model: val[len(history_of(folder))],
            )  # fmt: skip
        except KeyboardInterrupt:
            continue


@pytest.mark.parametrize("member", ["last", "best"])
def test_a_killed_training_keeps_its_patience(tmp_path: Path, member: str) -> None:
    settings = STEERED.model_copy(update={"member": member})
    train(tmp_path / "whole", settings)
    train(tmp_path / "parts", settings, stop_at=[3, 4, 6])
    assert settled_members(tmp_path / "whole", settings) == [6 if member == "last" else 2]
    files = [sorted((tmp_path / name).iterdir()) for name in ("whole", "parts")]
    assert [path.name for path in files[0]] == [path.name for path in files[1]]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(*files, strict=True))
    assert [record["val"] for record in history_of(tmp_path / "parts")] == VAL[:6]


def test_a_training_killed_between_two_saves_has_its_members_whatever_the_second_try_finds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Epoch 4 is the best so far and is never saved with its state; on the second try it is not the best."""
    settings = STEERED.model_copy(update={"member": "best", "epochs": 6, "stop_after": 0})

    def on_epoch(epoch: int, model: Any, record: dict[str, Any]) -> None:
        if tries == 1:
            monkeypatch.setitem(SAVE_EVERY, "cpu", 0.0 if epoch < 4 else 1e9)
            if epoch == 5:
                raise KeyboardInterrupt

    def go(val_E: list[float]) -> None:
        val = iter(val_E)
        train_member(
            plan_of(settings), FixedPixels("rising"), np.arange(2, 12), seed=0, folder=tmp_path,
            progress=lambda epoch, seen: None, on_epoch=on_epoch, validate=lambda model: next(val),
        )  # fmt: skip

    tries = 1
    with pytest.raises(KeyboardInterrupt):
        go([0.1, 0.5, 0.2, 0.9, 0.3])
    assert len(history_of(tmp_path)) == 3
    tries = 2
    go([0.4, 0.3, 0.2])
    assert settled_members(tmp_path, settings) == [2]
    assert sorted(tmp_path.glob("epoch-*")) == [member_path(tmp_path, 2)]


def test_the_rate_drops_when_accuracy_does_not_rise(tmp_path: Path) -> None:
    rising = np.linspace(0, 1, 9).tolist()
    train(tmp_path / "rising", STEERED.model_copy(update={"epochs": 5, "stop_after": 0}), val=rising)
    train(tmp_path / "stalled", STEERED.model_copy(update={"epochs": 5, "stop_after": 0}))
    rising_E, stalled_E = ([r["loss"] for r in history_of(tmp_path / name)] for name in ("rising", "stalled"))
    assert rising_E[:4] == stalled_E[:4]
    assert rising_E[4] != stalled_E[4]


def test_checkpoints_are_the_last_ones_wherever_training_ended(tmp_path: Path) -> None:
    update = {"schedule": "constant", "checkpoints": 2, "checkpoint_every": 2, "stop_after": 3}
    settings = STEERED.model_copy(update=update)
    train(tmp_path, settings)
    assert settled_members(tmp_path, settings) == [3, 5]
    assert sorted(tmp_path.glob("epoch-*")) == [member_path(tmp_path, 3), member_path(tmp_path, 5)]


def test_patience_without_held_out_samples_is_refused(tmp_path: Path) -> None:
    plan = Plan(ModelSpec("preact_resnet20", 3, 3, 8, "small"), STEERED, Augment(), (0.5,), (0.25,), False, "cpu")
    with pytest.raises(RunError, match="held-out"):
        train_member(
            plan, FixedPixels("rising"), np.arange(2, 12), seed=0, folder=tmp_path,
            progress=lambda epoch, seen: None, on_epoch=lambda epoch, model, record: None,
        )  # fmt: skip


def test_equal_checkpoints_are_equal_files(tmp_path: Path) -> None:
    tensors = {name: torch.arange(7, dtype=torch.float32) for name in ("b", "a")}
    for number in range(20):
        save_sealed(tmp_path / str(number), tensors, {"epoch": "é", "about": "x"})
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1
    read, metadata = load_sealed(tmp_path / "0")
    assert torch.equal(read["a"], tensors["a"])
    assert (metadata["epoch"], metadata["about"]) == ("é", "x")
