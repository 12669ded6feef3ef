"""Models under their published names: `sf.models.AutoencoderKL`. A name is imported when it is first read."""

from typing import TYPE_CHECKING, Any

from ...registry import models as _models

if TYPE_CHECKING:
    from .autoencoder_kl import AutoencoderKL as AutoencoderKL
    from .autoencoder_tiny import AutoencoderTiny as AutoencoderTiny
    from .clip import CLIPTextModel as CLIPTextModel
    from .clip import CLIPTextModelWithProjection as CLIPTextModelWithProjection
    from .controlnet import ControlNetModel as ControlNetModel
    from .controlnet_union import ControlNetUnionModel as ControlNetUnionModel
    from .flux import FluxTransformer2DModel as FluxTransformer2DModel
    from .flux_controlnet import FluxControlNetModel as FluxControlNetModel
    from .ip_adapter import ImagePromptAdapter as ImagePromptAdapter
    from .ip_adapter_flux import FluxImagePromptAdapter as FluxImagePromptAdapter
    from .ip_adapter_sd3 import SD3ImagePromptAdapter as SD3ImagePromptAdapter
    from .pixart import PixArtTransformer2DModel as PixArtTransformer2DModel
    from .redux import ReduxImageEncoder as ReduxImageEncoder
    from .sd3 import SD3Transformer2DModel as SD3Transformer2DModel
    from .sd3_controlnet import SD3ControlNetModel as SD3ControlNetModel
    from .t2i_adapter import T2IAdapter as T2IAdapter
    from .t5 import T5EncoderModel as T5EncoderModel
    from .t5 import UMT5EncoderModel as UMT5EncoderModel
    from .unet_2d import UNet2DModel as UNet2DModel
    from .unet_2d_condition import UNet2DConditionModel as UNet2DConditionModel
    from .vision import CLIPVisionModelWithProjection as CLIPVisionModelWithProjection
    from .vision import SiglipVisionModel as SiglipVisionModel


def __getattr__(name: str) -> Any:
    if name.startswith("_"):  # tools look for such names; no model has one
        raise AttributeError(name)
    try:
        return _models[name]
    except LookupError as error:
        raise AttributeError(str(error)) from None


def __dir__() -> list[str]:
    return sorted(_models)
