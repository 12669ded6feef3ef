"""Schedules of flow matching, whose noise levels may depend on the size of the picture."""

from collections.abc import Sequence
from math import floor
from typing import Annotated

import numpy as np
from annotated_types import Gt, Le

from ...components.schedulers import Scheduler
from ...components.schedulers.flow_match import FlowMatch
from ...components.types import Count, Latents, Number, StepCount, Steps
from ...graph import Block, component, knob
from .start import Scheduled, exact


class MakeSchedule(Block):
    """Make the schedule: `num_inference_steps` steps, or the `sigmas` or `timesteps` that are passed.

    sigmas: noise levels before the shift, with or without the 0 at the end. even: without either, use levels from 1 to
    1/n, as Flux does; otherwise the scheduler chooses, as for SD 3. patch: latents a side of a token; schedulers with a
    dynamic shift read the number of tokens (Esser et al. 2024, section 5.3.2).

    Raises:
        UnfitValue: both `sigmas` and `timesteps`, or levels that the scheduler cannot use.
    """

    scheduler: Scheduler = component()
    num_inference_steps: StepCount = knob(28)
    even: bool = True
    patch: Count = 2

    def __call__(
        self, latents: Latents, timesteps: Sequence[Number] | None = None, sigmas: Sequence[Number] | None = None
    ) -> Scheduled:
        n = self.num_inference_steps
        height, width = latents.shape[2:]
        tokens = (height // self.patch) * (width // self.patch)
        own = sigmas is None and timesteps is None and getattr(self.scheduler, "sigma_curve", None) is None
        if own and self.even and isinstance(self.scheduler, FlowMatch):
            sigmas = np.linspace(1, 1 / n, n).tolist()
        if sigmas is not None and len(sigmas) and sigmas[-1] != 0:
            sigmas = [*sigmas, 0.0]
        return Scheduled(self.scheduler.steps(n, timesteps=timesteps, sigmas=sigmas, image_tokens=tokens))


class CutSchedule(Block):
    """Keep only the last steps, so that an image changes by the share `strength`: above 0, and 1 is all of it.

    A step that `strength` cuts in two is kept, as published for Flux and SD 3; Stable Diffusion leaves it out.
    """

    strength: Annotated[float, Gt(0), Le(1)] = knob(0.6)

    def __call__(self, steps: Steps) -> Scheduled:
        count = steps.places[-1] + 1
        left_out = floor(count * (1 - exact(self.strength)))
        return Scheduled(steps[steps.places.index(left_out) :])
