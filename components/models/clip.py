"""CLIP's text encoder, with the parameter names and config keys that transformers publishes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from ...graph.errors import UnfitValue
from .config import Rows, TokenId, Width
from .encoder_layers import Encoder, EncoderConfig
from .initialization import embedding, init_normal
from .token_table import token_vectors
from .transformers_files import TransformersModel

_ENCODER = ("embeddings.", "encoder.", "final_layer_norm.")
"""The first parts of the encoder's parameter names."""


class CLIPTextConfig(EncoderConfig):
    """The keys of a `config.json` with `model_type` "clip_text_model", and their published defaults."""

    bos_token_id: TokenId | None = 49406
    eos_token_id: TokenId = 49407
    hidden_act: Literal["quick_gelu", "gelu"] = "quick_gelu"
    hidden_size: Width = 512
    initializer_factor: float = 1.0
    initializer_range: float = 0.02
    intermediate_size: Width = 2048
    max_position_embeddings: Rows = 77
    num_attention_heads: Width = 8
    pad_token_id: TokenId | None = 1
    projection_dim: Width = 512
    vocab_size: Rows = 49408


@dataclass(frozen=True, kw_only=True)
class TextEncoding:
    """The output of CLIP's text encoder for ids of shape (batch, length).

    last_hidden_state: (batch, length, width), after the last norm. hidden_states: the embeddings and then each layer's
    output, before the norm; None unless `output_hidden_states`. pooler_output: (batch, width), that of the end token.
    """

    last_hidden_state: Tensor
    pooler_output: Tensor
    hidden_states: tuple[Tensor, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class ProjectedTextEncoding(TextEncoding):
    """The same with text_embeds (batch, projection_dim): the pooled row, projected to the space of image embeddings."""

    text_embeds: Tensor


class _CLIPText(TransformersModel[CLIPTextConfig]):
    """Base of both classes: an encoder under the name `text_model`."""

    config_class = CLIPTextConfig
    model_type = "clip_text_model"
    projects: ClassVar[bool] = False

    def build(self, config: CLIPTextConfig) -> None:
        self.text_model = _TextEncoder(config)
        if self.projects:
            self.text_projection = nn.Linear(config.hidden_size, config.projection_dim, bias=False)
            init_normal(self.text_projection.weight, config.hidden_size**-0.5 * config.initializer_factor)

    @property
    def final_layer_norm(self) -> nn.LayerNorm:
        """The norm of `last_hidden_state`, for callers that use an earlier layer. transformers 5 has this name too."""
        return self.text_model.final_layer_norm

    @classmethod
    def published_name(cls, name: str) -> str | None:
        """Add `text_model.`, which transformers 5 omits, and ignore the buffer of positions of files before 4.31."""
        name = f"text_model.{name}" if name.startswith(_ENCODER) else name
        of_images = name.startswith(("vision_model.", "visual_projection.")) or name == "logit_scale"
        unused = name == "text_projection.weight" and not cls.projects
        return None if of_images or unused or name.endswith(".position_ids") else name

    @classmethod
    def keys_of(cls, config: Mapping[str, Any]) -> Mapping[str, Any]:  # Any: JSON values
        """Return the keys of the text encoder, also from a file of a whole CLIP."""
        if config["model_type"] == "clip":
            return {**config.get("text_config", {}), **(config.get("text_config_dict") or {})}
        return super().keys_of(config)


class CLIPTextModel(_CLIPText):
    """CLIP's text encoder (Radford et al. 2021, section 2.4): a transformer with causal attention."""

    config_class = CLIPTextConfig

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, output_hidden_states: bool = False
    ) -> TextEncoding:
        """Encode token ids.

        Args:
            input_ids: (batch, length), integers.
            attention_mask: (batch, length), 0 for tokens that are ignored.
            output_hidden_states: whether to return each layer's output.

        Raises:
            UnfitValue: more tokens than `max_position_embeddings`.
        """
        return self.text_model(input_ids, attention_mask, output_hidden_states)


class CLIPTextModelWithProjection(_CLIPText):
    """CLIP's text encoder with a projection to the space of image embeddings (Radford et al. 2021, section 2.4)."""

    config_class = CLIPTextConfig
    projects = True

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, output_hidden_states: bool = False
    ) -> ProjectedTextEncoding:
        """Encode token ids; see `CLIPTextModel`."""
        encoding: TextEncoding = self.text_model(input_ids, attention_mask, output_hidden_states)
        return ProjectedTextEncoding(
            last_hidden_state=encoding.last_hidden_state,
            pooler_output=encoding.pooler_output,
            hidden_states=encoding.hidden_states,
            text_embeds=self.text_projection(encoding.pooler_output),  # batch projection_dim
        )


class _TextEncoder(nn.Module):
    def __init__(self, config: CLIPTextConfig) -> None:
        super().__init__()
        self.eos_token_id = config.eos_token_id
        self.embeddings = _Embeddings(config)
        self.encoder = Encoder(config.encoder_size(config.hidden_act, config.initializer_factor, causal=True))
        self.final_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None, output_hidden_states: bool) -> TextEncoding:
        mask = None if attention_mask is None else _causal_mask(attention_mask)
        hidden, states = self.encoder(self.embeddings(input_ids), mask, output_hidden_states)
        last = self.final_layer_norm(hidden)  # batch length width
        rows = torch.arange(len(last), device=last.device)
        pooled = last[rows, self._end(input_ids).to(last.device)]
        return TextEncoding(last_hidden_state=last, pooler_output=pooled, hidden_states=states)

    def _end(self, ids: Tensor) -> Tensor:
        """The index of the first end token, since it also pads. 0 where there is none, as published."""
        if self.eos_token_id == 2:
            # Configs written before transformers 4.31 have this wrong number (transformers #24773). Their end token is
            # the last of the vocabulary, so it has the largest id.
            return ids.argmax(dim=-1)
        return (ids == self.eos_token_id).int().argmax(dim=-1)


class _Embeddings(nn.Module):
    def __init__(self, config: CLIPTextConfig) -> None:
        super().__init__()
        self.token_embedding = embedding(config.vocab_size, config.hidden_size, 0.02 * config.initializer_factor)
        self.position_embedding = embedding(
            config.max_position_embeddings, config.hidden_size, 0.02 * config.initializer_factor
        )

    def forward(self, ids: Tensor) -> Tensor:
        length, most = ids.shape[-1], self.position_embedding.num_embeddings
        if length > most:
            raise UnfitValue(f"Needs at most {most} tokens (max_position_embeddings), got {length}. Truncate the text.")
        return token_vectors(self.token_embedding, ids) + self.position_embedding.weight[:length]


def _causal_mask(mask: Tensor) -> Tensor:
    """The causal mask of attention, (batch, 1, length, length), from a mask of tokens (batch, length).

    For a token that attends to none (padding on the left), torch's attention returns zeros and not NaN.
    """
    length = mask.shape[-1]
    past = torch.ones(length, length, dtype=torch.bool, device=mask.device).tril()
    return past & mask.bool()[:, None, None, :]
