"""One step of training: forward, loss, backward, update.

The networks that serve as proxies are small: on a GPU, telling it what to do takes longer than doing it. There
the step is recorded once, as a CUDA graph, and replayed for every further batch of the same size.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from curate.proxy.plan import Plan, autocast
from curate.proxy.watch import Watch

WARM_UP = 3  # steps before one is recorded: the first ones allocate what later ones reuse


@dataclass(frozen=True)
class Shown:
    """What a batch showed before the step that learned from it; all of it on the device.

    Attributes:
        loss: mean over the batch, shape ().
        hits: how many were classified as labelled, shape ().
        watched: what `Watch` reads off the logits, shape (6, B); None where nobody watches.
    """

    loss: Tensor
    hits: Tensor
    watched: Tensor | None

    def copied(self) -> Shown:
        """Returns what a replay does not write over."""
        return Shown(self.loss.clone(), self.hits.clone(), None if self.watched is None else self.watched.clone())


@dataclass(frozen=True)
class _Recorded:
    graph: torch.cuda.CUDAGraph
    inputs: Tensor
    label_B: Tensor
    shown: Shown


class Step:
    """Takes steps with one network.

    Args:
        plan: precision, smoothing of the loss, device.
        model: in training mode whenever it is called.
        optimizer: of the model; its rate is set here.
        watch: is shown the logits.
    """

    def __init__(self, plan: Plan, model: nn.Module, optimizer: torch.optim.SGD, watch: Watch | None) -> None:
        self._plan, self._model, self._optimizer, self._watch = plan, model, optimizer, watch
        self._may_record = optimizer.defaults["fused"] is True
        self._recorded: _Recorded | None = None
        self._taken = 0
        self._rate = torch.zeros((), device=plan.device) if self._may_record else None
        if self._rate is not None:
            self._set_rate(self._rate)

    def __call__(self, inputs: Tensor, label_B: Tensor, rate: float) -> Shown:
        """Takes a step on a batch that lies on the device."""
        if self._rate is None:
            self._set_rate(rate)
        else:
            self._rate.fill_(rate)  # a graph reads the rate where it lies
        if not self._may_record or len(inputs) != self._plan.train.batch_size:
            return self._step(inputs, label_B)
        self._taken += 1
        if self._recorded is None and self._taken > WARM_UP:
            self._recorded = self._record(inputs, label_B)
            self._may_record = self._recorded is not None
        return self._step(inputs, label_B) if self._recorded is None else _replayed(self._recorded, inputs, label_B)

    def _set_rate(self, rate: float | Tensor) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = rate

    def _step(self, inputs: Tensor, label_B: Tensor) -> Shown:
        self._optimizer.zero_grad(set_to_none=True)
        with autocast(self._plan):
            logits_BC = self._model(inputs).float()
        watched = self._watch.look(logits_BC, label_B) if self._watch else None
        smoothing = self._plan.train.label_smoothing
        loss = nn.functional.cross_entropy(logits_BC, label_B, label_smoothing=smoothing)
        loss.backward()  # type: ignore[no-untyped-call]  # torch has no annotation here
        self._optimizer.step()
        return Shown(loss.detach(), (logits_BC.detach().argmax(1) == label_B).sum(), watched)

    def _record(self, inputs: Tensor, label_B: Tensor) -> _Recorded | None:
        """Records a step without taking it. Returns None for a network that cannot be recorded."""
        inputs, label_B = inputs.clone(), label_B.clone()
        graph = torch.cuda.CUDAGraph()
        self._optimizer.zero_grad(set_to_none=True)  # so that gradients are the graph's own
        stream = torch.cuda.current_stream()
        try:
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                shown = self._step(inputs, label_B)
        except RuntimeError:  # such as a network that looks at its own values on the way
            # torch leaves its generator in the recording, so that dropout could draw no more, and its stream aside.
            numbers = torch.cuda.default_generators[torch.cuda.current_device()]
            numbers.graphsafe_set_state(numbers.clone_state())
            torch.cuda.set_stream(stream)
            return None
        return _Recorded(graph, inputs, label_B, shown)


def _replayed(recorded: _Recorded, inputs: Tensor, label_B: Tensor) -> Shown:
    recorded.inputs.copy_(inputs)
    recorded.label_B.copy_(label_B)
    recorded.graph.replay()
    return recorded.shown.copied()
