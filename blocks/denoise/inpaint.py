"""Keep a part of an image while the rest is painted."""

from typing import NamedTuple

from ...components.schedulers import Scheduler
from ...components.schedulers.schedule import Step
from ...components.types import ImageLatents, LatentMask, Latents
from ...graph import Block, Running, component
from ...graph.ports import ALONE


class Blended(NamedTuple):
    """Latents with the kept part put back."""

    latents: Latents


class KeepUnmasked(Block):
    """Put the image back outside the mask, noised to the level of the next step (Lugmayr et al. 2022, equation 8).

    start_noise: that of the first step. In a run that finishes now, it is not noised, as the latents are clean.
    """

    scheduler: Scheduler = component()

    def __call__(
        self,
        latents: Latents,
        image_latents: ImageLatents,
        start_noise: Latents,
        latent_mask: LatentMask,
        step: Step,
        running: Running = ALONE,
    ) -> Blended:
        known, mask = image_latents.to(latents.device), latent_mask.to(latents.device)
        if not (step.last or running.finishing):
            known = self.scheduler.add_noise(known, start_noise.to(latents.device), step.next)
        return Blended((1 - mask) * known + mask * latents)
