"""DPM-Solver run backwards, from a clean sample to the noise that it would come from."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from ...graph.errors import ConfigError
from .betas import Floats
from .dpmsolver import DPMSolverMultistep
from .schedule import Schedule
from .sigmas import Curve


@dataclass(frozen=True, kw_only=True)
class DPMSolverMultistepInverseScheduler(DPMSolverMultistep):
    """Lu et al. 2022b, algorithm 2, towards more noise: the flow has no direction, so only the levels turn round.

    A run starts at the model's least noise and ends at its most; on a curve, or with "trailing", with a last turn that
    stays where it is, as published. Along flow noise rises too, where the reference lets it fall. The sde kinds draw
    noise, and have no inverse.
    """

    algorithm_type: Literal["dpmsolver", "dpmsolver++"] = "dpmsolver++"
    final_sigmas_type: ClassVar[Literal["sigma_min"]] = "sigma_min"  # pyright: ignore[reportIncompatibleVariableOverride]  # no key here
    use_dynamic_shifting: ClassVar[bool] = False  # pyright: ignore[reportIncompatibleVariableOverride]  # nor this
    time_shift_type: ClassVar[Literal["exponential"]] = "exponential"  # pyright: ignore[reportIncompatibleVariableOverride]  # nor this

    def steps(
        self,
        n: int,
        *,
        timesteps: Sequence[float] | None = None,
        sigmas: Sequence[float] | None = None,
        image_tokens: int | None = None,
    ) -> Schedule:
        if timesteps is not None:
            raise ConfigError(
                "DPMSolverMultistepInverseScheduler takes no timesteps of one's own: it goes by its spacing. Give "
                "sigmas, which rise."
            )
        return super().steps(n, sigmas=sigmas, image_tokens=image_tokens)

    def _rounds(self, kind: Curve) -> bool:
        return kind == "karras"

    def _levels(self, n: int, timesteps: Sequence[float] | None, image_tokens: int | None) -> tuple[Floats, Floats]:
        if self.use_flow_sigmas:  # one more, where the run ends
            levels = self._straight(n + 1, self.flow_shift)[:0:-1]
            return levels, levels * self.num_train_timesteps
        levels, clock = super()._levels(n, timesteps, image_tokens)
        return levels[::-1], clock[::-1]

    def _spaced(self, n: int) -> Floats:
        """Where a run down would end, this one starts, and it ends where that would start."""
        down = super()._spaced(n)
        if self.timestep_spacing == "trailing":
            return down
        return np.append(down[1:], self.steps_offset if self.timestep_spacing == "leading" else 0)

    def _final(self, levels: Floats) -> float:
        if self.use_flow_sigmas:
            return float(self._straight(len(levels) + 1, self.flow_shift)[0])
        return float(levels[-1] if self._curves() else self.training_sigmas[self._last - 1])
