"""CLIP's text tower, with the parameter names and config keys that transformers publishes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import Config
from .transformers_files import TransformersModel

_TOWER = ("embeddings.", "encoder.", "final_layer_norm.")


class CLIPTextConfig(Config):
    """The keys of a `config.json` with `model_type` "clip_text_model", and their published defaults."""

    attention_dropout: float = 0.0
    bos_token_id: int | None = 49406
    eos_token_id: int = 49407
    hidden_act: Literal["quick_gelu", "gelu"] = "quick_gelu"
    hidden_size: int = 512
    initializer_factor: float = 1.0
    initializer_range: float = 0.02
    intermediate_size: int = 2048
    layer_norm_eps: float = 1e-5
    max_position_embeddings: int = 77
    num_attention_heads: int = 8
    num_hidden_layers: int = 12
    pad_token_id: int | None = 1
    projection_dim: int = 512
    vocab_size: int = 49408

    def problems(self):
        if self.hidden_size % self.num_attention_heads:
            yield (
                "num_attention_heads",
                f"is {self.num_attention_heads}, which does not divide hidden_size {self.hidden_size}.",
            )


@dataclass(frozen=True, kw_only=True)
class TextEncoding:
    """What a text tower gives for ids of shape (batch, length).

    `last_hidden_state` (batch, length, width) is normalised; `hidden_states`, where asked for, are the embeddings and
    then each layer's output, not normalised; `pooler_output` (batch, width) is the row of the end token.
    """

    last_hidden_state: Tensor
    pooler_output: Tensor
    hidden_states: tuple[Tensor, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class ProjectedTextEncoding(TextEncoding):
    """The same with `text_embeds` (batch, projection_dim), the pooled row projected into the space of images."""

    text_embeds: Tensor


class _CLIPText(TransformersModel[CLIPTextConfig]):
    """What both classes share: the tower under the name `text_model`."""

    config_class = CLIPTextConfig
    model_type = "clip_text_model"
    projects: ClassVar[bool] = False

    def build(self, config: CLIPTextConfig) -> None:
        self.text_model = _Tower(config)
        if self.projects:
            self.text_projection = nn.Linear(config.hidden_size, config.projection_dim, bias=False)
            _spread(self.text_projection.weight, config.hidden_size**-0.5 * config.initializer_factor)

    @property
    def final_layer_norm(self) -> nn.LayerNorm:
        """The norm of `last_hidden_state`, for those who take an earlier layer. transformers 5 has it here too."""
        return self.text_model.final_layer_norm

    @classmethod
    def published_name(cls, name: str) -> str | None:
        """transformers 5 writes a plain tower without `text_model.`; files before 4.31 hold a buffer of positions."""
        name = f"text_model.{name}" if name.startswith(_TOWER) else name
        whole_clip = name.startswith(("vision_model.", "visual_projection.")) or name == "logit_scale"
        unused = name == "text_projection.weight" and not cls.projects
        return None if whole_clip or unused or name.endswith(".position_ids") else name

    @classmethod
    def keys_of(cls, config: Mapping[str, Any]) -> Mapping[str, Any]:  # Any: JSON values
        if config["model_type"] == "clip":  # both towers in one file; ours is in a config of its own
            return {**config.get("text_config", {}), **(config.get("text_config_dict") or {})}
        return super().keys_of(config)


class CLIPTextModel(_CLIPText):
    """The text tower of CLIP (Radford et al. 2021, section 2.4): a transformer whose tokens see those before them."""

    config_class = CLIPTextConfig

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, output_hidden_states: bool = False
    ) -> TextEncoding:
        """`input_ids` (batch, length), integers; `attention_mask` likewise, 0 where a token is not to be seen."""
        return self.text_model(input_ids, attention_mask, output_hidden_states)


class CLIPTextModelWithProjection(_CLIPText):
    """The text tower with the projection into the space that CLIP shares with images (`text_projection`)."""

    config_class = CLIPTextConfig
    projects = True

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, output_hidden_states: bool = False
    ) -> ProjectedTextEncoding:
        """`input_ids` (batch, length), integers; `attention_mask` likewise, 0 where a token is not to be seen."""
        seen: TextEncoding = self.text_model(input_ids, attention_mask, output_hidden_states)
        return ProjectedTextEncoding(
            last_hidden_state=seen.last_hidden_state,
            pooler_output=seen.pooler_output,
            hidden_states=seen.hidden_states,
            text_embeds=self.text_projection(seen.pooler_output),  # batch projection_dim
        )


class _Tower(nn.Module):
    def __init__(self, config: CLIPTextConfig) -> None:
        super().__init__()
        self.eos_token_id = config.eos_token_id
        self.embeddings = _Embeddings(config)
        self.encoder = _Encoder(config)
        self.final_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None, output_hidden_states: bool) -> TextEncoding:
        hidden = self.embeddings(input_ids)  # batch length width
        seen = None if attention_mask is None else _visible(attention_mask)
        states = [hidden]
        for layer in self.encoder.layers:
            hidden = layer(hidden, seen)
            if output_hidden_states:
                states.append(hidden)
        last = self.final_layer_norm(hidden)
        rows = torch.arange(len(last), device=last.device)
        pooled = last[rows, self._end(input_ids).to(last.device)]
        return TextEncoding(
            last_hidden_state=last,
            pooler_output=pooled,
            hidden_states=tuple(states) if output_hidden_states else None,
        )

    def _end(self, ids: Tensor) -> Tensor:
        """The place of the end token: the first, since it also pads. 0 where there is none, as published."""
        if self.eos_token_id == 2:
            # Configs written before transformers 4.31 have this wrong number (transformers #24773); their end token is
            # the last of the vocabulary, so it is found as the largest id.
            return ids.argmax(dim=-1)
        return (ids == self.eos_token_id).int().argmax(dim=-1)


class _Embeddings(nn.Module):
    def __init__(self, config: CLIPTextConfig) -> None:
        super().__init__()
        self.token_embedding = _table(config.vocab_size, config)
        self.position_embedding = _table(config.max_position_embeddings, config)

    def forward(self, ids: Tensor) -> Tensor:
        length, most = ids.shape[-1], self.position_embedding.num_embeddings
        if length > most:
            raise ValueError(f"input_ids has {length} tokens, and this tower has {most} positions. Truncate the text.")
        return self.token_embedding(ids) + self.position_embedding.weight[:length]


class _Encoder(nn.Module):
    def __init__(self, config: CLIPTextConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_Layer(config) for _ in range(config.num_hidden_layers))


class _Layer(nn.Module):
    def __init__(self, config: CLIPTextConfig) -> None:
        super().__init__()
        self.self_attn = _Attention(config)
        self.layer_norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = _MLP(config)
        self.layer_norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, hidden: Tensor, seen: Tensor | None) -> Tensor:
        hidden = hidden + self.self_attn(self.layer_norm1(hidden), seen)
        return hidden + self.mlp(self.layer_norm2(hidden))


class _Attention(nn.Module):
    def __init__(self, config: CLIPTextConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.heads, self.dropout = config.num_attention_heads, config.attention_dropout
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(width, width) for _ in range(4))
        deep = (2 * config.num_hidden_layers) ** -0.5  # the residual sum grows with depth: GPT-2's scaling
        for layer in (self.q_proj, self.k_proj, self.v_proj):
            _spread(layer.weight, width**-0.5 * deep * config.initializer_factor)
        _spread(self.out_proj.weight, width**-0.5 * config.initializer_factor)

    def forward(self, hidden: Tensor, seen: Tensor | None) -> Tensor:
        q, k, v = (
            project(hidden).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # batch heads length (width / heads)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, dropout_p=dropout, is_causal=seen is None)
        return self.out_proj(mixed.transpose(1, 2).flatten(2))


class _MLP(nn.Module):
    def __init__(self, config: CLIPTextConfig) -> None:
        super().__init__()
        self.act: Callable[[Tensor], Tensor] = quick_gelu if config.hidden_act == "quick_gelu" else F.gelu
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)
        width, factor = config.hidden_size, config.initializer_factor
        _spread(self.fc1.weight, (2 * width) ** -0.5 * factor)
        _spread(self.fc2.weight, width**-0.5 * (2 * config.num_hidden_layers) ** -0.5 * factor)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(hidden)))


def _table(rows: int, config: CLIPTextConfig) -> nn.Embedding:
    # An nn.Embedding made in the usual way is drawn by torch first, which on the meta device imports torch._dynamo.
    made = nn.Embedding.from_pretrained(torch.empty(rows, config.hidden_size), freeze=False)
    _spread(made.weight, 0.02 * config.initializer_factor)
    return made


def _spread(weight: Tensor, std: float) -> None:
    """Draw fresh weights; none where a file is about to bring them."""
    if not weight.is_meta:
        nn.init.normal_(weight, std=std)


def quick_gelu(x: Tensor) -> Tensor:
    """The sigmoid approximation of GELU that CLIP was trained with: Hendrycks & Gimpel 2016, section 2."""
    return x * torch.sigmoid(1.702 * x)


def _visible(mask: Tensor) -> Tensor:
    """Who sees whom, (batch, 1, length, length), from a mask of tokens (batch, length) and the order of time.

    A token that sees nothing (padding on the left) gets zeros from torch's attention, not NaN.
    """
    length = mask.shape[-1]
    past = torch.ones(length, length, dtype=torch.bool, device=mask.device).tril()
    return past & mask.bool()[:, None, None, :]
