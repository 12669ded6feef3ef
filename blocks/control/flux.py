"""Control nets of Flux."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from ...components.conditioning import FluxConditioning
from ...components.models.autoencoder import upcast_vae
from ...components.models.autoencoder_kl import AutoencoderKL
from ...components.models.flux_controlnet import FluxControlNetModel
from ...components.random import Random
from ...components.types import ImageLatents, Number, Pass, Residuals, Rows, ZeroToOne
from ...graph import Block, Running, component, knob
from ...graph.ports import ALONE
from ..denoise.flux import Predict, packed, places
from ..image.encode import row_for_each
from ..image.read import PictureInput, ReadImage
from ..latents.start import Count
from .steering import check_interval, shown, steered, steers

Seen = Callable[[Sequence[Pass]], Tensor]


class Controlled(NamedTuple):
    predict: Predict


class ApplyControlNet(Block):
    """Let a picture steer the transformer by what a control net says of it.

    Put it before the guider. One picture serves all prompts, or there is one for each prompt or each picture to make;
    they are brought to the size of what is made. `control_mode` is the kind of picture, for a union of several kinds.
    Control is on in the steps that lie between `control_guidance_start` and `control_guidance_end`, parts of the run.
    `guidance_scale` is read by nets that were distilled with one. What is said of the positive pass serves all passes.
    """

    controlnet: FluxControlNetModel = component()
    vae: AutoencoderKL = component()
    controlnet_conditioning_scale: Number = knob(1.0)
    control_guidance_start: ZeroToOne = knob(0.0)
    control_guidance_end: ZeroToOne = knob(1.0)
    control_mode: int | None = knob(None)
    guidance_scale: Number | None = knob(3.5)

    def __call__(
        self, predict: Predict, control_image: PictureInput, rows: Rows, running: Running = ALONE
    ) -> Controlled:
        net, vae = self.controlnet, self.vae

        def size(height: int, width: int) -> tuple[int, int]:
            return height * vae.scale_factor, width * vae.scale_factor

        def features(pixels: Tensor) -> tuple[Tensor]:
            if net.reads_pixels:
                return ((pixels * 2 - 1).to(net.device, net.dtype),)
            # What the autoencoder finds likeliest, so that noise is the same with and without control.
            whole = upcast_vae(vae)
            said = whole.encode((pixels * 2 - 1).to(whole.device, whole.dtype)).mean
            return (whole.scale(said.float()).to(net.device, net.dtype),)

        seen = shown(control_image, rows, size, 3, features)
        return _steered(self, predict, lambda passes: seen(passes)[0], running)


class Encoded(NamedTuple):
    control_latents: ImageLatents
    random: Random


class EncodeControl(Block):
    """Turn a control picture into latents, drawn as published: before the noise, and for each picture to make.

    With `ApplyControlLatents` in place of `ApplyControlNet`, a seed then gives the picture that others give for it.
    """

    vae: AutoencoderKL = component()
    multiple: int = 16
    height: Count = knob(1024)
    width: Count = knob(1024)

    def __call__(self, control_image: PictureInput, rows: Rows, random: Random) -> Encoded:
        pixels = ReadImage(multiple=self.multiple, height=self.height, width=self.width)(control_image).pixels
        vae = upcast_vae(self.vae)
        said = vae.encode((row_for_each(pixels, rows) * 2 - 1).to(vae.device, vae.dtype))
        noise, random = random.draw(rows.total, said.mean.shape[1:])
        return Encoded(vae.scale(said.mean.float() + said.std.float() * noise.to(said.mean.device)), random)


class ApplyControlLatents(Block):
    """`ApplyControlNet` with a picture that is encoded already."""

    controlnet: FluxControlNetModel = component()
    controlnet_conditioning_scale: Number = knob(1.0)
    control_guidance_start: ZeroToOne = knob(0.0)
    control_guidance_end: ZeroToOne = knob(1.0)
    control_mode: int | None = knob(None)
    guidance_scale: Number | None = knob(3.5)

    def __call__(self, predict: Predict, control_latents: ImageLatents, running: Running = ALONE) -> Controlled:
        net = self.controlnet
        if net.reads_pixels:
            raise ValueError("This control net reads pixels, not latents. Use ApplyControlNet.")
        latents = control_latents.to(net.device, net.dtype)

        def seen(passes: Sequence[Pass]) -> Tensor:
            return torch.cat([latents.expand(len(p.latents), -1, -1, -1) for p in passes])

        return _steered(self, predict, seen, running)


def _steered(
    block: ApplyControlNet | ApplyControlLatents, predict: Predict, seen: Seen, running: Running
) -> Controlled:
    net, scale, mode = block.controlnet, block.controlnet_conditioning_scale, block.control_mode
    check_interval(block.control_guidance_start, block.control_guidance_end)
    _check_mode(mode, net.config.num_mode)
    guidance = block.guidance_scale if net.config.guidance_embeds else None
    if net.config.guidance_embeds and guidance is None:
        raise ValueError("guidance_scale is None, but this control net reads one. Give a number; usual is 3.5.")
    rotations: dict[object, Tensor] = {}  # as long as the function that is given

    def control(passes: Sequence[Pass]) -> Residuals:
        words = FluxConditioning.cat([p.conditioning for p in passes])
        latents, picture, device = torch.cat([p.latents for p in passes]), seen(passes), passes[0].latents.device
        if (came := 4 * latents.shape[1]) != (wanted := net.config.in_channels):
            raise ValueError(f"The control net reads tokens of {wanted} channels, but these latents make {came}.")
        size, count = (latents.shape[2], latents.shape[3]), words.tokens.shape[1] + (mode is not None)
        if (key := (count, size, device)) not in rotations:
            rotations[key] = net.rotary(torch.zeros(count, 3, device=device), places((size,), device))
        times = (passes[0].step.t / 1000).expand(len(latents))
        said = net(
            packed(latents).to(net.dtype),
            picture if net.reads_pixels else packed(picture),
            words.tokens.to(net.dtype),
            words.pooled.to(net.dtype),
            times,
            guidance=None if guidance is None else torch.full_like(times, guidance),
            controlnet_mode=None if mode is None else torch.full((len(latents), 1), mode, device=device),
            conditioning_scale=scale,
            image_rotary_emb=rotations[key],
        )
        found = {"blocks_in_turn" if said.repeats else "blocks": said.blocks, "single_blocks": said.single}
        return {place: layers for place, layers in found.items() if layers}

    on = partial(steers, start=block.control_guidance_start, end=block.control_guidance_end)
    if not scale:
        return Controlled(predict)
    return Controlled(steered(predict, control, on, running, device=net.device, told_positive=True))


def _check_mode(mode: int | None, kinds: int | None) -> None:
    if kinds is None and mode is not None:
        raise ValueError(f"control_mode={mode}, but this control net is of one kind. Leave it out.")
    if kinds is not None and (mode is None or not 0 <= mode < kinds):
        raise ValueError(
            f"control_mode={mode}, but this control net is a union of the kinds 0 to {kinds - 1}. Give one."
        )
