"""The passes that guiders ask of the denoiser, and the values that they return."""

from typing import NamedTuple

from torch import Tensor

from ...components.schedulers.schedule import Step
from ...components.types import Conditioning, Latents, Pass, Predict, Prediction


class Guided(NamedTuple):
    """The prediction that the scheduler steps with."""

    prediction: Prediction


def predict_positive(predict: Predict, latents: Latents, step: Step, positive: Conditioning) -> Guided:
    """One pass: the prediction for the positive prompt, unguided."""
    return Guided(predict([Pass(latents, step, positive)])[0])


def predict_both(
    predict: Predict, latents: Latents, step: Step, positive: Conditioning, negative: Conditioning
) -> tuple[Tensor, Tensor]:
    """Two passes in one call: the predictions for the positive and for the negative prompt."""
    neg, pos = predict([Pass(latents, step, negative, "negative"), Pass(latents, step, positive)])
    return pos, neg
