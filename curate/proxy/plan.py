"""What training and prediction share: the network, the precision, and how pixels become its input."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from curate.proxy.models import ModelSpec
from curate.recipe import Augment, Train


@dataclass(frozen=True)
class Plan:
    """What every training run and every prediction of one execution shares.

    Attributes:
        spec: the network.
        train, augment: the recipe's tables.
        mean, std: of the normalisation, one value a channel, in [0, 1] units.
        is_bf16: autocast to bfloat16.
        device: where the network lies.
    """

    spec: ModelSpec
    train: Train
    augment: Augment
    mean: tuple[float, ...]
    std: tuple[float, ...]
    is_bf16: bool
    device: str

    @property
    def kind(self) -> str:
        """The kind of device: `cpu` or `cuda`."""
        return self.device.partition(":")[0]


def normalised(pixels: Tensor, plan: Plan) -> Tensor:
    """Returns a batch as float32 in channels_last on the device, shape (B, C, H, W); tokens as they are, (B, L)."""
    batch = pixels.to(plan.device, non_blocking=True)
    if plan.spec.text:
        return batch
    mean, scale = _constants(plan.mean, plan.std, plan.device)
    # (B, H, W, C) seen as (B, C, H, W) is channels_last already: no copy.
    return ((batch.float() - mean) * scale).permute(0, 3, 1, 2)


@lru_cache
def _constants(mean: tuple[float, ...], std: tuple[float, ...], device: str) -> tuple[Tensor, Tensor]:
    """Returns mean and scale of bytes on the device, where copying them for every batch would make it wait."""
    return torch.tensor(mean, device=device) * 255, 1 / (torch.tensor(std, device=device) * 255)


def autocast(plan: Plan) -> torch.autocast:
    """Returns the precision that training and scoring share."""
    return torch.autocast(plan.kind, torch.bfloat16, enabled=plan.is_bf16)
