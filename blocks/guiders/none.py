"""No guidance."""

from ...components.schedulers.schedule import Step
from ...components.types import Conditioning, Latents, Predict
from ...graph import Block
from .files import Published
from .terms import Guided, ask_one


class NoGuidance(Published, Block):
    """Ask once, for the positive prompt only. The negative prompt is not even encoded."""

    def __call__(self, predict: Predict, latents: Latents, step: Step, positive: Conditioning) -> Guided:
        return ask_one(predict, latents, step, positive)
