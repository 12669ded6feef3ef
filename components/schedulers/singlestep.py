"""DPM-Solver with its steps in groups: Lu et al. 2022, algorithms 1 and 2; Lu et al. 2022b, algorithm 1."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from .base import History
from .betas import Spacing
from .dpmsolver import DPMSolver
from .lambdas import move, phis, transfer
from .schedule import Step


@dataclass(frozen=True, kw_only=True)
class DPMSolverSinglestepScheduler(DPMSolver):
    """Turns in groups of `solver_order`. Each goes from the group's first sample, with one answer more than the last.

    So a group's last turn is one step of that order, and those before it bring the model where it is asked.
    History: the group's first sample, then its answers.
    """

    algorithm_type: Literal["dpmsolver", "dpmsolver++", "sde-dpmsolver++"] = "dpmsolver++"
    timestep_spacing: ClassVar[Spacing] = "linspace"  # pyright: ignore[reportIncompatibleVariableOverride]  # no key here
    steps_offset: ClassVar[int] = 0  # pyright: ignore[reportIncompatibleVariableOverride]  # nor this
    lower_order_final: bool = False
    """Whether the last turn is a single one, which it is too where the run ends without noise."""

    def advance(
        self, sample: Tensor, prediction: Tensor, step: Step, history: History = (), noise: Tensor | None = None
    ) -> tuple[Tensor, History]:
        sample = sample.float()
        place = self._places(len(step.schedule.timesteps), step.schedule.sigmas[-1] == 0)[step.index]
        answers = (*history[1:], self._output(sample, prediction, step))
        answers = answers[-1:] if place == 1 else answers  # a group that a run starts inside of is a smaller one
        start = sample if len(answers) == 1 else history[0]
        levels = step.schedule.levels[step.index - len(answers) + 1 : step.index + 1]
        by = transfer(self.algorithm_type, levels[0], step.target)
        drawn = self._drawn(noise, step)
        if by.h == 0:
            return start, (start, *answers)
        whole = step.target.log_snr - levels[0].log_snr
        places = [(level.log_snr - levels[0].log_snr) / whole for level in levels[1:]]
        weighted = self._weighted(answers, places, by.h)
        return move(start, by, weighted, drawn), (start, *answers)

    def _weighted(self, answers: History, places: list[float], h: float) -> list[tuple[float, Tensor]]:
        """What stands in for the integral. places: of the later answers, in shares of the step from the first."""
        first, *others = answers
        slopes = [(other - first) / place for other, place in zip(others, places, strict=True)]
        phi1, phi2, phi3 = phis(h, 3)
        if not slopes:
            return [(phi1, first)]
        if len(slopes) == 1:
            return [(phi1, first), (phi1 / 2 if self.solver_type == "midpoint" else phi2, slopes[0])]
        if self.solver_type == "midpoint":
            return [(phi1, first), (phi2, slopes[1])]
        (near, far), (r1, r2) = slopes, places
        return [(phi1, first), (phi2, (r2 * near - r1 * far) / (r2 - r1)), (2 * phi3, (far - near) / (r2 - r1))]

    def _places(self, n: int, to_zero: bool) -> list[int]:
        """The order of each turn: 1, 2, 3, 1, 2, 3 ..., and lower ones at the end."""
        order = self.solver_order
        groups = [*range(1, order + 1)] * (n // order) + [*range(1, n % order + 1)]
        if to_zero or (self.lower_order_final and not n % order):
            groups[-1] = 1
        return groups
