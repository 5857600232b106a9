import numpy as np
import pytest
import torch

from curate.acquisition import ensemble_of
from curate.errors import UsageError
from curate.proxy import PROXIES
from curate.proxy.augment import augmented
from curate.proxy.models import ModelSpec, adapt_stem, build_model, forward_flops, parameter_count, stem_for
from curate.proxy.predict import VoteSums
from curate.proxy.schedule import best_epoch, drops, has_ended, may_be_member, member_epochs, rate_at
from curate.recipe import Augment, Train


@pytest.mark.parametrize("name", [name for name, row in PROXIES.items() if row.reads == "images"])
def test_every_proxy_takes_small_images_of_one_channel(name: str) -> None:
    model = build_model(ModelSpec(name, 7, 1, 16, "small"), seed=0).eval()
    with torch.inference_mode():
        assert model(torch.zeros(2, 1, 16, 16)).shape == (2, 7)


@pytest.mark.parametrize(
    ("name", "millions", "megaflops"),
    [
        ("preact_resnet20", 0.27, 41), ("preact_resnet32", 0.46, 69), ("preact_resnet44", 0.66, 98),
        ("preact_resnet56", 0.86, 127), ("preact_resnet110", 1.73, 255), ("preact_resnet164", 1.70, 248),
        ("resnet10", 4.90, 253), ("resnet18", 11.17, 556), ("convnet3", 1.98, 152),
    ],
)  # fmt: skip
def test_parameters_and_multiply_adds_are_the_published_ones(name: str, millions: float, megaflops: float) -> None:
    spec = ModelSpec(name, 10, 3, 32, "small")
    assert parameter_count(build_model(spec, seed=0)) / 1e6 == pytest.approx(millions, abs=0.01)
    assert forward_flops(spec) / 2e6 == pytest.approx(megaflops, rel=0.01)


@pytest.mark.parametrize(
    "name", ["preact_resnet20", "preact_resnet164", "resnet10", "resnet18", "resnet50", "convnet3"]
)
def test_narrowing_by_half_takes_about_three_quarters_of_the_weights(name: str) -> None:
    whole, half = (build_model(ModelSpec(name, 10, 3, 32, "small", width=width), seed=0) for width in (1.0, 0.5))
    assert parameter_count(half) / parameter_count(whole) == pytest.approx(0.25, abs=0.02)
    with torch.inference_mode():
        assert half.eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 10)


def test_a_network_without_a_width_is_refused_one() -> None:
    with pytest.raises(UsageError, match="no width to change") as caught:
        build_model(ModelSpec("mobilenetv3_small_050", 10, 3, 32, "small", width=0.5), seed=0)
    assert "preact_resnet20" in str(caught.value.hint)


def test_timm_knows_the_networks_by_name() -> None:
    import timm

    assert set(PROXIES) <= set(timm.list_models())


def test_the_stem_is_adapted_up_to_64_px() -> None:
    import timm

    assert [stem_for("auto", px) for px in (32, 64, 65)] == ["small", "small", "native"]
    assert adapt_stem(timm.create_model("resnet18")) == ["conv1: 7x7/2 -> 3x3/1", "maxpool: removed"]
    assert adapt_stem(timm.create_model("vit_tiny_patch16_224")) == []


def test_the_same_seed_gives_the_same_network() -> None:
    spec = ModelSpec("preact_resnet20", 4, 3, 8, "small")
    one, two, other = (build_model(spec, seed=seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


def test_sums_on_the_device_are_those_of_the_reference() -> None:
    generator = torch.Generator().manual_seed(0)
    logits_MBC = 4 * torch.randn(6, 50, 5, generator=generator)
    labels = np.arange(50, dtype=np.int32) % 6 - 1
    sums = VoteSums.empty(50, 5, "cpu")
    for logits_BC in logits_MBC:
        sums.add(logits_BC)
    ours = sums.ensemble(labels)
    reference = ensemble_of(logits_MBC.double().softmax(2).numpy(), labels)
    assert np.allclose(ours.mean_probs_BC, reference.mean_probs_BC, atol=1e-12)
    assert np.allclose(ours.mean_entropy_B, reference.mean_entropy_B, atol=1e-12)
    assert np.array_equal(ours.votes_BC, reference.votes_BC)
    assert np.array_equal(ours.errors_B, reference.errors_B)


def test_certain_logits_have_no_entropy_and_no_nan() -> None:
    sums = VoteSums.empty(1, 3, "cpu")
    sums.add(torch.tensor([[1000.0, -1000.0, 0.0]]))
    assert sums.ensemble(np.array([0], np.int32)).mean_entropy_B.tolist() == [0.0]


def test_checkpoints_are_taken_at_a_constant_rate() -> None:
    for schedule in ("cosine", "onecycle", "constant"):
        train = Train(epochs=10, checkpoints=4, schedule=schedule)
        assert member_epochs(10, (), train) == [7, 8, 9, 10]
        assert len({round(rate_at(epoch, train), 9) for epoch in (6, 6.5, 8, 9.9, 10)}) == 1
    assert rate_at(10, Train(epochs=10, checkpoints=1)) == pytest.approx(0, abs=1e-9)
    assert rate_at(1.0, Train(epochs=10)) == pytest.approx(0.1)


def test_a_step_schedule_drops_at_its_milestones() -> None:
    train = Train(epochs=10, checkpoints=1, schedule="step", milestones=(4, 8), warmup_epochs=0)
    assert [rate_at(e, train) for e in (0, 3.9, 4, 8)] == pytest.approx([0.1, 0.1, 0.01, 0.001])


def test_checkpoints_have_a_stride() -> None:
    paper = Train(epochs=150, checkpoints=5, checkpoint_every=5, schedule="step", milestones=(70, 130))
    assert member_epochs(150, (), paper) == [130, 135, 140, 145, 150]
    assert [e for e in range(1, 151) if may_be_member(e, e, (), paper)] == [130, 135, 140, 145, 150]


VAL = [0.1, 0.3, 0.2, 0.3, 0.25, 0.4, 0.4, 0.39, 0.1, 0.2, 0.3]


def test_patience_lowers_the_rate_and_then_ends_training() -> None:
    train = Train(epochs=40, checkpoints=1, schedule="patience", patience=2, stop_after=5, warmup_epochs=0)
    # Epoch 2 is best, 3 and 4 are no better (one drop); 6 is best, then two drops at 8 and 10; 11 is five without.
    assert [drops(VAL[:n], train) for n in range(12)] == [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 3, 3]
    assert [n for n in range(12) if has_ended(n, VAL[:n], train)] == [11]
    assert best_epoch(VAL) == 6
    assert [rate_at(3.5, train, dropped=n) for n in (0, 2)] == pytest.approx([0.1, 0.001])
    assert has_ended(40, [], train.model_copy(update={"stop_after": 0}))


def test_the_rate_does_not_drop_among_the_checkpoints() -> None:
    train = Train(epochs=10, checkpoints=3, checkpoint_every=2, schedule="patience", patience=2)
    assert drops([0.5] * 10, train) == 2, "after epochs 3 and 5; the stage of the checkpoints begins after epoch 5"


def test_members_are_those_before_the_end_whenever_it_comes_or_the_best() -> None:
    train = Train(epochs=40, checkpoints=3, checkpoint_every=2, schedule="constant", stop_after=5)
    kept = [e for e in range(1, 12) if may_be_member(e, 11, VAL, train)]
    assert kept == [7, 8, 9, 10, 11]
    assert member_epochs(11, VAL, train) == [7, 9, 11]
    best = train.model_copy(update={"checkpoints": 1, "member": "best"})
    assert member_epochs(11, VAL, best) == [6] == [e for e in range(1, 12) if may_be_member(e, 11, VAL, best)]


def test_augmentation_moves_and_mirrors_whole_images() -> None:
    pixels = torch.zeros((200, 6, 6, 1), dtype=torch.uint8)
    pixels[:, 2, 1] = 255
    out = augmented(pixels, Augment(flip=True, translate_px=1), np.random.default_rng(0)).numpy()
    places = {tuple(np.argwhere(image[..., 0])[0].tolist()) for image in out}
    assert places == {(r, c) for r in (1, 2, 3) for c in (0, 1, 2, 3, 4, 5) if c in (0, 1, 2) or c in (3, 4, 5)}
    assert (out.reshape(200, -1).sum(1) == 255).all()
    same = augmented(pixels, Augment(flip=False, translate_px=0), np.random.default_rng(0))
    assert torch.equal(same, pixels)


def test_augmentation_is_the_plain_one_image_by_image() -> None:
    pixels = np.random.default_rng(3).integers(0, 256, (40, 7, 7, 3), dtype=np.uint8)
    out = augmented(torch.from_numpy(pixels), Augment(flip=True, translate_px=2), np.random.default_rng(5)).numpy()
    draw = np.random.default_rng(5)
    top_B, left_B = draw.integers(0, 5, (40,)), draw.integers(0, 5, (40,))
    flipped_B = draw.random((40,)) < 0.5
    for image, found, top, left, is_flipped in zip(pixels, out, top_B, left_B, flipped_B, strict=True):
        moved = np.pad(image, ((2, 2), (2, 2), (0, 0)))[top : top + 7, left : left + 7]
        assert np.array_equal(found, moved[:, ::-1] if is_flipped else moved)


@pytest.mark.parametrize("side", [1, 2, 3, 4])
def test_cutout_is_a_black_square_of_its_side(side: int) -> None:
    pixels = torch.full((300, 9, 9, 1), 7, dtype=torch.uint8)
    out = augmented(pixels, Augment(flip=False, translate_px=0, cutout_px=side), np.random.default_rng(1))
    assert (out == 0).reshape(300, -1).sum(1).max() == side * side
    assert (pixels == 7).all()
