"""Plans noise levels for the solvers that step in lambda = log(alpha / sigma): DPM-Solver, DEIS, SA-Solver and UniPC.

The sample keeps unit variance, or, with `use_flow_sigmas`, goes straight: (1 - sigma) clean + sigma noise.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import NamedTuple

import numpy as np

from ...graph.errors import ConfigError
from .arrays import Floats
from .curves import Curve, curve
from .customary_curves import TrainingRange, customary_levels
from .diffusion import DiffusionScheduler
from .flow_shift import resolution_shift, shifted
from .keys import CurveKeys, DynamicShiftKeys, FlowKeys, SigmaCurve, chosen_curve
from .request import Request
from .schedule import Level, Schedule
from .sigma_levels import Levels, refuse_timesteps_on_a_curve
from .spacing import Spacing, spaced_with_end, visited
from .training_noise import TrainingNoise


class NamedCurve(NamedTuple):
    """A curve of noise levels, and the values that planning along it needs."""

    key: str
    """The config key that sets it."""
    sigmas: Callable[[int], Floats]
    """`n` -> n levels, falling."""
    whole_timesteps: bool
    """Round the timesteps to the nearest; else they are cut."""


class FlowLevels(NamedTuple):
    """Levels of flow matching."""

    even: Callable[[int, float], Floats]
    """`n` and the shift -> n levels, falling."""
    shift: float | None
    """None: by the size of the image."""

    def shift_of(self, request: Request) -> float:
        """The shift for this request. ConfigError where it depends on `image_tokens` and there are none."""
        return resolution_shift(request.scheduler, request.image_tokens) if self.shift is None else self.shift


@dataclass(frozen=True)
class LambdaLevels:
    """A level planner: turns a request into `Levels`. Timesteps are those of the training noise, as whole numbers."""

    training: TrainingNoise
    spaced: Callable[[int], Floats]
    """`n` -> n training timesteps, falling, for levels that lie neither on a curve nor on flow."""
    steps_offset: int
    curve: NamedCurve | None
    flow: FlowLevels | None
    end: float | None
    """Noise to signal at the end of the run; None: the last step stays at its level, as some solvers publish."""
    customary: SigmaCurve | None = None
    """A customary curve, in place of all that is published."""

    def __call__(self, request: Request) -> Levels:
        """The levels of a run, the end among them. ConfigError for timesteps where a curve sets them."""
        if request.sigmas is not None:
            sigmas: Floats = request.noise_levels()
            request.refuse_equal_neighbours(sigmas[:-1])
            if self.flow is not None:
                sigmas = shifted(sigmas, self.flow.shift_of(request))
                return Levels(sigmas, sigmas[:-1] * self._count)
            return Levels(sigmas, self.training.timesteps_at(sigmas[:-1]))
        refuse_timesteps_on_a_curve(request, "sigma_curve" if self.customary else self.curve and self.curve.key)
        if self.customary:
            return self._along(self.customary, request)
        sigmas, timesteps = self._before_the_end(request)
        return Levels(np.append(sigmas, sigmas[-1] if self.end is None else self.end), timesteps)

    def _along(self, kind: SigmaCurve, request: Request) -> Levels:
        """A customary curve. It ends without noise, or at the least noise of training where the solver ends so."""
        n = request.steps(self._count)
        if self.flow is None:
            known = TrainingRange.of_diffusion(self.training)
            sigmas = customary_levels(kind, n, known)
            timesteps = self.training.timesteps_at(sigmas).round()
        else:
            known = TrainingRange.of_flow(self._count, self.flow.shift_of(request))
            sigmas = np.minimum(customary_levels(kind, n, known), 1 - 1e-6)  # lambda has no value at pure noise
            timesteps = sigmas * self._count
        return Levels(np.append(sigmas, 0.0 if self.end == 0 else known.levels[0]), timesteps)

    def _before_the_end(self, request: Request) -> tuple[Floats, Floats]:
        if self.curve is not None:
            sigmas = self.curve.sigmas(request.n)
            if self.flow is not None:
                sigmas = sigmas / (sigmas + 1)  # noise to signal -> share of noise
                return sigmas, sigmas * self._count
            timesteps = self.training.timesteps_at(sigmas)
            return sigmas, timesteps.round() if self.curve.whole_timesteps else timesteps
        if self.flow is not None:
            shift = self.flow.shift_of(request)
            if request.timesteps is not None:
                sigmas = shifted(np.asarray(request.timesteps) / self._count, shift)
                request.refuse_equal_neighbours(sigmas)
            else:
                sigmas = self.flow.even(request.n, shift)
            return sigmas, sigmas * self._count
        timesteps = visited(request, self._count, self.spaced, self.steps_offset).round()
        return self.training.sigmas_at(timesteps), timesteps

    @property
    def _count(self) -> int:
        return len(self.training.alphas_cumprod)


def lambda_schedule(levels: Levels, flow: bool, adds_noise: bool) -> Schedule:
    """The schedule of a sample that keeps unit variance or, with `flow`, goes straight from noise to clean.

    Raises ConfigError for a model call without noise, or of a flow with more noise than there is: lambda is no number.
    """
    sigmas: list[float] = levels.sigmas.astype(np.float32).tolist()
    if unfit := [sigma for sigma in sigmas[:-1] if sigma <= 0 or (flow and sigma > 1)]:
        most = " and at most 1" if flow else ""
        raise ConfigError(
            f"Needs sigmas above 0{most} where the model is called, got {unfit[0]:g}. The run's end is added."
        )
    timesteps: list[int] = levels.timesteps.astype(np.int64).tolist()
    return Schedule(
        sigmas=tuple(sigmas),
        timesteps=tuple(timesteps),
        levels=tuple(Level(1 - sigma, sigma) if flow else unit_variance(sigma) for sigma in sigmas),
        adds_noise=(adds_noise,) * len(timesteps),
    )


def unit_variance(ratio: float) -> Level:
    """The level of unit variance with this noise to signal."""
    alpha = (ratio**2 + 1) ** -0.5
    return Level(alpha, ratio * alpha)


# -- parts of a planner, from config keys ----------------------------------------------------------------------------


def spaced_above(
    spacing: Spacing, offset: int, training: TrainingNoise, lambda_min: float = -inf
) -> Callable[[int], Floats]:
    """Evenly spaced timesteps with a lambda of at least `lambda_min`; the end of the run would be one more."""
    count, last = len(training.alphas_cumprod), enough_signal(training, lambda_min)
    return lambda n: spaced_with_end(spacing, n, count, last, offset)


def enough_signal(training: TrainingNoise, lambda_min: float) -> int:
    """The number of training timesteps, from 0, that have a lambda of at least `lambda_min`."""
    return len(training.alphas_cumprod) - int((-np.log(training.sigmas) < lambda_min).sum())


def curve_of(keys: CurveKeys, training: TrainingNoise, whole: tuple[Curve, ...] = ("karras",)) -> NamedCurve | None:
    """The curve that is set, over the whole range of the training noise. whole: curves whose timesteps are rounded."""
    kind = chosen_curve(keys)
    if kind is None:
        return None
    most, least = float(training.sigmas[-1]), float(training.sigmas[0])
    levels = partial(curve, kind, sigma_max=most, sigma_min=least)
    return NamedCurve(f"use_{kind}_sigmas", levels, kind in whole)


def flow_of(scheduler: DiffusionScheduler) -> FlowLevels | None:
    """Even levels of flow from just below pure noise, where `use_flow_sigmas` is set."""
    if not isinstance(scheduler, FlowKeys) or not scheduler.use_flow_sigmas:
        return None
    dynamic = isinstance(scheduler, DynamicShiftKeys) and scheduler.use_dynamic_shifting
    return FlowLevels(even_flow(scheduler.num_train_timesteps), None if dynamic else scheduler.flow_shift)


def even_flow(count: int) -> Callable[[int, float], Floats]:
    """`n` even levels of flow, shifted, of a model with `count` training timesteps."""
    return lambda n, shift: shifted(1.0 - np.linspace(1, 1 / count, n + 1), shift)[:0:-1]


def check_curve_without_flow(scheduler: object) -> None:
    """A rule: the curves are curves of noise to signal, which levels of flow do not follow."""
    if isinstance(scheduler, FlowKeys) and scheduler.use_flow_sigmas and isinstance(scheduler, CurveKeys):
        key = f"use_{chosen_curve(scheduler)}_sigmas" if chosen_curve(scheduler) else None
        if getattr(scheduler, "use_lu_lambdas", False):
            key = "use_lu_lambdas"
        if key:
            name = type(scheduler).__name__
            raise ConfigError(f"{name} takes {key} or use_flow_sigmas, not both. Set one of them.")
