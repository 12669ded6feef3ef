"""Stable Diffusion 3's transformer as a function of passes."""

from collections.abc import Sequence
from functools import partial
from typing import Annotated, NamedTuple

import torch
from torch import Tensor

from ...components.conditioning import SD3Conditioning
from ...components.models.sd3 import SD3Transformer2DModel
from ...components.types import Layers, Pass, PredictFunction, sum_residuals
from ...graph import Block, Running, component
from ...graph.ports import ALONE
from ...graph.space import ANY_SPACE
from ...graph.typing import Port
from .passes import Batching, make_predict

Predict = Annotated[PredictFunction, Port("predict", space=ANY_SPACE, family=SD3Conditioning)]

PLACE = "joint_blocks"
"""Where a control net adds: behind the blocks of two streams, each of its layers for several in a row."""


class Predictor(NamedTuple):
    predict: Predict


class PredictFlow(Block):
    """Offer the transformer as a function that a guider may ask several passes of at once."""

    transformer: SD3Transformer2DModel = component()
    batching: Batching = "together"

    def __call__(self, running: Running = ALONE) -> Predictor:
        return Predictor(make_predict(self.transformer, _forward, self.batching, running))


def _forward(model: SD3Transformer2DModel, passes: Sequence[Pass]) -> Tensor:
    step = passes[0].step
    words = SD3Conditioning.cat([p.conditioning for p in passes])
    sample = torch.cat([torch.cat([p.latents * step.scale_in, *p.channels], 1) for p in passes])
    if (came := sample.shape[1]) != (wanted := model.config.in_channels):
        raise ValueError(f"The transformer takes {wanted} channels, but the latents (with what is joined) have {came}.")
    return model(
        sample.to(model.dtype),
        words.tokens.to(model.dtype),
        words.pooled.to(model.dtype),
        step.t.expand(len(sample)),
        sum_residuals(passes, {PLACE: partial(_spread, len(model.transformer_blocks))}).get(PLACE),
    )


def _spread(count: int, layers: Layers) -> Layers:
    # In floats, as published and as in the model: i * len(layers) // count is not always the same.
    return tuple(layers[int(i / (count / len(layers)))] for i in range(count))
