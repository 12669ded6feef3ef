"""Schedules of flow matching, whose noise levels may follow the size of the picture."""

from collections.abc import Sequence
from typing import Annotated

import numpy as np
from annotated_types import Gt, Le

from ...components.schedulers import Scheduler
from ...components.schedulers.flow_match import FlowMatch
from ...components.types import Latents, Number, Steps
from ...graph import Block, component, knob
from .start import Count, Scheduled


class MakeSchedule(Block):
    """Choose the noise levels to visit: `num_inference_steps` of them, or those that `sigmas` or `timesteps` say.

    `sigmas` are levels before the shift, as published without the 0 at the end, which may be there. even: left to
    itself, ask for levels from 1 to 1/n, as Flux does; else the scheduler's own, as SD 3 does. patch: latents a side of
    a token, by whose number schedulers with a dynamic shift choose it (Esser et al. 2024, section 5.3.2).
    """

    scheduler: Scheduler = component()
    num_inference_steps: Count = knob(28)
    even: bool = True
    patch: int = 2

    def __call__(
        self, latents: Latents, timesteps: Sequence[Number] | None = None, sigmas: Sequence[Number] | None = None
    ) -> Scheduled:
        n = self.num_inference_steps
        height, width = latents.shape[2:]
        tokens = (height // self.patch) * (width // self.patch)
        if sigmas is None and timesteps is None and self.even and isinstance(self.scheduler, FlowMatch):
            sigmas = np.linspace(1, 1 / n, n).tolist()
        if sigmas is not None and len(sigmas) and sigmas[-1] != 0:
            sigmas = [*sigmas, 0.0]
        return Scheduled(self.scheduler.steps(n, timesteps=timesteps, sigmas=sigmas, image_tokens=tokens))


class CutSchedule(Block):
    """Keep only the last part of the steps, so that an image is changed by `strength`: 1 is anew, near 0 hardly.

    A step that `strength` cuts through is kept, as Flux and SD 3 are published; Stable Diffusion leaves it out.
    """

    strength: Annotated[float, Gt(0), Le(1)] = knob(0.6)

    def __call__(self, steps: Steps) -> Scheduled:
        whole = steps.whole_step_of[-1] + 1
        # Counted from what is left out, as published: in floats, what is kept would round otherwise.
        left_out = min(int(whole - whole * self.strength), whole - 1)
        return Scheduled(steps[steps.whole_step_of.index(left_out) :])
