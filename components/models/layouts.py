"""How a denoiser is built, as its config tells, and the configs of what adds to it."""

from collections.abc import Mapping
from typing import Any

from ...graph.layout import Layout

_SHARED = ("layers_per_block", "cross_attention_dim", "addition_embed_type", "projection_class_embeddings_input_dim")
"""What a U-Net and its control nets share beside the widths of their levels. Control nets may attend less."""


LAID_OUT = ("UNet2DConditionModel", "ControlNetModel", "ControlNetUnionModel", "T2IAdapter")
"""The model classes of which this can be said."""


def layout_of_config(name: str, config: Mapping[str, Any]) -> Layout | None:  # Any: JSON values
    """What a model class with this config must share with a denoiser; None for what adds to none."""
    if name not in LAID_OUT:
        return None
    if name != "T2IAdapter":
        shared = tuple((key, _one(config[key])) for key in _SHARED if key in config)
        return Layout((*_widths(config.get("block_out_channels")), *shared))
    if config.get("adapter_type") == "full_adapter_xl":
        return Layout()  # its last features may be for the middle, or for the last level
    widths = tuple(config.get("channels") or ())
    return Layout(_widths((*widths, *widths[-1:]) if config.get("adapter_type") == "light_adapter" else widths))


def _widths(given: Any) -> tuple[tuple[str, object], ...]:  # a JSON list
    return (("block_out_channels", tuple(given)),) if given else ()


def _one(value: Any) -> object:  # a JSON value
    """One number where a list has it for all levels."""
    each = tuple(value) if isinstance(value, list | tuple) else (value,)
    return each[0] if len(set(each)) == 1 else each
