"""Models under their published names: `sf.models.AutoencoderKL`. A name is imported when it is first asked for."""

from typing import TYPE_CHECKING, Any

from ...registry import models as _models

if TYPE_CHECKING:
    from .autoencoder_kl import AutoencoderKL as AutoencoderKL
    from .autoencoder_tiny import AutoencoderTiny as AutoencoderTiny
    from .controlnet import ControlNetModel as ControlNetModel
    from .controlnet_union import ControlNetUnionModel as ControlNetUnionModel
    from .t2i_adapter import T2IAdapter as T2IAdapter
    from .unet_2d_condition import UNet2DConditionModel as UNet2DConditionModel


def __getattr__(name: str) -> Any:
    if name.startswith("_"):  # what tools probe for; never a model
        raise AttributeError(name)
    try:
        return _models[name]
    except LookupError as error:
        raise AttributeError(str(error)) from None


def __dir__() -> list[str]:
    return sorted(_models)
