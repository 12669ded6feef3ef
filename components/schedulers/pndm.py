"""Pseudo numerical methods on the manifold of noised images: Liu et al. 2022."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from torch import Tensor

from ...graph.errors import ConfigError
from .base import History
from .betas import BetaSchedule, Spacing
from .diffusion import DiffusionScheduler, noise_in, variance_preserving
from .multistep import newest
from .schedule import Level, Schedule, Step

ADAMS = ((1,), (-1 / 2, 3 / 2), (5 / 12, -16 / 12, 23 / 12), (-9 / 24, 37 / 24, -59 / 24, 55 / 24))
"""Weights of the last answers, oldest first: Liu et al. 2022, equation 12, and its lower orders."""


@dataclass(frozen=True, kw_only=True)
class PNDMScheduler(DiffusionScheduler):
    """Linear multistep (PLMS), warmed up by three Runge-Kutta steps of four turns, or by one step of two turns.

    History: the last answers, oldest first; inside a warm-up step, the sample it started with stands before them, and
    in a Runge-Kutta step the weighted sum of its answers behind that.
    """

    beta_schedule: BetaSchedule = "linear"
    prediction_type: Literal["epsilon", "v_prediction"] = "epsilon"
    timestep_spacing: Spacing = "leading"
    skip_prk_steps: bool = False
    """Whether to warm up without Runge-Kutta, as Stable Diffusion does."""
    set_alpha_to_one: bool = False

    def steps(
        self,
        n: int,
        *,
        timesteps: Sequence[float] | None = None,
        sigmas: Sequence[float] | None = None,
        image_tokens: int | None = None,
    ) -> Schedule:
        self._refuse_sigmas(sigmas)
        if timesteps is not None:
            raise ConfigError("PNDMScheduler takes no timesteps of one's own: its formulas need an even spacing.")
        visited = [int(t) for t in self._visited(n, None).round()]
        stride = self.num_train_timesteps // n
        if self.skip_prk_steps:
            turns = [*visited[:1], *visited[1:2], *visited[1:]]
            after = [t - stride for t in turns]
            places = [0, *range(n)] if n > 1 else [0]
            if n > 1:
                after[1] = turns[1]
        else:
            if n < 4:
                raise ConfigError(
                    f"PNDMScheduler warms up with 3 Runge-Kutta steps and takes 4 steps or more, not {n}."
                )
            half = stride // 2
            turns = [t for a, b in pairwise(visited[:4]) for t in (a, b + half, b + half, b)]
            after = [t - half * (k % 2 == 0) for k, t in enumerate(turns)]
            turns, after = [*turns, *visited[3:]], [*after, *(t - stride for t in visited[3:])]
            places = [*(turn // 4 for turn in range(12)), *range(3, n)]
        targets = tuple(self._at(t) for t in after)
        levels = (*(self._at(t) for t in turns), targets[-1])
        return Schedule(
            sigmas=tuple(level.ratio for level in levels),
            timesteps=tuple(turns),
            levels=levels,
            targets=targets,
            whole_step_of=tuple(places),
        )

    def _at(self, t: int) -> Level:
        bars = self.alphas_cumprod
        return variance_preserving(float(bars[t]) if t >= 0 else 1.0 if self.set_alpha_to_one else float(bars[0]))

    def advance(
        self, sample: Tensor, prediction: Tensor, step: Step, history: History = (), noise: Tensor | None = None
    ) -> tuple[Tensor, History]:
        sample, answer = sample.float(), prediction.float()
        schedule, index = step.schedule, step.index
        if not self.skip_prk_steps and index < 12:
            return self._runge_kutta(sample, answer, step, history)
        if self.skip_prk_steps and index == 1 and len(history) == 2:  # the first step again, with both ends known
            first = history[1]
            start = self._at(int(step.timestep) + self.num_train_timesteps // (schedule.whole_step_of[-1] + 1))
            return self._transfer(history[0], (first + answer) / 2, start, step.target), (first,)
        answers = newest((*history, answer), 4)
        mean = sum((weight * a for weight, a in zip(ADAMS[len(answers) - 1], answers, strict=True)), 0 * answer)
        out = self._transfer(sample, mean, step.level, step.target)
        opening = self.skip_prk_steps and index == 0
        return out, (sample, answer) if opening else newest(answers, 3)

    def _runge_kutta(self, sample: Tensor, answer: Tensor, step: Step, history: History) -> tuple[Tensor, History]:
        """Liu et al. 2022, equation 13: four answers, weighted 1, 2, 2, 1, each from the step's start."""
        turn = step.index % 4
        start, mean, answers = sample, answer / 6, (*history, answer)
        if turn:
            if not history:
                raise self._refuse_middle(step)
            start, mean, *others = history
            mean, answers = mean + answer / (6 if turn == 3 else 3), tuple(others)
        out = self._transfer(start, mean if turn == 3 else answer, step.schedule.levels[step.index - turn], step.target)
        return out, answers if turn == 3 else (start, mean, *answers)

    def _transfer(self, sample: Tensor, answer: Tensor, start: Level, end: Level) -> Tensor:
        """Equation 11: along the noise in the answer, the sample moves from one level to another."""
        epsilon = noise_in(self.prediction_type, sample, answer, start)
        keep = end.alpha / start.alpha
        return keep * sample + (end.sigma - keep * start.sigma) * epsilon
