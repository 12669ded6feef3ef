"""The start of a run as ComfyUI makes it."""

from math import hypot

from ...components.types import Conditioning, Latents, Rows, Steps
from ...graph import Block
from .start import ScaleNoise, Started


class ScaleNoiseFully(Block):
    """Scale pure noise to the variance that latents have at the first level, their own variance 1 with it.

    Where noise is added to clean latents, that is sqrt(1 + sigma^2); `ScaleNoise` has sigma. Where the path goes from
    noise to clean latents, as in flow matching, both are the same.

    Raises:
        UnfitValue: another number of rows than pictures.
    """

    def __call__(self, latents: Latents, steps: Steps, positive: Conditioning, rows: Rows) -> Started:
        latents, steps = ScaleNoise()(latents, steps, positive, rows)
        scale = steps.noise_scale
        adds = steps[0].scale_in != 1 and scale == steps.sigmas[0]
        return Started(latents * (hypot(scale, 1) / scale) if adds else latents, steps)
