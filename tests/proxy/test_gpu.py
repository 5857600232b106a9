"""What a GPU does differently is faster, not other: recorded steps, resident pixels, scores."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import everything, png, write_tar

from curate.acquisition.dynamics import Dynamics
from curate.cli import run
from curate.manifest.lines import manifest_digest
from curate.pool.index import Pool, build_index
from curate.pool.labels import LabelSource
from curate.proxy import step
from curate.proxy.augment import augmented
from curate.proxy.device import make_repeatable
from curate.proxy.models import ModelSpec, build_model
from curate.proxy.pixels import Shape, StoredPixels
from curate.proxy.plan import Plan
from curate.proxy.predict import measured, predict
from curate.proxy.products import TorchKernel
from curate.proxy.training import SAVE_EVERY, history_of, train_member
from curate.recipe import Augment, Train
from curate.selection.k_centers import k_centers

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here"),
    pytest.mark.filterwarnings("default"),  # of another torch than the one that is required
]
SAMPLES, SIDE = 300, 16


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    folder = tmp_path_factory.mktemp("pool")
    colours = [(220, 30, 30), (30, 200, 40), (40, 60, 220)]
    members = []
    for n in range(SAMPLES):
        members += [(f"{n:04d}.png", png(colours[n % 3], n, SIDE)), (f"{n:04d}.cls", str(n % 3).encode())]
    write_tar(folder / "train-0000.tar", members)
    return build_index([str(folder)], tmp_path_factory.mktemp("index"), LabelSource())


@pytest.fixture(autouse=True)
def repeatable() -> None:
    make_repeatable()


def stored(pool: Pool, device: str) -> StoredPixels:
    pixels = StoredPixels(pool, Shape(SIDE, 3), folder=None, threads=2, device=device)
    pixels.build(lambda done, name: None)
    return pixels


def plan_of(device: str, *, name: str = "preact_resnet20", epochs: int = 4, is_bf16: bool = True) -> Plan:
    train = Train(epochs=epochs, checkpoints=2, batch_size=32, rate=0.05)
    spec = ModelSpec(name, 3, 3, SIDE, "small")
    return Plan(spec, train, Augment(), (0.5,) * 3, (0.25,) * 3, is_bf16, device)


def trained(
    plan: Plan, pixels: StoredPixels, folder: Path, on_epoch: Callable[[int], None] = lambda epoch: None
) -> Dynamics:
    dynamics = Dynamics(SAMPLES)
    train_member(
        plan, pixels, np.arange(SAMPLES), seed=0, folder=folder, progress=lambda epoch, seen: None,
        on_epoch=lambda epoch, model, record: on_epoch(epoch), dynamics=dynamics,
    )  # fmt: skip
    return dynamics


def test_pixels_that_lie_on_the_gpu_are_those_in_memory(pool: Pool) -> None:
    rows = np.array([0, 299, 17])
    resident = stored(pool, "cuda").take(rows)
    assert resident.is_cuda
    assert torch.equal(resident.cpu(), stored(pool, "cpu").take(rows))


def test_augmentation_draws_the_same_on_both(pool: Pool) -> None:
    pixels = stored(pool, "cpu").take(np.arange(SAMPLES))
    augment = Augment(flip=True, translate_px=3, cutout_px=5)
    here, there = (augmented(pixels.to(device), augment, np.random.default_rng(1)) for device in ("cpu", "cuda"))
    assert torch.equal(here, there.cpu())


@pytest.mark.parametrize("name", ["preact_resnet20", "convnet3", "resnet18"])
def test_a_training_that_was_killed_ends_with_the_same_bytes(
    pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setitem(SAVE_EVERY, "cuda", 0.0)
    plan, pixels = plan_of("cuda", name=name), stored(pool, "cuda")
    whole = trained(plan, pixels, tmp_path / "whole")

    def kill(epoch: int) -> None:
        if epoch == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(plan, pixels, tmp_path / "parts", kill)
    assert len(history_of(tmp_path / "parts")) == 2
    parts = trained(plan, pixels, tmp_path / "parts")
    assert everything(tmp_path / "parts") == everything(tmp_path / "whole")
    assert all(np.array_equal(whole.rows[key], parts.rows[key], equal_nan=True) for key in whole.rows)


def test_recorded_steps_are_the_steps_one_by_one(pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, pixels = plan_of("cuda"), stored(pool, "cuda")
    recorded = list[bool]()
    record = step.Step._record
    monkeypatch.setattr(
        step.Step, "_record", lambda *words: recorded.append((found := record(*words)) is not None) or found
    )
    trained(plan, pixels, tmp_path / "recorded")
    assert recorded == [True]
    monkeypatch.setattr(step, "WARM_UP", 1 << 60)
    trained(plan, pixels, tmp_path / "plain")
    assert history_of(tmp_path / "plain") == history_of(tmp_path / "recorded")
    assert everything(tmp_path / "plain") == everything(tmp_path / "recorded")


def test_a_network_that_cannot_be_recorded_trains_all_the_same(
    pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def looking(spec: ModelSpec, *, seed: int) -> torch.nn.Module:
        model = build_model(spec, seed=seed)
        model.register_forward_pre_hook(lambda _, inputs: float(inputs[0].sum()) and None)
        # Numbers are drawn also after a recording that failed; they change nothing.
        model.register_forward_hook(lambda network, _, logits: logits + 0 * torch.rand_like(logits))
        return model

    plan, pixels = plan_of("cuda"), stored(pool, "cuda")
    trained(plan, pixels, tmp_path / "plain")
    monkeypatch.setattr("curate.proxy.training.build_model", looking)
    trained(plan, pixels, tmp_path / "looking")
    assert history_of(tmp_path / "plain") == history_of(tmp_path / "looking")


def test_training_and_scores_agree_with_the_processor(pool: Pool, tmp_path: Path) -> None:
    seen = {}
    for device in ("cpu", "cuda"):
        torch.backends.cudnn.allow_tf32 = False
        plan, pixels = plan_of(device, epochs=2, is_bf16=False), stored(pool, device)
        trained(plan, pixels, tmp_path / device)
        networks = [(n, build_model(plan.spec, seed=n).to(device).eval()) for n in range(3)]
        [part] = [part for _, part in predict(plan, networks, pixels, [0], batch_size=SAMPLES) if part]
        accuracy = measured(plan, networks, pixels, np.arange(SAMPLES), batch_size=64)
        seen[device] = (history_of(tmp_path / device)[0]["loss"], part.whole.mean_probs_BC, part.votes_MB, accuracy)
    (loss, probs, votes, right), (other_loss, other_probs, other_votes, other_right) = seen["cpu"], seen["cuda"]
    assert loss == pytest.approx(other_loss, rel=1e-2)
    assert probs == pytest.approx(other_probs, abs=1e-4)
    assert (votes == other_votes).mean() > 0.99
    assert right.each == pytest.approx(other_right.each, abs=0.01)


def test_centers_found_on_the_gpu_are_the_same(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    x_ND = (draw.normal(size=(30_000, 10)) @ draw.normal(size=(10, 256))).astype(np.float16).astype(np.float32)
    x_ND[100:200] = x_ND[300:400]  # copies, which come last
    x_ND[200:250] = x_ND[0] + np.eye(50, 256, dtype=np.float32) * 1e-3  # near-ties
    rank_N = draw.permutation(len(x_ND))
    found = k_centers(x_ND, 4_000, start=[3, 5], rank_N=rank_N, kernel=TorchKernel(x_ND, "cuda"))
    host = k_centers(x_ND, 4_000, start=[3, 5], rank_N=rank_N)
    assert np.array_equal(found.order_K, host.order_K)
    assert np.array_equal(found.radius_K, host.radius_K)
    assert found.cover_radius == host.cover_radius


def test_prune_covers_a_pool_on_the_gpu_as_on_the_processor(pool: Pool, tmp_path: Path) -> None:
    words = ["--proxy", "preact_resnet20", "--seeds", "1", "--epochs", "2", "--checkpoints", "1", "--embeddings"]
    scores = tmp_path / "scores"
    assert run(["score", str(pool.root), "--out", str(scores), *words, "--set", "train.batch_size=32"]) == 0
    for device in ("cpu", "cuda"):
        out = ["--keep", "0.5", "--device", device, "--out", str(tmp_path / device)]
        assert run(["prune", "--scores", str(scores), "--fn", "k_centers", *out]) == 0
    assert manifest_digest(tmp_path / "cpu") == manifest_digest(tmp_path / "cuda")
