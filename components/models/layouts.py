"""The sizes that a denoiser and the models that add to it must share, read from their configs."""

from collections.abc import Callable, Mapping
from typing import Any

from ...graph.layout import Layout, OneOf
from .plain_values import plain_values

Config = Mapping[str, Any]  # JSON values

_UNET_KEYS = ("layers_per_block", "addition_embed_type", "projection_class_embeddings_input_dim")
"""Keys that a U-Net and its control nets share, beside the widths of their levels."""
_SIZE_IDS = 6, 5
"""The counts of size numbers that SDXL's U-Nets read: the base's and the refiner's."""


def layout_of_config(name: str, config: Config) -> Layout | None:
    """Return the sizes that a model class with this config must share with others; None for a model without any.

    `token_width` and `pooled_width` are the widths of the prompts that it reads.
    """
    return _LAYOUTS[name](plain_values(config)) if name in _LAYOUTS else None


def _unet(config: Config) -> Layout:
    tokens = config.get("encoder_hid_dim") or _one(config.get("cross_attention_dim"))
    shared = {key: _one(config[key]) for key in _UNET_KEYS if key in config}
    pooled, waves = config.get("projection_class_embeddings_input_dim"), config.get("addition_time_embed_dim")
    if isinstance(pooled, int) and isinstance(waves, int) and config.get("addition_embed_type") == "text_time":
        widths = tuple(pooled - waves * count for count in _SIZE_IDS)
        # The config of a tiny model in a single file may have its family's waves, which leave no width.
        shared |= {"pooled_width": OneOf(widths)} if min(widths) > 0 else {}
    return Layout((*_levels(config.get("block_out_channels")), *shared.items(), *_known(token_width=tokens)))


def _adapter(config: Config) -> Layout:
    if config.get("adapter_type") == "full_adapter_xl":
        return Layout()  # its last features may be for the middle or for the last level
    widths = channels if isinstance(channels := config.get("channels"), list | tuple) else ()
    return Layout(_levels((*widths, *widths[-1:]) if config.get("adapter_type") == "light_adapter" else widths))


def _two_streams(config: Config) -> Layout:
    """Flux's and Stable Diffusion 3's. Some control nets of the latter read no tokens."""
    heads, width = config.get("num_attention_heads"), config.get("attention_head_dim")
    return Layout(
        _known(
            width=heads * width if isinstance(heads, int) and isinstance(width, int) else None,
            token_width=config.get("joint_attention_dim"),
            pooled_width=config.get("pooled_projection_dim"),
        )
    )


def _image_prompts(config: Config) -> Layout:
    return Layout(_known(width=config.get("width")))


def _pixart(config: Config) -> Layout:
    return Layout(_known(token_width=config.get("caption_channels") or config.get("cross_attention_dim")))


_LAYOUTS: Mapping[str, Callable[[Config], Layout]] = {
    **dict.fromkeys(("UNet2DConditionModel", "ControlNetModel", "ControlNetUnionModel"), _unet),
    **dict.fromkeys(("FluxTransformer2DModel", "FluxControlNetModel"), _two_streams),
    **dict.fromkeys(("SD3Transformer2DModel", "SD3ControlNetModel"), _two_streams),
    **dict.fromkeys(("PixArtTransformer2DModel", "Transformer2DModel"), _pixart),
    **dict.fromkeys(("FluxImagePromptAdapter", "SD3ImagePromptAdapter"), _image_prompts),
    "T2IAdapter": _adapter,
}
CLASSES_WITH_LAYOUT = tuple(_LAYOUTS)
"""The model classes with a layout."""


def _levels(widths: Any) -> tuple[tuple[str, object], ...]:  # a JSON list
    return (("block_out_channels", tuple(widths)),) if isinstance(widths, list | tuple) and widths else ()


def _known(**widths: Any) -> tuple[tuple[str, object], ...]:  # JSON values
    """Keep those that are one number."""
    return tuple((key, value) for key, value in widths.items() if isinstance(value, int))


def _one(value: Any) -> object:  # a JSON value
    """One number instead of a list that repeats it for all levels."""
    each = tuple(value) if isinstance(value, list | tuple) else (value,)
    return each[0] if len(set(each)) == 1 else each
