"""DPM-Solver run backwards, from a clean sample to the noise that it would come from."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from torch import Tensor

from .arrays import Floats
from .diffusion import DiffusionScheduler
from .dpmsolver import DPMSolverKeys, integrated, unbounded_step
from .exponential_integrator import multistep, multistep_order, unbounded
from .history import History, newest
from .keys import SpacingKeys
from .lambda_levels import LambdaLevels, check_curve_without_flow, curve_of, enough_signal, flow_of, lambda_schedule
from .request import Request
from .schedule import Schedule, Step
from .sigma_levels import Levels
from .spacing import spaced_with_end


@dataclass(frozen=True, kw_only=True)
class DPMSolverMultistepInverseScheduler(DPMSolverKeys, SpacingKeys, DiffusionScheduler):
    """DPM-Solver++ (Lu et al. 2022b, algorithm 2) towards more noise: the same formula, with rising levels.

    See DPMSolverMultistepScheduler for the formula. A run starts at the model's least noise and ends at its most; on a
    curve, or with "trailing", its last step stays where it is, as published. With `use_flow_sigmas` noise rises too,
    where the reference lets it fall. The sde kinds draw noise, and have no inverse.
    """

    algorithm_type: Literal["dpmsolver", "dpmsolver++"] = "dpmsolver++"
    euler_at_final: bool = False
    """Take the last step at first order."""

    accepts = "sigmas"
    rules = (check_curve_without_flow,)

    @property
    def levels(self) -> LambdaLevels:
        """The planner of a run down, whose levels this one visits upwards."""
        training = self.training
        return LambdaLevels(
            training, self._spaced, self.steps_offset, curve_of(self, training), flow_of(self), end=None
        )

    def _spaced(self, n: int) -> Floats:
        """From one below the start of a run down to where it would end."""
        count, last = self.num_train_timesteps, enough_signal(self.training, self.lambda_min_clipped)
        down = spaced_with_end(self.timestep_spacing, n, count, last, self.steps_offset)
        if self.timestep_spacing == "trailing" or n == last:
            return down
        return np.append(down[1:], self.steps_offset if self.timestep_spacing == "leading" else 0)

    def plan(self, request: Request) -> Schedule:
        """One model call at each level, rising."""
        planner = self.levels
        if request.sigmas is not None:
            rising = planner(request)
        elif planner.flow is not None:
            sigmas = planner.flow.even(request.n + 1, self.flow_shift)[::-1]
            rising = Levels(sigmas, sigmas[:-1] * self.num_train_timesteps)
        else:
            falling, timesteps = planner(request)
            training = self.training
            most = training.sigmas[enough_signal(training, self.lambda_min_clipped) - 1]
            end = float(most) if planner.curve is None else falling[0]
            rising = Levels(np.append(falling[-2::-1], end), timesteps[::-1])
        return lambda_schedule(rising, self.use_flow_sigmas, adds_noise=False)

    def advance(
        self, sample: Tensor, prediction: Tensor, step: Step, history: History = (), noise: Tensor | None = None
    ) -> tuple[Tensor, History]:
        """Lu et al. 2022b, algorithm 2."""
        outputs = newest((*history, integrated(self, sample, prediction, step)), self.solver_order)
        order = multistep_order(self.solver_order, step, history, self.lower_order_final, self.euler_at_final)
        if unbounded(step, integrates_noise=self.algorithm_type == "dpmsolver"):
            return unbounded_step(self, sample, prediction, step), newest(outputs, self.solver_order - 1)
        midpoint = self.solver_type == "midpoint"
        sample = multistep(sample.float(), outputs, step, self.algorithm_type, order, midpoint)
        return sample, newest(outputs, self.solver_order - 1)
