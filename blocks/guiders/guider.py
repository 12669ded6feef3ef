"""The base of guiders: the settings of published guiders, and the steps in which guidance is on."""

from abc import abstractmethod
from typing import Annotated

from torch import Tensor

from ...components.schedulers.schedule import Step
from ...components.types import Conditioning, Latents, Predict, ZeroToOne
from ...graph import Above, Block, knob
from .files import PublishedGuider
from .formulas import Scale, extrapolated, is_neutral, rescaled
from .intervals import within
from .none import NoGuidance
from .predictions import Guided, predict_both, predict_positive


class Guider(PublishedGuider, abstract=True):
    """A guider that moves the positive prediction away from another one. Its fields are those of published guiders.

    guidance_scale: how far; one number, or one for each picture. 1 is no guidance (0 with `use_original_formulation`).
    guidance_rescale: from 0 to 1, how far the spread of the result is brought back to that of the positive prediction.
    use_original_formulation: positive + scale (positive - other) in place of other + scale (positive - other).
    start, stop: the interval in which guidance is on, as fractions of the whole steps; outside it, and with `enabled`
    off, the prediction is the positive one, from one pass.
    """

    guidance_scale: Scale = knob(7.5)
    guidance_rescale: ZeroToOne = knob(0.0)
    use_original_formulation: bool = False
    start: ZeroToOne = 0.0
    stop: Annotated[ZeroToOne, Above("start", or_equal=True)] = 1.0
    enabled: bool = True

    @property
    def scale(self) -> Scale:
        """The scale that the formula uses."""
        return self.guidance_scale

    @property
    def is_off(self) -> bool:
        """Whether no step of any run needs the other prediction."""
        return not self.enabled or self.start >= self.stop or is_neutral(self.scale, self.use_original_formulation)

    def is_on(self, step: Step) -> bool:
        """Whether this step needs the other prediction."""
        return not self.is_off and within(step, self.start, self.stop)

    def guided(self, positive: Tensor, other: Tensor) -> Tensor:
        """Classifier-free guidance by this guider's scale (Ho and Salimans 2022, equation 6)."""
        return extrapolated(positive, other, self.scale, self.use_original_formulation)

    def rescaled(self, guided: Tensor, positive: Tensor) -> Guided:
        """The guider's output: `guided` with its spread brought back by `guidance_rescale`."""
        return Guided(rescaled(guided, positive, self.guidance_rescale))

    def simplified(self) -> Block | None:
        """`NoGuidance` where no step needs the other prediction."""
        return NoGuidance() if self.is_off else None


class NegativePromptGuider(Guider, abstract=True):
    """A guider with two passes, the positive and the negative prompt. A subclass says how to `combine` the answers."""

    def __call__(
        self, predict: Predict, latents: Latents, step: Step, positive: Conditioning, negative: Conditioning
    ) -> Guided:
        if not self.is_on(step):
            return predict_positive(predict, latents, step, positive)
        pos, neg = predict_both(predict, latents, step, positive, negative)
        return self.rescaled(self.combine(pos, neg), pos)

    @abstractmethod
    def combine(self, pos: Tensor, neg: Tensor) -> Tensor:
        """One prediction of the positive and the negative one."""
        ...
