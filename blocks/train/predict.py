"""The prediction for noisy latents, and what it should be."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ...components.conditioning import Conditioning
from ...components.schedulers import Scheduler
from ...components.schedulers.training_schedule import prediction_kind
from ...components.types import ImageLatents, Latents, Pass, Predict, Prediction
from ...graph import Block, component
from ...graph.errors import UnfitValue
from ...registry import counted
from .noise import levels
from .timesteps import RowSteps


class Predicted(NamedTuple):
    """The prediction of the denoiser (rows, channels, height, width), float32."""

    prediction: Prediction


class PredictRows(Block):
    """Ask the denoiser for a prediction for each row, at the row's own step. All rows go through it together.

    Raises:
        UnfitValue: neither one prompt, nor one for each picture.
    """

    def __call__(
        self, predict: Predict, noisy_latents: Latents, row_steps: RowSteps, positive: Conditioning
    ) -> Predicted:
        (prediction,) = predicted_rows(predict, noisy_latents, row_steps, [positive])
        return Predicted(prediction)


def predicted_rows(
    predict: Predict,
    latents: Tensor,
    row_steps: RowSteps,
    conditionings: Sequence[Conditioning],
    scales: Sequence[float | None] | None = None,
) -> list[Tensor]:
    """The predictions for each conditioning, (rows, channels, height, width), each row at its own step.

    All rows and conditionings go through the denoiser together. scales: the guidance scale that it reads, for each row.

    Raises:
        UnfitValue: neither one row of conditioning, nor one for each row.
    """
    for got in {conditioning.rows for conditioning in conditionings}:
        if got not in (1, len(row_steps)):
            raise UnfitValue(
                f"Got {counted(got, 'prompt')} for {counted(len(row_steps), 'picture')}. Give one for all, or one each."
            )
    passes = [
        Pass(
            latents[i : i + 1],
            step,
            conditioning[i : i + 1] if conditioning.rows > 1 else conditioning,
            guidance=scales[i] if scales else None,
            row=i,
        )
        for conditioning in conditionings
        for i, step in enumerate(row_steps)
    ]
    predictions = predict(passes)
    rows = len(row_steps)
    return [torch.cat(list(predictions[k : k + rows])) for k in range(0, len(predictions), rows)]


class Target(NamedTuple):
    """What the prediction should be."""

    target: Prediction


class MakeTarget(Block):
    """Make what the denoiser should predict, by the kind of prediction that its scheduler states.

    epsilon: the noise (Ho et al. 2020, equation 14). v_prediction: alpha * noise - sigma * clean (Salimans and Ho 2022,
    appendix D). sample: the clean latents. flow: noise - clean (Lipman et al. 2023, equation 23).
    """

    scheduler: Scheduler = component()

    def __call__(self, image_latents: ImageLatents, noise: Latents, row_steps: RowSteps) -> Target:
        match prediction_kind(self.scheduler):
            case "v_prediction":
                alpha, sigma = levels(row_steps, image_latents)
                return Target(alpha * noise - sigma * image_latents)
            case "sample":
                return Target(image_latents)
            case "flow":
                return Target(noise - image_latents)
            case _:
                return Target(noise)


class Clean(NamedTuple):
    """The clean latents that the prediction points to, and the true ones."""

    prediction: Prediction
    target: Prediction


class CompareClean(Block):
    """Let the loss compare clean latents in place of predictions, as in section 5 of Karras et al. 2022.

    It takes the place of `MakeTarget`. With flow matching, an error counts by its sigma squared then.

    Raises:
        UnfitValue: a step without signal, of a model that predicts noise.
    """

    scheduler: Scheduler = component()

    def __call__(
        self, prediction: Prediction, noisy_latents: Latents, image_latents: ImageLatents, row_steps: RowSteps
    ) -> Clean:
        alpha, sigma = levels(row_steps, noisy_latents)
        match prediction_kind(self.scheduler):
            case "flow":
                clean = prediction * -sigma + noisy_latents
            case "v_prediction":
                clean = alpha * noisy_latents - sigma * prediction
            case "sample":
                clean = prediction
            case _:
                if not bool((alpha > 0).all()):
                    raise UnfitValue(
                        "A step has no signal, so a prediction of noise points to no clean latents. Leave CompareClean "
                        "out, or draw timesteps before the last one: DrawTimesteps(last=998)."
                    )
                clean = (noisy_latents - sigma * prediction) / alpha
        return Clean(clean, image_latents)
