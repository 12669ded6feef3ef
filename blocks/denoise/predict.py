"""The U-Nets of Stable Diffusion as functions of passes."""

from collections.abc import Mapping, Sequence
from typing import Annotated, NamedTuple

import torch
from torch import Tensor

from ...components.conditioning import SDConditioning, SDXLConditioning
from ...components.models.unet_2d_condition import UNet2DConditionModel
from ...components.types import Pass, PredictFunction, summed
from ...graph import Block, Running, component
from ...graph.ports import ALONE
from ...graph.space import ANY_SPACE
from ...graph.types import Port
from .passes import Batching, asking

PredictSD = Annotated[PredictFunction, Port("predict", space=ANY_SPACE, family=SDConditioning)]
PredictSDXL = Annotated[PredictFunction, Port("predict", space=ANY_SPACE, family=SDXLConditioning)]


class Predictor(NamedTuple):
    predict: PredictSD


class PredictNoise(Block):
    """Offer the U-Net as a function that a guider may ask several passes of at once."""

    unet: UNet2DConditionModel = component()
    batching: Batching = "together"

    def __call__(self, running: Running = ALONE) -> Predictor:
        return Predictor(asking(self.unet, _forward, self.batching, running))


class PredictorXL(NamedTuple):
    predict: PredictSDXL


class PredictNoiseXL(Block):
    """The same for SDXL, whose U-Net also reads the pooled prompt and the sizes."""

    unet: UNet2DConditionModel = component()
    batching: Batching = "together"

    def __call__(self, running: Running = ALONE) -> PredictorXL:
        return PredictorXL(asking(self.unet, _forward_xl, self.batching, running))


def _forward(unet: UNet2DConditionModel, passes: Sequence[Pass]) -> Tensor:
    return _ask(unet, passes, torch.cat([p.conditioning.tokens for p in passes]))


def _forward_xl(unet: UNet2DConditionModel, passes: Sequence[Pass]) -> Tensor:
    words = SDXLConditioning.joined([p.conditioning for p in passes])
    added = {"text_embeds": words.pooled.to(unet.dtype), "time_ids": words.time_ids}
    return _ask(unet, passes, words.tokens, added)


def _ask(
    unet: UNet2DConditionModel, passes: Sequence[Pass], tokens: Tensor, added: Mapping[str, Tensor] | None = None
) -> Tensor:
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
