"""Control nets of Flux."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...components.conditioning import FluxConditioning
from ...components.models.autoencoder import Autoencoder, upcast_vae
from ...components.models.flux_controlnet import FluxControlNetModel
from ...components.models.tiling import encode
from ...components.pictures import PictureInput
from ...components.random import Random
from ...components.types import Count, ImageLatents, Number, Pass, Residuals, Rows, Side
from ...graph import Block, Running, component, knob
from ...graph.errors import UnfitValue
from ...graph.ports import ALONE
from ..denoise.constants import RunConstants
from ..denoise.flux import Predict, packed, rotations
from ..denoise.passes import timesteps
from ..image.encode import row_for_each
from ..image.read import ReadImage
from .images import pixel_size, read_control
from .residuals import ControlBlock


class Controlled(NamedTuple):
    """The transformer as a function, with control."""

    predict: Predict


class FluxControlBlock(ControlBlock, abstract=True):
    """The base of Flux's control blocks.

    controlnet_conditioning_scale: multiplies the residuals; 0 is no control. control_mode: the kind of the picture, by
    its number, for a union of several kinds. guidance_scale: read by nets that were distilled with one. The residuals
    of the positive pass go to all passes.
    """

    controlnet: FluxControlNetModel = component()
    controlnet_conditioning_scale: Number = knob(1.0)
    control_mode: int | None = knob(None)
    guidance_scale: Number | None = knob(3.5)

    def controlled_by(
        self, picture: Callable[[Sequence[Pass]], Tensor], predict: Predict, running: Running
    ) -> Controlled:
        """The transformer with the net's residuals for the control picture: its latents, or its pixels.

        Raises:
            UnfitValue: an empty interval, a `control_mode` that the net has not, or no `guidance_scale` for a net that
                reads one; in a call of the function, latents of another number of channels.
        """
        net, scale, mode = self.controlnet, self.controlnet_conditioning_scale, self.control_mode
        _check_mode(mode, net.config.num_mode)
        guidance = self.guidance_scale if net.config.guidance_embeds else None
        if net.config.guidance_embeds and guidance is None:
            raise UnfitValue("guidance_scale is None, but this control net reads one. Give a number; usual is 3.5.")
        of_run = RunConstants()

        def control(passes: Sequence[Pass]) -> Residuals:
            constants = of_run.of(passes)
            tokens, further = constants.named("prompt", lambda: _prompt(net, passes, guidance, mode))
            latents, pixels = torch.cat([p.latents for p in passes]), picture(passes)
            if (got := 4 * latents.shape[1]) != (needed := net.config.in_channels):
                raise UnfitValue(f"The control net needs tokens of {needed} channels, but these latents make {got}.")
            out = net(
                packed(latents).to(net.dtype),
                pixels if net.reads_pixels else packed(pixels),
                *tokens,
                (timesteps(passes) / 1000).expand(len(latents)),
                conditioning_scale=scale,
                constants=constants,
                **further,
            )
            found = {"blocks_in_turn" if out.repeats else "blocks": out.blocks, "single_blocks": out.single}
            return {place: layers for place, layers in found.items() if layers}

        controlled = self.controlled(predict, control, running, device=net.device, positive_for_all=True)
        return Controlled(controlled if scale else predict)


def _prompt(
    net: FluxControlNetModel, passes: Sequence[Pass], guidance: float | None, mode: int | None
) -> tuple[tuple[Tensor, Tensor], Mapping[str, Tensor | None]]:
    """The inputs that no step changes: both prompts, and further ones by name. In a union, the mode is a token too."""
    conditioning, latents = FluxConditioning.cat([p.conditioning for p in passes]), passes[0].latents
    rows, count, device = conditioning.rows, conditioning.tokens.shape[1] + (mode is not None), latents.device
    return (conditioning.tokens.to(net.dtype), conditioning.pooled.to(net.dtype)), {
        "guidance": None if guidance is None else torch.full((rows,), guidance, device=device),
        "controlnet_mode": None if mode is None else torch.full((rows, 1), mode, device=device),
        "image_rotary_emb": rotations(net, count, ((latents.shape[2], latents.shape[3]),), device),
    }


class ApplyControlNet(FluxControlBlock):
    """Guide the transformer by a picture, through the residuals of a control net.

    Put it before the guider. `control_image` is one picture for all prompts, or one for each prompt or for each picture
    to make; it is resized to the picture that is made. A net that reads latents gets the most likely ones, so that the
    noise is the same with and without control. For the settings see `FluxControlBlock` and `ControlBlock`.

    Raises:
        UnfitValue: settings that the net cannot use, an empty interval, or another number of pictures.
    """

    vae: Autoencoder[Any] = component()  # Any: whichever config its class has

    def __call__(
        self, predict: Predict, control_image: PictureInput, rows: Rows, running: Running = ALONE
    ) -> Controlled:
        net, vae = self.controlnet, self.vae

        def features(pixels: Tensor) -> tuple[Tensor]:
            if net.reads_pixels:
                return ((pixels * 2 - 1).to(net.device, net.dtype),)
            whole = upcast_vae(vae)
            mean = encode(whole, (pixels * 2 - 1).to(whole.device, whole.dtype)).mean
            return (whole.scale(mean.float()).to(net.device, net.dtype),)

        picture = read_control(control_image, rows, partial(pixel_size, vae), 3, features, self.background)
        return self.controlled_by(lambda passes: picture(passes)[0], predict, running)


class Encoded(NamedTuple):
    """Latents of a control picture, a row for each picture to make."""

    control_latents: ImageLatents
    random: Random


class EncodeControl(Block):
    """Encode a control picture as published: drawn before the noise, once for each picture to make.

    With `ApplyControlLatents` in place of `ApplyControlNet`, a seed then makes the same picture as in the reference.
    multiple: height and width, in pixels, are multiples of it. background: as in `ControlBlock`.

    Raises:
        UnfitValue: a height or width that is no multiple.
    """

    vae: Autoencoder[Any] = component()  # Any: whichever config its class has
    multiple: Count = 16
    background: str = "black"
    height: Side = knob(1024)
    width: Side = knob(1024)

    def __call__(self, control_image: PictureInput, rows: Rows, random: Random) -> Encoded:
        read = ReadImage(multiple=self.multiple, background=self.background, height=self.height, width=self.width)
        pixels = read(control_image).pixels
        vae = upcast_vae(self.vae)
        latents = encode(vae, (row_for_each(pixels, rows) * 2 - 1).to(vae.device, vae.dtype))
        if not vae.samples:
            return Encoded(vae.scale(latents.mean.float()), random)
        noise, random = random.draw(rows.total, latents.mean.shape[1:])
        drawn = latents.mean.float() + latents.std.float() * noise.to(latents.mean.device)
        return Encoded(vae.scale(drawn), random)


class ApplyControlLatents(FluxControlBlock):
    """`ApplyControlNet` for a picture that `EncodeControl` has encoded.

    Raises:
        UnfitValue: a net that reads pixels, settings that it cannot use, or an empty interval.
    """

    def __call__(self, predict: Predict, control_latents: ImageLatents, running: Running = ALONE) -> Controlled:
        net = self.controlnet
        if net.reads_pixels:
            raise UnfitValue("This control net reads pixels, not latents. Use ApplyControlNet.")
        latents = control_latents.to(net.device, net.dtype)

        def picture(passes: Sequence[Pass]) -> Tensor:
            return torch.cat([latents.expand(len(p.latents), -1, -1, -1) for p in passes])

        return self.controlled_by(picture, predict, running)


def _check_mode(mode: int | None, kinds: int | None) -> None:
    if kinds is None and mode is not None:
        raise UnfitValue(f"control_mode={mode}, but this control net is of one kind. Leave it out.")
    if kinds is not None and (mode is None or not 0 <= mode < kinds):
        raise UnfitValue(
            f"control_mode={mode}, but this control net is a union of the kinds 0 to {kinds - 1}. Give one."
        )
