"""The family of schedulers for diffusion models that were trained on a table of betas."""

from dataclasses import dataclass

from torch import Tensor

from .base import Scheduler
from .keys import BetaKeys, FlowKeys
from .predictions import EveryPrediction, clean_estimate, noise_in, without_variance
from .schedule import Step
from .training_noise import TrainingNoise


@dataclass(frozen=True, kw_only=True)
class DiffusionScheduler(Scheduler, BetaKeys):
    """Reads predictions of a diffusion model. A subclass has `plan` and `advance`."""

    prediction_type: EveryPrediction = "epsilon"

    @property
    def process(self) -> str:
        """ "diffusion", or "flow" with `use_flow_sigmas`."""
        return "flow" if isinstance(self, FlowKeys) and self.use_flow_sigmas else "diffusion"

    @property
    def training(self) -> TrainingNoise:
        """The noise that the model was trained with."""
        return TrainingNoise.of(self)

    def denoised(self, sample: Tensor, prediction: Tensor, step: Step) -> Tensor:
        """The clean sample that this prediction points to, thresholded or clipped as the config chooses."""
        return clean_estimate(self, self.prediction_type, sample, prediction, step.level)

    def noise_in(self, sample: Tensor, prediction: Tensor, step: Step) -> Tensor:
        """The noise that this prediction points to, neither thresholded nor clipped."""
        prediction = without_variance(self, sample, prediction)
        return noise_in(self.prediction_type, sample.float(), prediction.float(), step.level)
