"""Where arithmetic is done: what the processor or the GPU can do, and how arrays get there."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor


def has_fast_bf16(device: str) -> bool:
    """Says whether bfloat16 is arithmetic of the hardware here, and not emulated."""
    if device.startswith("cuda"):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    if capabilities:
        return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def make_repeatable() -> None:
    """Has a GPU's convolutions add in an order that does not vary: a resumed run ends with the same bytes."""
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True


def on_device(array: NDArray[Any], device: torch.device | str) -> Tensor:
    """Returns an array as a tensor on a device. What goes to a GPU is not waited for."""
    tensor = torch.from_numpy(array)
    return tensor if torch.device(device).type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)
