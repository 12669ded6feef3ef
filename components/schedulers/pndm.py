"""Pseudo numerical methods on the manifold of noised images: Liu et al. 2022."""

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

from torch import Tensor

from ...graph.errors import ConfigError
from .diffusion import DiffusionScheduler
from .history import History, newest
from .keys import OWN_KEY, BetaSchedule, SpacingKeys, UnpublishedZeroSNRKeys
from .predictions import clean, noise_in
from .request import Request
from .schedule import Level, Schedule, Step
from .spacing import Spacing
from .training_noise import require_signal
from .whole_timesteps import visited_timesteps

ADAMS = ((1,), (-1 / 2, 3 / 2), (5 / 12, -16 / 12, 23 / 12), (-9 / 24, 37 / 24, -59 / 24, 55 / 24))
"""Weights of the last outputs, oldest first: Liu et al. 2022, equation 12, and its lower orders."""


def check_restart(scheduler: "PNDMScheduler") -> None:
    """A rule: the published restart is that of runs without Runge-Kutta."""
    if scheduler.published_restart and not scheduler.skip_prk_steps:
        raise ConfigError("PNDMScheduler takes published_restart only with skip_prk_steps=True. Set both.")


@dataclass(frozen=True, kw_only=True)
class PNDMScheduler(DiffusionScheduler, SpacingKeys, UnpublishedZeroSNRKeys):
    """PNDM (Liu et al. 2022): linear multistep of up to fourth order (PLMS, equation 12).

    It is warmed up by three Runge-Kutta steps of four model calls (equation 13), or by one of two calls. With e the
    weighted mean of the last outputs, x' = keep x + (sigma' - keep sigma) e, where keep = alpha' / alpha (equation 11).

    History: the last outputs, oldest first. Inside a warm-up step, the sample that it started with comes before them,
    and in a Runge-Kutta step the weighted sum of its outputs after that. Raises ConfigError for fewer than 4 steps with
    Runge-Kutta.
    """

    beta_schedule: BetaSchedule = "linear"
    prediction_type: Literal["epsilon", "v_prediction"] = "epsilon"
    timestep_spacing: Spacing = "leading"
    skip_prk_steps: bool = False
    """Whether to warm up without Runge-Kutta, as Stable Diffusion does."""
    set_alpha_to_one: bool = False
    """Whether the last step leads to a sample without noise, or to the level of timestep 0."""

    published_restart: bool = field(default=False, metadata=OWN_KEY)
    """Start a run in the middle as published: at the model call before, and with its first step taken twice there.

    With `skip_prk_steps`. Its sample stays one level noisier than the level that the model gets.
    """

    accepts = "neither"
    rules = (check_restart,)

    def plan(self, request: Request) -> Schedule:
        """Each model call at its timestep; a step leads one stride down, and half a stride inside Runge-Kutta."""
        spacing = self.timestep_spacing, self.steps_offset
        timesteps = visited_timesteps(request, self.num_train_timesteps, *spacing)
        require_signal(request.scheduler, self.prediction_type, self._level(timesteps[0]))
        stride = self.num_train_timesteps // request.n
        calls, targets, whole = self._warm_up_by_one_step(timesteps, stride)
        if not self.skip_prk_steps:
            calls, targets, whole = self._warm_up_by_runge_kutta(timesteps, stride)
        ends = tuple(self._level(t) for t in targets)
        levels = (*(self._level(t) for t in calls), ends[-1])
        return Schedule.through(levels, calls, targets=ends, places=tuple(whole))

    def _warm_up_by_one_step(self, timesteps: tuple[int, ...], stride: int) -> tuple[list[int], list[int], list[int]]:
        """The timestep of each model call, the one that it leads to, and its whole step."""
        calls = [*timesteps[:1], *timesteps[1:2], *timesteps[1:]]
        targets = [t - stride for t in calls]
        if len(timesteps) > 1:
            targets[1] = calls[1]
        whole = [0, *range(len(timesteps))] if len(timesteps) > 1 else [0]
        if self.published_restart and len(timesteps) > 1:  # published runs start by the index of the call
            whole = [*range(len(timesteps)), len(timesteps) - 1]
        return calls, targets, whole

    def _warm_up_by_runge_kutta(
        self, timesteps: tuple[int, ...], stride: int
    ) -> tuple[list[int], list[int], list[int]]:
        n, half = len(timesteps), stride // 2
        if n < 4:
            raise ConfigError(f"PNDMScheduler starts with 3 Runge-Kutta steps and needs 4 steps or more, got {n}.")
        calls = [t for a, b in pairwise(timesteps[:4]) for t in (a, b + half, b + half, b)]
        targets = [t - half * (k % 2 == 0) for k, t in enumerate(calls)]
        whole = [*(call // 4 for call in range(12)), *range(3, n)]
        return [*calls, *timesteps[3:]], [*targets, *(t - stride for t in timesteps[3:])], whole

    def _level(self, timestep: int) -> Level:
        return self.training.level(timestep, self.set_alpha_to_one)

    def advance(
        self, sample: Tensor, prediction: Tensor, step: Step, history: History = (), noise: Tensor | None = None
    ) -> tuple[Tensor, History]:
        """Equation 12 for the outputs of the last steps, and equation 11 along their mean."""
        sample, output = sample.float(), prediction.float()
        if not self.skip_prk_steps and step.index < 12:
            return self._runge_kutta(sample, output, step, history)
        begin = step.schedule.run[0] if self.published_restart else 0
        stride = self.num_train_timesteps // (step.schedule.places[-1] + 1)
        if self.skip_prk_steps and step.index == begin + 1 and len(history) == 2:  # the first step again, by both ends
            above = self._level(int(step.timestep) + stride)
            return self._transfer(history[0], (history[1] + output) / 2, above, step.level), history[1:]
        outputs = newest((*history, output), 4)
        mean = sum((weight * e for weight, e in zip(ADAMS[len(outputs) - 1], outputs, strict=True)), 0 * output)
        opening = self.skip_prk_steps and step.index == begin and not history
        end = self._level(int(step.timestep) - stride) if opening else step.target
        out = self._transfer(sample, mean, step.level, end)
        return out, (sample, output) if opening else newest(outputs, 3)

    def _runge_kutta(self, sample: Tensor, output: Tensor, step: Step, history: History) -> tuple[Tensor, History]:
        """Liu et al. 2022, equation 13: four outputs, weighted 1, 2, 2, 1, each from the whole step's start."""
        call = step.index % 4
        start, mean, outputs = sample, output / 6, (*history, output)
        if call:
            start, mean, *others = self._whole_step_start(history, step)
            mean, outputs = mean + output / (6 if call == 3 else 3), tuple(others)
        from_level = step.schedule.levels[step.index - call]
        out = self._transfer(start, mean if call == 3 else output, from_level, step.target)
        return out, outputs if call == 3 else (start, mean, *outputs)

    def _transfer(self, sample: Tensor, output: Tensor, start: Level, end: Level) -> Tensor:
        """Equation 11: along the noise in the output, the sample moves from one level to another."""
        epsilon = noise_in(self.prediction_type, sample, output, start)
        if not start.alpha:  # zero terminal SNR: the same, by the clean sample
            return end.alpha * clean(self.prediction_type, sample, output, start) + end.sigma * epsilon
        keep = end.alpha / start.alpha
        return keep * sample + (end.sigma - keep * start.sigma) * epsilon
