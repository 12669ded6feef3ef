"""T5's text encoder, with the parameter names and config keys that transformers publishes."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import Chance, Config, Epsilon, Layers, Rows, TokenId, Width
from .initialization import embedding, init_normal
from .token_table import token_vectors
from .transformers_files import TransformersModel

FeedForward = Literal["relu", "gelu", "silu", "gated-relu", "gated-gelu", "gated-silu"]

# Gated GELU is the tanh approximation, as T5 1.1 was trained; without a gate it is exact.
_ACTS: dict[FeedForward, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "silu": F.silu,
    "gated-relu": F.relu,
    "gated-gelu": partial(F.gelu, approximate="tanh"),
    "gated-silu": F.silu,
}


class T5Config(Config):
    """The keys of the encoder in a `config.json` with `model_type` "t5", and their published defaults."""

    d_ff: Width = 2048
    d_kv: Width = 64
    d_model: Width = 512
    dropout_rate: Chance = 0.1
    eos_token_id: TokenId | None = 1
    feed_forward_proj: FeedForward = "relu"
    initializer_factor: float = 1.0
    layer_norm_epsilon: Epsilon = 1e-6
    num_heads: Width = 8
    num_layers: Layers = 6
    pad_token_id: TokenId | None = 0
    relative_attention_max_distance: Rows = 128
    relative_attention_num_buckets: Width = 32
    vocab_size: Rows = 32128

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield what is wrong with the buckets of relative positions."""
        buckets, furthest = self.relative_attention_num_buckets, self.relative_attention_max_distance
        if buckets < 4 or buckets % 2 or furthest <= buckets // 4:
            yield (
                "relative_attention_num_buckets",
                f"needs an even number from 4 to {4 * furthest - 1} (relative_attention_max_distance), got {buckets}.",
            )


class UMT5Config(T5Config):
    """The same for `model_type` "umt5", with its published defaults."""

    d_ff: Width = 1024
    feed_forward_proj: FeedForward = "gated-gelu"
    num_heads: Width = 6
    num_layers: Layers = 8
    vocab_size: Rows = 250112


@dataclass(frozen=True, kw_only=True)
class T5Encoding:
    """The encoder's output for ids (batch, length). last_hidden_state: (batch, length, d_model), after the norm."""

    last_hidden_state: Tensor


class T5EncoderModel(TransformersModel[T5Config]):
    """The encoder of T5 (Raffel et al. 2020, section 2.1), and of T5 1.1, whose feed-forward is gated (Shazeer 2020).

    In float16 the second layer of the feed-forward (`wo`) stays float32, and so do the hidden states after it: T5 XXL
    was trained in bfloat16, and its values overflow float16 (transformers #20287).
    """

    config_class = T5Config
    model_type = "t5"
    biased_layers: ClassVar[Literal["first", "all"]] = "first"
    """The layers that learn a bias of relative positions. With "first", the others use that of the first."""

    def build(self, config: T5Config) -> None:
        """Make the table of tokens and the layers."""
        self.shared = embedding(config.vocab_size, config.d_model, config.initializer_factor)
        self.encoder = _Encoder(config, self.biased_layers)

    @classmethod
    def published_name(cls, name: str) -> str | None:
        """Ignore the decoder of a whole T5, and the encoder's copy of the token table becomes `shared`."""
        if name == "encoder.embed_tokens.weight":
            return "shared.weight"
        return None if name.startswith(("decoder.", "lm_head.")) else name

    @classmethod
    def stays_float32(cls, name: str) -> bool:
        """Return whether this is the weight of a `wo` layer."""
        return name.endswith(".wo.weight")

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> T5Encoding:
        """Encode `input_ids` (batch, length), integers. `attention_mask` is (batch, length), 0 for ignored tokens."""
        return T5Encoding(last_hidden_state=self.encoder(token_vectors(self.shared, input_ids), attention_mask))


class UMT5EncoderModel(T5EncoderModel):
    """The encoder of UMT5 (Chung et al. 2023): T5 1.1 with a bias of relative positions in each layer."""

    config_class = UMT5Config
    model_type = "umt5"
    biased_layers = "all"


class _Encoder(nn.Module):
    def __init__(self, config: T5Config, biased: Literal["first", "all"]) -> None:
        super().__init__()
        self.block = nn.ModuleList(_Block(config, biased == "all" or i == 0) for i in range(config.num_layers))
        self.final_layer_norm = RMSNorm(config.d_model, config.layer_norm_epsilon)
        self.dropout = nn.Dropout(config.dropout_rate)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        x, bias = self.dropout(x), None
        ignored = None if mask is None else mask[:, None, None, :] == 0
        for block in self.block:
            x, bias = block(x, bias, ignored)
        return self.dropout(self.final_layer_norm(x))


class _Block(nn.Module):
    """Self-attention (`layer.0`) and feed-forward (`layer.1`), each after a norm and added to its input."""

    def __init__(self, config: T5Config, biased: bool) -> None:
        super().__init__()
        self.layer = nn.ModuleList([_AttentionLayer(config, biased), _FeedForwardLayer(config)])

    def forward(self, x: Tensor, bias: Tensor | None, ignored: Tensor | None) -> tuple[Tensor, Tensor]:
        x, added_to_scores = self.layer[0](x, bias, ignored)
        return _clamp(self.layer[1](_clamp(x))), added_to_scores


class _AttentionLayer(nn.Module):
    def __init__(self, config: T5Config, biased: bool) -> None:
        super().__init__()
        self.SelfAttention = _Attention(config, biased)
        self.layer_norm = RMSNorm(config.d_model, config.layer_norm_epsilon)
        self.dropout = nn.Dropout(config.dropout_rate)

    def forward(self, x: Tensor, bias: Tensor | None, ignored: Tensor | None) -> tuple[Tensor, Tensor]:
        added, added_to_scores = self.SelfAttention(self.layer_norm(x), bias, ignored)
        return x + self.dropout(added), added_to_scores


class _Attention(nn.Module):
    """Attention without the division of scores by √d, and with a bias of relative positions."""

    def __init__(self, config: T5Config, biased: bool) -> None:
        super().__init__()
        width, inner, factor = config.d_model, config.num_heads * config.d_kv, config.initializer_factor
        self.heads, self.dropout = config.num_heads, config.dropout_rate
        self.furthest = config.relative_attention_max_distance
        self.q, self.k, self.v = (nn.Linear(width, inner, bias=False) for _ in range(3))
        self.o = nn.Linear(inner, width, bias=False)
        init_normal(self.q.weight, factor * (width * config.d_kv) ** -0.5)  # in place of the division by √d
        for layer in (self.k, self.v):
            init_normal(layer.weight, factor * width**-0.5)
        init_normal(self.o.weight, factor * inner**-0.5)
        if biased:
            buckets = config.relative_attention_num_buckets
            self.relative_attention_bias = embedding(buckets, config.num_heads, factor * width**-0.5)
        else:
            self.relative_attention_bias = None

    def forward(self, x: Tensor, bias: Tensor | None, ignored: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return `b n c`, and the bias of the scores, `1 or b heads n n`, for layers without their own."""
        if self.relative_attention_bias is not None:
            bias = self._bias(self.relative_attention_bias, x, ignored)
        assert bias is not None  # the first layer makes it
        q, k, v = (
            project(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # b heads n d_kv
            for project in (self.q, self.k, self.v)
        )
        dropout = self.dropout if self.training else 0.0
        values = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout, scale=1.0)
        return self.o(values.transpose(1, 2).flatten(2)), bias

    def _bias(self, table: nn.Embedding, x: Tensor, ignored: Tensor | None) -> Tensor:
        positions = torch.arange(x.shape[1], device=x.device)
        buckets = bucket(positions[None, :] - positions[:, None], table.num_embeddings, self.furthest)
        bias: Tensor = table(buckets).permute(2, 0, 1)[None]  # 1 heads n n
        # Not -inf: a row of padding alone would become NaN.
        return bias if ignored is None else bias.masked_fill(ignored, torch.finfo(bias.dtype).min)


class _FeedForwardLayer(nn.Module):
    def __init__(self, config: T5Config) -> None:
        super().__init__()
        gated = config.feed_forward_proj.startswith("gated-")
        self.DenseReluDense = _Gated(config) if gated else _Plain(config)
        self.layer_norm = RMSNorm(config.d_model, config.layer_norm_epsilon)
        self.dropout = nn.Dropout(config.dropout_rate)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.dropout(self.DenseReluDense(self.layer_norm(x)))


class _Plain(nn.Module):
    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.act, self.dropout = _ACTS[config.feed_forward_proj], nn.Dropout(config.dropout_rate)
        self.wi, self.wo = _linear(config.d_model, config.d_ff, config), _linear(config.d_ff, config.d_model, config)

    def forward(self, x: Tensor) -> Tensor:
        return self.wo(self.dropout(self.act(self.wi(x))).to(self.wo.weight.dtype))


class _Gated(nn.Module):
    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.act, self.dropout = _ACTS[config.feed_forward_proj], nn.Dropout(config.dropout_rate)
        self.wi_0, self.wi_1 = (_linear(config.d_model, config.d_ff, config) for _ in range(2))
        self.wo = _linear(config.d_ff, config.d_model, config)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.act(self.wi_0(x)) * self.wi_1(x)
        return self.wo(self.dropout(inner).to(self.wo.weight.dtype))


class RMSNorm(nn.Module):
    """Division by the root mean square, in float32 (Zhang & Sennrich 2019, equation 4)."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """Map `b n c`, to the dtype of the weight."""
        scale = torch.rsqrt(x.float().square().mean(-1, keepdim=True) + self.eps)
        return self.weight * (x * scale).to(self.weight.dtype)


def bucket(distance: Tensor, buckets: int, furthest: int) -> Tensor:
    """Return the row of the bias table for each distance: the key's position minus the query's.

    Half of the `buckets` are for keys before the query, half for those after. In each half, the first half have a
    distance each; the others grow with the logarithm of the distance up to `furthest` (Raffel et al. 2020, sec. 2.1).
    """
    half = buckets // 2
    exact = half // 2
    steps = distance.abs()
    log = torch.log(steps.clamp(min=1).float() / exact) / math.log(furthest / exact)
    far = (exact + (log * (half - exact)).long()).clamp(max=half - 1)
    return torch.where(steps < exact, steps, far) + half * (distance > 0).long()


def _linear(width: int, to: int, config: T5Config) -> nn.Linear:
    made = nn.Linear(width, to, bias=False)
    init_normal(made.weight, config.initializer_factor * width**-0.5)
    return made


def _clamp(x: Tensor) -> Tensor:
    """Clamp float16 a little below its largest number where it overflowed, as published."""
    if x.dtype != torch.float16:
        return x
    largest = torch.finfo(x.dtype).max
    limit = torch.where(x.isinf().any(), largest - 1000, largest)
    return x.clamp(-limit, limit)
