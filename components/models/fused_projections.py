"""Fused projections: queries, keys and values of an attention in one product. A view; parameter names stay."""

from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .transformer_layers import JointAttention, NormedAttention
from .views import combined_class, shallow_copy, view

M = TypeVar("M", bound=nn.Module)
Joined = tuple[tuple[nn.Module, ...], Tensor, Tensor]
"""Three layers, their joined weight and their joined bias."""


def fuse_projections(model: M) -> M:
    """Return a view with one product instead of three in every attention: faster for small batches.

    The joined weights are copies, about a fifth of a Flux transformer; delete the view to free them. Parameter names
    stay, so the view can be saved. Where a later view replaces one of the three layers (LoRA), they run separately.
    Make a new view after the model was moved or its weights were changed.
    """
    changes = {path: _fuse for path, module in model.named_modules() if isinstance(module, NormedAttention)}
    return view(model, changes)


def _fuse(module: nn.Module) -> nn.Module:
    assert isinstance(module, NormedAttention)
    own = [(module.to_q, module.to_k, module.to_v)]
    if isinstance(module, JointAttention):
        own.append((module.add_q_proj, module.add_k_proj, module.add_v_proj))
    if not all(type(layer) is nn.Linear for three in own for layer in three):  # quantized, or with LoRA
        return module
    kind = FusedJointAttention if isinstance(module, JointAttention) else FusedAttention
    twin = shallow_copy(module, combined_class(kind, type(module)))
    twin.__dict__["joined"] = tuple(_joined(three) for three in own)
    return twin


def _joined(layers: tuple[nn.Linear, ...]) -> Joined:
    weight, bias = (torch.cat([getattr(layer, name) for layer in layers]) for name in ("weight", "bias"))
    return layers, weight, bias


class FusedAttention(NormedAttention):
    """Attention that projects with joined weights while they are those of its layers."""

    joined: tuple[Joined, ...]

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values of tokens `b n c`, each `b n c`."""
        return self._project_joined(0, x, (self.to_q, self.to_k, self.to_v)) or super().project(x)

    def _project_joined(
        self, index: int, x: Tensor, own: tuple[nn.Module, ...]
    ) -> tuple[Tensor, Tensor, Tensor] | None:
        layers, weight, bias = self.joined[index]
        if weight.device != x.device or any(a is not b for a, b in zip(layers, own, strict=True)):
            return None
        q, k, v = F.linear(x, weight, bias).chunk(3, dim=-1)
        return q, k, v


class FusedJointAttention(FusedAttention, JointAttention):
    """The same for both streams."""

    def project_context(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values of the prompt's tokens `b m c`, each `b m c`."""
        own = self.add_q_proj, self.add_k_proj, self.add_v_proj
        return self._project_joined(1, x, own) or super().project_context(x)
