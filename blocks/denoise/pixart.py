"""PixArt's transformer as a function of passes."""

from collections.abc import Sequence
from typing import Annotated, NamedTuple

import torch
from torch import Tensor

from ...components.conditioning import PixArtConditioning
from ...components.models.pixart import PixArtTransformer2DModel
from ...components.types import Pass, PredictFunction, sum_residuals
from ...graph import Block, Running, component
from ...graph.ports import ALONE
from ...graph.space import ANY_SPACE
from ...graph.typing import Port
from .passes import Batching, make_predict

Predict = Annotated[PredictFunction, Port("predict", space=ANY_SPACE, family=PixArtConditioning)]


class Predictor(NamedTuple):
    predict: Predict


class PredictNoise(Block):
    """Offer the transformer as a function that a guider may ask several passes of at once.

    What it says of a variance beside the noise is dropped: none of our schedulers learns one. factor: pixels a side of
    a latent, by which models that read the picture's size are told it.
    """

    transformer: PixArtTransformer2DModel = component()
    factor: int = 8
    batching: Batching = "together"

    def __call__(self, running: Running = ALONE) -> Predictor:
        made: dict[tuple[torch.Size, torch.device], tuple[Tensor, Tensor]] = {}  # as long as this function, its alone

        def forward(model: PixArtTransformer2DModel, passes: Sequence[Pass]) -> Tensor:
            step = passes[0].step
            words = PixArtConditioning.cat([p.conditioning for p in passes])
            sample = torch.cat([torch.cat([p.latents * step.scale_in, *p.channels], 1) for p in passes])
            if (came := sample.shape[1]) != (wanted := model.config.in_channels):
                raise ValueError(
                    f"The transformer takes {wanted} channels, but the latents (with what is joined) have {came}."
                )
            sum_residuals(passes, places={})  # refuses what a control net adds: there is no place for it
            if (key := (sample.shape[2:], sample.device)) not in made:
                height, width = sample.shape[2:]
                told = torch.tensor([height * self.factor, width * self.factor, height / width], device=sample.device)
                made[key] = model.positions(height, width, sample.device), told
            positions, sizes = made[key]
            said = model(
                sample.to(model.dtype),
                words.tokens.to(model.dtype),
                step.t.expand(len(sample)),
                words.mask,
                sizes.expand(len(sample), -1) if model.config.reads_sizes else None,
                positions,
            )
            return said[:, : passes[0].latents.shape[1]]

        return Predictor(make_predict(self.transformer, forward, self.batching, running))
