"""What passes through a U-Net share, whichever family reads what."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ...components.models.embeddings import Sinusoid
from ...components.models.unet_2d_condition import UNet2DConditionModel
from ...components.types import Pass, RepeatLayers, sum_residuals

_PLACES: Mapping[str, RepeatLayers | None] = {"down": None, "mid": None, "levels": None}


def ask_unet(
    unet: UNet2DConditionModel,
    passes: Sequence[Pass],
    tokens: Tensor,
    added: Mapping[str, Tensor] | None = None,
    guidance: Tensor | None = None,
) -> Tensor:
    """One forward for the rows of all passes; tokens and what is added have those rows, `guidance` one or those.

    Raises:
        ValueError: latents with more or fewer channels than the U-Net takes.
    """
    step = passes[0].step
    sample = torch.cat([torch.cat([p.latents * step.scale_in, *p.channels], 1) for p in passes])
    if sample.shape[1] != unet.config.in_channels:
        raise ValueError(_channels(sample.shape[1], unet.config.in_channels))
    inside = sum_residuals(passes, _PLACES)
    return unet(
        sample.to(unet.dtype),
        step.t,
        tokens.to(unet.dtype),
        timestep_cond=guidance,
        added_cond_kwargs=added,
        down_block_additional_residuals=inside.get("down"),
        mid_block_additional_residual=inside["mid"][0] if "mid" in inside else None,
        down_intrablock_additional_residuals=inside.get("levels"),
    )


def embedded_guidance(unet: UNet2DConditionModel, scale: float) -> Tensor:
    """A guidance scale as the waves `1 c` that a distilled U-Net reads: `timestep_cond` (Meng et al. 2023, section 3).

    Raises:
        ValueError: a U-Net that reads none.
    """
    channels = unet.config.time_cond_proj_dim
    if channels is None:
        raise ValueError(
            "This U-Net was not distilled to read a guidance scale (its time_cond_proj_dim is null). "
            "Use PredictNoise and a guider."
        )
    waves = Sinusoid(channels, flip=False, shift=1)
    return waves(torch.tensor([1000.0 * (scale - 1)], device=unet.device)).to(unet.dtype)


def _channels(came: int, wanted: int) -> str:
    hint = ' It was trained to inpaint: use the task "inpaint".' if wanted == 2 * came + 1 else ""
    return f"The U-Net takes {wanted} channels, but the latents (with what is joined to them) have {came}.{hint}"
