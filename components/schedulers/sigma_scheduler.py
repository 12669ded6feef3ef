"""What the schedulers that let the sample grow with its noise share (Karras et al. 2022; Crowson's k-diffusion)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...graph.errors import ConfigError
from .betas import Float32s, Floats
from .diffusion import DiffusionScheduler
from .schedule import Schedule
from .sigmas import from_alphas, to_timesteps


@dataclass(frozen=True, kw_only=True)
class SigmaScheduler(DiffusionScheduler):
    """A scheduler whose sample is clean + sigma * noise; the model sees it scaled to unit variance."""

    @property
    def training_sigmas(self) -> Float32s:
        """sigma at each training timestep, rising."""
        return from_alphas(self.alphas_cumprod)

    def _at(self, timesteps: Floats) -> Floats:
        training = self.training_sigmas
        return np.interp(timesteps, np.arange(len(training)), training)

    def _asked(self, sigmas: Sequence[float], timesteps: Sequence[float] | None) -> tuple[Floats, Floats]:
        """The levels that a caller wants, the end among them, and the timesteps where the model knows them."""
        levels = np.asarray(sigmas, dtype=np.float32)
        if timesteps is not None:
            raise ConfigError(f"{type(self).__name__} takes timesteps or sigmas, not both.")
        if levels.ndim != 1 or len(levels) < 2 or not (levels[:-1] > 0).all() or not np.isfinite(levels).all():
            raise ConfigError(
                f"{type(self).__name__} wants two or more sigmas above 0, the last one (0 mostly) where the run ends. "
                f"They came as {list(sigmas)}."
            )
        return levels, to_timesteps(levels[:-1], self.training_sigmas)

    def _schedule(self, levels: Floats, clock: Floats, noises: Sequence[bool]) -> Schedule:
        """levels: (turns + 1,). clock: (turns,). Both as float32 numbers, which is what is published."""
        sigmas: list[float] = levels.astype(np.float32).tolist()
        timesteps: list[float] = clock.astype(np.float32).tolist()
        top = max(sigmas)
        return Schedule(
            sigmas=tuple(sigmas),
            timesteps=tuple(timesteps),
            # "leading" starts below the noisiest level, so the published start is a little noisier than sigma.
            noise_scale=(top**2 + 1) ** 0.5 if self.timestep_spacing == "leading" else top,
            scales_in=tuple((sigma**2 + 1) ** -0.5 for sigma in sigmas[:-1]),
            noises=tuple(noises),
        )
