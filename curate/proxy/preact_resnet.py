"""Pre-activation ResNets for small images, from timm's blocks: 6n + 2 layers, 16-32-64 channels."""

from __future__ import annotations

from collections import OrderedDict
from functools import partial

from timm.layers import BatchNormAct2d, create_conv2d  # type: ignore[attr-defined]  # re-exported by a star
from timm.models.resnetv2 import ResNetV2
from torch import nn


def preact_resnet(depth: int, *, num_classes: int, in_chans: int) -> nn.Module:
    """Returns a pre-activation ResNet with basic blocks.

    Args:
        depth: 6n + 2.
        num_classes, in_chans: from the pool.

    Source: He et al. 2016b, section 4, the CIFAR networks; with 1x1 projections where widths change.
    """
    blocks, rest = divmod(depth - 2, 6)
    if rest or blocks < 1:
        raise ValueError(f"depth {depth} is not 6n + 2")
    model = ResNetV2(
        layers=[blocks] * 3,
        channels=(16, 32, 64),
        num_classes=num_classes,
        in_chans=in_chans,
        stem_chs=16,
        stem_type="",
        preact=True,
        basic=True,
        bottle_ratio=1.0,
        conv_layer=create_conv2d,
        norm_layer=partial(BatchNormAct2d, eps=1e-5),
    )
    conv = nn.Conv2d(in_chans, 16, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    model.stem = nn.Sequential(OrderedDict(conv=conv))
    return model
