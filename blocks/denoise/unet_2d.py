"""The U-Net without text as a function of passes."""

from collections.abc import Sequence
from typing import Annotated, NamedTuple

from torch import Tensor

from ...components.conditioning import NoConditioning
from ...components.models.constants import Constants
from ...components.models.unet_2d import UNet2DModel
from ...components.types import Pass, PredictFunction, sum_residuals
from ...graph import Block, Running, component
from ...graph.ports import ALONE
from ...graph.space import ANY_SPACE
from ...graph.typing import Port
from .denoiser import Batching, make_predict
from .passes import check_channels, input_of, timesteps

Predict = Annotated[PredictFunction, Port("predict", space=ANY_SPACE, family=NoConditioning)]
"""A U-Net without text as a function."""


class Predictor(NamedTuple):
    """The denoiser as a function."""

    predict: Predict


class PredictNoise(Block):
    """Make the U-Net a function of passes, for guiders and for blocks that change passes. batching: see `Batching`.

    Raises:
        UnfitValue: conditioning of another family, or residuals, when the function is called.
        UnfitValue: latents of another number of channels, when the function is called.
    """

    unet: UNet2DModel = component()
    batching: Batching = "together"

    def __call__(self, running: Running = ALONE) -> Predictor:
        return Predictor(make_predict(self.unet, _forward, self.batching, running))


def _forward(unet: UNet2DModel, passes: Sequence[Pass], constants: Constants) -> Tensor:
    sample = input_of(passes)
    check_channels(sample, unet.config.in_channels, "U-Net")
    NoConditioning.cat([p.conditioning for p in passes])  # refuses that of another family
    sum_residuals(passes, places={})  # refuses residuals: the U-Net has no place for them
    return unet(sample.to(unet.dtype), timesteps(passes))
