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
        reads: `images`, or of texts `words` or `characters`.
    """

    source: str
    line: str
    reads: str = "images"


_PREACT = "He et al. 2016, Identity Mappings in Deep Residual Networks; sizes of Coleman et al. 2020"
_CHITTA = "Chitta et al. 2021, Training Data Subset Search with Ensemble Active Learning"
_JORDAN = "Jordan 2024, 94% on CIFAR-10 in 3.29 Seconds on a Single GPU"
_RESNET = "He et al. 2016, Deep Residual Learning for Image Recognition"

_JOULIN = "Joulin et al. 2017, Bag of Tricks for Efficient Text Classification, arXiv 1607.01759"
_CONNEAU = "Conneau et al. 2017, Very Deep Convolutional Networks for Text Classification, arXiv 1606.01781"

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
    "fasttext": Proxy(_JOULIN, "texts: averaged vectors of hashed words and word pairs, 10.5 M parameters", "words"),
    "vdcnn9": Proxy(_CONNEAU, "texts: 9 convolutions over characters, 14.2 M parameters", "characters"),
    "vdcnn17": Proxy(_CONNEAU, "texts: 17 convolutions over characters, 16.3 M parameters", "characters"),
    "vdcnn29": Proxy(_CONNEAU, "texts: 29 convolutions over characters, 16.6 M parameters", "characters"),
}


def reads_of(name: str) -> str:
    """Returns what a network reads: `images`, `words` or `characters`. Names without a row are timm's."""
    return PROXIES[name].reads if name in PROXIES else "images"
