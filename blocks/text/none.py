"""The conditioning of models that read no prompt."""

from typing import NamedTuple

import torch

from ...components.conditioning import NoConditioning
from ...components.models.unet_2d import UNet2DModel
from ...graph import Block, component


class Unconditioned(NamedTuple):
    """One row without a prompt."""

    conditioning: NoConditioning


class UseNoPrompt(Block):
    """Make the conditioning of a U-Net without text: one row that says nothing."""

    unet: UNet2DModel = component()

    def __call__(self) -> Unconditioned:
        return Unconditioned(NoConditioning(torch.zeros(1, 0, 0, device=self.unet.device)))
