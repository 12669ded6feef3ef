"""UniPC, a predictor and corrector of any order: Zhao et al. 2023."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import ClassVar, Literal

import numpy as np
from torch import Tensor

from ...graph.errors import ConfigError
from .base import History
from .betas import Floats
from .diffusion import ZeroTerminalSNR, noise_in
from .flow import shifted, stretched
from .lambdas import Transfer, move, phis, transfer
from .multistep import LambdaScheduler, lambdas_behind
from .schedule import Level, Step
from .sigmas import curve, to_timesteps


@dataclass(frozen=True, kw_only=True)
class UniPCMultistepScheduler(LambdaScheduler, ZeroTerminalSNR):
    """Zhao et al. 2023, algorithms 1 and 2. The corrector calls nothing: it redoes the last turn with this answer.

    History: the sample that the last turn started from, then the answers, oldest first; one answer is the order of the
    last turn.
    """

    predict_x0: bool = True
    """Whether the clean sample is integrated (as in DPM-Solver++), or the noise."""
    solver_type: Literal["bh1", "bh2"] = "bh2"
    """B(h) of equation 8: h, or e^h - 1."""
    disable_corrector: tuple[int, ...] = ()
    """Turns after which nothing is corrected: the first ones, where guidance is large."""
    solver_p: None = None
    final_sigmas_type: Literal["zero", "sigma_min"] = "zero"
    sigma_min: float | None = None
    sigma_max: float | None = None
    """The ends of a karras, exponential or beta curve; by default those of training."""
    shift_terminal: float | None = None
    """Flow: the last level before the end."""

    highest_order: ClassVar[int] = 9

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.shift_terminal is not None and not self.use_flow_sigmas:
            raise ConfigError("UniPCMultistepScheduler takes shift_terminal only with use_flow_sigmas=True.")
        if not self.predict_x0 and self.final_sigmas_type == "zero":
            raise ConfigError(
                "UniPCMultistepScheduler(predict_x0=False) integrates noise, and cannot end where there is none. "
                "Choose final_sigmas_type='sigma_min', or predict_x0=True."
            )

    # -- levels --------------------------------------------------------------------------------------------------------

    def _flows_on(self, key: str) -> bool:
        return key == "use_karras_sigmas"

    def _levels(self, n: int, timesteps: Sequence[float] | None, image_tokens: int | None) -> tuple[Floats, Floats]:
        training = self.training_sigmas
        for kind in self._curves().values():
            levels = curve(kind, n, self.sigma_max or float(training[-1]), self.sigma_min or float(training[0]))
            if self.use_flow_sigmas:
                levels = levels / (levels + 1)
                return levels, levels * self.num_train_timesteps
            clock = to_timesteps(levels, training)
            return levels, clock.round() if self._rounds(kind) else clock
        return super()._levels(n, timesteps, image_tokens)

    def _straight(self, n: int, shift: float) -> Floats:
        levels = shifted(np.linspace(1, 1 / self.num_train_timesteps, n + 1)[:-1], shift)
        if self.shift_terminal:
            levels = stretched(levels, self.shift_terminal)
        return np.minimum(levels, 1 - 1e-6)  # lambda has no value at pure noise

    def _final(self, levels: Floats) -> float:
        if self.final_sigmas_type == "zero":
            return 0.0
        return float(levels[-1] if self._curves() or self.use_flow_sigmas else self.training_sigmas[0])

    # -- turns ---------------------------------------------------------------------------------------------------------

    def advance(
        self, sample: Tensor, prediction: Tensor, step: Step, history: History = (), noise: Tensor | None = None
    ) -> tuple[Tensor, History]:
        sample = sample.float()
        output = self._output(sample, prediction, step)
        outputs = history[1:]
        if outputs and step.index - 1 not in self.disable_corrector:
            sample = self._correct(history[0], outputs, output, step)
        answers = (*outputs, output)[-self.solver_order :]
        order = self._order(step, outputs)
        return self._predict(sample, answers, order, step), (sample, *answers)

    def _falls(self, turns: int) -> bool:
        return self.lower_order_final

    def _output(self, sample: Tensor, prediction: Tensor, step: Step) -> Tensor:
        """What is integrated. The noise is never thresholded, as published."""
        if self.predict_x0:
            return self.denoised(sample, prediction, step)
        return noise_in(self.prediction_type, sample, prediction.float(), step.level)

    def _predict(self, sample: Tensor, outputs: History, order: int, step: Step) -> Tensor:
        """UniP-p: Zhao et al. 2023, equation 4."""
        start, *behind = lambdas_behind(step, order)
        by = self._transfer(step.level, step.target)
        if by.h == 0:
            return sample
        if by.h == -inf:  # the end without noise is infinitely far in lambda, where no polynomial reaches
            order, behind = 1, []
        h = step.target.log_snr - start
        places = [(other - start) / h for other in behind]
        newest = outputs[-1]
        slopes = [(old - newest) / r for old, r in zip(outputs[-2::-1], places, strict=False)]
        weights = [0.5] if order == 2 else self._solve(places, by.h, order - 1)  # 1/2: appendix F
        return self._combine(sample, by, newest, weights, slopes)

    def _correct(self, sample: Tensor, outputs: History, output: Tensor, step: Step) -> Tensor:
        """UniC-p: Zhao et al. 2023, equation 3. The last turn again, with what the model said where it led."""
        last = Step(step.schedule, step.index - 1)
        order = self._order(last, outputs[:-1])
        start, *behind = lambdas_behind(last, order)
        by = self._transfer(last.level, last.target)
        if by.h == 0:
            return sample
        h = last.target.log_snr - start
        places = [*((other - start) / h for other in behind), 1.0]
        newest = outputs[-1]
        answers = (*outputs[-2::-1][: order - 1], output)
        slopes = [(answer - newest) / r for answer, r in zip(answers, places, strict=True)]
        weights = [0.5] if order == 1 else self._solve(places, by.h, order)
        return self._combine(sample, by, newest, weights, slopes)

    def _transfer(self, start: Level, end: Level) -> Transfer:
        return transfer("dpmsolver++" if self.predict_x0 else "dpmsolver", start, end)

    def _solve(self, places: Sequence[float], h: float, count: int) -> list[float]:
        """The weights of the slopes, times B(h): equation 7, R a = b."""
        if not count:
            return []
        powers = np.vander(places, count, increasing=True).T
        factorials = np.cumprod(np.arange(1, count + 1))
        values = np.array(phis(h, count + 1)[1:]) * factorials
        return np.linalg.solve(powers, values / self._b(h)).tolist()

    def _b(self, h: float) -> float:
        return h if self.solver_type == "bh1" else phis(h, 1)[0]

    def _combine(
        self, sample: Tensor, by: Transfer, newest: Tensor, weights: Sequence[float], slopes: Sequence[Tensor]
    ) -> Tensor:
        scaled = [weight * self._b(by.h) for weight in weights]
        return move(sample, by, [(phis(by.h, 1)[0], newest), *zip(scaled, slopes, strict=False)])
