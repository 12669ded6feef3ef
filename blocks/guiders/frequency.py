"""Frequency-decoupled guidance (Sadat et al. 2025)."""

from itertools import pairwise
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from ...components.schedulers.schedule import Step
from ...components.types import Conditioning, Latents, Predict, ZeroToOne
from ...graph import Block, ConfigError, knob
from .files import Published
from .none import NoGuidance
from .terms import Guided, ask_both, ask_one, is_neutral, leaned, parallel_part, rescaled, within

Levels = ZeroToOne | tuple[ZeroToOne, ...]


class FrequencyDecoupledGuidance(Published, Block):
    """Classifier-free guidance with a scale for each octave of detail, finest first (algorithm 2).

    `parallel_weights` is what counts of each octave's part along the positive prediction. Everything but
    `guidance_scales` is one number or one for each octave. `guidance_rescale_space` "freq" rescales each octave,
    "data" the whole, with the first number.
    """

    guidance_scales: tuple[float, ...] = knob((10.0, 5.0))
    guidance_rescale: Levels = knob(0.0)
    parallel_weights: float | tuple[float, ...] | None = None
    use_original_formulation: bool = False
    start: Levels = 0.0
    stop: Levels = 1.0
    guidance_rescale_space: Literal["data", "freq"] = "data"
    upcast_to_double: bool = True
    enabled: bool = True

    def __post_init__(self) -> None:
        self.__dict__["guidance_scales"] = tuple(self.guidance_scales)
        levels = len(self.guidance_scales)
        for name in ("guidance_rescale", "parallel_weights", "start", "stop"):
            value = getattr(self, name)
            if isinstance(value, tuple | list):
                self.__dict__[name] = tuple(value)
                if len(value) != levels:
                    raise ConfigError(f"{name} has {len(value)} numbers, but guidance_scales {levels}: one an octave.")
        if not levels:
            raise ConfigError("guidance_scales is empty. Give one scale for each octave, finest first: (10.0, 5.0).")

    def __call__(
        self, predict: Predict, latents: Latents, step: Step, positive: Conditioning, negative: Conditioning
    ) -> Guided:
        levels = len(self.guidance_scales)
        on = [part is not None and within(step, *part) for part in self._parts]
        if not any(on):
            return ask_one(predict, latents, step, positive)
        towards, away = ask_both(predict, latents, step, positive, negative)
        octaves = list(laplacian_pyramid(towards, levels))
        weights = _each(1.0 if self.parallel_weights is None else self.parallel_weights, levels)
        amounts = _each(self.guidance_rescale, levels)
        for k, (c, u) in enumerate(zip(octaves, laplacian_pyramid(away, levels), strict=True)):
            if on[k]:
                octaves[k] = self._guided(c, u, self.guidance_scales[k], weights[k])
                if self.guidance_rescale_space == "freq":
                    octaves[k] = rescaled(octaves[k], c, amounts[k])
        guided = from_pyramid(octaves)
        return Guided(rescaled(guided, towards, amounts[0] if self.guidance_rescale_space == "data" else 0.0))

    def simplified(self) -> NoGuidance | None:
        return NoGuidance() if not any(self._parts) else None

    @property
    def _parts(self) -> list[tuple[float, float] | None]:
        """From where to where in the run each octave is guided; None for one that never is."""
        levels = len(self.guidance_scales)
        each = zip(self.guidance_scales, _each(self.start, levels), _each(self.stop, levels), strict=True)
        return [
            (start, stop)
            if self.enabled and start < stop and not is_neutral(scale, self.use_original_formulation)
            else None
            for scale, start, stop in each
        ]

    def _guided(self, c: Tensor, u: Tensor, scale: float, weight: float) -> Tensor:
        if weight == 1:
            return leaned(c, u, scale, self.use_original_formulation)
        shift = c - u
        along = parallel_part(shift, c, double=self.upcast_to_double)
        return (c if self.use_original_formulation else u) + scale * (weight * along + (shift - along))


def _each(value: float | tuple[float, ...], levels: int) -> tuple[float, ...]:
    return value if isinstance(value, tuple) else (value,) * levels


# ------------------------------------------------------------------------------- Laplacian pyramid (Burt, Adelson 1983)
def laplacian_pyramid(x: Tensor, levels: int) -> list[Tensor]:
    """What each level has that the next, half its size, has not; and the last level. `from_pyramid` undoes it.

    Any size: odd sides are halved down.
    """
    gaussians = [x]
    for _ in range(levels - 1):
        height, width = gaussians[-1].shape[2:]
        gaussians.append(_resized(_smooth(gaussians[-1]), (max(1, height // 2), max(1, width // 2))))
    details = [fine - _up(coarse, fine) for fine, coarse in pairwise(gaussians)]
    return [*details, gaussians[-1]]


def from_pyramid(levels: list[Tensor]) -> Tensor:
    """The tensor of which these are the levels."""
    x = levels[-1]
    for detail in reversed(levels[:-1]):
        x = _up(x, detail) + detail
    return x


def _up(x: Tensor, like: Tensor) -> Tensor:
    height, width = like.shape[2:]
    return _smooth(_resized(x, (height, width)))


def _resized(x: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


def _smooth(x: Tensor) -> Tensor:
    """Weights 1 4 6 4 1 in both directions, reflected at the borders."""
    for dim in (2, 3):
        mode = "reflect" if x.shape[dim] > 2 else "replicate"
        x = F.pad(x, (0, 0, 2, 2) if dim == 2 else (2, 2, 0, 0), mode=mode)
        length = x.shape[dim] - 4
        a, b, c, d, e = (x.narrow(dim, k, length) for k in range(5))
        x = (a + e + 4 * (b + d) + 6 * c) / 16
    return x
