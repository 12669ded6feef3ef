"""RePaint: denoising that goes back up again and again, so that a painted part grows into a kept one."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

from torch import Tensor

from ...graph.errors import ConfigError
from .base import STEP_ARGUMENT, History, Scheduler
from .betas import Float32s, alphas_cumprod
from .diffusion import clean, variance_preserving
from .schedule import Level, Schedule, Step


@dataclass(frozen=True, kw_only=True)
class RePaintScheduler(Scheduler):
    """Lugmayr et al. 2022, algorithm 1: DDIM's step, and the time travel of section 4.2 in its turns.

    A turn that is followed by a jump leads to the level where the jump ends: a step down and the noise up again are one
    normal variable, so one draw does. The known part is the other half of the algorithm and no concern of a scheduler:
    `KeepUnmasked` puts it back after each turn, at the level that the turn leads to, with noise drawn anew.

    The reference noises up by the betas of the stride above the one that it came down, which are the same only where
    each training timestep is visited; here a jump ends at the level that the next turn expects.
    """

    num_train_timesteps: int = 1000
    beta_start: float = 0.0001
    beta_end: float = 0.02
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid"] = "linear"
    eta: float = 0.0
    """The weight of fresh noise in a step: Song et al. 2020, equation 16."""
    trained_betas: tuple[float, ...] | None = None
    clip_sample: bool = True
    jump_length: int = field(default=10, metadata=STEP_ARGUMENT)
    """How many steps a jump goes back up."""
    jump_n_sample: int = field(default=10, metadata=STEP_ARGUMENT)
    """How often each stretch of that length is gone down; 1 makes no jumps."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.eta < 0 or self.jump_length < 1 or self.jump_n_sample < 1:
            raise ConfigError(
                "RePaintScheduler wants an eta of 0 or more, and jump_length and jump_n_sample of 1 or more; not "
                f"{self.eta}, {self.jump_length} and {self.jump_n_sample}."
            )

    @property
    def prediction_type(self) -> Literal["epsilon"]:
        return "epsilon"

    @property
    def alphas_cumprod(self) -> Float32s:
        return alphas_cumprod(
            self.num_train_timesteps, self.beta_start, self.beta_end, self.beta_schedule, self.trained_betas
        )

    def steps(
        self,
        n: int,
        *,
        timesteps: Sequence[float] | None = None,
        sigmas: Sequence[float] | None = None,
        image_tokens: int | None = None,
    ) -> Schedule:
        if timesteps is not None or sigmas is not None:
            raise ConfigError("RePaintScheduler takes no timesteps or sigmas of one's own: it jumps along even ones.")
        if not 1 <= n <= self.num_train_timesteps:
            raise ConfigError(f"RePaintScheduler takes 1 to {self.num_train_timesteps} steps, not {n}.")
        visited = tuple(place * (self.num_train_timesteps // n) for place in self._places(n))
        levels = tuple(variance_preserving(float(self.alphas_cumprod[t])) for t in visited)
        levels = (*levels, variance_preserving(1.0))
        jumps = (following >= turn for turn, following in pairwise(visited))
        return Schedule(
            sigmas=tuple(level.ratio for level in levels),
            timesteps=visited,
            levels=levels,
            adds_noise=(*(jump or (self.eta > 0 and t > 0) for jump, t in zip(jumps, visited, strict=False)), False),
        )

    def _places(self, n: int) -> list[int]:
        """Where the model is asked, in strides: down, and from the foot of each stretch up and down it once more."""
        left = dict.fromkeys(range(0, n - self.jump_length, self.jump_length), self.jump_n_sample - 1)
        places: list[int] = []
        place = n
        while place:
            place -= 1
            places.append(place)
            if left.get(place):
                left[place] -= 1
                place += self.jump_length
        return places

    def denoised(self, sample: Tensor, prediction: Tensor, step: Step) -> Tensor:
        x0 = clean("epsilon", sample.float(), prediction.float(), step.level)
        return x0.clamp(-1, 1) if self.clip_sample else x0

    def advance(
        self, sample: Tensor, prediction: Tensor, step: Step, history: History = (), noise: Tensor | None = None
    ) -> tuple[Tensor, History]:
        sigma, down = step.level.sigma, self._below(step)
        std = self.eta * down.sigma / sigma * max(1 - (step.level.alpha / down.alpha) ** 2, 0) ** 0.5
        x0 = self.denoised(sample, prediction, step)
        out = down.alpha * x0 + max(down.sigma**2 - std**2, 0) ** 0.5 * prediction.float()
        if not step.noisy:
            return out, ()
        rise = step.target.alpha / down.alpha  # 1 where no jump follows
        return rise * out + ((rise * std) ** 2 + max(1 - rise**2, 0)) ** 0.5 * self._noise(noise, step), ()

    def _below(self, step: Step) -> Level:
        """The level one stride down, to which the step itself goes."""
        clock = step.schedule.timesteps
        if step.last or clock[step.index + 1] < clock[step.index]:
            return step.target
        below = int(step.timestep - (clock[0] - clock[1]))
        return variance_preserving(float(self.alphas_cumprod[below])) if below >= 0 else Level(1.0, 0.0)
