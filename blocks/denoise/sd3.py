"""Stable Diffusion 3's transformer as a function of passes."""

from collections.abc import Sequence
from functools import partial
from typing import Annotated, NamedTuple

import torch
from torch import Tensor

from ...components.conditioning import SD3Conditioning
from ...components.models.constants import Constants
from ...components.models.sd3 import SD3Transformer2DModel
from ...components.types import Layers, Pass, PredictFunction, sum_residuals
from ...graph import Block, Running, component
from ...graph.ports import ALONE
from ...graph.space import ANY_SPACE
from ...graph.typing import Port
from .denoiser import Batching, make_predict
from .passes import check_channels, input_of, timesteps

Predict = Annotated[PredictFunction, Port("predict", space=ANY_SPACE, family=SD3Conditioning)]
"""Stable Diffusion 3's transformer as a function."""

PLACE = "joint_blocks"
"""Where a control net adds: behind the joint blocks, each of its layers for several blocks in a row."""


class Predictor(NamedTuple):
    """The denoiser as a function."""

    predict: Predict


class PredictFlow(Block):
    """Make the transformer a function of passes, for guiders and for blocks that change passes.

    batching: see `Batching`.

    Raises:
        UnfitValue: conditioning or residuals of another family, when the function is called.
        UnfitValue: latents of another number of channels, when the function is called.
    """

    transformer: SD3Transformer2DModel = component()
    batching: Batching = "together"

    def __call__(self, running: Running = ALONE) -> Predictor:
        return Predictor(make_predict(self.transformer, _forward, self.batching, running))


def _forward(model: SD3Transformer2DModel, passes: Sequence[Pass], constants: Constants) -> Tensor:
    sample = input_of(passes)
    check_channels(sample, model.config.in_channels, "transformer")
    return model(
        sample.to(model.dtype),
        *constants.named("prompt", lambda: _prompt(passes, model.dtype)),
        timesteps(passes).expand(len(sample)),
        sum_residuals(passes, {PLACE: partial(_repeated, len(model.transformer_blocks))}).get(PLACE),
        constants=constants,
    )


def _prompt(passes: Sequence[Pass], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    conditioning = SD3Conditioning.cat([p.conditioning for p in passes])
    return conditioning.tokens.to(dtype), conditioning.pooled.to(dtype)


def _repeated(count: int, layers: Layers) -> Layers:
    # In floats, as published and as in the model: i * len(layers) // count is not always the same.
    return tuple(layers[int(i / (count / len(layers)))] for i in range(count))
