"""Schedulers on straight paths: for a model that reads both ends of a step, and one that adds some noise in each."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import Tensor

from ...graph.errors import ConfigError
from .arrays import Floats
from .flow_match import FlowMatch, ShiftedLevels, ShiftKeys, flow_schedule
from .flow_shift import shifted
from .history import History
from .request import Request
from .schedule import Schedule, Step


@dataclass(frozen=True, kw_only=True)
class FlowMapEulerDiscreteScheduler(FlowMatch):
    """One exact step of a flow map (Boffi et al. 2024) from this level to the next: x' = x + (sigma' - sigma) v.

    Such a model predicts the mean velocity v between two levels, so it gets the next timestep too,
    `next_sigma * num_train_timesteps`. One model serves any number of steps.
    """

    def plan(self, request: Request) -> Schedule:
        """One model call at each level."""
        count, end = self.num_train_timesteps, 0.0
        if request.sigmas is not None:
            *before, end = request.noise_levels(most=1).tolist()
            levels: Floats = np.asarray(before)
        elif request.timesteps is not None:
            levels = np.asarray(request.falling_timesteps(count) / count, dtype=np.float32)
        else:
            levels = np.linspace(1, 0, request.n + 1)[:-1]
        levels = shifted(levels, self.shift)
        return flow_schedule(np.append(levels, end), levels * count)

    def advance(
        self, sample: Tensor, prediction: Tensor, step: Step, history: History = (), noise: Tensor | None = None
    ) -> tuple[Tensor, History]:
        """Along the mean velocity."""
        return sample.float() + (step.next_sigma - step.sigma) * prediction.float(), ()


def check_falling(scheduler: "LTXEulerAncestralRFScheduler") -> None:
    """A rule: noise is added up to the next level, so levels fall."""
    if scheduler.invert_sigmas:
        raise ConfigError(
            "LTXEulerAncestralRFScheduler needs levels that fall, got invert_sigmas=True. Use "
            "FlowMatchEulerDiscreteScheduler, or set invert_sigmas=False."
        )


@dataclass(frozen=True, kw_only=True)
class LTXEulerAncestralRFScheduler(FlowMatch, ShiftKeys):
    """Ancestral Euler along the flow: below the next level, then fresh noise up to it (ComfyUI's euler_ancestral_RF).

    With s = sigma' (1 + (sigma' / sigma - 1) eta) the level below and keep = (1 - sigma') / (1 - s):
    x' = keep (s / sigma x + (1 - s / sigma) x0) + s_noise sqrt(sigma'^2 - (keep s)^2) noise.

    Its published keys are three. It plans as FlowMatchEulerDiscreteScheduler does, with that one's keys where a config
    has them; they are written only where they are not default.
    """

    eta: float = 1.0
    """The distance below the next level, as a share of the way; 0 is Euler's method."""
    s_noise: float = 1.0
    """The standard deviation of the noise."""

    accepts = "both"
    rules = (check_falling,)
    unwritten: ClassVar[frozenset[str]] = frozenset(
        {*FlowMatch.__dataclass_fields__, *ShiftKeys.__dataclass_fields__} - {"num_train_timesteps"}
    )

    def plan(self, request: Request) -> Schedule:
        """One model call at each level; with eta, all steps but that to no noise draw noise."""
        noisy = self.eta > 0 and self.s_noise > 0
        return ShiftedLevels(self, self, lambda after: after > 0 and noisy)(request)

    def advance(
        self, sample: Tensor, prediction: Tensor, step: Step, history: History = (), noise: Tensor | None = None
    ) -> tuple[Tensor, History]:
        """Euler's method below the next level, and noise up."""
        x0 = self.denoised(sample, prediction, step)
        sigma, after = step.sigma, step.next_sigma
        if not after:
            return x0, ()
        below = after * (1 + (after / sigma - 1) * self.eta)
        out = (below / sigma) * sample.float() + (1 - below / sigma) * x0
        if not step.noisy or after == sigma:
            return out, ()
        keep = (1 - after) / (1 - below)
        std = max(after**2 - (keep * below) ** 2, 0) ** 0.5
        return keep * out + self.s_noise * std * self._noise(noise, step), ()
