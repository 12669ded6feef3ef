"""Flow matching: the sample goes straight from noise to clean (Lipman et al. 2023; Liu et al. 2023)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge
from torch import Tensor

from ...graph.errors import ConfigError
from .arrays import Floats
from .base import Scheduler
from .curves import curve
from .customary_curves import TrainingRange, customary_levels
from .flow_shift import resolution_shift, shifted, stretched
from .history import History
from .keys import OWN_KEY, ChurnKeys, CurveKeys, CustomaryCurveKeys, TrainingSteps, chosen_curve, churn
from .request import Request
from .schedule import Level, Schedule, Step
from .sigma_levels import refuse_timesteps_on_a_curve


@dataclass(frozen=True, kw_only=True)
class FlowMatch(Scheduler):
    """The sample is (1 - sigma) clean + sigma noise, and the model predicts its velocity, noise - clean."""

    num_train_timesteps: TrainingSteps = 1000
    shift: float = 1.0
    """Moves the levels towards noise: Esser et al. 2024, equation 23."""
    shift_tail_twice: bool = field(default=True, metadata=OWN_KEY)
    """The last level of `steps(n)` is shifted twice, as is published (diffusers #13243). False shifts it once."""

    @property
    def process(self) -> str:
        """Flow."""
        return "flow"

    def denoised(self, sample: Tensor, prediction: Tensor, step: Step) -> Tensor:
        """x - sigma v."""
        return sample.float() - step.sigma * prediction.float()


def even_levels(keys: FlowMatch, n: int, shift: float) -> Floats:
    """`n` even levels from pure noise to the least noise of training, not yet shifted."""
    count = keys.num_train_timesteps
    least = np.float32(1 / count)
    if keys.shift_tail_twice:
        least = np.float32(shifted(np.asarray(least), shift))
    return np.linspace(count, float(least) * count, n) / count


def flow_schedule(
    sigmas: Floats, timesteps: Floats, adds_noise: Sequence[bool] = (), calls_per_step: int = 1
) -> Schedule:
    """The schedule of a straight path. sigmas: (calls + 1,). timesteps: (calls,)."""
    shares: list[float] = sigmas.astype(np.float32).tolist()
    calls: list[float] = timesteps.astype(np.float32).tolist()
    return Schedule(
        sigmas=tuple(shares),
        timesteps=tuple(calls),
        levels=tuple(Level(1 - sigma, sigma) for sigma in shares),
        adds_noise=tuple(adds_noise),
        places=tuple(call // calls_per_step for call in range(len(calls))),
    )


@dataclass(frozen=True, kw_only=True)
class ShiftKeys(CurveKeys, CustomaryCurveKeys):
    """The published config keys of levels that may shift with the image's size, or lie on a curve."""

    use_dynamic_shifting: bool = False
    """Whether the shift depends on the image's size (`image_tokens`) instead of `shift`."""
    base_shift: float | None = 0.5
    max_shift: float | None = 1.15
    base_image_seq_len: Annotated[int, Ge(1)] = 256
    max_image_seq_len: Annotated[int, Ge(1)] = 4096
    """Between these two sizes in tokens the shift's logarithm goes from base_shift to max_shift."""
    time_shift_type: Literal["exponential", "linear"] = "exponential"
    invert_sigmas: bool = False
    """Whether sigma counts from 0 to 1, as Mochi does."""
    shift_terminal: float | None = None
    """The last level before the end."""


@dataclass(frozen=True)
class ShiftedLevels:
    """A level planner: turns a request into the schedule of a straight path whose levels are shifted."""

    flow: FlowMatch
    keys: ShiftKeys
    adds_noise: Callable[[float], bool]
    """Whether a step to this level needs noise."""

    def __call__(self, request: Request) -> Schedule:
        """`sigmas` are shifted like the scheduler's own; the model gets `timesteps` as they are."""
        keys, count, shift, end = self.keys, self.flow.num_train_timesteps, self._shift(request), 0.0
        if request.sigmas is not None:
            *before, end = request.noise_levels(most=1)
            levels = np.asarray(before)
        elif request.timesteps is not None:
            levels = np.asarray(request.timesteps, dtype=np.float32) / count
        else:
            levels = even_levels(self.flow, request.n, 1.0 if keys.use_dynamic_shifting else shift)
        if keys.sigma_curve and request.sigmas is None:
            refuse_timesteps_on_a_curve(request, "sigma_curve")
            known = TrainingRange.of_flow(count, shift)
            levels = customary_levels(keys.sigma_curve, request.steps(count), known)
        else:
            levels = self._published(shifted(levels, shift))
        levels = np.append(levels, end).astype(np.float32)
        if keys.invert_sigmas:
            levels = 1 - levels
        timesteps = levels[:-1] * count if request.timesteps is None else np.asarray(request.timesteps)
        return flow_schedule(levels, timesteps, [self.adds_noise(after) for after in levels[1:].tolist()])

    def _published(self, levels: Floats) -> Floats:
        """Shifted levels, stretched or on a curve by the published keys."""
        if self.keys.shift_terminal:
            levels = stretched(levels, self.keys.shift_terminal)
        if kind := chosen_curve(self.keys):
            levels = curve(kind, len(levels), float(levels[0]), float(levels[-1]))
        return levels

    def _shift(self, request: Request) -> float:
        if not self.keys.use_dynamic_shifting:
            return self.flow.shift
        return dynamic_shift(self.keys, request.image_tokens)


def dynamic_shift(keys: ShiftKeys, image_tokens: int | None) -> float:
    """The shift that these keys have for an image of so many tokens. ConfigError for None."""
    return resolution_shift(
        type(keys).__name__,
        image_tokens,
        keys.base_image_seq_len,
        keys.max_image_seq_len,
        0.5 if keys.base_shift is None else keys.base_shift,
        1.15 if keys.max_shift is None else keys.max_shift,
        keys.time_shift_type,
    )


@dataclass(frozen=True, kw_only=True)
class FlowMatchEulerDiscreteScheduler(FlowMatch, ShiftKeys):
    """Euler's method along the flow (Lipman et al. 2023): x' = x + (sigma' - sigma) v.

    With stochastic sampling, to the clean sample and up with fresh noise: x' = (1 - sigma') x0 + sigma' noise. Raises
    ConfigError for `use_dynamic_shifting` without `image_tokens`.
    """

    stochastic_sampling: bool = False

    accepts = "both"

    def plan(self, request: Request) -> Schedule:
        """One model call at each level."""
        return ShiftedLevels(self, self, lambda after: self.stochastic_sampling)(request)

    def advance(
        self, sample: Tensor, prediction: Tensor, step: Step, history: History = (), noise: Tensor | None = None
    ) -> tuple[Tensor, History]:
        """Euler's method, or the clean sample with fresh noise."""
        if step.noisy:
            alpha, sigma = step.target
            return alpha * self.denoised(sample, prediction, step) + sigma * self._noise(noise, step), ()
        return sample.float() + (step.next_sigma - step.sigma) * prediction.float(), ()


@dataclass(frozen=True, kw_only=True)
class FlowMatchHeunDiscreteScheduler(FlowMatch, ChurnKeys, CustomaryCurveKeys):
    """Heun's method along the flow (Karras et al. 2022, algorithm 2): two model calls a step, and one for the last.

    First call: x1 = x + (sigma' - sigma) v. Second call, at x1: x' = x + (sigma' - sigma) (v + v1) / 2. History: inside
    a whole step, the sample and the velocity that it started with.
    """

    accepts = "sigmas"

    def plan(self, request: Request) -> Schedule:
        """Two model calls a step, the second one where the first leads; churn adds noise before the first."""
        if request.sigmas is not None:
            levels = shifted(request.noise_levels(most=1), self.shift)
        elif self.sigma_curve:
            known = TrainingRange.of_flow(self.num_train_timesteps, self.shift)
            levels = customary_levels(self.sigma_curve, request.steps(self.num_train_timesteps), known)
            levels = np.append(levels, 0.0)
        else:
            levels = np.append(shifted(even_levels(self, request.n, self.shift), self.shift), 0.0)
        calls = np.repeat(levels, 2)[1:-1].astype(np.float32)
        gammas = [churn(self, sigma, len(calls) - 1) for sigma in calls[:-1].tolist()]
        adds_noise = [gamma > 0 and call % 2 == 0 for call, gamma in enumerate(gammas)]
        timesteps = calls[:-1] * np.float32(self.num_train_timesteps)
        return flow_schedule(calls, timesteps, adds_noise, calls_per_step=2)

    def advance(
        self, sample: Tensor, prediction: Tensor, step: Step, history: History = (), noise: Tensor | None = None
    ) -> tuple[Tensor, History]:
        """Algorithm 2, lines 4 to 8, or 10 and 11."""
        sample, velocity, calls = sample.float(), prediction.float(), len(step.schedule.timesteps)
        if step.index % 2:
            start, first = self._whole_step_start(history, step)
            before = step.schedule.sigmas[step.index - 1]
            before *= 1 + churn(self, before, calls)
            return start + (first + velocity) / 2 * (step.sigma - before), ()
        sigma = step.sigma
        if step.noisy:
            sigma *= 1 + churn(self, sigma, calls)
            sample = sample + self.s_noise * (sigma**2 - step.sigma**2) ** 0.5 * self._noise(noise, step)
            velocity = velocity * (step.sigma / sigma)
        return sample + velocity * (step.next_sigma - sigma), (sample, velocity) if not step.last else ()


def check_scale_factors(scheduler: "FlowMatchLCMScheduler") -> None:
    """A rule: a sample that grows from step to step is refused, since noise is drawn in its first size."""
    if scheduler.scale_factors:
        raise ConfigError(
            "FlowMatchLCMScheduler keeps the size of its sample and takes no scale_factors. Leave them out, and run "
            "each size as a stage of its own."
        )


@dataclass(frozen=True, kw_only=True)
class FlowMatchLCMScheduler(FlowMatch, ShiftKeys):
    """Consistency along the flow (Luo et al. 2023): x' = (1 - sigma') x0 + sigma' noise.

    Raises ConfigError for `scale_factors`, and for `use_dynamic_shifting` without `image_tokens`.
    """

    scale_factors: tuple[float, ...] | None = None
    """A sample that grows from step to step (Starodubcev et al. 2025); refused."""
    upscale_mode: Literal["nearest", "linear", "bilinear", "bicubic", "trilinear", "area", "nearest-exact"] = "bicubic"

    accepts = "both"
    rules = (check_scale_factors,)

    def plan(self, request: Request) -> Schedule:
        """One model call at each level; each step draws noise."""
        return ShiftedLevels(self, self, lambda after: True)(request)

    def advance(
        self, sample: Tensor, prediction: Tensor, step: Step, history: History = (), noise: Tensor | None = None
    ) -> tuple[Tensor, History]:
        """To the clean sample, then fresh noise up to the next level."""
        x0 = self.denoised(sample, prediction, step)
        alpha, sigma = step.target
        return alpha * x0 + sigma * self._noise(noise, step), ()
