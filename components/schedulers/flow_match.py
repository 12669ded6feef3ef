"""Flow matching: the sample goes straight from noise to clean (Lipman et al. 2023; Liu et al. 2023)."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Literal

import numpy as np
from torch import Tensor

from ...graph.errors import ConfigError
from .base import STEP_ARGUMENT, History, Scheduler
from .flow import Floats, resolution_shift, shifted, stretched
from .schedule import Level, Schedule, Step
from .sigmas import Curve, curve


@dataclass(frozen=True, kw_only=True)
class FlowMatch(Scheduler):
    """The sample is (1 - sigma) clean + sigma noise, and the model predicts its velocity, noise - clean."""

    num_train_timesteps: int = 1000
    shift: float = 1.0
    """How much closer levels lie near noise: Esser et al. 2024, equation 23."""
    shift_tail_twice: bool = field(default=True, metadata=STEP_ARGUMENT)
    """The last level of `steps(n)` is shifted twice, as is published (diffusers #13243). False shifts it once."""

    @property
    def process(self) -> Literal["diffusion", "flow"]:
        return "flow"

    def denoised(self, sample: Tensor, prediction: Tensor, step: Step) -> Tensor:
        return sample.float() - step.sigma * prediction.float()

    def _even(self, n: int, shift: float) -> Floats:
        """`n` even levels from pure noise to the least noise of training, not yet shifted."""
        if n < 1:
            raise ConfigError(f"{type(self).__name__} takes 1 step or more, not {n}.")
        count = self.num_train_timesteps
        least = np.float32(1 / count)
        if self.shift_tail_twice:
            least = np.float32(shifted(np.asarray(least), shift))
        return np.linspace(count, float(least) * count, n) / count

    def _asked(self, sigmas: Sequence[float]) -> Floats:
        levels = np.asarray(sigmas, dtype=np.float32)
        if levels.ndim != 1 or len(levels) < 2 or not ((levels[:-1] > 0) & (levels[:-1] <= 1)).all():
            raise ConfigError(
                f"{type(self).__name__} wants two or more sigmas from 1 down to above 0, the last one (0 mostly) where "
                f"the run ends. They came as {list(sigmas)}."
            )
        return levels

    def _schedule(
        self, sigmas: Floats, timesteps: Floats, adds_noise: Sequence[bool] = (), turns_a_step: int = 1
    ) -> Schedule:
        """sigmas: (turns + 1,). timesteps: (turns,)."""
        levels: list[float] = sigmas.astype(np.float32).tolist()
        clock: list[float] = timesteps.astype(np.float32).tolist()
        return Schedule(
            sigmas=tuple(levels),
            timesteps=tuple(clock),
            levels=tuple(Level(1 - sigma, sigma) for sigma in levels),
            adds_noise=tuple(adds_noise),
            whole_step_of=tuple(turn // turns_a_step for turn in range(len(clock))),
        )


@dataclass(frozen=True, kw_only=True)
class Shifting(FlowMatch):
    """Flow matching whose levels may shift with the picture's size, or lie on a curve."""

    use_dynamic_shifting: bool = False
    """Whether the shift follows the picture's size (`image_tokens`) instead of `shift`."""
    base_shift: float | None = 0.5
    max_shift: float | None = 1.15
    base_image_seq_len: int = 256
    max_image_seq_len: int = 4096
    """Between these two sizes in tokens the shift's logarithm goes from base_shift to max_shift."""
    time_shift_type: Literal["exponential", "linear"] = "exponential"
    invert_sigmas: bool = False
    """Whether sigma counts from 0 to 1, as Mochi does."""
    shift_terminal: float | None = None
    """The last level before the end."""
    use_karras_sigmas: bool = False
    use_exponential_sigmas: bool = False
    use_beta_sigmas: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(chosen := self._curves()) > 1:
            raise ConfigError(f"{type(self).__name__} takes one sigma curve, but {' and '.join(chosen)} are set.")

    def _curves(self) -> dict[str, Curve]:
        kinds: tuple[Curve, ...] = ("karras", "exponential", "beta")
        return {key: kind for kind in kinds if getattr(self, key := f"use_{kind}_sigmas")}

    def _shift(self, image_tokens: int | None) -> float:
        if not self.use_dynamic_shifting:
            return self.shift
        return resolution_shift(
            type(self).__name__,
            image_tokens,
            self.base_image_seq_len,
            self.max_image_seq_len,
            0.5 if self.base_shift is None else self.base_shift,
            1.15 if self.max_shift is None else self.max_shift,
            self.time_shift_type,
        )

    def steps(
        self,
        n: int,
        *,
        timesteps: Sequence[float] | None = None,
        sigmas: Sequence[float] | None = None,
        image_tokens: int | None = None,
    ) -> Schedule:
        """As `Scheduler.steps`. `sigmas` are shifted like the scheduler's own; `timesteps` are told as they are."""
        shift = self._shift(image_tokens)
        end = 0.0
        if sigmas is not None:
            *before, end = self._asked(sigmas)
            levels = np.asarray(before)
        elif timesteps is not None:
            levels = np.asarray(timesteps, dtype=np.float32) / self.num_train_timesteps
        else:
            levels = self._even(n, 1.0 if self.use_dynamic_shifting else shift)
        levels = shifted(levels, shift)
        if self.shift_terminal:
            levels = stretched(levels, self.shift_terminal)
        for kind in self._curves().values():
            levels = curve(kind, len(levels), float(levels[0]), float(levels[-1]))
        levels = np.append(levels, end).astype(np.float32)
        if self.invert_sigmas:
            levels = 1 - levels
        clock = np.asarray(timesteps) if timesteps is not None else levels[:-1] * self.num_train_timesteps
        return self._schedule(levels, clock, adds_noise=[self._draws(after) for after in levels[1:].tolist()])

    def _draws(self, after: float) -> bool:
        """Does a turn to this level take noise?"""
        return False


@dataclass(frozen=True, kw_only=True)
class FlowMatchEulerDiscreteScheduler(Shifting):
    """Euler's method along the flow, or, with stochastic sampling, to the clean sample and up with fresh noise."""

    stochastic_sampling: bool = False

    def _draws(self, after: float) -> bool:
        return self.stochastic_sampling

    def advance(
        self, sample: Tensor, prediction: Tensor, step: Step, history: History = (), noise: Tensor | None = None
    ) -> tuple[Tensor, History]:
        if step.noisy:
            alpha, sigma = step.target
            return alpha * self.denoised(sample, prediction, step) + sigma * self._noise(noise, step), ()
        return sample.float() + (step.next_sigma - step.sigma) * prediction.float(), ()


@dataclass(frozen=True, kw_only=True)
class FlowMatchHeunDiscreteScheduler(FlowMatch):
    """Heun's method along the flow: two turns a step, and one for the last. History as in HeunDiscreteScheduler."""

    s_churn: float = field(default=0.0, metadata=STEP_ARGUMENT)
    s_tmin: float = field(default=0.0, metadata=STEP_ARGUMENT)
    s_tmax: float = field(default=inf, metadata=STEP_ARGUMENT)
    s_noise: float = field(default=1.0, metadata=STEP_ARGUMENT)

    def steps(
        self,
        n: int,
        *,
        timesteps: Sequence[float] | None = None,
        sigmas: Sequence[float] | None = None,
        image_tokens: int | None = None,
    ) -> Schedule:
        if timesteps is not None:
            raise ConfigError("FlowMatchHeunDiscreteScheduler takes no timesteps: they follow sigma. Give sigmas.")
        if sigmas is not None:
            levels = shifted(self._asked(sigmas), self.shift)
        else:
            levels = np.append(shifted(self._even(n, self.shift), self.shift), 0.0)
        turns = np.repeat(levels, 2)[1:-1].astype(np.float32)
        gammas = [self._gamma(sigma, len(turns) - 1) for sigma in turns[:-1].tolist()]
        noisy = [gamma > 0 and turn % 2 == 0 for turn, gamma in enumerate(gammas)]
        clock = turns[:-1] * np.float32(self.num_train_timesteps)
        return self._schedule(turns, clock, adds_noise=noisy, turns_a_step=2)

    def _gamma(self, sigma: float, turns: int) -> float:
        """By how much churn raises sigma: Karras et al. 2022, algorithm 2, line 5."""
        return min(self.s_churn / turns, 2**0.5 - 1) if self.s_tmin <= sigma <= self.s_tmax else 0.0

    def advance(
        self, sample: Tensor, prediction: Tensor, step: Step, history: History = (), noise: Tensor | None = None
    ) -> tuple[Tensor, History]:
        sample, velocity, turns = sample.float(), prediction.float(), len(step.schedule.timesteps)
        if step.index % 2:
            if not history:
                raise self._refuse_middle(step)
            start, first = history
            before = step.schedule.sigmas[step.index - 1]
            before *= 1 + self._gamma(before, turns)
            return start + (first + velocity) / 2 * (step.sigma - before), ()
        sigma = step.sigma
        if step.noisy:
            sigma *= 1 + self._gamma(sigma, turns)
            sample = sample + self.s_noise * (sigma**2 - step.sigma**2) ** 0.5 * self._noise(noise, step)
            velocity = velocity * (step.sigma / sigma)
        return sample + velocity * (step.next_sigma - sigma), (sample, velocity) if not step.last else ()


@dataclass(frozen=True, kw_only=True)
class FlowMatchLCMScheduler(Shifting):
    """Consistency along the flow: to the clean sample, then fresh noise up to the next level (Luo et al. 2023)."""

    scale_factors: tuple[float, ...] | None = None
    """A sample that grows from turn to turn (Starodubcev et al. 2025) is refused: noise is drawn in its old size."""
    upscale_mode: Literal["nearest", "linear", "bilinear", "bicubic", "trilinear", "area", "nearest-exact"] = "bicubic"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scale_factors:
            raise ConfigError(
                "FlowMatchLCMScheduler keeps the size of its sample and takes no scale_factors. Leave them out, and "
                "run each size as a stage of its own."
            )

    def _draws(self, after: float) -> bool:
        return True

    def advance(
        self, sample: Tensor, prediction: Tensor, step: Step, history: History = (), noise: Tensor | None = None
    ) -> tuple[Tensor, History]:
        x0 = self.denoised(sample, prediction, step)
        alpha, sigma = step.target
        return alpha * x0 + sigma * self._noise(noise, step), ()
