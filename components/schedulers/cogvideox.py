"""The samplers that CogView3-Plus and CogVideoX publish: DDIM and a stochastic DPM-Solver++ on shifted levels."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import expm1

import numpy as np
import torch
from torch import Tensor

from .base import History
from .betas import BetaSchedule, Floats, Spacing, alphas_cumprod
from .diffusion import DiffusionScheduler, Prediction, variance_preserving
from .lambdas import move, transfer
from .schedule import Schedule, Step


@dataclass(frozen=True, kw_only=True)
class CogVideoX(DiffusionScheduler):
    """What both share: levels shifted towards noise, and turns that lead one stride down."""

    beta_start: float = 0.00085
    beta_end: float = 0.012
    beta_schedule: BetaSchedule = "scaled_linear"
    prediction_type: Prediction = "epsilon"
    timestep_spacing: Spacing = "leading"
    rescale_betas_zero_snr: bool = False
    set_alpha_to_one: bool = True
    """Whether the last turn leads to a sample without noise, or to the level of timestep 0."""
    snr_shift_scale: float = 3.0
    """By how much the signal-to-noise ratio is divided."""
    clip_sample: bool = True
    """Published, as the next two are, and of no effect there or here."""
    clip_sample_range: float = 1.0
    sample_max_value: float = 1.0

    _draws = False

    def steps(
        self,
        n: int,
        *,
        timesteps: Sequence[float] | None = None,
        sigmas: Sequence[float] | None = None,
        image_tokens: int | None = None,
    ) -> Schedule:
        self._refuse_sigmas(sigmas)
        visited = tuple(int(t) for t in self._visited(n, timesteps).round())
        stride = self.num_train_timesteps // len(visited)
        after = (*visited[1:], -1) if timesteps is not None else tuple(t - stride for t in visited)
        bars: list[float] = self._bars.tolist()
        final = 1.0 if self.set_alpha_to_one else bars[0]
        targets = tuple(variance_preserving(bars[t] if t >= 0 else final) for t in after)
        levels = (*(variance_preserving(bars[t]) for t in visited), targets[-1])
        self._refuse_no_signal(levels[0].alpha)
        return Schedule(
            sigmas=tuple(level.ratio for level in levels),
            timesteps=visited,
            levels=levels,
            targets=targets,
            adds_noise=(self._draws,) * len(visited),
        )

    @property
    def _bars(self) -> Floats:
        return _shifted(
            self.num_train_timesteps,
            self.beta_start,
            self.beta_end,
            self.beta_schedule,
            self.trained_betas,
            self.snr_shift_scale,
            self.rescale_betas_zero_snr,
        )


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
class CogVideoXDDIMScheduler(CogVideoX):
    """Song et al. 2020, equation 12 without noise, its estimate not clipped."""

    def advance(
        self, sample: Tensor, prediction: Tensor, step: Step, history: History = (), noise: Tensor | None = None
    ) -> tuple[Tensor, History]:
        keep = step.target.sigma / step.level.sigma
        x0 = self.denoised(sample, prediction, step)
        return keep * sample.float() + (step.target.alpha - step.level.alpha * keep) * x0, ()


@dataclass(frozen=True, kw_only=True)
class CogVideoXDPMScheduler(CogVideoX):
    """The stochastic DPM-Solver++ of second order (Lu et al. 2022b, equation 18). History: the last clean estimate.

    The reference draws twice in a turn of second order and drops the first; here a turn draws once.
    """

    _draws = True

    def advance(
        self, sample: Tensor, prediction: Tensor, step: Step, history: History = (), noise: Tensor | None = None
    ) -> tuple[Tensor, History]:
        x0 = self.denoised(sample, prediction, step)
        guess, by = x0, transfer("sde-dpmsolver++", step.level, step.target)
        if history and not self._ends(step):
            h = step.target.log_snr - step.level.log_snr
            behind = step.level.log_snr - step.schedule.levels[step.index - 1].log_snr
            guess = x0 + h / (2 * behind) * (x0 - history[0])
        return move(sample.float(), by, [(expm1(by.h), guess)], self._noise(noise, step)), (x0,)

    def _ends(self, step: Step) -> bool:
        """Does the stride lead below timestep 0? Such a turn is of first order."""
        return step.timestep < self.num_train_timesteps // len(step.schedule.timesteps)
