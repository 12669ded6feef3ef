"""Control nets of Stable Diffusion 3 and 3.5."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...components.conditioning import SD3Conditioning
from ...components.models.autoencoder import Autoencoder
from ...components.models.constants import Constants
from ...components.models.sd3 import SD3Transformer2DModel
from ...components.models.sd3_controlnet import SD3ControlNetModel
from ...components.models.tiling import encode
from ...components.pictures import PictureInput
from ...components.types import Number, Pass, Residuals, Rows
from ...graph import Running, component, knob
from ...graph.errors import UnfitValue
from ...graph.ports import ALONE
from ...registry import counted
from ..denoise.constants import RunConstants
from ..denoise.passes import scaled_latents, timesteps
from ..denoise.sd3 import PLACE, Predict
from ..image.read import ReadMask
from .images import pixel_size, read_control
from .residuals import ControlBlock


class Controlled(NamedTuple):
    """The transformer as a function, with control."""

    predict: Predict


class SD3ControlBlock(ControlBlock, abstract=True):
    """The base of both kinds of control blocks.

    controlnet_conditioning_scale: multiplies the residuals; 0 is no control.
    """

    controlnet: SD3ControlNetModel = component()
    transformer: SD3Transformer2DModel = component()
    vae: Autoencoder[Any] = component()  # Any: whichever config its class has
    controlnet_conditioning_scale: Number = knob(1.0)

    def controlled_by(
        self,
        image: PictureInput,
        features: Callable[[Tensor], tuple[Tensor]],
        predict: Predict,
        rows: Rows,
        running: Running,
        *,
        zero_pooled: bool,
    ) -> Controlled:
        """The transformer with the net's residuals. zero_pooled: the net reads no pooled prompt, but zeros."""
        net, transformer, scale = self.controlnet, self.transformer, self.controlnet_conditioning_scale
        picture = read_control(image, rows, partial(pixel_size, self.vae), 3, features, self.background)
        of_run = RunConstants()

        def control(passes: Sequence[Pass]) -> Residuals:
            made = _forward(net, transformer, passes, picture(passes)[0], scale, zero_pooled, of_run.of(passes))
            return {PLACE: made}

        controlled = self.controlled(predict, control, running, device=net.device)
        return Controlled(controlled if scale else predict)


class ApplyControlNet(SD3ControlBlock):
    """Guide the transformer by a picture, through the residuals of a control net that reads its latents.

    Put it before the guider. `control_image` and the settings are as in Stable Diffusion's `ApplyControlNet`. The
    latents are the most likely ones: the reference draws them, from no seed, so that no run of it can be repeated.

    Raises:
        UnfitValue: a net that was trained to inpaint, an empty interval, or another number of pictures.
    """

    def __call__(
        self, predict: Predict, control_image: PictureInput, rows: Rows, running: Running = ALONE
    ) -> Controlled:
        config = self.controlnet.config
        if more := config.extra_conditioning_channels:
            raise UnfitValue(
                f"This control net reads {more} channels beside the picture's latents (extra_conditioning_channels): "
                "it was trained to inpaint. Use ApplyInpaintControlNet, which passes it a mask too."
            )
        features = partial(_latents, self.controlnet, self.vae)
        zero_pooled = config.force_zeros_for_pooled_projection
        return self.controlled_by(control_image, features, predict, rows, running, zero_pooled=zero_pooled)


class ApplyInpaintControlNet(SD3ControlBlock):
    """Paint the white part of a mask, through the residuals of a control net that was trained for it.

    As `ApplyControlNet`, with `control_mask`: one for all pictures, or one for each. The picture starts from pure
    noise, so this goes with text2image. What lies outside the mask is close to the picture, not equal.

    Raises:
        UnfitValue: an empty interval, or another number of pictures or masks.
    """

    def __call__(
        self,
        predict: Predict,
        control_image: PictureInput,
        control_mask: PictureInput,
        rows: Rows,
        running: Running = ALONE,
    ) -> Controlled:
        features = partial(_masked_latents, self.controlnet, self.vae, control_mask)
        return self.controlled_by(control_image, features, predict, rows, running, zero_pooled=True)


def _masked_latents(
    net: SD3ControlNetModel, vae: Autoencoder[Any], control_mask: PictureInput, pixels: Tensor
) -> tuple[Tensor]:
    """Latents of pictures that are black under the mask, and as a last channel 0 under the mask, 1 outside."""
    mask = ReadMask(multiple=1, height=pixels.shape[2], width=pixels.shape[3])(control_mask).mask
    if len(mask) not in (1, len(pixels)):
        raise UnfitValue(
            f"control_mask has {counted(len(mask), 'mask')} for {counted(len(pixels), 'picture')}. "
            "Give one for all, or one each."
        )
    hidden = torch.where(mask > 0.5, 0.0, pixels)
    latents = vae.scale(encode(vae, (hidden * 2 - 1).to(vae.device, vae.dtype)).mode())
    kept = 1 - torch.nn.functional.interpolate(mask, size=latents.shape[2:]).to(latents)
    return (torch.cat([latents, kept.expand(len(latents), -1, -1, -1)], 1).to(net.device, net.dtype),)


def _latents(net: SD3ControlNetModel, vae: Autoencoder[Any], pixels: Tensor) -> tuple[Tensor]:
    latents = encode(vae, (pixels * 2 - 1).to(vae.device, vae.dtype)).mode()
    # Nets that read no pooled prompt (InstantX's) were trained without the autoencoder's shift.
    no_shift = net.config.force_zeros_for_pooled_projection
    scaled = latents * vae.config.scaling_factor if no_shift else vae.scale(latents)
    return (scaled.to(net.device, net.dtype),)


def _forward(
    net: SD3ControlNetModel,
    transformer: SD3Transformer2DModel,
    passes: Sequence[Pass],
    picture: Tensor,
    scale: float,
    zero_pooled: bool,
    constants: Constants,
) -> tuple[Tensor, ...]:
    """The net's residuals for the rows of all passes."""
    sample = scaled_latents(passes).to(net.dtype)
    if net.pos_embed is None:  # nets of SD 3.5 large use the transformer's patch embedding
        sample = transformer.pos_embed(sample.to(transformer.device, transformer.dtype)).to(net.device, net.dtype)
    tokens, pooled = constants.named("prompt", lambda: _prompt(passes, net.dtype, zero_pooled))
    times = timesteps(passes).expand(len(sample))
    return net(sample, picture, tokens, pooled, times, scale, constants=constants)


def _prompt(passes: Sequence[Pass], dtype: torch.dtype, zero_pooled: bool) -> tuple[Tensor, Tensor]:
    conditioning = SD3Conditioning.cat([p.conditioning for p in passes])
    pooled = conditioning.pooled.to(dtype)
    return conditioning.tokens.to(dtype), torch.zeros_like(pooled) if zero_pooled else pooled
