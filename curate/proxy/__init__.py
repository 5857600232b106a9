"""Proxies: small models, trained fast, that rank samples nearly as well as the large one.

`PROXIES` is the one table of them: add a row to add a proxy. Any other timm name works without one.
This file imports nothing heavy, so that help and completion stay fast.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Proxy:
    """One row; its name is timm's.

    Attributes:
        source: paper.
        line: one line for help.
    """

    source: str
    line: str


_PREACT = "He et al. 2016, Identity Mappings in Deep Residual Networks; sizes of Coleman et al. 2020"
_CHITTA = "Chitta et al. 2021, Training Data Subset Search with Ensemble Active Learning"
_JORDAN = "Jordan 2024, 94% on CIFAR-10 in 3.29 Seconds on a Single GPU"
_RESNET = "He et al. 2016, Deep Residual Learning for Image Recognition"

PROXIES: dict[str, Proxy] = {
    "resnet18": Proxy(_RESNET, "the default: 11.2 M parameters, images of any size"),
    "resnet10": Proxy(_CHITTA, "4.9 M parameters, images of any size"),
    "resnet34": Proxy(_RESNET, "21.3 M parameters, images of any size"),
    "resnet50": Proxy(_RESNET, "23.5 M parameters, images of any size"),
    "preact_resnet20": Proxy(_PREACT, "0.27 M parameters, images of 64 px and less"),
    "preact_resnet32": Proxy(_PREACT, "0.46 M parameters, images of 64 px and less"),
    "preact_resnet44": Proxy(_PREACT, "0.66 M parameters, images of 64 px and less"),
    "preact_resnet56": Proxy(_PREACT, "0.85 M parameters, images of 64 px and less"),
    "preact_resnet110": Proxy(_PREACT, "1.7 M parameters, images of 64 px and less"),
    "preact_resnet164": Proxy(_PREACT, "1.7 M parameters, images of 64 px and less"),
    "convnet3": Proxy(_JORDAN, "2.0 M parameters, images of 64 px and less; a fast target"),
}
