"""The layers of CLIP's and SigLIP's encoders, under the names that transformers publishes."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import Chance, Config, Epsilon, Layers, Width
from .initialization import init_normal

Activation = Literal["quick_gelu", "gelu", "gelu_pytorch_tanh"]


@dataclass(frozen=True, kw_only=True)
class EncoderSize:
    """The sizes of an encoder. hidden: of the MLP; depth: the number of layers."""

    width: int
    heads: int
    hidden: int
    depth: int
    act: Activation
    eps: float
    dropout: float = 0.0
    causal: bool = False
    """Whether a token attends only to those before it and itself."""
    init_factor: float = 1.0
    """A factor of the standard deviations of fresh weights."""

    @property
    def shrink(self) -> float:
        """Another such factor, since the sum over layers grows with their number (GPT-2's scaling)."""
        return (2 * max(1, self.depth)) ** -0.5  # a model without layers may have a head


class EncoderConfig(Config):
    """The keys that CLIP's and SigLIP's encoders share."""

    attention_dropout: Chance = 0.0
    hidden_size: Width
    intermediate_size: Width
    layer_norm_eps: Epsilon = 1e-5
    num_attention_heads: Width
    num_hidden_layers: Layers = 12

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield what is wrong with the number of heads."""
        if self.hidden_size % self.num_attention_heads:
            yield (
                "num_attention_heads",
                f"needs to divide hidden_size ({self.hidden_size}), got {self.num_attention_heads}.",
            )

    def encoder_size(self, act: Activation, init_factor: float = 1.0, *, causal: bool = False) -> EncoderSize:
        """Return the sizes of the encoder; see `EncoderSize`."""
        return EncoderSize(
            width=self.hidden_size,
            heads=self.num_attention_heads,
            hidden=self.intermediate_size,
            depth=self.num_hidden_layers,
            act=act,
            eps=self.layer_norm_eps,
            dropout=self.attention_dropout,
            causal=causal,
            init_factor=init_factor,
        )


class Encoder(nn.Module):
    """A list of layers, one after another (Vaswani et al. 2017, section 3.1)."""

    def __init__(self, size: EncoderSize) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(size) for _ in range(size.depth))

    def forward(
        self, hidden: Tensor, mask: Tensor | None = None, keep_states: bool = False
    ) -> tuple[Tensor, tuple[Tensor, ...] | None]:
        """Map `b n c`; with `keep_states` return the input and each layer's output too.

        `mask` is boolean `b 1 n n`, true where the first token attends to the second.
        """
        states = [hidden]
        for layer in self.layers:
            hidden = layer(hidden, mask)
            if keep_states:
                states.append(hidden)
        return hidden, tuple(states) if keep_states else None


class Layer(nn.Module):
    """Self-attention and an MLP, each after a norm and added to its input (Xiong et al. 2020, figure 1b)."""

    def __init__(self, size: EncoderSize) -> None:
        super().__init__()
        self.self_attn = SelfAttention(size)
        self.layer_norm1 = nn.LayerNorm(size.width, eps=size.eps)
        self.mlp = MLP(size)
        self.layer_norm2 = nn.LayerNorm(size.width, eps=size.eps)

    def forward(self, hidden: Tensor, mask: Tensor | None) -> Tensor:
        """Map `b n c`."""
        hidden = hidden + self.self_attn(self.layer_norm1(hidden), mask)
        return hidden + self.mlp(self.layer_norm2(hidden))


class SelfAttention(nn.Module):
    """Scaled dot-product attention with several heads (Vaswani et al. 2017, section 3.2.2)."""

    def __init__(self, size: EncoderSize) -> None:
        super().__init__()
        width, factor = size.width, size.init_factor
        self.heads, self.dropout, self.causal = size.heads, size.dropout, size.causal
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(width, width) for _ in range(4))
        for layer in (self.q_proj, self.k_proj, self.v_proj):
            init_normal(layer.weight, width**-0.5 * size.shrink * factor)
        init_normal(self.out_proj.weight, width**-0.5 * factor)

    def forward(self, hidden: Tensor, mask: Tensor | None) -> Tensor:
        """Map `b n c`."""
        q, k, v = (
            project(hidden).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # batch heads length (width / heads)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        dropout, causal = self.dropout if self.training else 0.0, self.causal and mask is None
        values = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=causal)
        return self.out_proj(values.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """Two linear layers with an activation between them."""

    def __init__(self, size: EncoderSize) -> None:
        super().__init__()
        self.act = ACTIVATIONS[size.act]
        self.fc1 = nn.Linear(size.width, size.hidden)
        self.fc2 = nn.Linear(size.hidden, size.width)
        factor = size.init_factor
        init_normal(self.fc1.weight, (2 * size.width) ** -0.5 * factor)
        init_normal(self.fc2.weight, size.width**-0.5 * size.shrink * factor)

    def forward(self, hidden: Tensor) -> Tensor:
        """Map `b n c`."""
        return self.fc2(self.act(self.fc1(hidden)))


def quick_gelu(x: Tensor) -> Tensor:
    """Compute the sigmoid approximation of GELU, which CLIP was trained with (Hendrycks & Gimpel 2016, section 2)."""
    return x * torch.sigmoid(1.702 * x)


def _tanh_gelu(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "quick_gelu": quick_gelu,
    "gelu": F.gelu,
    "gelu_pytorch_tanh": _tanh_gelu,
}
