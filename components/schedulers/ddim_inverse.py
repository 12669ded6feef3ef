"""DDIM run backwards, from a clean sample to the noise that it would come from (Mokady et al. 2022, section 3)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from ...graph.errors import ConfigError
from .base import History
from .betas import BetaSchedule
from .diffusion import Prediction, ZeroTerminalSNR, noise_in, variance_preserving
from .schedule import Level, Schedule, Step


@dataclass(frozen=True, kw_only=True)
class DDIMInverseScheduler(ZeroTerminalSNR):
    """Song et al. 2020, equation 14, towards more noise: timesteps rise.

    Each turn starts one stride below its timestep, where the sample is, and asks the model at the level it goes to.
    """

    beta_schedule: BetaSchedule = "linear"
    prediction_type: Prediction = "epsilon"
    timestep_spacing: Literal["leading", "trailing"] = "leading"
    clip_sample: bool = True
    clip_sample_range: float = 1.0
    set_alpha_to_one: bool = True
    """Whether the first turn starts from a sample without noise, or at the level of timestep 0."""

    def steps(
        self,
        n: int,
        *,
        timesteps: Sequence[float] | None = None,
        sigmas: Sequence[float] | None = None,
        image_tokens: int | None = None,
    ) -> Schedule:
        self._refuse_sigmas(sigmas)
        if timesteps is not None:
            raise ConfigError("DDIMInverseScheduler takes no timesteps of one's own: it goes by an even stride.")
        visited = tuple(int(t) for t in self._visited(n, None)[::-1].round())
        stride = self.num_train_timesteps // n
        targets = tuple(self._at(t) for t in visited)
        levels = (*(self._at(t - stride) for t in visited), targets[-1])
        return Schedule(
            sigmas=tuple(level.ratio for level in levels), timesteps=visited, levels=levels, targets=targets
        )

    def _at(self, t: int) -> Level:
        bars = self.alphas_cumprod
        return variance_preserving(float(bars[t]) if t >= 0 else 1.0 if self.set_alpha_to_one else float(bars[0]))

    def denoised(self, sample: Tensor, prediction: Tensor, step: Step) -> Tensor:
        x0 = super().denoised(sample, prediction, step)
        return x0.clamp(-self.clip_sample_range, self.clip_sample_range) if self.clip_sample else x0

    def advance(
        self, sample: Tensor, prediction: Tensor, step: Step, history: History = (), noise: Tensor | None = None
    ) -> tuple[Tensor, History]:
        sample = sample.float()
        if self.prediction_type == "sample" and not step.level.sigma:
            return sample, ()  # there is no noise in it to read, and the reference divides by it
        epsilon = noise_in(self.prediction_type, sample, prediction.float(), step.level)
        return step.target.alpha * self.denoised(sample, prediction, step) + step.target.sigma * epsilon, ()
