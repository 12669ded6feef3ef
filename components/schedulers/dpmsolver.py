"""DPM-Solver and DPM-Solver++: Lu et al. 2022 and 2022b."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Literal

import numpy as np
from torch import Tensor

from ...graph.errors import ConfigError
from .base import History
from .betas import Floats, spaced_with_end
from .diffusion import ZeroTerminalSNR
from .lambdas import Algorithm, move, phis, transfer
from .multistep import LambdaScheduler, differences, lambdas_behind, newest
from .schedule import Step
from .sigmas import Curve, to_timesteps


@dataclass(frozen=True, kw_only=True)
class DPMSolver(LambdaScheduler):
    """What the multistep and the singlestep solver share."""

    algorithm_type: Algorithm = "dpmsolver++"
    """"dpmsolver" integrates the noise, "++" the clean sample, and "sde-" adds fresh noise in every turn."""
    solver_type: Literal["midpoint", "heun"] = "midpoint"
    final_sigmas_type: Literal["zero", "sigma_min"] = "zero"
    lambda_min_clipped: float = -inf
    """Levels with less signal than this are not visited: -5.1 is published for cosine schedules."""
    variance_type: Literal["learned", "learned_range"] | None = None
    """Whether the model predicts a variance behind the noise, which is not used."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.algorithm_type in ("dpmsolver", "sde-dpmsolver") and self.final_sigmas_type == "zero":
            raise ConfigError(
                f"{type(self).__name__}(algorithm_type={self.algorithm_type!r}) integrates noise, and cannot end where "
                "there is none. Choose final_sigmas_type='sigma_min', or algorithm_type='dpmsolver++'."
            )

    @property
    def _draws(self) -> bool:
        return self.algorithm_type.startswith("sde")

    @property
    def _last(self) -> int:
        """How many timesteps have enough signal."""
        return self.num_train_timesteps - int((-np.log(self.training_sigmas) < self.lambda_min_clipped).sum())

    def _spaced(self, n: int) -> Floats:
        return spaced_with_end(self.timestep_spacing, n, self.num_train_timesteps, self._last, self.steps_offset)

    def _final(self, levels: Floats) -> float:
        return float(self.training_sigmas[0]) if self.final_sigmas_type == "sigma_min" else 0.0

    def denoised(self, sample: Tensor, prediction: Tensor, step: Step) -> Tensor:
        return super().denoised(sample, self._mean(sample, prediction), step)

    def _output(self, sample: Tensor, prediction: Tensor, step: Step) -> Tensor:
        """What this algorithm integrates: the clean sample or the noise."""
        if self.algorithm_type.endswith("++"):
            return self.denoised(sample, prediction, step)
        return self._noise_in(sample, self._mean(sample, prediction), step)

    def _mean(self, sample: Tensor, prediction: Tensor) -> Tensor:
        return prediction[:, : sample.shape[1]] if self.variance_type else prediction

    def _drawn(self, noise: Tensor | None, step: Step) -> Tensor | None:
        return self._noise(noise, step) if step.noisy else None


@dataclass(frozen=True, kw_only=True)
class DPMSolverMultistep(DPMSolver):
    """Lu et al. 2022b, algorithm 2, whichever way the levels go. History: the last answers, oldest first."""

    euler_at_final: bool = False

    def _order(self, step: Step, history: History) -> int:
        ends = step.last and (self.euler_at_final or step.target.sigma == 0)
        return 1 if ends else super()._order(step, history)

    def advance(
        self, sample: Tensor, prediction: Tensor, step: Step, history: History = (), noise: Tensor | None = None
    ) -> tuple[Tensor, History]:
        sample = sample.float()
        outputs = newest((*history, self._output(sample, prediction, step)), self.solver_order)
        order, by = self._order(step, history), transfer(self.algorithm_type, step.level, step.target)
        if by.h:
            h = step.target.log_snr - step.level.log_snr
            terms = differences(outputs[::-1][:order], lambdas_behind(step, order), h)
            weights = phis(by.h, order)
            if order == 2 and self.solver_type == "midpoint":
                weights[1] = weights[0] / 2
            sample = move(sample, by, list(zip(weights, terms, strict=True)), self._drawn(noise, step))
        return sample, newest(outputs, self.solver_order - 1)


@dataclass(frozen=True, kw_only=True)
class DPMSolverMultistepScheduler(DPMSolverMultistep, ZeroTerminalSNR):
    """DPM-Solver++(2M) by default: Lu et al. 2022b, algorithm 2; first to third order, deterministic or not."""

    use_lu_lambdas: bool = False
    """Whether levels are even in lambda over the whole training range."""

    def _rounds(self, kind: Curve) -> bool:
        return kind == "karras" and self.beta_schedule != "squaredcos_cap_v2"

    def _levels(self, n: int, timesteps: Sequence[float] | None, image_tokens: int | None) -> tuple[Floats, Floats]:
        if not self.use_lu_lambdas or self.use_karras_sigmas:
            return super()._levels(n, timesteps, image_tokens)
        if timesteps is not None:
            raise ConfigError("DPMSolverMultistepScheduler takes no timesteps with use_lu_lambdas: it chooses them.")
        training = self.training_sigmas
        ends = np.log(training[[-1, 0]])  # in float32, as published: the first timestep hangs on the last bit
        levels = np.exp(np.linspace(float(ends[0]), float(ends[1]), n))
        clock = to_timesteps(levels, training)
        return levels, clock if self.beta_schedule == "squaredcos_cap_v2" else clock.round()
