"""What training shows of each sample: worked values, the network's own gradient, and whose it is."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from curate.acquisition.difficulty import el2n, forgetting, grand
from curate.acquisition.dynamics import Dynamics
from curate.proxy.models import ModelSpec, build_model
from curate.proxy.pixels import Rows, Shape
from curate.proxy.plan import Plan
from curate.proxy.training import dynamics_of, train_member
from curate.proxy.watch import Watch, presented
from curate.recipe import Augment, Train

FIELDS = ("correct", "probability", "margin", "loss", "el2n", "grand")


def shown(logits, labels, gradient=None):
    values = presented(torch.tensor(logits), torch.tensor(labels), gradient)
    return dict(zip(FIELDS, values.tolist(), strict=True))


def test_worked_values():
    values = shown([[2.0, 1, 0], [0, 0, 0], [5, -5, -5]], [0, 1, 1])
    assert values["el2n"] == pytest.approx([0.424336124, 0.816496581, 1.414117264], abs=1e-6)
    assert shown([[2.0, 1, 0], [1, 3, 0], [4, 1, 2]], [0, 0, 0])["margin"] == pytest.approx([1, -2, 2], abs=1e-6)
    assert values["correct"] == [1, 0, 0]  # of equal logits the lowest class counts
    assert np.exp(-np.array(values["loss"])) == pytest.approx(values["probability"])
    assert values["probability"] == pytest.approx([0.665240956, 1 / 3, 4.5398e-5], abs=1e-6)
    assert np.isnan(values["grand"]).all()


def test_grand_of_the_last_layer_of_worked_values():
    features = torch.tensor([[1.0, 2], [0, 1], [3, 4]])
    logits = [[2.0, 1, 0], [0, 0, 0], [5, -5, -5]]
    for bias, expected in ((1, [1.039406984, 1.154700538, 7.210611526]), (0, [0.948844419, 0.816496581, 7.070586322])):
        values = shown(logits, [0, 1, 1], (bias + features.square().sum(1)).sqrt())
        assert values["grand"] == pytest.approx(expected, abs=1e-5)


def test_large_logits_are_finite():
    values = shown([[1000.0, -1000, 0], [-1000, 1000, 0]], [0, 0])
    assert values["loss"] == [0, 2000]
    assert values["el2n"] == pytest.approx([0, 2**0.5])
    assert values["margin"] == [1000, -2000]


@pytest.mark.parametrize("name", ["preact_resnet20", "resnet18", "mobilenetv3_small_050"])
def test_grand_is_the_norm_of_the_gradient_that_the_last_layer_gets(name):
    model = build_model(ModelSpec(name, 5, 3, 32, "small"), seed=0).train()
    watch = Watch(model)
    label_B = torch.tensor([1, 4, 0])
    logits_BC = model(torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    watch.add(np.array([7, 3, 5]), watch.look(logits_BC, label_B))
    norms = []
    for place in range(3):
        loss = functional.cross_entropy(logits_BC[place : place + 1], label_B[place : place + 1])
        gradients = torch.autograd.grad(loss, list(model.get_classifier().parameters()), retain_graph=True)
        norms.append(float(torch.cat([gradient.flatten() for gradient in gradients]).norm()))
    rows_K, values = watch.finish()
    assert rows_K.tolist() == [7, 3, 5]
    assert values.grand_K == pytest.approx(norms, rel=1e-4)


def test_a_network_of_several_classifiers_has_no_grand():
    model = build_model(ModelSpec("levit_128s", 5, 3, 224, "native"), seed=0).train()
    watch = Watch(model)
    watch.add(np.array([0, 1]), watch.look(model(torch.zeros(2, 3, 224, 224)), torch.tensor([0, 1])))
    values = watch.finish()[1]
    assert np.isnan(values.grand_K).all()
    assert np.isfinite(values.el2n_K).all()


class FixedPixels:
    """Twelve images in memory, presented in an order that the test chooses."""

    shape, bad = Shape(8, 3), []

    def __init__(self, order: str) -> None:
        label_N = np.arange(12, dtype=np.int32) % 3
        zero = np.zeros(12, np.int64)
        self.rows = Rows((), np.array([0, 12]), zero, zero, label_N, np.zeros(12, np.bool_))
        noise = np.random.default_rng(0).integers(0, 60, (12, 8, 8, 3))
        self.pixels = (noise + 60 * label_N[:, None, None, None]).astype(np.uint8)
        self.order = order

    def epoch(self, rows_K, *, batch_size, seed):
        order_K = rows_K if self.order == "rising" else rows_K[::-1]
        for at in range(0, len(order_K), batch_size):
            yield order_K[at : at + batch_size], torch.from_numpy(self.pixels[order_K[at : at + batch_size]])


def train(
    folder: Path, *, epochs: int, order: str = "rising", batch_size: int = 12, smoothing: float = 0.0
) -> Dynamics:
    train = Train(epochs=epochs, checkpoints=1, batch_size=batch_size, schedule="constant", label_smoothing=smoothing)
    augment = Augment(flip=False, translate_px=0)
    plan = Plan(ModelSpec("preact_resnet20", 3, 3, 8, "small"), train, augment, (0.5,) * 3, (0.25,) * 3, False, "cpu")
    dynamics = Dynamics(12)
    rows_K = np.arange(2, 12)  # the first two are held out
    train_member(
        plan, FixedPixels(order), rows_K, seed=0, folder=folder, progress=lambda epoch, seen: None,
        on_epoch=lambda epoch, model, record: None, dynamics=dynamics,
    )  # fmt: skip
    return dynamics


def test_values_belong_to_rows_and_not_to_places_in_a_batch(tmp_path: Path) -> None:
    """One batch holds everything, so that its order cannot change what it shows beyond rounding."""
    rising, falling = (train(tmp_path / order, epochs=1, order=order) for order in ("rising", "falling"))
    assert el2n(rising)[2:] == pytest.approx(el2n(falling)[2:], rel=1e-4)
    assert el2n(rising)[2:] != pytest.approx(el2n(falling)[:1:-1], rel=1e-2)
    assert np.isnan(el2n(rising)[:2]).all()


def test_a_resumed_training_has_the_dynamics_of_one_that_was_not(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole", epochs=4, batch_size=4)
    train(tmp_path / "parts", epochs=2, batch_size=4)
    parts = train(tmp_path / "parts", epochs=4, batch_size=4)
    for name, array in whole.state().items():
        assert np.array_equal(parts.state()[name], array), name
    read = dynamics_of(tmp_path / "whole", 1, 7)
    assert np.array_equal(forgetting(read), forgetting(whole)[1:7], equal_nan=True)
    assert (read.size, read.epochs) == (6, 4)


def test_the_first_epoch_is_measured_before_it_is_learned_from_and_against_the_plain_label(tmp_path: Path) -> None:
    plain, smooth = (train(tmp_path / str(s), epochs=1, smoothing=s) for s in (0.0, 0.3))
    for name in ("loss_sum", "el2n_sum", "grand_sum"):
        assert np.array_equal(plain.rows[name], smooth.rows[name])
    assert (grand(plain)[2:] > el2n(plain)[2:]).all()


def test_training_is_the_same_whether_it_is_watched_or_not(tmp_path: Path) -> None:
    from curate.proxy.training import history_of, member_path

    train(tmp_path / "watched", epochs=2, batch_size=4)
    plan = Plan(
        ModelSpec("preact_resnet20", 3, 3, 8, "small"),
        Train(epochs=2, checkpoints=1, batch_size=4, schedule="constant"),
        Augment(flip=False, translate_px=0), (0.5,) * 3, (0.25,) * 3, False, "cpu",
    )  # fmt: skip
    train_member(
        plan, FixedPixels("rising"), np.arange(2, 12), seed=0, folder=tmp_path / "plain",
        progress=lambda epoch, seen: None, on_epoch=lambda epoch, model, record: None,
    )  # fmt: skip
    assert history_of(tmp_path / "watched") == history_of(tmp_path / "plain")
    assert member_path(tmp_path / "watched", 2).read_bytes() == member_path(tmp_path / "plain", 2).read_bytes()
