"""The samplers that CogView3-Plus and CogVideoX publish: DDIM and a stochastic DPM-Solver++ on shifted levels."""

from dataclasses import dataclass
from functools import lru_cache
from math import expm1

import numpy as np
import torch
from torch import Tensor

from .arrays import Floats
from .diffusion import DiffusionScheduler
from .exponential_integrator import move, transfer
from .history import History
from .keys import Beta, BetaKeys, BetaSchedule, SpacingKeys
from .predictions import Prediction
from .request import Request
from .schedule import Schedule, Step
from .spacing import Spacing
from .training_noise import TrainingNoise, alphas_cumprod, require_signal
from .whole_timesteps import one_stride_down, visited_timesteps


@dataclass(frozen=True, kw_only=True)
class CogVideoXKeys(BetaKeys, SpacingKeys):
    """The published config keys of both."""

    beta_start: Beta = 0.00085
    beta_end: Beta = 0.012
    beta_schedule: BetaSchedule = "scaled_linear"
    prediction_type: Prediction = "epsilon"
    timestep_spacing: Spacing = "leading"
    rescale_betas_zero_snr: bool = False
    set_alpha_to_one: bool = True
    """Whether the last step leads to a sample without noise, or to the level of timestep 0."""
    snr_shift_scale: float = 3.0
    """The divisor of the signal-to-noise ratio."""
    clip_sample: bool = True
    """Published, as the next two are, and of no effect there or here."""
    clip_sample_range: float = 1.0
    sample_max_value: float = 1.0


def shifted_plan(keys: CogVideoXKeys, request: Request, adds_noise: bool) -> Schedule:
    """Levels shifted towards noise; each step leads one stride down."""
    training = TrainingNoise(
        _shifted(
            keys.num_train_timesteps,
            keys.beta_start,
            keys.beta_end,
            keys.beta_schedule,
            keys.trained_betas,
            keys.snr_shift_scale,
            keys.rescale_betas_zero_snr,
        )
    )
    timesteps = visited_timesteps(request, keys.num_train_timesteps, keys.timestep_spacing, keys.steps_offset)
    require_signal(request.scheduler, keys.prediction_type, training.level(timesteps[0]))
    return one_stride_down(timesteps, training, request, keys.set_alpha_to_one, adds_noise)


@lru_cache(maxsize=16)
def _shifted(
    count: int,
    start: float,
    end: float,
    schedule: BetaSchedule,
    trained: tuple[float, ...] | None,
    shift: float,
    zero_snr: bool,
) -> Floats:
    """The share of signal variance, its ratio to noise divided by `shift`; in float64 where that is published."""
    if schedule == "scaled_linear" and trained is None:
        betas = torch.linspace(start**0.5, end**0.5, count, dtype=torch.float64, device="cpu") ** 2
        bars: Floats = (1 - betas).cumprod(0).numpy()
    else:
        bars = alphas_cumprod(count, start, end, schedule, trained)
    bars = bars / (shift + (1 - shift) * bars)
    if zero_snr:  # Lin et al. 2023, algorithm 1, after the shift
        roots = bars**0.5
        bars = ((roots - roots[-1]) * (roots[0] / (roots[0] - roots[-1]))) ** 2
    bars = np.asarray(bars)
    bars.setflags(write=False)
    return bars


@dataclass(frozen=True, kw_only=True)
class CogVideoXDDIMScheduler(CogVideoXKeys, DiffusionScheduler):
    """DDIM (Song et al. 2020, equation 12) without noise; the clean estimate is not clipped.

    x' = keep x + (alpha' - keep alpha) x0, where keep = sigma' / sigma.
    """

    accepts = "timesteps"

    def plan(self, request: Request) -> Schedule:
        """Levels shifted towards noise; each step leads one stride down."""
        return shifted_plan(self, request, adds_noise=False)

    def advance(
        self, sample: Tensor, prediction: Tensor, step: Step, history: History = (), noise: Tensor | None = None
    ) -> tuple[Tensor, History]:
        """Equation 12 with eta = 0."""
        keep = step.target.sigma / step.level.sigma
        x0 = self.denoised(sample, prediction, step)
        return keep * sample.float() + (step.target.alpha - step.level.alpha * keep) * x0, ()


@dataclass(frozen=True, kw_only=True)
class CogVideoXDPMScheduler(CogVideoXKeys, DiffusionScheduler):
    """The stochastic DPM-Solver++ of second order (Lu et al. 2022b, equation 18). History: the last clean estimate.

    With h the step in lambda and r the last step divided by it: D = x0 + (x0 - x0_last) / (2 r), and
    x' = sigma' / sigma e^-h x + alpha' (1 - e^-2h) D + sigma' sqrt(1 - e^-2h) noise. The reference draws noise twice in
    a step of second order and drops the first; here a step draws once.
    """

    accepts = "timesteps"

    def plan(self, request: Request) -> Schedule:
        """Levels shifted towards noise; each step leads one stride down and draws noise."""
        return shifted_plan(self, request, adds_noise=True)

    def advance(
        self, sample: Tensor, prediction: Tensor, step: Step, history: History = (), noise: Tensor | None = None
    ) -> tuple[Tensor, History]:
        """Equation 18; of first order without a history and where the run ends or the stride leads below timestep 0."""
        x0 = self.denoised(sample, prediction, step)
        guess, by = x0, transfer("sde-dpmsolver++", step.level, step.target)
        stride = self.num_train_timesteps // len(step.schedule.timesteps)
        if history and step.timestep >= stride and step.target.sigma:
            h = step.target.log_snr - step.level.log_snr
            behind = step.level.log_snr - step.schedule.levels[step.index - 1].log_snr
            guess = x0 + h / (2 * behind) * (x0 - history[0])
        return move(sample.float(), by, [(expm1(by.h), guess)], self._noise(noise, step)), (x0,)
