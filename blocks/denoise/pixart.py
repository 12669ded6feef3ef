"""PixArt's transformer as a function of passes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from torch import Tensor

from ...components.conditioning import PixArtConditioning
from ...components.models.constants import Constants
from ...components.models.pixart import PixArtTransformer2DModel
from ...components.types import Count, Pass, PredictFunction, sum_residuals
from ...graph import Block, Running, component
from ...graph.ports import ALONE
from ...graph.space import ANY_SPACE
from ...graph.typing import Port
from .denoiser import Batching, make_predict
from .passes import check_channels, input_of, timesteps

Predict = Annotated[PredictFunction, Port("predict", space=ANY_SPACE, family=PixArtConditioning)]
"""PixArt's transformer as a function."""


class Predictor(NamedTuple):
    """The denoiser as a function."""

    predict: Predict


class PredictNoise(Block):
    """Make the transformer a function of passes, for guiders and for blocks that change passes.

    The variance that it predicts besides the noise is dropped: no scheduler reads a learned one. factor: pixels a side
    of a latent, for transformers that read the size of the picture. batching: see `Batching`.

    Raises:
        UnfitValue: conditioning of another family, or residuals, when the function is called.
        UnfitValue: latents of another number of channels, when the function is called.
    """

    transformer: PixArtTransformer2DModel = component()
    factor: Count = 8
    batching: Batching = "together"

    def __call__(self, running: Running = ALONE) -> Predictor:
        return Predictor(make_predict(self.transformer, _Forward(self.factor), self.batching, running))


@dataclass(frozen=True)
class _Forward:
    """One forward for the rows of all passes."""

    factor: int

    def __call__(self, model: PixArtTransformer2DModel, passes: Sequence[Pass], constants: Constants) -> Tensor:
        sample = input_of(passes)
        check_channels(sample, model.config.in_channels, "transformer")
        sum_residuals(passes, places={})  # refuses residuals: the transformer has no place for them
        prompt, mask, sizes, positions = constants.named("inputs", lambda: self._inputs(model, passes, sample))
        times = timesteps(passes).expand(len(sample))
        out = model(sample.to(model.dtype), prompt, times, mask, sizes, positions, constants=constants)
        return out[:, : passes[0].latents.shape[1]]

    def _inputs(
        self, model: PixArtTransformer2DModel, passes: Sequence[Pass], sample: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
        """Tokens, their mask, sizes and positions, which no step changes."""
        conditioning = PixArtConditioning.cat([p.conditioning for p in passes])
        height, width = sample.shape[2:]
        size = torch.tensor([height * self.factor, width * self.factor, height / width], device=sample.device)
        sizes = size.expand(len(sample), -1) if model.config.reads_sizes else None
        return (
            conditioning.tokens.to(model.dtype),
            conditioning.mask,
            sizes,
            model.positions(height, width, sample.device),
        )
