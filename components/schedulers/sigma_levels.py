"""Plans noise levels as sigma, noise to signal, for solvers in the terms of Karras et al. 2022.

There the sample is clean + sigma * noise, and the model gets it scaled to unit variance.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ...graph.errors import ConfigError
from .arrays import Floats
from .curves import Curve, curve
from .customary_curves import TrainingRange, customary_levels
from .keys import CurveKeys, CustomaryCurveKeys, SigmaCurve, SpacingKeys, chosen_curve
from .request import Request
from .schedule import Schedule
from .spacing import Spacing, spaced, visited
from .training_noise import TrainingNoise


class Levels(NamedTuple):
    """The noise levels of a run and the timesteps at which the model is called."""

    sigmas: Floats
    """(steps + 1,): noise to signal before each step, and at the end."""
    timesteps: Floats
    """(steps,): training timesteps, not always whole."""


@dataclass(frozen=True)
class SigmaLevels:
    """A level planner: turns a request into `Levels` of float32 numbers."""

    training: TrainingNoise
    spacing: Spacing
    steps_offset: int
    curve: Curve | None = None
    """The published curve that levels lie on; None: those of evenly spaced timesteps."""
    customary: SigmaCurve | None = None
    """A customary curve, in place of all that is published."""
    whole_timesteps: bool = False
    """Round the timesteps of a karras curve, as some published schedulers do."""
    log_linear: bool = False
    """Even steps in log sigma over the whole training range."""
    sigma_max: float | None = None
    sigma_min: float | None = None
    """The ends of a curve; None: the levels of the first and last timestep."""
    end: float = 0.0
    """Noise to signal at the end of the run."""

    def __call__(self, request: Request) -> Levels:
        """The levels of a run, the end among them. ConfigError for timesteps where a curve sets them."""
        if request.sigmas is not None:
            sigmas = request.noise_levels()
            return Levels(sigmas, self.training.timesteps_at(sigmas[:-1]))
        refuse_timesteps_on_a_curve(request, self._curve_key)
        count = len(self.training.alphas_cumprod)
        if self.customary:
            sigmas = customary_levels(self.customary, request.steps(count), TrainingRange.of_diffusion(self.training))
            return Levels(np.append(sigmas, self.end).astype(np.float32), self.training.timesteps_at(sigmas))
        timesteps = visited(request, count, self._spaced, self.steps_offset).astype(np.float32)
        n = len(timesteps)
        if self.log_linear:
            most, least = np.log(self.training.sigmas[-1]), np.log(self.training.sigmas[0])
            sigmas = np.exp(np.linspace(most, least, n + 1))
        else:
            sigmas = self.training.sigmas_at(timesteps)
        if self.curve:
            first, last = self.sigma_max or sigmas[0], self.sigma_min or sigmas[-1]
            sigmas = curve(self.curve, n, float(first), float(last))
            timesteps = self.training.timesteps_at(sigmas)
            timesteps = timesteps.round() if self.whole_timesteps and self.curve == "karras" else timesteps
        return Levels(np.append(sigmas, self.end)[: n + 1].astype(np.float32), timesteps)

    @classmethod
    def of(cls, keys: SpacingKeys, training: TrainingNoise, whole_timesteps: bool = False) -> "SigmaLevels":
        """The planner of the groups of keys that a scheduler has."""
        return cls(
            training,
            keys.timestep_spacing,
            keys.steps_offset,
            chosen_curve(keys) if isinstance(keys, CurveKeys) else None,
            keys.sigma_curve if isinstance(keys, CustomaryCurveKeys) else None,
            whole_timesteps,
        )

    def _spaced(self, n: int) -> Floats:
        return spaced(self.spacing, n, len(self.training.alphas_cumprod), self.steps_offset)

    @property
    def _curve_key(self) -> str | None:
        return "sigma_curve" if self.customary else f"use_{self.curve}_sigmas" if self.curve else None

    def schedule(self, levels: Levels, adds_noise: Sequence[bool] = (), calls_per_step: int = 1) -> Schedule:
        """The schedule of a sample that is clean + sigma * noise. Levels have one entry for each call, and the end.

        calls_per_step: model calls of a whole step, of which the last may have fewer.
        """
        sigmas: list[float] = levels.sigmas.astype(np.float32).tolist()
        timesteps: list[float] = levels.timesteps.astype(np.float32).tolist()
        top = max(sigmas)
        return Schedule(
            sigmas=tuple(sigmas),
            timesteps=tuple(timesteps),
            # "leading" starts below the noisiest level, so the published start is a little noisier than sigma.
            noise_scale=(top**2 + 1) ** 0.5 if self.spacing == "leading" and not self.customary else top,
            scales_in=tuple((sigma**2 + 1) ** -0.5 for sigma in sigmas[:-1]),
            adds_noise=tuple(adds_noise),
            places=tuple(call // calls_per_step for call in range(len(timesteps))),
        )


def refuse_timesteps_on_a_curve(request: Request, key: str | None) -> None:
    """Raise ConfigError where a request has timesteps but the config key `key` sets a curve."""
    if key and request.timesteps is not None:
        raise ConfigError(f"{request.scheduler} takes no timesteps with {key}: the curve sets them. Pass sigmas.")
