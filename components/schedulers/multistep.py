"""What the multistep solvers in lambda share: their noise levels, and what they remember (Lu et al. 2022)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from torch import Tensor

from ...graph.errors import ConfigError
from .base import History
from .betas import BetaSchedule, Floats, spaced_with_end
from .diffusion import FlowPrediction, Thresholded, clean, noise_in
from .flow import resolution_shift, shifted
from .schedule import Level, Schedule, Step
from .sigma_scheduler import Curved
from .sigmas import Curve, curve, to_timesteps


@dataclass(frozen=True, kw_only=True)
class LambdaScheduler(Curved, Thresholded):
    """A scheduler that keeps the sample's variance (or goes straight, with flow sigmas) and counts in lambda."""

    beta_schedule: BetaSchedule = "linear"
    prediction_type: FlowPrediction = "epsilon"
    solver_order: int = 2
    lower_order_final: bool = True
    """Whether the order falls towards the end of a run of fewer than 15 steps, which is steadier."""
    use_flow_sigmas: bool = False
    flow_shift: float = 1.0
    use_dynamic_shifting: bool = False
    """Whether `flow_shift` follows the picture's size: Esser et al. 2024, as fitted for Flux."""
    time_shift_type: Literal["exponential"] = "exponential"

    highest_order: ClassVar[int] = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        name = type(self).__name__
        if not 1 <= self.solver_order <= self.highest_order:
            raise ConfigError(f"{name} has solver_order 1 to {self.highest_order}, not {self.solver_order}.")
        if self.prediction_type == "flow_prediction" and not self.use_flow_sigmas:
            raise ConfigError(f"{name} needs use_flow_sigmas=True for prediction_type='flow_prediction'.")
        if self.prediction_type == "v_prediction" and self.use_flow_sigmas:
            raise ConfigError(
                f"{name} takes no v_prediction with use_flow_sigmas: v is the velocity where variance is kept. A model "
                "of flow has prediction_type='flow_prediction'."
            )
        for key in self._curves() if self.use_flow_sigmas else ():
            if not self._flows_on(key):
                raise ConfigError(f"{name} takes {key} or use_flow_sigmas, not both: the curve is not one of flow.")

    def _flows_on(self, key: str) -> bool:
        return False

    @property
    def process(self) -> Literal["diffusion", "flow"]:
        return "flow" if self.use_flow_sigmas else "diffusion"

    # -- levels --------------------------------------------------------------------------------------------------------

    def steps(
        self,
        n: int,
        *,
        timesteps: Sequence[float] | None = None,
        sigmas: Sequence[float] | None = None,
        image_tokens: int | None = None,
    ) -> Schedule:
        if sigmas is not None:
            levels, clock = self._asked(sigmas, timesteps)
            if self.use_flow_sigmas:
                levels = shifted(levels, self._shift(image_tokens))
                clock = levels[:-1] * self.num_train_timesteps
        else:
            self._refuse_timesteps_on_a_curve(timesteps)
            planned, clock = self._levels(n, timesteps, image_tokens)
            levels = np.append(planned, self._final(planned))
        return self._schedule(levels.astype(np.float32).tolist(), clock.astype(np.int64).tolist())

    def _schedule(self, sigmas: list[float], timesteps: list[int]) -> Schedule:
        levels = tuple(Level(1 - s, s) if self.use_flow_sigmas else preserving(s) for s in sigmas)
        noisy = (self._draws,) * len(timesteps)
        return Schedule(sigmas=tuple(sigmas), timesteps=tuple(timesteps), levels=levels, adds_noise=noisy)

    @property
    def _draws(self) -> bool:
        return False

    def _levels(self, n: int, timesteps: Sequence[float] | None, image_tokens: int | None) -> tuple[Floats, Floats]:
        """The levels before each turn, and their timesteps, not yet cut to whole ones (as is published)."""
        training = self.training_sigmas
        for kind in self._curves().values():
            levels = curve(kind, n, float(training[-1]), float(training[0]))
            clock = to_timesteps(levels, training)
            return levels, clock.round() if self._rounds(kind) else clock
        if self.use_flow_sigmas:
            if timesteps is not None:
                levels = shifted(np.asarray(timesteps) / self.num_train_timesteps, self._shift(image_tokens))
            else:
                levels = self._straight(n, self._shift(image_tokens))
            return levels, levels * self.num_train_timesteps
        visited = self._visited(n, timesteps).round()
        return self._at(visited), visited

    def _straight(self, n: int, shift: float) -> Floats:
        """Even levels of flow, from just below pure noise."""
        return shifted(1.0 - np.linspace(1, 1 / self.num_train_timesteps, n + 1), shift)[:0:-1]

    def _shift(self, image_tokens: int | None) -> float:
        return resolution_shift(type(self).__name__, image_tokens) if self.use_dynamic_shifting else self.flow_shift

    def _rounds(self, kind: Curve) -> bool:
        return kind == "karras"

    def _final(self, levels: Floats) -> float:
        return 0.0

    def _spaced(self, n: int) -> Floats:
        count = self.num_train_timesteps
        return spaced_with_end(self.timestep_spacing, n, count, count, self.steps_offset)

    # -- turns ---------------------------------------------------------------------------------------------------------

    def denoised(self, sample: Tensor, prediction: Tensor, step: Step) -> Tensor:
        return self._bounded(clean(self.prediction_type, sample.float(), prediction.float(), step.level))

    def _noise_in(self, sample: Tensor, prediction: Tensor, step: Step) -> Tensor:
        """epsilon, worked out again from the clean estimate where that is thresholded."""
        if self.thresholding:
            alpha, sigma = step.level
            return (sample.float() - alpha * self.denoised(sample, prediction, step)) / sigma
        return noise_in(self.prediction_type, sample.float(), prediction.float(), step.level)

    def _order(self, step: Step, history: History) -> int:
        """How many answers this turn may use: those there are, and fewer where a short run ends."""
        left = len(step.schedule.timesteps) - step.index
        falls = self._falls(len(step.schedule.timesteps))
        return min(self.solver_order, len(history) + 1, left if falls else self.solver_order)

    def _falls(self, turns: int) -> bool:
        return self.lower_order_final and turns < 15


def preserving(ratio: float) -> Level:
    """The level of unit variance with this noise to signal."""
    alpha = (ratio**2 + 1) ** -0.5
    return Level(alpha, ratio * alpha)


def differences(outputs: Sequence[Tensor], lambdas: Sequence[float], h: float) -> list[Tensor]:
    """D0, D1, D2 from the newest answer backwards: Lu et al. 2022 (DPM-Solver++), algorithm 2 and appendix B.

    outputs and lambdas: newest first, of the turns that take part. h: the coming step in lambda.
    """
    d0 = outputs[0]
    if len(outputs) == 1:
        return [d0]
    r0 = (lambdas[0] - lambdas[1]) / h
    newer = (d0 - outputs[1]) / r0
    if len(outputs) == 2:
        return [d0, newer]
    r1 = (lambdas[1] - lambdas[2]) / h
    bend = (newer - (outputs[1] - outputs[2]) / r1) / (r0 + r1)
    return [d0, newer + r0 * bend, bend]


def newest(outputs: History, count: int) -> History:
    """The last `count` of what is remembered oldest first."""
    return outputs[max(len(outputs) - count, 0) :]


def lambdas_behind(step: Step, count: int) -> list[float]:
    """lambda of this turn and of those before it, newest first."""
    return [step.schedule.levels[step.index - k].log_snr for k in range(count)]
