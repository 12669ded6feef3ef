"""Changes as users write them: attention whose rows share, attention of two passes, and a layer of their own."""

from typing import Any

import torch
from torch import Tensor, nn

import sfumato as sf


class Usual(sf.taps.AttentionChange):
    """All attention, as it is."""

    part = "attention"

    def attend(self, q: Tensor, k: Tensor, v: Tensor, call: sf.taps.AttentionCall) -> Tensor:
        return call.attend(q, k, v)


class ByMap(sf.taps.AttentionChange):
    """All attention as the product of a map and the values, the map to a power."""

    part = "attention"
    scale: float = 1.0

    def attend(self, q: Tensor, k: Tensor, v: Tensor, call: sf.taps.AttentionCall) -> Tensor:
        return call.map(q * self.scale, k) @ v


class ReadFirst(sf.taps.AttentionChange):
    """Each row attends to the first row of its pass alone."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, call: sf.taps.AttentionCall) -> Tensor:
        first = call.forward.first_rows
        return call.attend(q, k[first], v[first])


class Write(sf.taps.AttentionChange):
    """Keeps keys and values for a later pass."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, call: sf.taps.AttentionCall) -> Tensor:
        call.forward.memory[call.path] = k, v
        return call.attend(q, k, v)


class Read(sf.taps.AttentionChange):
    """Attends to what `Write` kept."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, call: sf.taps.AttentionCall) -> Tensor:
        return call.attend(q, *call.forward.memory[call.path])


class Halved(nn.Module):
    """A layer with half its output."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.inner(*inputs) / 2


class HalveFeedForward(sf.taps.Change):
    """Feed-forward layers with half their output."""

    part = "feed_forward"

    def replaced(self, layer: nn.Module, at: sf.taps.Place) -> nn.Module:
        return Halved(layer)


class ByRole(sf.taps.AttentionChange):
    """The values of negative passes are turned round, and those of others grow with the step."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, call: sf.taps.AttentionCall) -> Tensor:
        factors = torch.ones(len(v), 1, 1, 1)
        for p in call.forward.passes:
            factors[p.rows] = -1.0 if p.role == "negative" else 1.0 + call.forward.step.index
        return call.attend(q, k, v * factors)


class FirstRow(sf.taps.AttentionChange):
    """Attention to the prompt that returns the first row alone, or nothing."""

    part = "cross"
    keep: bool = True

    def attend(self, q: Tensor, k: Tensor, v: Tensor, call: sf.taps.AttentionCall) -> Tensor:
        made: Any = call.attend(q, k, v)[:1] if self.keep else None
        return made


class NoLayer(sf.taps.Change):
    """A change whose method returns no layer."""

    part = "feed_forward"

    def replaced(self, layer: nn.Module, at: sf.taps.Place) -> nn.Module:
        made: Any = None
        return made
