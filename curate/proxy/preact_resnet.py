"""Pre-activation ResNets for small images, from timm's blocks, registered with timm.

16-32-64 channels times `width`, 6n + 2 layers of basic blocks; `preact_resnet164` has 9n + 2 layers of
bottlenecks, whose outer channels are four times as many.
"""

from __future__ import annotations

from collections import OrderedDict
from functools import partial
from typing import Any

from timm.layers import BatchNormAct2d, create_conv2d  # type: ignore[attr-defined]  # re-exported by a star
from timm.models import register_model
from timm.models.resnetv2 import ResNetV2
from torch import nn

STEM, CHANNELS = 16, (16, 32, 64)
BOTTLENECK = 4  # outer channels of a bottleneck for one inner channel


def _preact_resnet(blocks: int, *, width: float = 1.0, is_bottleneck: bool = False, **arguments: Any) -> nn.Module:
    """Returns a pre-activation ResNet of `blocks` blocks a stage, whose weights are not pretrained.

    Source: He et al. 2016b, section 4, the CIFAR networks; with 1x1 projections where widths change.
        Narrowing by `width`: Coleman et al. 2020, section 3.1.
    """
    arguments = {name: arguments[name] for name in ("num_classes", "in_chans") if name in arguments}
    outer = BOTTLENECK if is_bottleneck else 1
    stem = max(1, round(STEM * width))
    model = ResNetV2(
        layers=[blocks] * 3,
        channels=tuple(max(1, round(channels * width)) * outer for channels in CHANNELS),
        stem_chs=stem,
        stem_type="",
        preact=True,
        basic=not is_bottleneck,
        bottle_ratio=1 / outer,
        conv_layer=create_conv2d,
        norm_layer=partial(BatchNormAct2d, eps=1e-5),
        **arguments,
    )
    model.stem = nn.Sequential(OrderedDict(conv=_stem(arguments.get("in_chans", 3), model)))
    return model


def _stem(in_chans: int, model: nn.Module) -> nn.Conv2d:
    """A 3x3 convolution in place of timm's, which has the size of ImageNet's."""
    wanted = next(module for module in model.modules() if isinstance(module, nn.Conv2d)).out_channels
    conv = nn.Conv2d(in_chans, wanted, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv


@register_model
def preact_resnet20(pretrained: bool = False, **arguments: Any) -> nn.Module:  # noqa: ARG001  (timm hands it over)
    """Pre-activation ResNet of 20 layers."""
    return _preact_resnet(3, **arguments)


@register_model
def preact_resnet32(pretrained: bool = False, **arguments: Any) -> nn.Module:  # noqa: ARG001  (timm hands it over)
    """Pre-activation ResNet of 32 layers."""
    return _preact_resnet(5, **arguments)


@register_model
def preact_resnet44(pretrained: bool = False, **arguments: Any) -> nn.Module:  # noqa: ARG001  (timm hands it over)
    """Pre-activation ResNet of 44 layers."""
    return _preact_resnet(7, **arguments)


@register_model
def preact_resnet56(pretrained: bool = False, **arguments: Any) -> nn.Module:  # noqa: ARG001  (timm hands it over)
    """Pre-activation ResNet of 56 layers."""
    return _preact_resnet(9, **arguments)


@register_model
def preact_resnet110(pretrained: bool = False, **arguments: Any) -> nn.Module:  # noqa: ARG001  (timm hands it over)
    """Pre-activation ResNet of 110 layers."""
    return _preact_resnet(18, **arguments)


@register_model
def preact_resnet164(pretrained: bool = False, **arguments: Any) -> nn.Module:  # noqa: ARG001  (timm hands it over)
    """Pre-activation ResNet of 164 layers in bottlenecks."""
    return _preact_resnet(18, is_bottleneck=True, **arguments)
