"""Denoising diffusion implicit models: Song, Meng and Ermon 2020."""

from dataclasses import dataclass, field
from typing import Annotated

from annotated_types import Ge
from torch import Tensor

from .base import Scheduler
from .history import History
from .keys import STEP_ARGUMENT, BetaKeys, BetaSchedule, ClipKeys, SpacingKeys, ThresholdKeys, ZeroSNRKeys
from .predictions import Prediction, clean_estimate, noise_in
from .request import Request
from .schedule import Schedule, Step
from .spacing import Spacing
from .training_noise import TrainingNoise, require_signal
from .whole_timesteps import one_stride_down, visited_timesteps


@dataclass(frozen=True, kw_only=True)
class DDIM(Scheduler, BetaKeys, SpacingKeys, ZeroSNRKeys, ThresholdKeys, ClipKeys):
    """Song et al. 2020, equation 12, under two published names."""

    beta_schedule: BetaSchedule = "linear"
    prediction_type: Prediction = "epsilon"
    timestep_spacing: Spacing = "leading"
    set_alpha_to_one: bool = True
    """Whether the last step leads to a sample without noise, or to the level of timestep 0."""
    eta: Annotated[float, Ge(0)] = field(default=0.0, metadata=STEP_ARGUMENT)
    """The weight of fresh noise, equation 16; 0 and above."""
    use_clipped_model_output: bool = field(default=False, metadata=STEP_ARGUMENT)
    """Whether the noise in the sample is estimated again from the clipped clean estimate, as Glide does."""

    accepts = "timesteps"

    @property
    def process(self) -> str:
        """Diffusion."""
        return "diffusion"

    def plan(self, request: Request) -> Schedule:
        """Whole timesteps, each of which leads one stride down."""
        spacing = self.timestep_spacing, self.steps_offset
        timesteps = visited_timesteps(request, self.num_train_timesteps, *spacing)
        training = TrainingNoise.of(self)
        require_signal(request.scheduler, self.prediction_type, training.level(timesteps[0]))
        return one_stride_down(timesteps, training, request, self.set_alpha_to_one, self.eta > 0)

    def denoised(self, sample: Tensor, prediction: Tensor, step: Step) -> Tensor:
        """The clean sample that this prediction points to, thresholded or clipped as the config chooses."""
        return clean_estimate(self, self.prediction_type, sample, prediction, step.level)

    def advance(
        self, sample: Tensor, prediction: Tensor, step: Step, history: History = (), noise: Tensor | None = None
    ) -> tuple[Tensor, History]:
        """Equation 12: alpha' x0 + sqrt(sigma'^2 - std^2) epsilon + std noise, with std of equation 16."""
        sample, prediction = sample.float(), prediction.float()
        (alpha, sigma), (alpha_next, sigma_next) = step.level, step.target
        x0 = self.denoised(sample, prediction, step)
        if self.use_clipped_model_output:
            epsilon = (sample - alpha * x0) / sigma
        else:
            epsilon = noise_in(self.prediction_type, sample, prediction, step.level)
        std = self.eta * sigma_next / sigma * max(1 - (alpha / alpha_next) ** 2, 0) ** 0.5  # equation 16
        out = alpha_next * x0 + max(sigma_next**2 - std**2, 0) ** 0.5 * epsilon
        return (out + std * self._noise(noise, step) if step.noisy else out), ()


@dataclass(frozen=True, kw_only=True)
class DDIMScheduler(DDIM):
    """DDIM (Song et al. 2020, equation 12): deterministic at eta 0, ancestral sampling as in DDPM at eta 1.

    A step leads one stride of `num_train_timesteps // n` timesteps down, as published; custom timesteps lead to the
    next one. Raises ConfigError for a start without signal (zero terminal SNR) with prediction_type "epsilon".
    """


@dataclass(frozen=True, kw_only=True)
class DDIMParallelScheduler(DDIM):
    """DDIMScheduler, as configs of parallel pipelines call it (ParaDiGMS: Shih et al. 2023).

    Parallel sampling guesses all steps of a window at once and corrects them until they agree. Here any scheduler whose
    history is empty can do that: `advance` depends on a sample and its step, not on earlier calls.
    """
