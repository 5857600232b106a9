"""The matrix products of k-centers on a device: what `curate.selection.distances.Kernel` asks for."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from curate.errors import UsageError

CENTERS = 1024  # in one product
CELLS = 1 << 26  # of one product, 256 MiB


class TorchKernel:
    """Products by torch in float32, the embeddings resident on the device.

    Args:
        x_ND: embeddings, whose squared norms float32 can hold.
        device: `cpu` or `cuda`.

    Raises:
        UsageError: there is no such device.

    Cost: N x D x 4 bytes of the device, and 256 MiB for a product.
    """

    def __init__(self, x_ND: NDArray[np.float32], device: str) -> None:
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise UsageError("torch sees no CUDA device.", hint="Leave out --device cuda; `curate doctor` says more.")
        # Fewer bits in a product (TF32) would break the bound on its error, by which near-ties are found.
        torch.set_float32_matmul_precision("highest")
        self._x_ND = torch.from_numpy(x_ND).to(device)
        self._square_N = torch.cat([part.double().square().sum(1) for part in torch.split(self._x_ND, 1 << 16)]).float()

    def nearest(self, rows: NDArray[np.int64] | None, centers: NDArray[np.int64]) -> NDArray[np.float64]:
        """Returns min over c of |c|² − 2⟨x, c⟩ for each row x, shape (B,); None for all rows."""
        chosen_BD = self._x_ND if rows is None else self._x_ND[self._places(rows)]
        nearest_B = torch.full((len(chosen_BD),), torch.inf, device=self._x_ND.device)
        for part in torch.split(self._places(centers), CENTERS):
            for place, block_bD in self._blocks(chosen_BD, len(part)):
                block_b = nearest_B[place : place + len(block_bD)]
                torch.minimum(block_b, self._products(block_bD, part).amin(1), out=block_b)
        return nearest_B.double().cpu().numpy()

    def within(
        self, rows: NDArray[np.int64], centers: NDArray[np.int64], limit_B: NDArray[np.float64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Returns the places of (row, center) where |c|² − 2⟨x, c⟩ ≤ limit of the row."""
        chosen_BD, limits_B = self._x_ND[self._places(rows)], torch.from_numpy(limit_B).to(self._x_ND.device)
        found = [torch.zeros(0, 2, dtype=torch.long)]
        for number, part in enumerate(torch.split(self._places(centers), CENTERS)):
            for place, block_bD in self._blocks(chosen_BD, len(part)):
                close_bP = self._products(block_bD, part).double() <= limits_B[place : place + len(block_bD), None]
                found.append(close_bP.nonzero().cpu() + torch.tensor([place, number * CENTERS]))
        row_P, center_P = torch.cat(found).numpy().T
        return np.ascontiguousarray(row_P), np.ascontiguousarray(center_P)

    def _places(self, rows: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(rows, dtype=np.int64)).to(self._x_ND.device)

    def _products(self, block_bD: Tensor, part: Tensor) -> Tensor:
        return torch.addmm(self._square_N[part], block_bD, self._x_ND[part].T, alpha=-2)

    @staticmethod
    def _blocks(chosen_BD: Tensor, centers: int) -> list[tuple[int, Tensor]]:
        size = max(1, CELLS // max(1, centers))
        return [(place, chosen_BD[place : place + size]) for place in range(0, len(chosen_BD), size)]
