"""Consistency models in latent space, and their trajectories: one call goes all the way to the clean sample."""

from dataclasses import dataclass, field
from fractions import Fraction
from math import floor
from typing import Annotated

import numpy as np
from annotated_types import Ge, Le
from torch import Tensor

from ...graph.errors import ConfigError
from .arrays import Floats
from .base import Scheduler
from .diffusion import DiffusionScheduler
from .history import History
from .keys import (
    STEP_ARGUMENT,
    Beta,
    BetaKeys,
    BetaSchedule,
    ClipKeys,
    SpacingKeys,
    ThresholdKeys,
    TrainingSteps,
    ZeroSNRKeys,
)
from .predictions import Prediction
from .request import Request
from .schedule import Level, Schedule, Step
from .spacing import Spacing, rounded, visited
from .training_noise import TrainingNoise, require_signal
from .whole_timesteps import to_the_next


@dataclass(frozen=True, kw_only=True)
class DistilledKeys(BetaKeys, SpacingKeys, ZeroSNRKeys, ThresholdKeys, ClipKeys):
    """The published config keys of schedulers for distilled models."""

    beta_start: Beta = 0.00085
    beta_end: Beta = 0.012
    beta_schedule: BetaSchedule = "scaled_linear"
    prediction_type: Prediction = "epsilon"
    timestep_spacing: Spacing = "leading"
    original_inference_steps: TrainingSteps = 50
    """The number of timesteps that the model was distilled on; a run visits some of them."""
    clip_sample: bool = False
    set_alpha_to_one: bool = True
    timestep_scaling: float = 10.0


def distilled_timesteps(keys: DistilledKeys, request: Request) -> tuple[int, ...]:
    """Whole timesteps of a run: those of the request, or `n` of those that the model was distilled on."""

    def spacing(n: int) -> Floats:
        return timesteps_within(keys, n, Fraction(1))

    return rounded(visited(request, keys.num_train_timesteps, spacing, keys.steps_offset))


def timesteps_within(keys: DistilledKeys, n: int, share: Fraction) -> Floats:
    """`n` of the timesteps of the distillation, spread over its cleanest `share`. ConfigError if it has fewer."""
    stride = keys.num_train_timesteps // keys.original_inference_steps
    distilled = floor(keys.original_inference_steps * share)
    if n > distilled:
        part = f"for a model distilled on {keys.original_inference_steps} timesteps"
        way_out = "Use fewer steps, or set original_inference_steps."
        if share < 1:
            part = f"{part}, of which {distilled} are left at strength={float(share):g}"
            way_out = "Use fewer steps or a larger strength."
        raise ConfigError(f"{type(keys).__name__} is {part}, got {n} steps. {way_out}")
    falling = np.arange(distilled, 0, -1) * stride - 1
    return falling[np.floor(np.linspace(0, distilled, n, endpoint=False)).astype(np.int64)].astype(np.float64)


def distillation_schedule(scheduler: Scheduler, count: int) -> Schedule:
    """The steps between which a consistency model is trained: `count` timesteps of training, and timestep 0 at the end.

    Step i has the timestep (count - i) k - 1 for k = num_train_timesteps // count (Luo et al. 2023, section 4.3). The
    step after one is that to which a teacher leads.

    Raises:
        ConfigError: a scheduler of another process, more steps than training has, or a first one without signal.
    """
    if scheduler.process != "diffusion" or not isinstance(scheduler, BetaKeys):
        raise ConfigError(
            f"{type(scheduler).__name__} has no table of betas, which the distillation of a consistency model needs. "
            'Use the scheduler of a diffusion model, such as "ddim".'
        )
    if not 1 <= count <= scheduler.num_train_timesteps:
        raise ConfigError(
            f"original_inference_steps: needs 1 to {scheduler.num_train_timesteps}, the timesteps of training, got "
            f"{count}."
        )
    stride, training = scheduler.num_train_timesteps // count, TrainingNoise.of(scheduler)
    timesteps = [*(number * stride - 1 for number in range(count, 0, -1)), 0]
    require_signal(
        type(scheduler).__name__, str(getattr(scheduler, "prediction_type", "epsilon")), training.level(timesteps[0])
    )
    return Schedule.through([training.level(t) for t in (*timesteps, -1)], timesteps)


def boundary_scalings(timestep: float, timestep_scaling: float) -> tuple[float, float]:
    """c_skip and c_out of the consistency function, which is the identity at timestep 0 (Luo et al. 2023, appendix)."""
    scaled, sigma_data = timestep * timestep_scaling, 0.5
    return sigma_data**2 / (scaled**2 + sigma_data**2), scaled / (scaled**2 + sigma_data**2) ** 0.5


@dataclass(frozen=True, kw_only=True)
class LCMScheduler(DistilledKeys, DiffusionScheduler):
    """Latent consistency models (Luo et al. 2023, algorithm 3): to the clean sample, then fresh noise up again.

    x' = alpha' (c_out x0 + c_skip x) + sigma' noise, with c_skip and c_out by the timestep; the last step draws none.
    """

    accepts = "timesteps"

    def plan(self, request: Request) -> Schedule:
        """Some timesteps of the distillation; all steps but the last draw noise."""
        timesteps, training = distilled_timesteps(self, request), self.training
        require_signal(request.scheduler, self.prediction_type, training.level(timesteps[0]))
        return to_the_next(timesteps, training, Level(1.0, 0.0), [*(True for _ in timesteps[1:]), False])

    def advance(
        self, sample: Tensor, prediction: Tensor, step: Step, history: History = (), noise: Tensor | None = None
    ) -> tuple[Tensor, History]:
        """Algorithm 3, with the boundary scalings of the paper's appendix."""
        sample = sample.float()
        skip, out = boundary_scalings(step.timestep, self.timestep_scaling)
        consistent = out * self.denoised(sample, prediction, step) + skip * sample
        if not step.noisy:
            return consistent, ()
        return step.target.alpha * consistent + step.target.sigma * self._noise(noise, step), ()


@dataclass(frozen=True, kw_only=True)
class TCDScheduler(DistilledKeys, DiffusionScheduler):
    """Trajectory consistency distillation (Zheng et al. 2024, algorithm 4): below the next level, then noise up to it.

    x' = keep (alpha_s x0 + sigma_s epsilon) + sqrt(1 - keep^2) noise, at the timestep s = (1 - eta) t' and with keep =
    alpha' / alpha_s.
    """

    eta: Annotated[float, Ge(0), Le(1)] = field(default=0.3, metadata=STEP_ARGUMENT)
    """The paper's gamma: how far below, as a share of the next timestep. 0 draws no noise, 1 goes to clean."""

    accepts = "timesteps"

    def plan(self, request: Request) -> Schedule:
        """Some timesteps of the distillation, and timestep 0; with eta, all steps but the last draw noise."""
        timesteps, training = distilled_timesteps(self, request), self.training
        require_signal(request.scheduler, self.prediction_type, training.level(timesteps[0]))
        return to_the_next(timesteps, training, training.level(0), [*(self.eta > 0 for _ in timesteps[1:]), False])

    def advance(
        self, sample: Tensor, prediction: Tensor, step: Step, history: History = (), noise: Tensor | None = None
    ) -> tuple[Tensor, History]:
        """Algorithm 4."""
        sample = sample.float()
        after = 0 if step.last else int(step.schedule.timesteps[step.index + 1])
        below = self.training.level(int(np.floor(np.float32(1 - self.eta) * np.float32(after))))
        epsilon = self.noise_in(sample, prediction, step)
        out = below.alpha * self.denoised(sample, prediction, step) + below.sigma * epsilon
        if not step.noisy:
            return out, ()
        keep = step.target.alpha / below.alpha
        return keep * out + max(1 - keep**2, 0) ** 0.5 * self._noise(noise, step), ()
