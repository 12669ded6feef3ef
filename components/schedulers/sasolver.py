"""SA-Solver, a stochastic Adams method with predictor and corrector: Xue et al. 2023."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import exp, expm1, factorial, inf
from typing import ClassVar, Literal

import numpy as np
from torch import Tensor

from ...graph.errors import ConfigError
from .base import STEP_ARGUMENT, History
from .betas import Floats, spaced_with_end
from .lambdas import Transfer, move, phis
from .multistep import LambdaScheduler, lambdas_behind, newest
from .schedule import Step


@dataclass(frozen=True, kw_only=True)
class SASolverScheduler(LambdaScheduler):
    """Xue et al. 2023, algorithm 1. The corrector calls nothing: it redoes the last turn with this answer.

    Between the flow without noise (tau 0) and the reverse diffusion (tau 1), and beyond. The run ends at the model's
    least noise. History: what the last turn kept of its sample with the noise it added, then the answers, oldest first.
    """

    predictor_order: int = 2
    corrector_order: int = 2
    """The last turn's order when it is redone, its new answer counted."""
    algorithm_type: Literal["data_prediction", "noise_prediction"] = "data_prediction"
    lambda_min_clipped: float = -inf
    """Levels with less signal than this are not visited: -5.1 is published for cosine schedules."""
    variance_type: Literal["learned", "learned_range"] | None = None
    """Whether the model predicts a variance behind the noise, which is not used."""
    tau_func: None = None
    """Published, but a function, which no file can hold; `tau` and the two below are its published default."""
    tau: float = field(default=1.0, metadata=STEP_ARGUMENT)
    """How much noise is drawn, while the timestep is in tau_from..tau_to; elsewhere none is."""
    tau_from: float = field(default=200.0, metadata=STEP_ARGUMENT)
    tau_to: float = field(default=800.0, metadata=STEP_ARGUMENT)

    solver_order: ClassVar[int] = 1  # pyright: ignore[reportIncompatibleVariableOverride]  # no key here
    use_dynamic_shifting: ClassVar[bool] = False  # pyright: ignore[reportIncompatibleVariableOverride]  # nor this
    time_shift_type: ClassVar[Literal["exponential"]] = "exponential"  # pyright: ignore[reportIncompatibleVariableOverride]  # nor this
    highest_order: ClassVar[int] = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        for key, order in (("predictor_order", self.predictor_order), ("corrector_order", self.corrector_order)):
            if not 1 <= order <= self.highest_order:
                raise ConfigError(f"SASolverScheduler has {key} 1 to {self.highest_order}, not {order}.")
        if self.tau < 0:
            raise ConfigError(f"SASolverScheduler wants a tau of 0 or more, not {self.tau}.")

    # -- levels --------------------------------------------------------------------------------------------------------

    def _spaced(self, n: int) -> Floats:
        last = self.num_train_timesteps - int((-np.log(self.training_sigmas) < self.lambda_min_clipped).sum())
        return spaced_with_end(self.timestep_spacing, n, self.num_train_timesteps, last, self.steps_offset)

    def _final(self, levels: Floats) -> float:
        return float(levels[-1] if self._curves() or self.use_flow_sigmas else self.training_sigmas[0])

    @property
    def _draws(self) -> bool:
        return self.tau > 0

    # -- turns ---------------------------------------------------------------------------------------------------------

    def denoised(self, sample: Tensor, prediction: Tensor, step: Step) -> Tensor:
        return super().denoised(sample, self._mean(sample, prediction), step)

    def _mean(self, sample: Tensor, prediction: Tensor) -> Tensor:
        return prediction[:, : sample.shape[1]] if self.variance_type else prediction

    def advance(
        self, sample: Tensor, prediction: Tensor, step: Step, history: History = (), noise: Tensor | None = None
    ) -> tuple[Tensor, History]:
        sample = sample.float()
        if self.algorithm_type == "data_prediction":
            output = self.denoised(sample, prediction, step)
        else:
            output = self._noise_in(sample, self._mean(sample, prediction), step)
        outputs = (*history[1:], output)
        if len(outputs) > 1:
            sample = self._correct(history[0], outputs, step)
        by = self._transfer(step)
        kept = move(sample, by, (), self._noise(noise, step) if step.noisy else None)
        remembered = max(self.predictor_order, self.corrector_order - 1)
        return self._predict(kept, outputs, step, by), (kept, *newest(outputs, remembered))

    def _predict(self, kept: Tensor, outputs: History, step: Step, by: Transfer) -> Tensor:
        """The SA-Predictor: through this answer and those before it."""
        order = min(self._limit(self.predictor_order, step), len(outputs))
        return self._integrate(kept, by, outputs[::-1][:order], lambdas_behind(step, order), step)

    def _correct(self, kept: Tensor, outputs: History, step: Step) -> Tensor:
        """The SA-Corrector: the last turn again, through what the model said where it led."""
        last = Step(step.schedule, step.index - 1)
        order = min(self._limit(self.corrector_order, last, extra=1), len(outputs))
        return self._integrate(kept, self._transfer(last), outputs[::-1][:order], lambdas_behind(step, order), last)

    def _limit(self, order: int, step: Step, extra: int = 0) -> int:
        left = len(step.schedule.timesteps) - step.index + extra
        return min(order, left) if self.lower_order_final else order

    def _transfer(self, step: Step) -> Transfer:
        """The exact part of a turn, for the clean sample or for noise: variation of constants, with 1 + tau^2."""
        start, end = step.level, step.target
        tau = self.tau if self.tau_from <= step.timestep <= self.tau_to else 0.0
        h, drawn = end.log_snr - start.log_snr, tau**2
        if self.algorithm_type == "data_prediction":
            std = end.sigma * max(-expm1(-2 * drawn * h), 0) ** 0.5
            return Transfer(end.sigma / start.sigma * exp(-drawn * h), end.alpha, -(1 + drawn) * h, std)
        std = tau * end.sigma * max(expm1(2 * h), 0) ** 0.5
        return Transfer(end.alpha / start.alpha, (1 + drawn) * end.sigma, h, std)

    def _integrate(
        self, kept: Tensor, by: Transfer, outputs: Sequence[Tensor], lambdas: Sequence[float], step: Step
    ) -> Tensor:
        """The polynomial through the answers, integrated against the exponential."""
        if not by.h:
            return kept
        start = step.level.log_snr
        h = step.target.log_snr - start
        places = [(place - start) / h for place in lambdas]
        moments = [factorial(k) * phi for k, phi in enumerate(phis(by.h, len(places)))]
        if len(places) == 2 and self.algorithm_type == "data_prediction":
            moments[1] = by.h / 2  # a change of third order that helps short runs, as in UniPC
        weights = np.linalg.solve(np.vander(places, increasing=True).T, moments).tolist()
        return move(kept, by._replace(keep=1.0), list(zip(weights, outputs, strict=True)))
