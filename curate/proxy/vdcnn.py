"""VDCNN, registered with timm: very deep convolutions over the characters of a text."""

from __future__ import annotations

from typing import Any

from timm.models import register_model
from torch import Tensor, nn

from curate.pool.texts import CHARACTERS

CHANNELS = (64, 128, 256, 512)
EMBEDDING, KEPT, HIDDEN = 16, 8, 2048
SHORTEST = KEPT << 3  # characters: three halvings later there are still as many places as are kept


class KMaxPool(nn.Module):
    """Keeps the largest values of each channel in the order in which they stand; k = 0 keeps half of them."""

    def __init__(self, k: int = 0) -> None:
        super().__init__()
        self.k = k

    def forward(self, maps_BCL: Tensor) -> Tensor:
        """Returns maps of (B, C, k)."""
        places = maps_BCL.topk(self.k or maps_BCL.shape[2] // 2, dim=2).indices
        return maps_BCL.gather(2, places.sort(dim=2).values)


class VDCNN(nn.Module):
    """Blocks of two convolutions in four levels, 64 to 512 channels, halved in length between them.

    Source: Conneau et al. 2017, arXiv 1606.01781, section 3 and table 1, without shortcuts (which help there
        from 49 layers on). Halving as in its table 5: `max` (3 wide, every 2nd), `conv` (the first
        convolution of a level takes every 2nd place), `kmax` (the larger half).

    Args:
        num_classes: from the pool.
        convolutions: of each level; 1 more comes before them, and three linear layers after.
        pooling: how lengths are halved.
    """

    def __init__(self, convolutions: tuple[int, ...], *, num_classes: int, pooling: str = "max") -> None:
        super().__init__()
        self.embedding = nn.Embedding(CHARACTERS, EMBEDDING)
        layers: list[nn.Module] = [nn.Conv1d(EMBEDDING, CHANNELS[0], 3, padding=1)]
        before = CHANNELS[0]
        for level, (wide, count) in enumerate(zip(CHANNELS, convolutions, strict=True)):
            if level and pooling != "conv":
                layers.append(nn.MaxPool1d(3, 2, 1) if pooling == "max" else KMaxPool())
            for number in range(count):
                stride = 2 if level and pooling == "conv" and number == 0 else 1
                layers += [nn.Conv1d(before, wide, 3, stride, 1, bias=False), nn.BatchNorm1d(wide), nn.ReLU()]
                before = wide
        self.levels = nn.Sequential(*layers, KMaxPool(KEPT))
        self.hidden = nn.Sequential(nn.Linear(KEPT * before, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU())
        self.num_features = HIDDEN
        self.fc = nn.Linear(HIDDEN, num_classes)
        for module in self.levels:
            if isinstance(module, nn.Conv1d):
                nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")

    def forward_features(self, characters_BL: Tensor) -> Tensor:
        """Returns feature maps of (B, 512, 8)."""
        maps: Tensor = self.levels(self.embedding(characters_BL.long()).transpose(1, 2))
        return maps

    def forward_head(self, maps: Tensor, pre_logits: bool = False) -> Tensor:
        """Returns logits, or the input of the last of the three linear layers."""
        features = self.hidden(maps.flatten(1))
        logits: Tensor = features if pre_logits else self.fc(features)
        return logits

    def forward(self, characters_BL: Tensor) -> Tensor:
        """Returns logits of (B, num_classes)."""
        return self.forward_head(self.forward_features(characters_BL))

    def get_classifier(self) -> nn.Module:
        """Returns the last layer, as timm's networks do."""
        return self.fc


def _vdcnn(convolutions: tuple[int, ...], arguments: dict[str, Any]) -> nn.Module:
    return VDCNN(convolutions, **{name: arguments[name] for name in ("num_classes", "pooling") if name in arguments})


@register_model
def vdcnn9(pretrained: bool = False, **arguments: Any) -> nn.Module:  # noqa: ARG001  (timm hands it over)
    """VDCNN of 9 convolutions."""
    return _vdcnn((2, 2, 2, 2), arguments)


@register_model
def vdcnn17(pretrained: bool = False, **arguments: Any) -> nn.Module:  # noqa: ARG001  (timm hands it over)
    """VDCNN of 17 convolutions."""
    return _vdcnn((4, 4, 4, 4), arguments)


@register_model
def vdcnn29(pretrained: bool = False, **arguments: Any) -> nn.Module:  # noqa: ARG001  (timm hands it over)
    """VDCNN of 29 convolutions."""
    return _vdcnn((10, 10, 4, 4), arguments)
