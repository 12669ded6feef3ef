"""Keeping a part of an image while the rest is painted anew."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from torch import Tensor

from ...components.schedulers import Scheduler
from ...components.schedulers.schedule import Step
from ...components.types import ImageLatents, LatentMask, Latents, Pass, Predict
from ...graph import Block, component


class Blended(NamedTuple):
    latents: Latents


class KeepUnmasked(Block):
    """Outside the mask, put the image back, noised to where this turn leads (Lugmayr et al. 2022, eq. 8)."""

    scheduler: Scheduler = component()

    def __call__(
        self, latents: Latents, image_latents: ImageLatents, noise: Latents, latent_mask: LatentMask, step: Step
    ) -> Blended:
        known, mask = image_latents.to(latents.device), latent_mask.to(latents.device)
        if not step.last:
            known = self.scheduler.add_noise(known, noise.to(latents.device), step.next)
        return Blended((1 - mask) * known + mask * latents)


class Joined(NamedTuple):
    predict: Predict


class JoinMaskChannels(Block):
    """Show the mask and the masked image to a U-Net trained to inpaint, as 1 + c channels behind the latents."""

    def __call__(self, predict: Predict, latent_mask: LatentMask, masked_latents: ImageLatents) -> Joined:
        def joined(passes: Sequence[Pass]) -> Sequence[Tensor]:
            device = passes[0].latents.device
            channels = latent_mask.to(device), masked_latents.to(device)
            return predict([replace(p, channels=(*p.channels, *channels)) for p in passes])

        return Joined(joined)
