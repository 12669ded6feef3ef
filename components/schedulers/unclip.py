"""The sampler of unCLIP's prior, decoder and upscaler (Ramesh et al. 2022), which Kandinsky's prior uses too."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from torch import Tensor

from ...graph.errors import ConfigError
from .betas import Floats, alphas_cumprod
from .ddpm import Ancestral, ancestral
from .diffusion import clean
from .schedule import Schedule, Step


@dataclass(frozen=True, kw_only=True)
class UnCLIPScheduler(Ancestral):
    """Ancestral sampling on cosine betas, over timesteps that are spread from the first to the last.

    The prior's samples are embeddings, the decoder's are pixels: a sample is (batch, ...) of any shape, but with
    "learned_range" it has channels second, and the prediction has twice as many.
    """

    num_train_timesteps: int = 1000
    variance_type: Literal["fixed_small_log", "learned_range"] = "fixed_small_log"  # pyright: ignore[reportIncompatibleVariableOverride]  # fewer of them
    clip_sample: bool = True
    clip_sample_range: float = 1.0
    prediction_type: Literal["epsilon", "sample"] = "epsilon"
    beta_schedule: Literal["squaredcos_cap_v2"] = "squaredcos_cap_v2"

    def steps(
        self,
        n: int,
        *,
        timesteps: Sequence[float] | None = None,
        sigmas: Sequence[float] | None = None,
        image_tokens: int | None = None,
    ) -> Schedule:
        if sigmas is not None:
            raise ConfigError("UnCLIPScheduler goes by whole timesteps and takes no sigmas. Give timesteps.")
        return ancestral(
            self._visited(n, timesteps), alphas_cumprod(self.num_train_timesteps, 0, 0, self.beta_schedule)
        )

    def _visited(self, n: int, timesteps: Sequence[float] | None) -> Floats:
        last = self.num_train_timesteps - 1
        if timesteps is None:
            if not 1 <= n <= self.num_train_timesteps:
                raise ConfigError(f"UnCLIPScheduler takes 1 to {self.num_train_timesteps} steps, not {n}.")
            return np.array([last]) if n == 1 else (np.arange(n) * (last / (n - 1)))[::-1]
        visited = np.asarray(timesteps, dtype=np.float64)
        if not len(visited) or (np.diff(visited) >= 0).any() or visited[0] > last or visited[-1] < 0:
            raise ConfigError(
                f"UnCLIPScheduler wants falling timesteps from {last} to 0, which came as {list(timesteps)}."
            )
        return visited

    def denoised(self, sample: Tensor, prediction: Tensor, step: Step) -> Tensor:
        mean, _ = self._split(sample, prediction)
        x0 = clean(self.prediction_type, sample.float(), mean.float(), step.level)
        return x0.clamp(-self.clip_sample_range, self.clip_sample_range) if self.clip_sample else x0
