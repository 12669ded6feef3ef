"""What passes through a U-Net share, whichever family reads what."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ...components.models.unet_2d_condition import UNet2DConditionModel
from ...components.types import Pass, summed


def ask_unet(
    unet: UNet2DConditionModel, passes: Sequence[Pass], tokens: Tensor, added: Mapping[str, Tensor] | None = None
) -> Tensor:
    """One forward for the rows of all passes; tokens and what is added have those rows.

    Raises:
        ValueError: latents with more or fewer channels than the U-Net takes.
    """
    step = passes[0].step
    sample = torch.cat([torch.cat([p.latents * step.scale_in, *p.channels], 1) for p in passes])
    if sample.shape[1] != unet.config.in_channels:
        raise ValueError(_channels(sample.shape[1], unet.config.in_channels))
    inside = summed(passes, places=("down", "mid"))
    return unet(
        sample.to(unet.dtype),
        step.t,
        tokens.to(unet.dtype),
        added_cond_kwargs=added,
        down_block_additional_residuals=inside.get("down"),
        mid_block_additional_residual=inside["mid"][0] if "mid" in inside else None,
    )


def _channels(came: int, wanted: int) -> str:
    hint = ' It was trained to inpaint: use the task "inpaint".' if wanted == 2 * came + 1 else ""
    return f"The U-Net takes {wanted} channels, but the latents (with what is joined to them) have {came}.{hint}"
