"""The denoiser as a function of passes; the one place that decides how passes share a forward."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ...components.models.taps import Size, Taps, tapped
from ...components.models.unet_2d_condition import UNet2DConditionModel
from ...components.types import Pass, Predict, Residuals
from ...graph import Block, Running, component
from ...graph.ports import ALONE


class Predictor(NamedTuple):
    predict: Predict


class PredictNoise(Block):
    """Offer the U-Net as a function that a guider may ask several passes of at once.

    `batching="together"` runs passes of equal shapes and taps in one forward, `"apart"` each by itself: slower on most
    machines, with a lower peak of memory. Passes with taps go through a view of the U-Net.
    """

    unet: UNet2DConditionModel = component()
    batching: Literal["together", "apart"] = "together"

    def __call__(self, running: Running = ALONE) -> Predictor:
        views: dict[tuple[Taps, Size], UNet2DConditionModel] = {}  # as long as this function, and its alone

        def model(taps: Taps, size: Size) -> UNet2DConditionModel:
            if not taps:
                return self.unet
            if (taps, size) not in views:
                views[taps, size] = tapped(self.unet, taps, size)
            return views[taps, size]

        def predict(passes: Sequence[Pass]) -> Sequence[Tensor]:
            answers: dict[int, Tensor] = {}
            for group in self._groups(passes):
                running.check()
                asked = [passes[i] for i in group]
                height, width = asked[0].latents.shape[2:]
                answers.update(zip(group, _forward(model(asked[0].taps, (height, width)), asked), strict=True))
            return [answers[i] for i in range(len(passes))]

        return Predictor(predict)

    def _groups(self, passes: Sequence[Pass]) -> list[list[int]]:
        """Which passes go through the model together, by their places."""
        if self.batching == "apart":
            return [[i] for i in range(len(passes))]
        groups: dict[object, list[int]] = {}
        for i, p in enumerate(passes):
            extra = tuple(c.shape[1:] for c in p.channels)
            key = (p.latents.shape[1:], p.conditioning.tokens.shape[1:], extra, p.step.index)
            key += bool(p.residuals), p.taps
            groups.setdefault(key, []).append(i)
        return list(groups.values())


def _forward(unet: UNet2DConditionModel, group: Sequence[Pass]) -> Sequence[Tensor]:
    step = group[0].step
    sample = torch.cat([torch.cat([p.latents * step.scale_in, *p.channels], 1) for p in group])
    if sample.shape[1] != unet.config.in_channels:
        raise ValueError(_channels(sample.shape[1], unet.config.in_channels))
    added = _sum([p.residuals for p in group])
    prediction = unet(
        sample.to(unet.dtype),
        step.t,
        torch.cat([p.conditioning.tokens for p in group]).to(unet.dtype),
        down_block_additional_residuals=added.down if added else None,
        mid_block_additional_residual=added.mid if added else None,
    )
    return prediction.float().split([len(p.latents) for p in group])


def _channels(came: int, wanted: int) -> str:
    hint = ' It was trained to inpaint: use the task "inpaint".' if wanted == 2 * came + 1 else ""
    return f"The U-Net takes {wanted} channels, but the latents (with what is joined to them) have {came}.{hint}"


def _sum(residuals: Sequence[tuple[Residuals, ...]]) -> Residuals | None:
    """What all control nets add together, for the rows of all passes."""
    if not residuals[0]:
        return None
    down = [[torch.stack(parts).sum(0) for parts in zip(*(r.down for r in own), strict=True)] for own in residuals]
    mid = [torch.stack([r.mid for r in own]).sum(0) for own in residuals]
    return Residuals(tuple(torch.cat(rows) for rows in zip(*down, strict=True)), torch.cat(mid))
