"""The layers that CLIP's and SigLIP's towers are made of, under the names that transformers publishes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Activation = Literal["quick_gelu", "gelu", "gelu_pytorch_tanh"]


@dataclass(frozen=True, kw_only=True)
class Layers:
    """What one stack of layers is made from."""

    width: int
    heads: int
    hidden: int
    depth: int
    act: Activation
    eps: float
    dropout: float = 0.0
    causal: bool = False
    """Whether a token sees only those before it."""
    spread: float = 1.0
    """What the standard deviations of fresh weights are multiplied by."""


class Encoder(nn.Module):
    def __init__(self, of: Layers) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(of) for _ in range(of.depth))

    def forward(
        self, hidden: Tensor, seen: Tensor | None = None, keep: bool = False
    ) -> tuple[Tensor, tuple[Tensor, ...] | None]:
        """What the last layer gives, (batch, length, width), and where kept the input and what each layer gives."""
        states = [hidden]
        for layer in self.layers:
            hidden = layer(hidden, seen)
            if keep:
                states.append(hidden)
        return hidden, tuple(states) if keep else None


class Layer(nn.Module):
    """A transformer's layer that normalises before it looks: Xiong et al. 2020."""

    def __init__(self, of: Layers) -> None:
        super().__init__()
        self.self_attn = SelfAttention(of)
        self.layer_norm1 = nn.LayerNorm(of.width, eps=of.eps)
        self.mlp = MLP(of)
        self.layer_norm2 = nn.LayerNorm(of.width, eps=of.eps)

    def forward(self, hidden: Tensor, seen: Tensor | None) -> Tensor:
        hidden = hidden + self.self_attn(self.layer_norm1(hidden), seen)
        return hidden + self.mlp(self.layer_norm2(hidden))


class SelfAttention(nn.Module):
    def __init__(self, of: Layers) -> None:
        super().__init__()
        width = of.width
        self.heads, self.dropout, self.causal = of.heads, of.dropout, of.causal
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(width, width) for _ in range(4))
        deep = (2 * of.depth) ** -0.5  # the residual sum grows with depth: GPT-2's scaling
        for layer in (self.q_proj, self.k_proj, self.v_proj):
            spread(layer.weight, width**-0.5 * deep * of.spread)
        spread(self.out_proj.weight, width**-0.5 * of.spread)

    def forward(self, hidden: Tensor, seen: Tensor | None) -> Tensor:
        q, k, v = (
            project(hidden).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # batch heads length (width / heads)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        dropout, causal = self.dropout if self.training else 0.0, self.causal and seen is None
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, dropout_p=dropout, is_causal=causal)
        return self.out_proj(mixed.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    def __init__(self, of: Layers) -> None:
        super().__init__()
        self.act = ACTIVATIONS[of.act]
        self.fc1 = nn.Linear(of.width, of.hidden)
        self.fc2 = nn.Linear(of.hidden, of.width)
        spread(self.fc1.weight, (2 * of.width) ** -0.5 * of.spread)
        spread(self.fc2.weight, of.width**-0.5 * (2 * of.depth) ** -0.5 * of.spread)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(hidden)))


def embedding(rows: int, width: int, std: float) -> nn.Embedding:
    # An nn.Embedding made in the usual way is drawn by torch first, which on the meta device imports torch._dynamo.
    made = nn.Embedding.from_pretrained(torch.empty(rows, width), freeze=False)
    spread(made.weight, std)
    return made


def spread(weight: Tensor, std: float) -> None:
    """Draw fresh weights; none where a file is about to bring them."""
    if not weight.is_meta:
        nn.init.normal_(weight, std=std)


def quick_gelu(x: Tensor) -> Tensor:
    """The sigmoid approximation of GELU that CLIP was trained with: Hendrycks & Gimpel 2016, section 2."""
    return x * torch.sigmoid(1.702 * x)


def _tanh_gelu(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "quick_gelu": quick_gelu,
    "gelu": F.gelu,
    "gelu_pytorch_tanh": _tanh_gelu,
}
