"""No guidance."""

from ...components.schedulers.schedule import Step
from ...components.types import Conditioning, Latents, Pass, Predict
from ...graph import Block
from .cfg import Guided


class NoGuidance(Block):
    """Ask once, for the positive prompt only. The negative prompt is not even encoded."""

    def __call__(self, predict: Predict, latents: Latents, step: Step, positive: Conditioning) -> Guided:
        return Guided(predict([Pass(latents, step, positive)])[0])
