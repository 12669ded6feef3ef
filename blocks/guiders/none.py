"""No guidance, and guidance that needs no negative prompt."""

from ...components.schedulers.schedule import Step
from ...components.types import Conditioning, Latents, Predict
from ...graph import Block, Running
from ...graph.ports import ALONE
from .files import PublishedGuider
from .predictions import Guided, predict_positive


class NoGuidance(PublishedGuider):
    """The prediction for the positive prompt, from one pass. The negative prompt is not even encoded."""

    def __call__(self, predict: Predict, latents: Latents, step: Step, positive: Conditioning) -> Guided:
        return predict_positive(predict, latents, step, positive)


class WithoutNegative(Block):
    """A guider whose settings make no pass for the negative prompt, so that none is encoded. It has no memory."""

    guider: Block

    def __call__(
        self, predict: Predict, latents: Latents, step: Step, positive: Conditioning, running: Running = ALONE
    ) -> Guided:
        more = {name: running for name in [self.guider.signature.running] if name}
        out = self.guider(predict=predict, latents=latents, step=step, positive=positive, negative=positive, **more)
        return Guided(out.prediction)
