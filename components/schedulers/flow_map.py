"""Straight paths walked otherwise: by a model that knows both ends of a step, and down with some noise up again."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import Tensor

from ...graph.errors import ConfigError
from .base import History
from .flow import Floats, shifted
from .flow_match import FlowMatch, Shifting
from .schedule import Schedule, Step


@dataclass(frozen=True, kw_only=True)
class FlowMapEulerDiscreteScheduler(FlowMatch):
    """One exact step of a flow map (Boffi et al. 2024), from this level to the next.

    Such a model predicts the mean velocity between two levels, so it is told where the step leads, too: at
    `next_sigma * num_train_timesteps`, on the clock of `timestep`. One model serves any number of steps.
    """

    def steps(
        self,
        n: int,
        *,
        timesteps: Sequence[float] | None = None,
        sigmas: Sequence[float] | None = None,
        image_tokens: int | None = None,
    ) -> Schedule:
        if timesteps is not None and sigmas is not None:
            raise ConfigError("FlowMapEulerDiscreteScheduler takes timesteps or sigmas, not both.")
        end = 0.0
        if sigmas is not None:
            *before, end = self._asked(sigmas).tolist()
            levels: Floats = np.asarray(before)
        elif timesteps is not None:
            levels = self._asked([t / self.num_train_timesteps for t in (*timesteps, 0.0)])[:-1]
        elif n < 1:
            raise ConfigError(f"FlowMapEulerDiscreteScheduler takes 1 step or more, not {n}.")
        else:
            levels = np.linspace(1, 0, n + 1)[:-1]
        levels = shifted(levels, self.shift)
        return self._schedule(np.append(levels, end), levels * self.num_train_timesteps)

    def advance(
        self, sample: Tensor, prediction: Tensor, step: Step, history: History = (), noise: Tensor | None = None
    ) -> tuple[Tensor, History]:
        return sample.float() + (step.next_sigma - step.sigma) * prediction.float(), ()


@dataclass(frozen=True, kw_only=True)
class LTXEulerAncestralRFScheduler(Shifting):
    """Ancestral Euler along the flow: below the next level, then fresh noise up to it (ComfyUI's euler_ancestral_RF).

    Its published keys are three. It plans as FlowMatchEulerDiscreteScheduler does, with that one's keys where a config
    has them; they are written only where they are not default.
    """

    eta: float = 1.0
    """How far below, as a share of the way; 0 is Euler's method."""
    s_noise: float = 1.0

    unwritten: ClassVar[frozenset[str]] = frozenset(Shifting.__dataclass_fields__) - {"num_train_timesteps"}

    def _draws(self, after: float) -> bool:
        return after > 0 and self.eta > 0 and self.s_noise > 0

    def advance(
        self, sample: Tensor, prediction: Tensor, step: Step, history: History = (), noise: Tensor | None = None
    ) -> tuple[Tensor, History]:
        x0 = self.denoised(sample, prediction, step)
        sigma, after = step.sigma, step.next_sigma
        if not after:
            return x0, ()
        below = after * (1 + (after / sigma - 1) * self.eta)
        out = (below / sigma) * sample.float() + (1 - below / sigma) * x0
        if not step.noisy:
            return out, ()
        keep = (1 - after) / (1 - below)
        std = max(after**2 - (keep * below) ** 2, 0) ** 0.5
        return keep * out + self.s_noise * std * self._noise(noise, step), ()
