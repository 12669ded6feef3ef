"""The image encoders of CLIP and SigLIP, with the parameter names and config keys that transformers publishes."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...graph.errors import UnfitValue
from .base import C
from .config import Epsilon, Rows, Width
from .encoder_layers import MLP, Encoder, EncoderConfig
from .initialization import embedding, init_normal
from .transformers_files import TransformersModel

_ENCODER = ("embeddings.", "pre_layrnorm.", "encoder.", "post_layernorm.", "head.")
"""The first parts of the encoder's parameter names."""
_UNREAD = ("text_model.", "text_projection.", "logit_scale", "logit_bias")
"""The tensors of a whole CLIP or SigLIP that the image encoder does not have."""


class VisionConfig(EncoderConfig):
    """The keys that both encoders have."""

    hidden_size: Width = 768
    image_size: Rows = 224
    intermediate_size: Width = 3072
    num_attention_heads: Width = 12
    num_channels: Width = 3
    patch_size: Width = 32

    @property
    def patches(self) -> int:
        """The number of patches of an image; a rest at its edge that is smaller than a patch is ignored."""
        return (self.image_size // self.patch_size) ** 2

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield what is wrong with the numbers of heads and patches."""
        yield from super().problems()
        if not 0 < self.patch_size <= self.image_size:
            yield "patch_size", f"needs to be from 1 to image_size {self.image_size}, got {self.patch_size}."


class CLIPVisionConfig(VisionConfig):
    """The keys of a `config.json` with `model_type` "clip_vision_model", and their published defaults."""

    hidden_act: Literal["quick_gelu", "gelu"] = "quick_gelu"
    initializer_factor: float = 1.0
    initializer_range: float = 0.02
    projection_dim: Width = 512


class SiglipVisionConfig(VisionConfig):
    """The keys of a `config.json` with `model_type` "siglip_vision_model", and their published defaults."""

    hidden_act: Literal["gelu_pytorch_tanh", "gelu"] = "gelu_pytorch_tanh"
    layer_norm_eps: Epsilon = 1e-6
    patch_size: Width = 16
    vision_use_head: bool = True


@dataclass(frozen=True, kw_only=True)
class ImageEncoding:
    """The output of an image encoder for pixels of shape (batch, channels, image_size, image_size).

    last_hidden_state: (batch, tokens, width); CLIP's first token is the class token. pooler_output: (batch, width), one
    row for the image; None in a SigLIP without a head. hidden_states: the input of the layers and each layer's output;
    None unless `output_hidden_states`. image_embeds: (batch, projection_dim), CLIP's, in the space of text embeddings.
    """

    last_hidden_state: Tensor
    pooler_output: Tensor | None
    hidden_states: tuple[Tensor, ...] | None = None
    image_embeds: Tensor | None = None


class _Vision(TransformersModel[C]):
    """Base of both: an encoder under the name `vision_model`; files may hold a text encoder too, which is not read."""

    whole_type: ClassVar[str]
    """The `model_type` of files with both encoders."""

    @classmethod
    def published_name(cls, name: str) -> str | None:
        """Add `vision_model.`, which transformers 5 omits for SigLIP, and ignore the positions buffer of old files."""
        name = f"vision_model.{name}" if name.startswith(_ENCODER) else name
        return None if name.startswith(_UNREAD) or name.endswith(".position_ids") else name

    @classmethod
    def keys_of(cls, config: Mapping[str, Any]) -> Mapping[str, Any]:  # Any: JSON values
        """Return the keys of the image encoder, also from a file with both encoders."""
        if config["model_type"] == cls.whole_type:
            return {**config.get("vision_config", {}), **(config.get("vision_config_dict") or {})}
        return super().keys_of(config)


class CLIPVisionModelWithProjection(_Vision[CLIPVisionConfig]):
    """CLIP's image encoder with its projection to the space of text embeddings (Radford et al. 2021, section 2.4)."""

    config_class = CLIPVisionConfig
    model_type = "clip_vision_model"
    whole_type = "clip"

    def build(self, config: CLIPVisionConfig) -> None:
        """Make the encoder and the projection."""
        self.vision_model = _CLIPEncoder(config)
        self.visual_projection = nn.Linear(config.hidden_size, config.projection_dim, bias=False)
        init_normal(self.visual_projection.weight, config.hidden_size**-0.5 * config.initializer_factor)

    def forward(self, pixel_values: Tensor, output_hidden_states: bool = False) -> ImageEncoding:
        """Encode `pixel_values` (batch, num_channels, image_size, image_size), prepared by a CLIPImageProcessor.

        Raises:
            UnfitValue: pixels of another size.
        """
        encoder = self.vision_model
        tokens = encoder.pre_layrnorm(encoder.embeddings(pixel_values))
        hidden, states = encoder.encoder(tokens, keep_states=output_hidden_states)
        pooled = encoder.post_layernorm(hidden[:, 0])
        return ImageEncoding(
            last_hidden_state=hidden,
            pooler_output=pooled,
            hidden_states=states,
            image_embeds=self.visual_projection(pooled),
        )


class SiglipVisionModel(_Vision[SiglipVisionConfig]):
    """SigLIP's image encoder (Zhai et al. 2023): without a class token; attention of one query pools all tokens."""

    config_class = SiglipVisionConfig
    model_type = "siglip_vision_model"
    whole_type = "siglip"

    def build(self, config: SiglipVisionConfig) -> None:
        """Make the encoder."""
        self.vision_model = _SiglipEncoder(config)

    def forward(self, pixel_values: Tensor, output_hidden_states: bool = False) -> ImageEncoding:
        """Encode `pixel_values` (batch, num_channels, image_size, image_size), prepared by a SiglipImageProcessor.

        Raises:
            UnfitValue: pixels of another size.
        """
        encoder = self.vision_model
        hidden, states = encoder.encoder(encoder.embeddings(pixel_values), keep_states=output_hidden_states)
        last = encoder.post_layernorm(hidden)
        pooled = encoder.head(last) if self.config.vision_use_head else None
        return ImageEncoding(last_hidden_state=last, pooler_output=pooled, hidden_states=states)


class _CLIPEncoder(nn.Module):
    def __init__(self, config: CLIPVisionConfig) -> None:
        super().__init__()
        factor = config.initializer_factor
        self.embeddings = _Embeddings(config, class_token=True, std=config.initializer_range * factor)
        self.pre_layrnorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)  # published with this spelling
        self.encoder = Encoder(config.encoder_size(config.hidden_act, factor))
        self.post_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)


class _SiglipEncoder(nn.Module):
    def __init__(self, config: SiglipVisionConfig) -> None:
        super().__init__()
        self.embeddings = _Embeddings(config, class_token=False, std=config.hidden_size**-0.5)
        self.encoder = Encoder(config.encoder_size(config.hidden_act))
        self.post_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        if config.vision_use_head:
            self.head = _Head(config)


class _Embeddings(nn.Module):
    """Turns patches into tokens and adds position embeddings (Dosovitskiy et al. 2020, equation 1)."""

    def __init__(self, config: VisionConfig, class_token: bool, std: float) -> None:
        super().__init__()
        self.channels, self.size, width = config.num_channels, config.image_size, config.hidden_size
        self.class_embedding = nn.Parameter(torch.empty(width)) if class_token else None
        self.patch_embedding = nn.Conv2d(
            config.num_channels, width, config.patch_size, stride=config.patch_size, bias=not class_token
        )
        self.position_embedding = embedding(config.patches + class_token, width, std)
        init_normal(self.patch_embedding.weight, std)
        if self.class_embedding is not None:
            init_normal(self.class_embedding.data, width**-0.5)

    def forward(self, pixels: Tensor) -> Tensor:
        if tuple(pixels.shape[1:]) != (self.channels, self.size, self.size):
            raise UnfitValue(
                f"Needs pixel_values of shape (batch, {self.channels}, {self.size}, {self.size}), got "
                f"{tuple(pixels.shape)}. Prepare the image with the processor of the feature_extractor folder."
            )
        tokens = self.patch_embedding(pixels.to(self.patch_embedding.weight.dtype)).flatten(2).transpose(1, 2)
        if self.class_embedding is not None:
            tokens = torch.cat([self.class_embedding.expand(len(tokens), 1, -1), tokens], 1)
        return tokens + self.position_embedding.weight  # batch tokens width


class _Head(nn.Module):
    """Attention pooling with one learned query (Lee et al. 2019, Set Transformer, section 3.2)."""

    def __init__(self, config: SiglipVisionConfig) -> None:
        super().__init__()
        self.probe = nn.Parameter(torch.empty(1, 1, config.hidden_size))
        self.attention = _Pooling(config.hidden_size, config.num_attention_heads)
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = MLP(config.encoder_size(config.hidden_act))
        init_normal(self.probe.data, 1.0)

    def forward(self, tokens: Tensor) -> Tensor:
        pooled = self.attention(self.probe.expand(len(tokens), -1, -1), tokens)
        return (pooled + self.mlp(self.layernorm(pooled)))[:, 0]


class _Pooling(nn.Module):
    """Attention with the parameters of `torch.nn.MultiheadAttention`, without its fast path."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        init_normal(self.in_proj_weight.data, width**-0.5)

    def forward(self, query: Tensor, tokens: Tensor) -> Tensor:
        (wq, wk, wv), (bq, bk, bv) = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        q, k, v = (
            F.linear(x, weight, bias).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for x, weight, bias in ((query, wq, bq), (tokens, wk, bk), (tokens, wv, bv))
        )
        return self.out_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
