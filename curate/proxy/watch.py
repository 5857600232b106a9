"""What training sees of each sample, read off the logits that a step computes anyway.

All of it is worked out on the device, a few small operations a batch, and leaves the device once an
epoch. It is seen before the step that learns from it, on the augmented image, and measured against
the plain label, whatever the smoothing that the loss has.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from curate.acquisition.dynamics import Presentation


def presented(logits_BC: Tensor, label_B: Tensor, gradient_B: Tensor | None = None) -> Tensor:
    """Returns what a batch shows, one row for each field of `Presentation`, shape (6, B), float32.

    EL2N = ‖p − y‖₂ with p the softmax and y the one-hot label; GraNd of the last layer =
    ‖p − y‖₂ √(1 + ‖h‖²), with h the input of that layer and the 1 for its bias.

    Args:
        logits_BC: unnormalised, C ≥ 2.
        label_B: class ids from 0 to C − 1.
        gradient_B: √(1 + ‖h‖²) of each sample; None where it is not known.

    Source: EL2N and GraNd: Paul, Ganguli and Dziugaite 2021, arXiv 2107.07075, definitions 2.1 and
        2.2. Margin: Pleiss et al. 2020, arXiv 2001.10528, equation 1.
    """
    column_B1 = label_B[:, None]
    logs_BC = torch.log_softmax(logits_BC.float(), 1)
    label_log_B = logs_BC.gather(1, column_B1)[:, 0]
    other_B = logs_BC.scatter(1, column_B1, -torch.inf).amax(1)
    error_BC = logs_BC.exp()
    probability_B = error_BC.gather(1, column_B1)[:, 0]
    error_BC.scatter_add_(1, column_B1, torch.full_like(column_B1, -1, dtype=error_BC.dtype))
    el2n_B = torch.linalg.vector_norm(error_BC, dim=1)
    correct_B = (logits_BC.argmax(1) == label_B).float()
    grand_B = torch.full_like(el2n_B, torch.nan) if gradient_B is None else el2n_B * gradient_B
    return torch.stack([correct_B, probability_B, label_log_B - other_B, -label_log_B, el2n_B, grand_B])


class Watch:
    """Collects what the batches of an epoch show.

    Args:
        model: a timm network in training. Where its classifier is one linear layer on one feature
            vector a sample, the norm of that vector is read off it; elsewhere GraNd is not known.
    """

    def __init__(self, model: nn.Module) -> None:
        self._rows: list[NDArray[np.int64]] = []
        self._shown: list[Tensor] = []
        self._gradient_B: Tensor | None = None
        classifier = model.get_classifier()  # type: ignore[operator]  # every timm network has this method
        if isinstance(classifier, nn.Linear | nn.Conv2d):
            classifier.register_forward_pre_hook(self._see_features)

    def look(self, logits_BC: Tensor, label_B: Tensor) -> Tensor:
        """Returns what a batch shows right after its forward pass, shape (6, B)."""
        with torch.no_grad():
            shown = presented(logits_BC.detach(), label_B, self._gradient_B)
        self._gradient_B = None
        return shown

    def add(self, rows_B: NDArray[np.int64], shown: Tensor) -> None:
        """Adds what a batch has shown to the epoch."""
        self._rows.append(rows_B)
        self._shown.append(shown)

    def finish(self) -> tuple[NDArray[np.int64], Presentation]:
        """Returns the rows of the epoch with what they showed, and begins the next one."""
        rows_K = np.concatenate(self._rows) if self._rows else np.array([], dtype=np.int64)
        shown = torch.cat(self._shown, 1).cpu().numpy() if self._shown else np.zeros((6, 0), np.float32)
        self._rows, self._shown = [], []
        return rows_K, Presentation(shown[0] > 0, *shown[1:])

    def _see_features(self, classifier: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        features_BD = inputs[0].detach()
        if classifier.training and features_BD[0].numel() == features_BD.shape[1]:
            squares_B = features_BD.flatten(1).float().square().sum(1)
            self._gradient_B = torch.sqrt(squares_B + (0.0 if classifier.bias is None else 1.0))
