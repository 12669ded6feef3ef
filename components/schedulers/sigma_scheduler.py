"""What the schedulers that plan noise levels, not timesteps, share (Karras et al. 2022; Crowson's k-diffusion)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...graph.errors import ConfigError
from .betas import Float32s, Floats
from .diffusion import DiffusionScheduler
from .schedule import Schedule
from .sigmas import Curve, curve, from_alphas, to_timesteps


@dataclass(frozen=True, kw_only=True)
class ByLevels(DiffusionScheduler):
    """A scheduler that visits noise levels, which may lie between those that the model was trained with."""

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
        self._refuse_two(timesteps, sigmas)
        if levels.ndim != 1 or len(levels) < 2 or not (levels[:-1] > 0).all() or not np.isfinite(levels).all():
            raise ConfigError(
                f"{type(self).__name__} wants two or more sigmas above 0, the last one (0 mostly) where the run ends. "
                f"They came as {list(sigmas)}."
            )
        return levels, to_timesteps(levels[:-1], self.training_sigmas)

    def _refuse_two(self, timesteps: Sequence[float] | None, sigmas: Sequence[float] | None) -> None:
        if timesteps is not None and sigmas is not None:
            raise ConfigError(f"{type(self).__name__} takes timesteps or sigmas, not both.")


@dataclass(frozen=True, kw_only=True)
class Curved(ByLevels):
    """A scheduler whose levels may lie on a curve of their own instead of at evenly spaced timesteps."""

    use_karras_sigmas: bool = False
    use_exponential_sigmas: bool = False
    use_beta_sigmas: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(chosen := self._curves()) > 1:
            raise ConfigError(f"{type(self).__name__} takes one sigma curve, but {' and '.join(chosen)} are set.")

    def _curves(self) -> dict[str, Curve]:
        kinds: tuple[Curve, ...] = ("karras", "exponential", "beta")
        return {key: kind for kind in kinds if getattr(self, key := f"use_{kind}_sigmas")}

    def _rounds(self, kind: Curve) -> bool:
        """Are the timesteps of this curve whole? It is as published, for each scheduler."""
        return False

    def _refuse_timesteps_on_a_curve(self, timesteps: Sequence[float] | None) -> None:
        for key in self._curves() if timesteps is not None else ():
            raise ConfigError(f"{type(self).__name__} takes no timesteps with {key}: the curve chooses them.")

    def _plan(self, n: int, timesteps: Sequence[float] | None, sigmas: Sequence[float] | None) -> tuple[Floats, Floats]:
        """The levels of a run, the end (0) among them, and their timesteps: float32 numbers."""
        if sigmas is not None:
            return self._asked(sigmas, timesteps)
        self._refuse_timesteps_on_a_curve(timesteps)
        visited = self._visited(n, timesteps).astype(np.float32)
        levels = self._at(visited)
        for kind in self._curves().values():
            levels = curve(kind, len(visited), float(levels[0]), float(levels[-1]))
            visited = to_timesteps(levels, self.training_sigmas)
            visited = visited.round() if self._rounds(kind) else visited
        return np.append(levels, 0.0).astype(np.float32), visited


@dataclass(frozen=True, kw_only=True)
class SigmaScheduler(ByLevels):
    """A scheduler whose sample is clean + sigma * noise; the model sees it scaled to unit variance."""

    def _schedule(
        self, levels: Floats, clock: Floats, adds_noise: Sequence[bool] = (), turns_a_step: int = 1
    ) -> Schedule:
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
            adds_noise=tuple(adds_noise),
            whole_step_of=tuple(turn // turns_a_step for turn in range(len(timesteps))),
        )
