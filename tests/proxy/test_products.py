"""k-centers with the products done by torch: the same centers, in the same order, as with numpy."""

import numpy as np
import pytest

from curate.errors import UsageError
from curate.proxy import products
from curate.proxy.products import TorchKernel
from curate.selection.distances import HostKernel
from curate.selection.k_centers import k_centers
from curate.selection.workers import Workers


@pytest.mark.parametrize("cells", [1 << 26, 5_000])
def test_torch_chooses_the_centers_that_numpy_does(monkeypatch: pytest.MonkeyPatch, cells: int) -> None:
    monkeypatch.setattr(products, "CELLS", cells)
    draw = np.random.default_rng(0)
    x_ND = draw.normal(size=(3000, 24)).astype(np.float16).astype(np.float32)
    x_ND[100:200] = x_ND[300:400]  # copies, which come last
    x_ND[200:250] = x_ND[0] + np.eye(50, 24, dtype=np.float32) * 1e-3  # near-ties
    rank_N = draw.permutation(3000)
    ours = k_centers(x_ND, 1500, start=[3, 5], rank_N=rank_N, kernel=TorchKernel(x_ND, "cpu"))
    host = k_centers(x_ND, 1500, start=[3, 5], rank_N=rank_N)
    assert np.array_equal(ours.order_K, host.order_K)
    assert np.array_equal(ours.radius_K, host.radius_K)
    assert ours.cover_radius == host.cover_radius


def test_products_past_float32_are_numpys_in_float64() -> None:
    x_ND = np.array([[1e19], [-2e19], [3e19], [0]], dtype=np.float32)
    assert k_centers(x_ND, 2, start=[3], kernel=TorchKernel(x_ND, "cpu")).order_K.tolist() == [2, 1]


def test_what_is_within_a_limit_is_what_numpy_finds() -> None:
    x_ND = np.random.default_rng(1).normal(size=(2500, 4)).astype(np.float32)
    square_N = (x_ND.astype(np.float64) ** 2).sum(1)
    rows, centers = np.arange(5, 45), np.arange(2400)
    limit_B = np.linspace(-3, 3, 40)
    ours = TorchKernel(x_ND, "cpu").within(rows, centers, limit_B)
    host = HostKernel(x_ND, square_N, np.float64, Workers()).within(rows, centers, limit_B)
    assert set(zip(*map(np.ndarray.tolist, ours), strict=True)) == set(zip(*map(np.ndarray.tolist, host), strict=True))
    assert len(ours[0]) > 1000


def test_a_device_that_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match="no CUDA device"):
        TorchKernel(np.zeros((2, 2), np.float32), "cuda")
