"""Denoising diffusion implicit models: Song, Meng and Ermon 2020."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from ...graph.errors import ConfigError
from .base import STEP_ARGUMENT, History
from .betas import BetaSchedule, Spacing
from .diffusion import Clipped, Prediction, ZeroTerminalSNR, noise_in, variance_preserving
from .schedule import Schedule, Step


@dataclass(frozen=True, kw_only=True)
class DDIMScheduler(Clipped, ZeroTerminalSNR):
    """Song et al. 2020, equation 12: deterministic at eta 0, ancestral sampling as in DDPM at eta 1.

    The level that a turn leads to is the one `num_train_timesteps // n` timesteps lower, as published. It differs from
    where the next turn starts when n does not divide the timesteps and the spacing is not "leading".
    """

    beta_schedule: BetaSchedule = "linear"
    prediction_type: Prediction = "epsilon"
    timestep_spacing: Spacing = "leading"
    set_alpha_to_one: bool = True
    """Whether the last turn leads to a sample without noise, or to the level of timestep 0."""
    eta: float = field(default=0.0, metadata=STEP_ARGUMENT)
    """The weight of fresh noise, equation 16; 0 and above."""
    use_clipped_model_output: bool = field(default=False, metadata=STEP_ARGUMENT)
    """Whether the noise in the sample is worked out again from the clipped clean estimate, as Glide does."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.eta < 0:
            raise ConfigError(f"DDIMScheduler wants an eta of 0 or more, not {self.eta}.")

    def steps(
        self,
        n: int,
        *,
        timesteps: Sequence[float] | None = None,
        sigmas: Sequence[float] | None = None,
        image_tokens: int | None = None,
    ) -> Schedule:
        self._refuse_sigmas(sigmas)
        visited = tuple(int(t) for t in self._visited(n, timesteps).round())
        stride = self.num_train_timesteps // len(visited)
        after = (*visited[1:], -1) if timesteps is not None else tuple(t - stride for t in visited)
        bars = [float(a) for a in self.alphas_cumprod]
        final = 1.0 if self.set_alpha_to_one else bars[0]
        targets = tuple(variance_preserving(bars[t] if t >= 0 else final) for t in after)
        levels = (*(variance_preserving(bars[t]) for t in visited), targets[-1])
        self._refuse_no_signal(levels[0].alpha)
        return Schedule(
            sigmas=tuple(level.ratio for level in levels),
            timesteps=visited,
            levels=levels,
            targets=targets,
            adds_noise=(self.eta > 0,) * len(visited),
        )

    def denoised(self, sample: Tensor, prediction: Tensor, step: Step) -> Tensor:
        return self._bounded(super().denoised(sample, prediction, step))

    def advance(
        self, sample: Tensor, prediction: Tensor, step: Step, history: History = (), noise: Tensor | None = None
    ) -> tuple[Tensor, History]:
        sample, prediction = sample.float(), prediction.float()
        (alpha, sigma), (alpha_next, sigma_next) = step.level, step.target
        x0 = self.denoised(sample, prediction, step)
        if self.use_clipped_model_output:
            epsilon = (sample - alpha * x0) / sigma
        else:
            epsilon = noise_in(self.prediction_type, sample, prediction, step.level)
        std = self.eta * sigma_next / sigma * max(1 - (alpha / alpha_next) ** 2, 0) ** 0.5  # equation 16
        out = alpha_next * x0 + max(sigma_next**2 - std**2, 0) ** 0.5 * epsilon
        return (out + std * self._noise(noise, step) if step.noisy else out), ()
