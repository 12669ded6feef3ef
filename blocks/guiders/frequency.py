"""Frequency-decoupled guidance (Sadat et al. 2025)."""

from itertools import pairwise
from typing import Annotated, Literal

import torch.nn.functional as F
from torch import Tensor

from ...components.schedulers.schedule import Step
from ...components.types import Conditioning, Latents, Predict, ZeroToOne
from ...graph import Above, ConfigError, knob
from .files import PublishedGuider
from .formulas import extrapolated, extrapolated_by, is_neutral, parallel_part, rescaled
from .intervals import within
from .none import NoGuidance
from .predictions import Guided, predict_both, predict_positive

Levels = ZeroToOne | tuple[ZeroToOne, ...]


class FrequencyDecoupledGuidance(PublishedGuider):
    """Classifier-free guidance with a scale for each octave of detail (algorithm 2 of the paper).

    guidance_scales: one for each octave, finest first; their number is the number of octaves. The other numbers are one
    for all octaves or one for each: parallel_weights, the weight of the part of the guidance along the positive
    prediction (None is 1); guidance_rescale, start, stop as in `Guider`. guidance_rescale_space: "freq" rescales each
    octave, "data" rescales the result, with the first number. upcast_to_double: project in double precision.

    Raises:
        ConfigError: no scale, or another number of values than of scales.
    """

    guidance_scales: tuple[float, ...] = knob((10.0, 5.0))
    guidance_rescale: Levels = knob(0.0)
    parallel_weights: float | tuple[float, ...] | None = None
    use_original_formulation: bool = False
    start: Levels = 0.0
    stop: Annotated[Levels, Above("start", or_equal=True)] = 1.0
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
                    raise ConfigError(
                        f"{name} has {len(value)} numbers for the {levels} octaves of guidance_scales. "
                        "Pass one, or one for each."
                    )
        if not levels:
            raise ConfigError("guidance_scales is empty. Pass one scale for each octave, finest first: (10.0, 5.0).")

    def __call__(
        self, predict: Predict, latents: Latents, step: Step, positive: Conditioning, negative: Conditioning
    ) -> Guided:
        levels = len(self.guidance_scales)
        on = [interval is not None and within(step, *interval) for interval in self._intervals]
        if not any(on):
            return predict_positive(predict, latents, step, positive)
        pos, neg = predict_both(predict, latents, step, positive, negative)
        octaves = list(laplacian_pyramid(pos, levels))
        weights = _each(1.0 if self.parallel_weights is None else self.parallel_weights, levels)
        amounts = _each(self.guidance_rescale, levels)
        for k, (c, u) in enumerate(zip(octaves, laplacian_pyramid(neg, levels), strict=True)):
            if on[k]:
                octaves[k] = self._guided(c, u, self.guidance_scales[k], weights[k])
                if self.guidance_rescale_space == "freq":
                    octaves[k] = rescaled(octaves[k], c, amounts[k])
        guided = from_pyramid(octaves)
        return Guided(rescaled(guided, pos, amounts[0] if self.guidance_rescale_space == "data" else 0.0))

    def simplified(self) -> NoGuidance | None:
        """`NoGuidance` where no octave is guided in any step."""
        return NoGuidance() if not any(self._intervals) else None

    @property
    def _intervals(self) -> list[tuple[float, float] | None]:
        """The interval in which each octave is guided; None for an octave that never is."""
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
            return extrapolated(c, u, scale, self.use_original_formulation)
        shift = c - u
        along = parallel_part(shift, c, double=self.upcast_to_double)
        return extrapolated_by(c, weight * along + (shift - along), scale, self.use_original_formulation)


def _each(value: float | tuple[float, ...], levels: int) -> tuple[float, ...]:
    return value if isinstance(value, tuple) else (value,) * levels


# ------------------------------------------------------------------------------- Laplacian pyramid (Burt, Adelson 1983)
def laplacian_pyramid(x: Tensor, levels: int) -> list[Tensor]:
    """The detail of each level that the next one, of half its size, lacks; last the coarsest level.

    Odd sides are halved and rounded down. `from_pyramid` is the inverse.
    """
    gaussians = [x]
    for _ in range(levels - 1):
        height, width = gaussians[-1].shape[2:]
        gaussians.append(_resized(_smooth(gaussians[-1]), (max(1, height // 2), max(1, width // 2))))
    details = [fine - _up(coarse, fine) for fine, coarse in pairwise(gaussians)]
    return [*details, gaussians[-1]]


def from_pyramid(levels: list[Tensor]) -> Tensor:
    """The tensor that `laplacian_pyramid` made these levels of."""
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
    """Blur with the weights 1 4 6 4 1 in both directions; borders are reflected."""
    for dim in (2, 3):
        mode = "reflect" if x.shape[dim] > 2 else "replicate"
        x = F.pad(x, (0, 0, 2, 2) if dim == 2 else (2, 2, 0, 0), mode=mode)
        length = x.shape[dim] - 4
        a, b, c, d, e = (x.narrow(dim, k, length) for k in range(5))
        x = (a + e + 4 * (b + d) + 6 * c) / 16
    return x
