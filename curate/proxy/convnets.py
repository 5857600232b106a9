"""Two more small networks, registered with timm: a ResNet of ten layers, and a fast net of three stages."""

from __future__ import annotations

from typing import Any

from timm.models import register_model
from timm.models.resnet import BasicBlock, ResNet
from torch import Tensor, nn

RESNET_CHANNELS = (64, 128, 256, 512)
STAGES = (64, 256, 256)


@register_model
def resnet10(pretrained: bool = False, *, width: float = 1.0, **arguments: Any) -> nn.Module:  # noqa: ARG001  (timm hands it over)
    """ResNet of ten layers: one basic block a stage.

    Source: Chitta et al. 2021, section 3, who take it as the proxy of ResNet-18.
    """
    channels = tuple(max(1, round(wide * width)) for wide in RESNET_CHANNELS)
    arguments = {name: arguments[name] for name in ("num_classes", "in_chans") if name in arguments}
    return ResNet(BasicBlock, (1, 1, 1, 1), channels=channels, **arguments)  # type: ignore[arg-type]  # timm means the class


class ThreeStages(nn.Module):
    """Three stages of two 3x3 convolutions, pooled by two in each, for images of 32 px and about that.

    Source: Jordan 2024, arXiv 2404.00498, the network of airbench94: its widths, pooling and GELU.
        Here with a plain first convolution and trained norm weights.

    Args:
        num_classes, in_chans: from the pool.
        width: multiplies all channels.
    """

    def __init__(self, *, num_classes: int = 10, in_chans: int = 3, width: float = 1.0) -> None:
        super().__init__()
        channels = [max(1, round(wide * width)) for wide in STAGES]
        stem = max(1, channels[0] // 2)
        self.stem = nn.Conv2d(in_chans, stem, 3, padding=1, bias=False)
        self.stem_norm = nn.BatchNorm2d(stem)
        befores = [stem, *channels[:-1]]
        self.stages = nn.Sequential(*(_stage(before, wide) for before, wide in zip(befores, channels, strict=True)))
        self.activation = nn.GELU()
        self.num_features = channels[-1]
        self.fc = nn.Linear(channels[-1], num_classes)

    def forward_features(self, images: Tensor) -> Tensor:
        """Returns feature maps of (B, C, H/8, W/8)."""
        maps: Tensor = self.stages(self.activation(self.stem_norm(self.stem(images))))
        return maps

    def forward_head(self, maps: Tensor, pre_logits: bool = False) -> Tensor:
        """Returns logits, or what goes into the classifier: the largest value of each feature map."""
        features = maps.amax((2, 3))
        logits: Tensor = features if pre_logits else self.fc(features)
        return logits

    def forward(self, images: Tensor) -> Tensor:
        """Returns logits of (B, num_classes)."""
        return self.forward_head(self.forward_features(images))

    def get_classifier(self) -> nn.Module:
        """Returns the last layer, as timm's networks do."""
        return self.fc


def _stage(before: int, channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, channels, 3, padding=1, bias=False),
        nn.MaxPool2d(2),
        nn.BatchNorm2d(channels),
        nn.GELU(),
        nn.Conv2d(channels, channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels),
        nn.GELU(),
    )


@register_model
def convnet3(pretrained: bool = False, **arguments: Any) -> nn.Module:  # noqa: ARG001  (timm hands it over)
    """Three stages of two convolutions each, 64-256-256 channels."""
    arguments = {name: arguments[name] for name in ("num_classes", "in_chans", "width") if name in arguments}
    return ThreeStages(**arguments)
