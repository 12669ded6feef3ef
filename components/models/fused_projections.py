"""Fused projections: queries, keys and values of an attention in one product. A view; published names stay."""

from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .taps import also
from .transformer_layers import Heads, JointAttention
from .views import shallow_copy, view

M = TypeVar("M", bound=nn.Module)
Joined = tuple[tuple[nn.Module, ...], Tensor, Tensor]
"""The layers that were joined, and their weights and biases as one."""


def fuse_projections(model: M) -> M:
    """The model with one product instead of three in every attention, for batches too small to fill the device.

    The joined weights are copies, about a fifth of a Flux transformer: let go of the view to have their memory back.
    The model keeps its names and files. Where a later view replaces one of the layers (LoRA), all three run apart.
    Make it anew after moving the model or writing into its weights.
    """
    changes = {path: _fuse for path, module in model.named_modules() if isinstance(module, Heads)}
    return view(model, changes)


def _fuse(module: nn.Module) -> nn.Module:
    assert isinstance(module, Heads)
    own = [(module.to_q, module.to_k, module.to_v)]
    if isinstance(module, JointAttention):
        own.append((module.add_q_proj, module.add_k_proj, module.add_v_proj))
    if not all(type(layer) is nn.Linear for three in own for layer in three):  # quantized, or with LoRA
        return module
    twin = shallow_copy(module, also(FusedJoint if isinstance(module, JointAttention) else FusedHeads, type(module)))
    twin.__dict__["joined"] = tuple(_joined(three) for three in own)
    return twin


def _joined(layers: tuple[nn.Linear, ...]) -> Joined:
    weight, bias = (torch.cat([getattr(layer, name) for layer in layers]) for name in ("weight", "bias"))
    return layers, weight, bias


class FusedHeads(Heads):
    """Attention that projects by joined weights, as long as they are those of its layers."""

    joined: tuple[Joined, ...]

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self._by(0, x, (self.to_q, self.to_k, self.to_v)) or super().project(x)

    def _by(self, place: int, x: Tensor, own: tuple[nn.Module, ...]) -> tuple[Tensor, Tensor, Tensor] | None:
        layers, weight, bias = self.joined[place]
        if any(a is not b for a, b in zip(layers, own, strict=True)):
            return None
        q, k, v = F.linear(x, weight, bias).chunk(3, dim=-1)
        return q, k, v


class FusedJoint(FusedHeads, JointAttention):
    """The same for both streams."""

    def project_context(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        own = self.add_q_proj, self.add_k_proj, self.add_v_proj
        return self._by(1, x, own) or super().project_context(x)
