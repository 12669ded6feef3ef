"""IP-Adapters of Flux (XLabs): a cross-attention to a picture in each block with two streams."""

from collections.abc import Mapping
from typing import Literal

from torch import Tensor, nn

from .base import Model
from .config import Config, Layers, Width
from .flux import FluxTransformer2DModel, FluxTransformerBlock
from .image_attention import HeldTokens, ImageBranch, LayerImages, with_images
from .image_projectors import LinearProjector
from .image_scales import block_scales
from .ip_adapter_blocks import check_blocks, checked_features
from .transformer_layers import JointAttention
from .views import Replacement


class FluxImagePromptAdapterConfig(Config):
    """The sizes of a file's tensors. The published files have no config.

    image_width: of the image encoder's output. num_tokens: for one picture. token_dim: their width. width: of the
    transformer.
    """

    image_width: Width = 768
    num_tokens: Width = 4
    token_dim: Width = 4096
    width: Width = 3072
    num_layers: Layers = 19


class FluxImagePromptAdapter(Model[FluxImagePromptAdapterConfig]):
    """Makes tokens of a picture, and the keys and values of each block of Flux that attends to them (XLabs 2024).

    Ye et al. 2023, section 3.2. The parameter names are those of IP-Adapters.
    """

    config_class = FluxImagePromptAdapterConfig
    reads: Literal["image_embeds"] = "image_embeds"
    negative: Literal["black picture"] = "black picture"
    reads_faces = False
    depends_on_time = False

    def build(self, config: FluxImagePromptAdapterConfig) -> None:
        """Make the projection and the layers."""
        self.image_proj = LinearProjector(config.image_width, config.token_dim, config.num_tokens)
        self.ip_adapter = nn.ModuleList(
            FluxImageLayer(config.token_dim, config.width) for _ in range(config.num_layers)
        )

    def project(self, features: Tensor | None, faces: Tensor | None = None) -> Tensor:
        """Map an image encoder's embeddings `b c` to the tokens that the blocks attend to, `b m k`.

        Raises:
            UnfitValue: embeddings of another width.
        """
        return self.image_proj(checked_features(self, features, self.config.image_width))

    def layers(self, tokens: Tensor, time: Tensor | None = None) -> tuple[Tensor, ...]:
        """Return the keys and values of each block in turn, `b m c`, for tokens `b m k`."""
        return tuple(t for layer in self.ip_adapter for t in layer(tokens))

    def replacements(self, model: nn.Module, branch: ImageBranch, held: HeldTokens) -> Mapping[str, Replacement]:
        """Return the blocks of Flux with two streams that attend to the tokens in `held` too.

        Raises:
            UnfitValue: another denoiser, or one with other blocks; other scales.
        """
        check_blocks(self, model, FluxTransformer2DModel, "num_layers", "width")
        return {
            f"transformer_blocks.{i}": _with_images(LayerImages(held, 2 * i, scale, branch.mask))
            for i, scale in enumerate(block_scales(branch.scale, self.config.num_layers))
            if scale
        }


class FluxImageLayer(nn.Module):
    """The keys and values of a picture's tokens for one block."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.to_k_ip, self.to_v_ip = (nn.Linear(channels, width) for _ in range(2))

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Map tokens `b m k` to keys and values `b m c`."""
        return self.to_k_ip(tokens), self.to_v_ip(tokens)


class FluxImageBlock(FluxTransformerBlock):
    """A block that attends to image prompts. It adds them behind its feed-forward, without a gate, as published.

    source: the attention whose queries they use. It is the block's own, also where a tap puts another in its place.
    """

    images: tuple[LayerImages, ...]
    source: JointAttention

    def forward(self, x: Tensor, context: Tensor, emb: Tensor, rotary: Tensor) -> tuple[Tensor, Tensor]:
        """Map as the block does. The queries are normed and not rotated."""
        y, context = super().forward(x, context, emb, rotary)
        q = self.source.norm_q(self.source.to_q(self.norm1(x, emb)[0]).unflatten(-1, (self.source.heads, -1)))
        for image in self.images:
            y = y + image.added(q.transpose(1, 2), self.source.kernel).transpose(1, 2).flatten(2)
        return y, context


def _with_images(images: LayerImages) -> Replacement:
    def replacement(module: nn.Module) -> nn.Module:
        twin = with_images(images, FluxImageBlock)(module)
        twin.__dict__.setdefault("source", module.attn)
        return twin

    return replacement
