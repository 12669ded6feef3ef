"""The vision towers of CLIP and SigLIP, with the parameter names and config keys that transformers publishes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import C
from .config import Config
from .encoder_layers import MLP, Activation, Encoder, Layers, embedding, spread
from .transformers_files import TransformersModel

_TOWER = ("embeddings.", "pre_layrnorm.", "encoder.", "post_layernorm.", "head.")
_OTHERS = ("text_model.", "text_projection.", "logit_scale", "logit_bias")
"""What a file with both towers holds besides."""


class VisionConfig(Config):
    """The keys that both towers have."""

    attention_dropout: float = 0.0
    hidden_size: int = 768
    image_size: int = 224
    intermediate_size: int = 3072
    layer_norm_eps: float = 1e-5
    num_attention_heads: int = 12
    num_channels: int = 3
    num_hidden_layers: int = 12
    patch_size: int = 32

    @property
    def patches(self) -> int:
        """How many patches an image has; what does not fill one at its edge is not looked at."""
        return (self.image_size // self.patch_size) ** 2

    def layers(self, act: Activation, factor: float = 1.0) -> Layers:
        return Layers(
            width=self.hidden_size,
            heads=self.num_attention_heads,
            hidden=self.intermediate_size,
            depth=self.num_hidden_layers,
            act=act,
            eps=self.layer_norm_eps,
            dropout=self.attention_dropout,
            spread=factor,
        )

    def problems(self):
        if self.hidden_size % self.num_attention_heads:
            yield (
                "num_attention_heads",
                f"is {self.num_attention_heads}, which does not divide hidden_size {self.hidden_size}.",
            )
        if not 0 < self.patch_size <= self.image_size:
            yield "patch_size", f"is {self.patch_size}, which does not fit into image_size {self.image_size}."


class CLIPVisionConfig(VisionConfig):
    """The keys of a `config.json` with `model_type` "clip_vision_model", and their published defaults."""

    hidden_act: Literal["quick_gelu", "gelu"] = "quick_gelu"
    initializer_factor: float = 1.0
    initializer_range: float = 0.02
    projection_dim: int = 512


class SiglipVisionConfig(VisionConfig):
    """The keys of a `config.json` with `model_type` "siglip_vision_model", and their published defaults."""

    hidden_act: Literal["gelu_pytorch_tanh", "gelu"] = "gelu_pytorch_tanh"
    layer_norm_eps: float = 1e-6
    patch_size: int = 16
    vision_use_head: bool = True


@dataclass(frozen=True, kw_only=True)
class ImageEncoding:
    """What a vision tower gives for pixels of shape (batch, channels, image_size, image_size).

    `last_hidden_state` is (batch, tokens, width), where CLIP's first token is the class; `pooler_output` (batch, width)
    is one row for the image, None in a SigLIP without a head. `hidden_states`, where asked for, are the input of the
    layers and each layer's output. `image_embeds` (batch, projection_dim) is CLIP's, in the space of texts.
    """

    last_hidden_state: Tensor
    pooler_output: Tensor | None
    hidden_states: tuple[Tensor, ...] | None = None
    image_embeds: Tensor | None = None


class _Vision(TransformersModel[C]):
    """What both share: a tower under the name `vision_model`, and files that may hold a text tower beside it."""

    whole_type: ClassVar[str]
    """The `model_type` of a file with both towers."""

    @classmethod
    def published_name(cls, name: str) -> str | None:
        """transformers 5 writes SigLIP's tower without `vision_model.`; older files hold a buffer of positions."""
        name = f"vision_model.{name}" if name.startswith(_TOWER) else name
        return None if name.startswith(_OTHERS) or name.endswith(".position_ids") else name

    @classmethod
    def keys_of(cls, config: Mapping[str, Any]) -> Mapping[str, Any]:  # Any: JSON values
        if config["model_type"] == cls.whole_type:
            return {**config.get("vision_config", {}), **(config.get("vision_config_dict") or {})}
        return super().keys_of(config)


class CLIPVisionModelWithProjection(_Vision[CLIPVisionConfig]):
    """CLIP's vision tower (Radford et al. 2021, section 2.4) with its projection into the space of texts."""

    config_class = CLIPVisionConfig
    model_type = "clip_vision_model"
    whole_type = "clip"

    def build(self, config: CLIPVisionConfig) -> None:
        self.vision_model = _CLIPTower(config)
        self.visual_projection = nn.Linear(config.hidden_size, config.projection_dim, bias=False)
        spread(self.visual_projection.weight, config.hidden_size**-0.5 * config.initializer_factor)

    def forward(self, pixel_values: Tensor, output_hidden_states: bool = False) -> ImageEncoding:
        """`pixel_values` (batch, num_channels, image_size, image_size), as a CLIPImageProcessor gives them."""
        tower = self.vision_model
        hidden, states = tower.encoder(tower.pre_layrnorm(tower.embeddings(pixel_values)), keep=output_hidden_states)
        pooled = tower.post_layernorm(hidden[:, 0])
        return ImageEncoding(
            last_hidden_state=hidden,
            pooler_output=pooled,
            hidden_states=states,
            image_embeds=self.visual_projection(pooled),
        )


class SiglipVisionModel(_Vision[SiglipVisionConfig]):
    """SigLIP's vision tower (Zhai et al. 2023): no class token, and a query that looks at all tokens pools them."""

    config_class = SiglipVisionConfig
    model_type = "siglip_vision_model"
    whole_type = "siglip"

    def build(self, config: SiglipVisionConfig) -> None:
        self.vision_model = _SiglipTower(config)

    def forward(self, pixel_values: Tensor, output_hidden_states: bool = False) -> ImageEncoding:
        """`pixel_values` (batch, num_channels, image_size, image_size), as a SiglipImageProcessor gives them."""
        tower = self.vision_model
        hidden, states = tower.encoder(tower.embeddings(pixel_values), keep=output_hidden_states)
        last = tower.post_layernorm(hidden)
        pooled = tower.head(last) if self.config.vision_use_head else None
        return ImageEncoding(last_hidden_state=last, pooler_output=pooled, hidden_states=states)


class _CLIPTower(nn.Module):
    def __init__(self, config: CLIPVisionConfig) -> None:
        super().__init__()
        factor = config.initializer_factor
        self.embeddings = _Embeddings(config, classed=True, std=config.initializer_range * factor)
        self.pre_layrnorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)  # so spelt in all files
        self.encoder = Encoder(config.layers(config.hidden_act, factor))
        self.post_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)


class _SiglipTower(nn.Module):
    def __init__(self, config: SiglipVisionConfig) -> None:
        super().__init__()
        self.embeddings = _Embeddings(config, classed=False, std=config.hidden_size**-0.5)
        self.encoder = Encoder(config.layers(config.hidden_act))
        self.post_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        if config.vision_use_head:
            self.head = _Head(config)


class _Embeddings(nn.Module):
    """Patches as tokens, at their places: Dosovitskiy et al. 2020, equation 1."""

    def __init__(self, config: VisionConfig, classed: bool, std: float) -> None:
        super().__init__()
        self.channels, self.size, width = config.num_channels, config.image_size, config.hidden_size
        self.class_embedding = nn.Parameter(torch.empty(width)) if classed else None
        self.patch_embedding = nn.Conv2d(
            config.num_channels, width, config.patch_size, stride=config.patch_size, bias=not classed
        )
        self.position_embedding = embedding(config.patches + classed, width, std)
        spread(self.patch_embedding.weight, std)
        if self.class_embedding is not None:
            spread(self.class_embedding.data, width**-0.5)

    def forward(self, pixels: Tensor) -> Tensor:
        wanted = (self.channels, self.size, self.size)
        if tuple(pixels.shape[1:]) != wanted:
            raise ValueError(
                f"pixel_values came as {tuple(pixels.shape)}. This tower looks at (batch, {self.channels}, {self.size}"
                f", {self.size}): prepare the image with the processor of its feature_extractor folder."
            )
        tokens = self.patch_embedding(pixels.to(self.patch_embedding.weight.dtype)).flatten(2).transpose(1, 2)
        if self.class_embedding is not None:
            tokens = torch.cat([self.class_embedding.expand(len(tokens), 1, -1), tokens], 1)
        return tokens + self.position_embedding.weight  # batch tokens width


class _Head(nn.Module):
    """Attention pooling: Lee et al. 2019 (Set Transformer), section 3.2, with one seed."""

    def __init__(self, config: SiglipVisionConfig) -> None:
        super().__init__()
        self.probe = nn.Parameter(torch.empty(1, 1, config.hidden_size))
        self.attention = _Pooling(config.hidden_size, config.num_attention_heads)
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = MLP(config.layers(config.hidden_act))
        spread(self.probe.data, 1.0)

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
        spread(self.in_proj_weight.data, width**-0.5)

    def forward(self, query: Tensor, tokens: Tensor) -> Tensor:
        (wq, wk, wv), (bq, bk, bv) = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        q, k, v = (
            F.linear(x, weight, bias).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for x, weight, bias in ((query, wq, bq), (tokens, wk, bk), (tokens, wv, bv))
        )
        return self.out_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
