"""Proxies as networks: any timm name, with the stem adapted where images are small.

Deterministic for a seed. Pretrained weights come from a local file or not at all: nothing is fetched.
"""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

import timm
import torch
from torch import Tensor, nn

from curate.errors import RunError, UsageError, did_you_mean
from curate.proxy import convnets, fasttext, preact_resnet, vdcnn  # noqa: F401  (register their networks with timm)
from curate.proxy.sealed import load_sealed

SMALL_PX = 64
WIDE_CHANNELS = 16  # from here on torch's kernels are whole ones
_DRAWING = Lock()  # the generator that networks draw from is the process's


@dataclass(frozen=True)
class TextSpec:
    """What the shape of a text's network depends on beside the number of classes; see the recipe's `text`."""

    length: int
    dim: int
    ngrams: int
    buckets: int
    pooling: str


@dataclass(frozen=True)
class ModelSpec:
    """All that a network's shape depends on.

    Attributes:
        name: any timm name, those registered here among them.
        num_classes, in_chans: from the pool.
        size_px: side of its square input.
        stem: `small` (3x3, stride 1, no pooling) or `native`.
        pretrained: path of local weights, empty for none.
        width: multiplies the channels of every convolution, for networks that know how.
        text: of networks that read texts; None for images.
    """

    name: str
    num_classes: int
    in_chans: int
    size_px: int
    stem: str
    pretrained: str = ""
    width: float = 1.0
    text: TextSpec | None = None


def check_name(name: str) -> None:
    """Refuses a network that neither the table nor timm knows."""
    if not timm.is_model(name):
        known = timm.list_models()
        raise UsageError(
            f"Unknown network '{name}'.", hint=did_you_mean(name, known) if len(name) > 2 else "Any timm name will do."
        )


def stem_for(stem: str, size_px: int) -> str:
    """Returns what `auto` means at a resolution: `small` up to 64 px, as the CIFAR literature does."""
    return stem if stem != "auto" else "small" if size_px <= SMALL_PX else "native"


def build_model(spec: ModelSpec, *, seed: int) -> nn.Module:
    """Returns an initialised network in channels_last, float32, training mode.

    Raises:
        UsageError: an unknown name, a network that cannot take this input, weights that do not fit.
    """
    check_name(spec.name)
    with _DRAWING, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _create(spec)
        if spec.stem == "small":
            adapt_stem(model)
        _without_narrow_strides(model)
    if spec.pretrained:
        _load_pretrained(model, Path(spec.pretrained))
    return model.to(memory_format=torch.channels_last)


def _create(spec: ModelSpec) -> nn.Module:
    arguments: dict[str, Any] = {"num_classes": spec.num_classes, "in_chans": spec.in_chans}
    if getattr(timm.get_pretrained_cfg(spec.name), "fixed_input_size", False):
        arguments["img_size"] = spec.size_px
    if spec.text:
        arguments |= {"dim": spec.text.dim, "ngrams": spec.text.ngrams, "buckets": spec.text.buckets}
        arguments["pooling"] = spec.text.pooling
    if spec.width != 1:
        arguments |= _narrowed(spec.name, spec.width)
    try:
        model: nn.Module = timm.create_model(spec.name, pretrained=False, **arguments)
        return model
    except (RuntimeError, TypeError, ValueError) as error:
        raise UsageError(f"timm cannot build '{spec.name}' here: {error}.", hint="Choose another network.") from error


def _narrowed(name: str, width: float) -> dict[str, Any]:
    """Returns what makes a network narrower (Coleman et al. 2020, section 3.1). timm's ResNets keep their stem."""
    own = [*preact_resnet.__all__, *convnets.__all__]  # type: ignore[attr-defined]  # what timm's registry adds
    if name in own:
        return {"width": width}
    if re.fullmatch(r"resnet\d+", name):
        return {"channels": tuple(max(1, round(wide * width)) for wide in convnets.RESNET_CHANNELS)}
    raise UsageError(f"'{name}' has no width to change.", hint=f"proxy.width is for resnetN, {', '.join(own)}.")


def adapt_stem(model: nn.Module) -> list[str]:
    """Turns the stem into 3x3 with stride 1 and takes its pooling out; returns what was changed.

    The first strided convolution and, if it comes before the first block, the first pooling are the
    stem; a network without them (a transformer) is left as it is.
    Source: He et al. 2016, section 4.2, and the CIFAR variants of ResNet in use since.
    """
    changes = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            is_patches = module.stride == module.kernel_size  # patches do not overlap: not a stem to shrink
            if not is_patches and (max(module.stride) > 1 or max(module.kernel_size) > 3):
                _replace(model, name, _small_conv(module))
                changes.append(f"{name}: {module.kernel_size[0]}x{module.kernel_size[1]}/{module.stride[0]} -> 3x3/1")
            break
    for name in ("maxpool", "stem.pool"):
        pool = dict(model.named_modules()).get(name)
        if pool is not None and not isinstance(pool, nn.Identity):
            _replace(model, name, nn.Identity())
            changes.append(f"{name}: removed")
    return changes


def _small_conv(conv: nn.Conv2d) -> nn.Conv2d:
    small = nn.Conv2d(
        conv.in_channels, conv.out_channels, 3, stride=1, padding=1, groups=conv.groups, bias=conv.bias is not None
    )
    nn.init.kaiming_normal_(small.weight, mode="fan_out", nonlinearity="relu")
    return small


class _EveryOther(nn.Conv2d):
    """A strided 1x1 convolution as one without stride over the pixels that it looks at: the same sums."""

    def forward(self, x: Tensor) -> Tensor:
        down, right = self.stride
        return nn.functional.conv2d(x[:, :, ::down, ::right], self.weight, self.bias)


def _without_narrow_strides(model: nn.Module) -> None:
    """Replaces strided 1x1 convolutions of few channels, as narrowed networks have them.

    In torch 2.15 on a CPU, in channels_last, with several threads and an odd batch, their gradient is
    written beyond its memory: the process crashes, or goes on with other numbers.
    """
    for name, conv in list(model.named_modules()):
        if isinstance(conv, nn.Conv2d) and _is_narrow_stride(conv):
            stride = conv.stride[0], conv.stride[1]
            same = _EveryOther(conv.in_channels, conv.out_channels, 1, stride=stride, bias=False)
            same.weight, same.bias = conv.weight, conv.bias
            _replace(model, name, same)


def _is_narrow_stride(conv: nn.Conv2d) -> bool:
    is_pointwise = conv.kernel_size == (1, 1) and conv.padding == (0, 0) and conv.groups == 1
    return is_pointwise and max(conv.stride) > 1 and conv.in_channels < WIDE_CHANNELS


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)


def _load_pretrained(model: nn.Module, path: Path) -> None:
    """Loads local weights; tensors of another shape (a head of other classes, an adapted stem) stay new."""
    own = model.state_dict()
    found = read_weights(path)
    fitting = {name: tensor for name, tensor in found.items() if name in own and own[name].shape == tensor.shape}
    if not fitting:
        raise UsageError(f"{path}: none of its tensors fits this proxy.", hint="Expected weights of the same model.")
    model.load_state_dict({**own, **fitting})


def read_weights(path: Path) -> dict[str, Tensor]:
    """Returns tensors from safetensors or a weights-only torch file. Nothing in it is executed."""
    try:
        if path.suffix == ".safetensors" and path.exists():
            return load_sealed(path, must=False)[0]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what it refuses, which is said below
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file.", hint="Expected .safetensors or a weights-only .pth.") from None
    except RunError:
        raise
    except Exception as error:  # torch raises many kinds for a damaged file; all mean the same
        raise RunError(
            f"{path}: no weights ({type(error).__name__}).", hint="Expected .safetensors or a weights-only .pth."
        ) from error
    state = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else {}
    return {name: tensor for name, tensor in state.items() if isinstance(tensor, Tensor)}


def check_fits(spec: ModelSpec) -> None:
    """Refuses a network that cannot be built, or cannot take such samples: two of them pass through it.

    Raises:
        UsageError: it is unknown, takes other images, or gives other classes.
    """
    model = build_model(spec, seed=0).eval()
    images = torch.zeros(2, spec.in_chans, spec.size_px, spec.size_px) if spec.text is None else None
    inputs = torch.zeros(2, spec.text.length, dtype=torch.uint8) if spec.text else images
    what = f"images of {spec.size_px} px and {spec.in_chans} channels" if spec.text is None else "such texts"
    try:
        with torch.inference_mode():
            shape = tuple(model(inputs).shape)
    except (RuntimeError, ValueError, AssertionError, IndexError) as error:
        raise UsageError(
            f"'{spec.name}' cannot take {what} ({str(error).splitlines()[0] if str(error) else type(error).__name__}).",
            hint="Choose another network, or another pixels.size_px.",
        ) from error
    if shape != (2, spec.num_classes):
        raise UsageError(f"'{spec.name}' gives {shape[1:]} for {what}, not {spec.num_classes} classes.", hint="")


@cache  # of the spec alone: every run of an evaluation and every round asks for the same network's
def forward_flops(spec: ModelSpec) -> int:
    """Returns the floating-point operations of one sample's forward pass, two for each multiply-add.

    Counted by torch on shapes alone: no arithmetic is done and nothing is allocated. Of fastText, which is
    sums of vectors, the network itself knows the number for a text as long as a row.
    """
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):
        model = _create(spec)
        if spec.stem == "small":
            adapt_stem(model)
        images = torch.empty(1, spec.in_chans, spec.size_px, spec.size_px) if spec.text is None else None
        inputs = torch.empty(1, spec.text.length, dtype=torch.uint8) if spec.text else images
    if isinstance(model, fasttext.FastText) and spec.text:
        return model.forward_flops(spec.text.length)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(inputs)
    return int(counter.get_total_flops())


def parameter_count(model: nn.Module) -> int:
    """Returns the number of trained parameters."""
    return sum(parameter.numel() for parameter in model.parameters())
