"""RePaint: denoising that goes back up again and again, so that a painted part grows into a kept one."""

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Annotated, Literal

from annotated_types import Ge
from torch import Tensor

from ...graph.limits import AtMost
from .base import Scheduler
from .history import History
from .keys import STEP_ARGUMENT, BetaKeys
from .predictions import clean
from .request import Request
from .schedule import Level, Schedule, Step
from .training_noise import TrainingNoise
from .whole_timesteps import to_the_next


@dataclass(frozen=True, kw_only=True)
class RePaintScheduler(Scheduler, BetaKeys):
    """RePaint (Lugmayr et al. 2022, algorithm 1): DDIM's step, and the time travel of section 4.2 as steps upwards.

    A step before a jump leads to the level where the jump ends: a step down and the noise up again are one normal
    variable, so one draw does. The known part is the other half of the algorithm and not the scheduler's: the block
    `KeepUnmasked` puts it back after each step, at the level that the step leads to, with noise drawn anew.

    The reference adds noise by the betas of the stride above the last one, which are the same only where
    each training timestep is visited; here a jump ends at the level of the next step.
    """

    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid"] = "linear"
    eta: Annotated[float, Ge(0)] = 0.0
    """The weight of fresh noise in a step: Song et al. 2020, equation 16."""
    clip_sample: bool = True
    """Clip the clean estimate to -1..1."""
    jump_length: Annotated[int, Ge(1), AtMost("training_steps")] = field(default=10, metadata=STEP_ARGUMENT)
    """The number of steps that a jump goes back up."""
    jump_n_sample: Annotated[int, Ge(1), AtMost("repeats")] = field(default=10, metadata=STEP_ARGUMENT)
    """The number of times that each stretch of that length is gone down; 1 makes no jumps."""

    accepts = "neither"

    @property
    def process(self) -> str:
        """Diffusion."""
        return "diffusion"

    @property
    def prediction_type(self) -> Literal["epsilon"]:
        """The noise; no config key here."""
        return "epsilon"

    def plan(self, request: Request) -> Schedule:
        """Timesteps that fall, and rise at each jump."""
        stride = self.num_train_timesteps // request.steps(self.num_train_timesteps)
        timesteps = tuple(place * stride for place in self._strides(request.n))
        jumps = (following >= now for now, following in pairwise(timesteps))
        adds_noise = [jump or (self.eta > 0 and t > 0) for jump, t in zip(jumps, timesteps, strict=False)]
        return to_the_next(timesteps, TrainingNoise.of(self), Level(1.0, 0.0), [*adds_noise, False])

    def _strides(self, n: int) -> list[int]:
        """The levels of the model calls, in strides: down, and each stretch up and down once more."""
        left = dict.fromkeys(range(0, n - self.jump_length, self.jump_length), self.jump_n_sample - 1)
        strides: list[int] = []
        stride = n
        while stride:
            stride -= 1
            strides.append(stride)
            if left.get(stride):
                left[stride] -= 1
                stride += self.jump_length
        return strides

    def denoised(self, sample: Tensor, prediction: Tensor, step: Step) -> Tensor:
        """The clean sample that this prediction points to, clipped as the config chooses."""
        x0 = clean("epsilon", sample.float(), prediction.float(), step.level)
        return x0.clamp(-1, 1) if self.clip_sample else x0

    def advance(
        self, sample: Tensor, prediction: Tensor, step: Step, history: History = (), noise: Tensor | None = None
    ) -> tuple[Tensor, History]:
        """Song et al. 2020, equation 12, to the level one stride down, and from there up again where a jump follows."""
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
        timesteps = step.schedule.timesteps
        if step.last or timesteps[step.index + 1] < timesteps[step.index]:
            return step.target
        return TrainingNoise.of(self).level(int(step.timestep - (timesteps[0] - timesteps[1])))
