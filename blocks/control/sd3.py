"""Control nets of Stable Diffusion 3 and 3.5."""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from ...components.conditioning import SD3Conditioning
from ...components.models.autoencoder_kl import AutoencoderKL
from ...components.models.sd3 import SD3Transformer2DModel
from ...components.models.sd3_controlnet import SD3ControlNetModel
from ...components.types import Number, Pass, Residuals, Rows, ZeroToOne
from ...graph import Block, Running, component, knob
from ...graph.ports import ALONE
from ...registry import counted
from ..denoise.sd3 import PLACE, Predict
from ..image.read import PictureInput, ReadMask
from .steering import check_interval, shown, steered, steers


class Controlled(NamedTuple):
    predict: Predict


class ApplyControlNet(Block):
    """Let a picture steer the transformer by what a control net says of its latents.

    Put it before the guider. Pictures and settings are given as to Stable Diffusion's control nets. The latents are the
    most likely ones: the reference draws some, from no seed, so that no run of it can be made again.
    """

    controlnet: SD3ControlNetModel = component()
    transformer: SD3Transformer2DModel = component()
    vae: AutoencoderKL = component()
    controlnet_conditioning_scale: Number = knob(1.0)
    control_guidance_start: ZeroToOne = knob(0.0)
    control_guidance_end: ZeroToOne = knob(1.0)

    def __call__(
        self, predict: Predict, control_image: PictureInput, rows: Rows, running: Running = ALONE
    ) -> Controlled:
        net, vae, scale = self.controlnet, self.vae, self.controlnet_conditioning_scale
        check_interval(self.control_guidance_start, self.control_guidance_end)
        if more := net.config.extra_conditioning_channels:
            raise ValueError(
                f"This control net reads {more} channels beside the picture's latents (extra_conditioning_channels): "
                "it was trained to inpaint. Put in ApplyInpaintControlNet, which shows it a mask too."
            )
        seen = shown(control_image, rows, partial(_size, vae), 3, partial(_latents, net, vae))
        blind = net.config.force_zeros_for_pooled_projection

        def control(passes: Sequence[Pass]) -> Residuals:
            return {PLACE: _ask(net, self.transformer, passes, seen(passes)[0], scale, blind)}

        on = partial(steers, start=self.control_guidance_start, end=self.control_guidance_end)
        return Controlled(steered(predict, control, on, running, device=net.device) if scale else predict)


class ApplyInpaintControlNet(Block):
    """Let a picture with a hole in it steer the transformer, by a control net that was trained to fill it.

    As `ApplyControlNet`, with a mask: white is painted anew. One mask serves all pictures, or there is one for each.
    The picture is made from noise alone, so this goes with text2image; what lies outside the mask is near the picture,
    not the same.
    """

    controlnet: SD3ControlNetModel = component()
    transformer: SD3Transformer2DModel = component()
    vae: AutoencoderKL = component()
    controlnet_conditioning_scale: Number = knob(1.0)
    control_guidance_start: ZeroToOne = knob(0.0)
    control_guidance_end: ZeroToOne = knob(1.0)

    def __call__(
        self,
        predict: Predict,
        control_image: PictureInput,
        control_mask: PictureInput,
        rows: Rows,
        running: Running = ALONE,
    ) -> Controlled:
        net, vae, scale = self.controlnet, self.vae, self.controlnet_conditioning_scale
        check_interval(self.control_guidance_start, self.control_guidance_end)
        seen = shown(control_image, rows, partial(_size, vae), 3, partial(_with_hole, net, vae, control_mask))

        def control(passes: Sequence[Pass]) -> Residuals:
            return {PLACE: _ask(net, self.transformer, passes, seen(passes)[0], scale, blind=True)}

        on = partial(steers, start=self.control_guidance_start, end=self.control_guidance_end)
        return Controlled(steered(predict, control, on, running, device=net.device) if scale else predict)


def _size(vae: AutoencoderKL, height: int, width: int) -> tuple[int, int]:
    return height * vae.scale_factor, width * vae.scale_factor


def _with_hole(
    net: SD3ControlNetModel, vae: AutoencoderKL, control_mask: PictureInput, pixels: Tensor
) -> tuple[Tensor]:
    """Latents of pictures that are black where they are to be painted, and behind them 1 where they are not."""
    mask = ReadMask(multiple=1, height=pixels.shape[2], width=pixels.shape[3])(control_mask).mask
    if len(mask) not in (1, len(pixels)):
        told = f"control_mask has {counted(len(mask), 'mask')} for {counted(len(pixels), 'picture')}"
        raise ValueError(f"{told}. Give one for all, or one each.")
    hidden = torch.where(mask > 0.5, 0.0, pixels)
    latents = vae.scale(vae.encode((hidden * 2 - 1).to(vae.device, vae.dtype)).mode())
    kept = 1 - torch.nn.functional.interpolate(mask, size=latents.shape[2:]).to(latents)
    return (torch.cat([latents, kept.expand(len(latents), -1, -1, -1)], 1).to(net.device, net.dtype),)


def _latents(net: SD3ControlNetModel, vae: AutoencoderKL, pixels: Tensor) -> tuple[Tensor]:
    found = vae.encode((pixels * 2 - 1).to(vae.device, vae.dtype)).mode()
    # Nets that see no pooled prompt (InstantX's) were trained without the autoencoder's shift.
    scaled = found * vae.config.scaling_factor if net.config.force_zeros_for_pooled_projection else vae.scale(found)
    return (scaled.to(net.device, net.dtype),)


def _ask(
    net: SD3ControlNetModel,
    transformer: SD3Transformer2DModel,
    passes: Sequence[Pass],
    seen: Tensor,
    scale: float,
    blind: bool,
) -> tuple[Tensor, ...]:
    """What the net adds for the rows of all passes; a blind one sees no pooled prompt."""
    step = passes[0].step
    words = SD3Conditioning.cat([p.conditioning for p in passes])
    sample = torch.cat([p.latents * step.scale_in for p in passes]).to(net.dtype)
    if net.pos_embed is None:  # those of SD 3.5 large share the transformer's places
        sample = transformer.pos_embed(sample.to(transformer.device, transformer.dtype)).to(net.device, net.dtype)
    pooled = words.pooled.to(net.dtype)
    pooled = torch.zeros_like(pooled) if blind else pooled
    return net(sample, seen, words.tokens.to(net.dtype), pooled, step.t.expand(len(sample)), scale)
