"""DDIM run backwards, from a clean sample to the noise that it would come from (Mokady et al. 2022, section 3)."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from .diffusion import DiffusionScheduler
from .history import History
from .keys import BetaSchedule, ClipKeys, SpacingKeys, ZeroSNRKeys
from .predictions import Prediction
from .request import Request
from .schedule import Schedule, Step
from .whole_timesteps import visited_timesteps


@dataclass(frozen=True, kw_only=True)
class DDIMInverseScheduler(DiffusionScheduler, SpacingKeys, ZeroSNRKeys, ClipKeys):
    """DDIM towards more noise (Song et al. 2020, equation 14): timesteps rise.

    x' = alpha' x0 + sigma' epsilon. A step starts one stride below its timestep, where the sample is, and calls the
    model at the level that it leads to.
    """

    beta_schedule: BetaSchedule = "linear"
    prediction_type: Prediction = "epsilon"
    timestep_spacing: Literal["leading", "trailing"] = "leading"
    set_alpha_to_one: bool = True
    """Whether the first step starts from a sample without noise, or at the level of timestep 0."""

    accepts = "neither"

    def plan(self, request: Request) -> Schedule:
        """Rising timesteps; each step starts one stride below its own."""
        spacing = self.timestep_spacing, self.steps_offset
        timesteps = visited_timesteps(request, self.num_train_timesteps, *spacing)[::-1]
        stride, training = self.num_train_timesteps // request.n, self.training
        targets = tuple(training.level(t, self.set_alpha_to_one) for t in timesteps)
        levels = (*(training.level(t - stride, self.set_alpha_to_one) for t in timesteps), targets[-1])
        return Schedule.through(levels, timesteps, targets=targets)

    def advance(
        self, sample: Tensor, prediction: Tensor, step: Step, history: History = (), noise: Tensor | None = None
    ) -> tuple[Tensor, History]:
        """Equation 14: alpha' x0 + sigma' epsilon."""
        sample = sample.float()
        if self.prediction_type == "sample" and not step.level.sigma:
            return sample, ()  # there is no noise in it to estimate, and the reference divides by it
        epsilon = self.noise_in(sample, prediction, step)
        return step.target.alpha * self.denoised(sample, prediction, step) + step.target.sigma * epsilon, ()
