"""Blocks of a user's own."""

from typing import NamedTuple

from torch import Tensor

from sfumato import Block
from sfumato.components.schedulers.schedule import Step
from sfumato.components.types import Conditioning, Images, Latents, Pass, Predict, Prediction


class Guided(NamedTuple):
    prediction: Prediction


class PositiveOnly(Block, name="tests.PositiveOnly"):
    """The shortest guider."""

    def __call__(self, predict: Predict, latents: Latents, step: Step, positive: Conditioning) -> Guided:
        return Guided(predict([Pass(latents, step, positive)])[0])


class Pictures(NamedTuple):
    images: Images


class Darken(Block, name="tests.Darken"):
    """Multiply all pixels."""

    by: float = 0.5

    def __call__(self, images: Images) -> Pictures:
        return Pictures(images * self.by)


class Halve(Block, name="tests.Halve"):
    """A block that gives no images."""

    def __call__(self, latents: Latents) -> Guided:
        half: Tensor = latents / 2
        return Guided(half)
