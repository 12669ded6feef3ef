"""T5's text encoder, with the parameter names and config keys that transformers publishes."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import Config
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
    """The keys of a `config.json` with `model_type` "t5" that say something of the encoder, and their defaults."""

    d_ff: int = 2048
    d_kv: int = 64
    d_model: int = 512
    dropout_rate: float = 0.1
    eos_token_id: int | None = 1
    feed_forward_proj: FeedForward = "relu"
    initializer_factor: float = 1.0
    layer_norm_epsilon: float = 1e-6
    num_heads: int = 8
    num_layers: int = 6
    pad_token_id: int | None = 0
    relative_attention_max_distance: int = 128
    relative_attention_num_buckets: int = 32
    vocab_size: int = 32128

    def problems(self):
        buckets, furthest = self.relative_attention_num_buckets, self.relative_attention_max_distance
        if buckets < 4 or buckets % 2 or furthest <= buckets // 4:
            yield (
                "relative_attention_num_buckets",
                f"is {buckets}; wanted: even, at least 4, below 4 times relative_attention_max_distance ({furthest}).",
            )


class UMT5Config(T5Config):
    """The same for `model_type` "umt5", whose defaults are others."""

    d_ff: int = 1024
    feed_forward_proj: FeedForward = "gated-gelu"
    num_heads: int = 6
    num_layers: int = 8
    vocab_size: int = 250112


@dataclass(frozen=True, kw_only=True)
class T5Encoding:
    """What the encoder gives for ids of shape (batch, length): `last_hidden_state` (batch, length, d_model), normed."""

    last_hidden_state: Tensor


class T5EncoderModel(TransformersModel[T5Config]):
    """The encoder of T5 (Raffel et al. 2020, section 2.1), and of T5 1.1, whose feed-forward is gated (Shazeer 2020).

    In half precision the second layer of the feed-forward (`wo`) stays float32, and so does the stream of hidden
    states after it: T5 XXL was trained in bfloat16 and reaches values that float16 does not (transformers #20287).
    """

    config_class = T5Config
    model_type = "t5"
    biased_layers: ClassVar[Literal["first", "all"]] = "first"
    """The layers that learn a bias of relative positions. Where it is the first, the others use its."""

    def build(self, config: T5Config) -> None:
        # An nn.Embedding made in the usual way is drawn by torch first, which on the meta device imports torch._dynamo.
        table = torch.empty(config.vocab_size, config.d_model)
        self.shared = nn.Embedding.from_pretrained(table, freeze=False)
        spread(self.shared.weight, config.initializer_factor)
        self.encoder = _Encoder(config, self.biased_layers)

    @classmethod
    def published_name(cls, name: str) -> str | None:
        """Files of a whole T5 hold a decoder too, and some hold the token table a second time in the encoder."""
        if name == "encoder.embed_tokens.weight":
            return "shared.weight"
        return None if name.startswith(("decoder.", "lm_head.")) else name

    @classmethod
    def stays_float32(cls, name: str) -> bool:
        return name.endswith(".wo.weight")

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> T5Encoding:
        """`input_ids` (batch, length), integers; `attention_mask` likewise, 0 where a token is not to be seen."""
        return T5Encoding(last_hidden_state=self.encoder(self.shared(input_ids), attention_mask))


class UMT5EncoderModel(T5EncoderModel):
    """The encoder of UMT5 (Chung et al. 2023): T5 1.1 with a bias of relative positions in every layer."""

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
        hidden = None if mask is None else mask[:, None, None, :] == 0
        for block in self.block:
            x, bias = block(x, bias, hidden)
        return self.dropout(self.final_layer_norm(x))


class _Block(nn.Module):
    """Self-attention and feed-forward, each normed before and added after; published as `layer.0` and `layer.1`."""

    def __init__(self, config: T5Config, biased: bool) -> None:
        super().__init__()
        self.layer = nn.ModuleList([_AttentionLayer(config, biased), _FeedForwardLayer(config)])

    def forward(self, x: Tensor, bias: Tensor | None, hidden: Tensor | None) -> tuple[Tensor, Tensor]:
        x, added_to_scores = self.layer[0](x, bias, hidden)
        return _finite(self.layer[1](_finite(x))), added_to_scores


class _AttentionLayer(nn.Module):
    def __init__(self, config: T5Config, biased: bool) -> None:
        super().__init__()
        self.SelfAttention = _Attention(config, biased)
        self.layer_norm = RMSNorm(config.d_model, config.layer_norm_epsilon)
        self.dropout = nn.Dropout(config.dropout_rate)

    def forward(self, x: Tensor, bias: Tensor | None, hidden: Tensor | None) -> tuple[Tensor, Tensor]:
        added, added_to_scores = self.SelfAttention(self.layer_norm(x), bias, hidden)
        return x + self.dropout(added), added_to_scores


class _Attention(nn.Module):
    """Attention whose scores are not divided by √d; a bias of relative positions is added to them."""

    def __init__(self, config: T5Config, biased: bool) -> None:
        super().__init__()
        width, inner, factor = config.d_model, config.num_heads * config.d_kv, config.initializer_factor
        self.heads, self.dropout = config.num_heads, config.dropout_rate
        self.furthest = config.relative_attention_max_distance
        self.q, self.k, self.v = (nn.Linear(width, inner, bias=False) for _ in range(3))
        self.o = nn.Linear(inner, width, bias=False)
        spread(self.q.weight, factor * (width * config.d_kv) ** -0.5)  # makes up for the missing 1/√d
        for layer in (self.k, self.v):
            spread(layer.weight, factor * width**-0.5)
        spread(self.o.weight, factor * inner**-0.5)
        if biased:
            table = torch.empty(config.relative_attention_num_buckets, config.num_heads)
            self.relative_attention_bias = nn.Embedding.from_pretrained(table, freeze=False)
            spread(self.relative_attention_bias.weight, factor * width**-0.5)
        else:
            self.relative_attention_bias = None

    def forward(self, x: Tensor, bias: Tensor | None, hidden: Tensor | None) -> tuple[Tensor, Tensor]:
        """Gives what was mixed, and what was added to the scores, 1 or b heads n n: later layers may use it too."""
        if self.relative_attention_bias is not None:
            bias = self._bias(self.relative_attention_bias, x, hidden)
        assert bias is not None  # the first layer makes it
        q, k, v = (
            project(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # b heads n d_kv
            for project in (self.q, self.k, self.v)
        )
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout, scale=1.0)
        return self.o(mixed.transpose(1, 2).flatten(2)), bias

    def _bias(self, table: nn.Embedding, x: Tensor, hidden: Tensor | None) -> Tensor:
        places = torch.arange(x.shape[1], device=x.device)
        buckets = bucket(places[None, :] - places[:, None], table.num_embeddings, self.furthest)
        bias: Tensor = table(buckets).permute(2, 0, 1)[None]  # 1 heads n n
        # Not -inf: where a row sees nothing, all of it is padding, and NaN would spread.
        return bias if hidden is None else bias.masked_fill(hidden, torch.finfo(bias.dtype).min)


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
    """Division by the root mean square, in float32 (Zhang & Sennrich 2019); gives the dtype of its weight."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        scale = torch.rsqrt(x.float().square().mean(-1, keepdim=True) + self.eps)
        return self.weight * (x * scale).to(self.weight.dtype)


def bucket(distance: Tensor, buckets: int, furthest: int) -> Tensor:
    """The row of the bias table for each distance of the seen token from the seeing one.

    One half of the rows is for tokens behind, the other for those ahead. In each, half of the rows are exact, and the
    rest grow with the logarithm of the distance up to `furthest` (Raffel et al. 2020, section 2.1).
    """
    half = buckets // 2
    exact = half // 2
    away = distance.abs()
    log = torch.log(away.clamp(min=1).float() / exact) / math.log(furthest / exact)
    far = (exact + (log * (half - exact)).long()).clamp(max=half - 1)
    return torch.where(away < exact, away, far) + half * (distance > 0).long()


def spread(weight: Tensor, std: float) -> None:
    """Draw fresh weights; none where a file is about to bring them."""
    if not weight.is_meta:
        nn.init.normal_(weight, std=std)


def _linear(width: int, to: int, config: T5Config) -> nn.Linear:
    made = nn.Linear(width, to, bias=False)
    spread(made.weight, config.initializer_factor * width**-0.5)
    return made


def _finite(x: Tensor) -> Tensor:
    """Float16 clamped a little below its largest number where it overflowed, as published."""
    if x.dtype != torch.float16:
        return x
    most = torch.finfo(x.dtype).max
    limit = torch.where(x.isinf().any(), most - 1000, most)
    return x.clamp(-limit, limit)
