"""Stable Diffusion's U-Net as a function of passes."""

from collections.abc import Sequence
from typing import Annotated, NamedTuple

import torch
from torch import Tensor

from ...components.conditioning import SDConditioning
from ...components.models.unet_2d_condition import UNet2DConditionModel
from ...components.types import Pass, PredictFunction
from ...graph import Block, Running, component
from ...graph.ports import ALONE
from ...graph.space import ANY_SPACE
from ...graph.types import Port
from .passes import Batching, asking
from .unet import ask_unet

Predict = Annotated[PredictFunction, Port("predict", space=ANY_SPACE, family=SDConditioning)]


class Predictor(NamedTuple):
    predict: Predict


class PredictNoise(Block):
    """Offer the U-Net as a function that a guider may ask several passes of at once."""

    unet: UNet2DConditionModel = component()
    batching: Batching = "together"

    def __call__(self, running: Running = ALONE) -> Predictor:
        return Predictor(asking(self.unet, _forward, self.batching, running))


def _forward(unet: UNet2DConditionModel, passes: Sequence[Pass]) -> Tensor:
    return ask_unet(unet, passes, torch.cat([p.conditioning.tokens for p in passes]))
