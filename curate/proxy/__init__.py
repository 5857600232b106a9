"""Proxies: small models, trained fast, that rank samples nearly as well as the large one.

`PROXIES` is the one table of them: add a row to add a proxy. Any other timm name works without one.
This file imports nothing heavy, so that help and completion stay fast.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Proxy:
    """One row: how to build it, and where it comes from.

    Attributes:
        model_name: timm's name.
        depth: layers of a pre-activation ResNet for small images; 0 for a model that timm names.
        arguments: further arguments for timm.
        source: paper.
        line: one line for help.
    """

    model_name: str
    source: str
    line: str
    depth: int = 0
    arguments: Mapping[str, object] = field(default_factory=dict)


_PREACT = "He et al. 2016, Identity Mappings in Deep Residual Networks; sizes of Coleman et al. 2020"
_RESNET = "He et al. 2016, Deep Residual Learning for Image Recognition"

PROXIES: dict[str, Proxy] = {
    "resnet18": Proxy("resnet18", _RESNET, "the default: 11.2 M parameters, images of any size"),
    "resnet34": Proxy("resnet34", _RESNET, "21.3 M parameters, images of any size"),
    "resnet50": Proxy("resnet50", _RESNET, "23.5 M parameters, images of any size"),
    "preact_resnet20": Proxy("preact_resnet20", _PREACT, "0.27 M parameters, images of 64 px and less", depth=20),
    "preact_resnet32": Proxy("preact_resnet32", _PREACT, "0.46 M parameters, images of 64 px and less", depth=32),
    "preact_resnet44": Proxy("preact_resnet44", _PREACT, "0.66 M parameters, images of 64 px and less", depth=44),
    "preact_resnet56": Proxy("preact_resnet56", _PREACT, "0.85 M parameters, images of 64 px and less", depth=56),
    "preact_resnet110": Proxy("preact_resnet110", _PREACT, "1.7 M parameters, images of 64 px and less", depth=110),
}
