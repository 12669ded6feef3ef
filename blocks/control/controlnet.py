"""Control nets of Stable Diffusion 1, 2 and XL."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...components.conditioning import SDXLConditioning
from ...components.models.constants import Constants
from ...components.models.controlnet import ControlEncoder, ControlNetModel, ControlNetOutput, EmbeddedImage
from ...components.models.controlnet_union import ControlNetUnionModel
from ...components.pictures import PictureInput
from ...components.types import Number, Pass, Residuals, Rows
from ...graph import Running, component, knob
from ...graph.errors import UnfitValue
from ...graph.ports import ALONE
from ..denoise.constants import RunConstants
from ..denoise.passes import scaled_latents, timesteps
from ..denoise.unet import Predict
from .images import read_control
from .residuals import ControlBlock


class Controlled(NamedTuple):
    """The U-Net as a function, with control."""

    predict: Predict


class ApplyControlNet(ControlBlock):
    """Guide the U-Net by a picture, through the residuals of a control net (Zhang et al. 2023).

    Put it before the guider. `control_image` is one picture for all prompts, or one for each prompt or for each picture
    to make; it is resized to the picture that is made. controlnet_conditioning_scale: multiplies the residuals; 0 is no
    control. guess_mode: negative passes get no residuals, and deep layers count more than shallow ones, so that the
    picture leads where the prompt says little. For the interval see `ControlBlock`.

    Raises:
        UnfitValue: an empty interval, or another number of pictures.
    """

    controlnet: ControlNetModel = component()
    controlnet_conditioning_scale: Number = knob(1.0)
    guess_mode: bool = knob(False)

    def __call__(
        self, predict: Predict, control_image: PictureInput, rows: Rows, running: Running = ALONE
    ) -> Controlled:
        net, scale = self.controlnet, self.controlnet_conditioning_scale
        size, channels = net.image_size, net.config.conditioning_channels
        features = read_control(control_image, rows, size, channels, partial(_embedded, net), self.background)
        # Published: a net whose residuals are pooled over the picture (shuffle) leaves negative passes alone.
        guess, constants = self.guess_mode or net.config.global_pool_conditions, RunConstants()

        def control(passes: Sequence[Pass]) -> Residuals:
            picture = EmbeddedImage(features(passes)[0])
            inputs, named = _inputs(net, passes, constants.of(passes))
            return _residuals(net(*inputs, picture, scale, **named, guess_mode=guess))

        controlled = self.controlled(predict, control, running, device=net.device, spare_negative=guess)
        return Controlled(controlled if scale else predict)


class ApplyControlNetUnion(ControlBlock):
    """Guide the U-Net by pictures of several kinds, through one control net (ControlNet-Union).

    control_mode: the kind of the picture, by the number that the net was trained with. For several kinds at once
    `control_image` and `control_mode` are lists, and the scale may be one too. For the rest see `ApplyControlNet`.

    Raises:
        UnfitValue: lists of unlike lengths, an unknown kind or one that is passed twice; or as `ApplyControlNet`.
    """

    controlnet: ControlNetUnionModel = component()
    controlnet_conditioning_scale: Number | tuple[Number, ...] = knob(1.0)
    guess_mode: bool = knob(False)

    def __call__(
        self,
        predict: Predict,
        control_image: PictureInput | Sequence[PictureInput],
        control_mode: int | Sequence[int],
        rows: Rows,
        running: Running = ALONE,
    ) -> Controlled:
        net, scale = self.controlnet, self.controlnet_conditioning_scale
        kinds = [control_mode] if isinstance(control_mode, int) else list(control_mode)
        images: Any = [control_image] if isinstance(control_mode, int) else control_image  # Any: checked just below
        scales = [scale] * len(kinds) if isinstance(scale, int | float) else list(scale)
        _check_kinds(net, images, kinds, scales)
        size, channels = net.image_size, net.config.conditioning_channels
        own = scales if len(kinds) > 1 else [1.0]  # the scale of a single picture multiplies all residuals
        features = [
            read_control(image, rows, size, channels, partial(_embedded, net, kind=kind, scale=one), self.background)
            for image, kind, one in zip(images, kinds, own, strict=True)
        ]
        one_hot = torch.zeros(1, net.config.num_control_type, device=net.device)
        one_hot[0, kinds] = 1
        guess, constants = self.guess_mode or net.config.global_pool_conditions, RunConstants()

        def control(passes: Sequence[Pass]) -> Residuals:
            pictures = [EmbeddedImage(of(passes)[0]) for of in features]
            inputs, named = _inputs(net, passes, constants.of(passes))
            of_kinds = pictures, one_hot.expand(len(pictures[0].features), -1), kinds, scales
            return _residuals(net(*inputs, *of_kinds, **named, guess_mode=guess))

        controlled = self.controlled(predict, control, running, device=net.device, spare_negative=guess)
        return Controlled(controlled if any(scales) else predict)


def _embedded(net: ControlNetModel | ControlNetUnionModel, pixels: Tensor, **of_kind: Any) -> tuple[Tensor]:
    """The features of control pictures, which no step changes. of_kind: what a union reads besides."""
    return (net.embed_image(pixels.to(net.device, net.dtype), **of_kind).features,)


def _inputs(
    net: ControlEncoder[Any], passes: Sequence[Pass], constants: Constants
) -> tuple[tuple[Tensor, Tensor, Tensor], Mapping[str, Any]]:
    """Latents, time and tokens of all passes, and further inputs by name.

    A control net never reads the channels that blocks add to the latents.
    """
    tokens, further = constants.named("prompt", lambda: _prompt(net, passes))
    return (scaled_latents(passes).to(net.dtype), timesteps(passes), tokens), {**further, "constants": constants}


def _prompt(net: ControlEncoder[Any], passes: Sequence[Pass]) -> tuple[Tensor, Mapping[str, Any]]:
    """The inputs that no step changes: the tokens, and further ones for a net of SDXL."""
    if net.config.addition_embed_type is None:
        return torch.cat([p.conditioning.tokens for p in passes]).to(net.dtype), {}
    conditioning = SDXLConditioning.cat([p.conditioning for p in passes])
    return conditioning.tokens.to(net.dtype), {"added_cond_kwargs": conditioning.unet_inputs(net.dtype)}


def _residuals(out: ControlNetOutput) -> Residuals:
    return {"down": out.down_block_res_samples, "mid": (out.mid_block_res_sample,)}


def _check_kinds(net: ControlNetUnionModel, images: Any, kinds: list[int], scales: Sequence[float]) -> None:
    count = len(images) if isinstance(images, Sequence) else 1
    if not len(kinds) == len(scales) == count:
        raise UnfitValue(
            f"control_image has {count} entries, control_mode {len(kinds)} and controlnet_conditioning_scale "
            f"{len(scales)}. Give one of each for each kind of picture."
        )
    known = net.config.num_control_type
    if strange := [kind for kind in kinds if not 0 <= kind < known]:
        raise UnfitValue(f"control_mode={strange[0]}, but this control net knows the kinds 0 to {known - 1}.")
    if len(set(kinds)) < len(kinds):
        raise UnfitValue(f"control_mode={kinds} names a kind twice. Give each kind one picture.")
