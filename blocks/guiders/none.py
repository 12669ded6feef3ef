"""No guidance, and guidance by no negative prompt."""

from ...components.schedulers.schedule import Step
from ...components.types import Conditioning, Latents, Predict
from ...graph import Block, Running
from ...graph.ports import ALONE
from .files import Published
from .terms import Guided, ask_one


class NoGuidance(Published, Block):
    """Ask once, for the positive prompt only. The negative prompt is not even encoded."""

    def __call__(self, predict: Predict, latents: Latents, step: Step, positive: Conditioning) -> Guided:
        return ask_one(predict, latents, step, positive)


class WithoutNegative(Block):
    """A guider that, as it is set, asks nothing of the negative prompt: so that none is encoded. It has no memory."""

    guider: Block

    def __call__(
        self, predict: Predict, latents: Latents, step: Step, positive: Conditioning, running: Running = ALONE
    ) -> Guided:
        more = {name: running for name in [self.guider.signature.running] if name}
        out = self.guider(predict=predict, latents=latents, step=step, positive=positive, negative=positive, **more)
        return Guided(out.prediction)
