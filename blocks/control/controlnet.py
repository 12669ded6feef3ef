"""Control nets of Stable Diffusion 1, 2 and XL."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ...components.conditioning import SDXLConditioning
from ...components.models.controlnet import ControlEncoder, ControlNetModel, ControlNetOutput
from ...components.models.controlnet_union import ControlNetUnionModel
from ...components.types import Number, Pass, Residuals, Rows, ZeroToOne
from ...graph import Block, Running, component, knob
from ...graph.ports import ALONE
from ..image.read import PictureInput
from .steering import Controlled, PredictUNet, check_interval, shown, steered, steers


class ApplyControlNet(Block):
    """Let a picture steer the U-Net by what a control net says of it (Zhang et al. 2023).

    Put it before the guider. One picture serves all prompts, or there is one for each prompt or each picture to make;
    they are brought to the size of what is made. Control is on in the steps that lie between `control_guidance_start`
    and `control_guidance_end`, parts of the run. In `guess_mode` the negative pass is left alone and what is large
    counts less, so that the picture leads where the prompt says little.
    """

    controlnet: ControlNetModel = component()
    controlnet_conditioning_scale: Number = knob(1.0)
    control_guidance_start: ZeroToOne = knob(0.0)
    control_guidance_end: ZeroToOne = knob(1.0)
    guess_mode: bool = knob(False)

    def __call__(
        self, predict: PredictUNet, control_image: PictureInput, rows: Rows, running: Running = ALONE
    ) -> Controlled:
        net, scale = self.controlnet, self.controlnet_conditioning_scale
        check_interval(self.control_guidance_start, self.control_guidance_end)
        seen = shown(control_image, rows, net.image_size, net.config.conditioning_channels, partial(_placed, net))
        # Published: a net whose answers are pooled over the picture (shuffle) leaves the negative pass alone.
        guesses = self.guess_mode or net.config.global_pool_conditions

        def control(passes: Sequence[Pass]) -> Residuals:
            picture = seen(passes)[0]
            return _residuals(net(*_asked(net, passes), picture, scale, **_added(net, passes), guess_mode=guesses))

        on = partial(steers, start=self.control_guidance_start, end=self.control_guidance_end)
        how: Mapping[str, Any] = {"device": net.device, "spares_negative": guesses}
        return Controlled(steered(predict, control, on, running, **how) if scale else predict)


class ApplyControlNetUnion(Block):
    """Let pictures of several kinds steer the U-Net through one control net (ControlNet-Union).

    `control_mode` is the kind that a picture shows, by the number that the net was trained with; `control_image` is
    then as for `ApplyControlNet`. For several kinds at once both are lists, and the scale may be one too.
    """

    controlnet: ControlNetUnionModel = component()
    controlnet_conditioning_scale: Number | tuple[Number, ...] = knob(1.0)
    control_guidance_start: ZeroToOne = knob(0.0)
    control_guidance_end: ZeroToOne = knob(1.0)
    guess_mode: bool = knob(False)

    def __call__(
        self,
        predict: PredictUNet,
        control_image: PictureInput | Sequence[PictureInput],
        control_mode: int | Sequence[int],
        rows: Rows,
        running: Running = ALONE,
    ) -> Controlled:
        net, scale = self.controlnet, self.controlnet_conditioning_scale
        check_interval(self.control_guidance_start, self.control_guidance_end)
        kinds = [control_mode] if isinstance(control_mode, int) else list(control_mode)
        images: Any = [control_image] if isinstance(control_mode, int) else control_image  # Any: told apart just below
        scales = [scale] * len(kinds) if isinstance(scale, int | float) else list(scale)
        _check_kinds(net, images, kinds, scales)
        size, channels = net.image_size, net.config.conditioning_channels
        seen = [shown(image, rows, size, channels, partial(_placed, net)) for image in images]
        there = torch.zeros(1, net.config.num_control_type, device=net.device)
        there[0, kinds] = 1
        guesses = self.guess_mode or net.config.global_pool_conditions

        def control(passes: Sequence[Pass]) -> Residuals:
            pictures = [of(passes)[0] for of in seen]
            types = there.expand(len(pictures[0]), -1)
            given = pictures, types, kinds, scales
            return _residuals(net(*_asked(net, passes), *given, **_added(net, passes), guess_mode=guesses))

        on = partial(steers, start=self.control_guidance_start, end=self.control_guidance_end)
        how: Mapping[str, Any] = {"device": net.device, "spares_negative": guesses}
        return Controlled(steered(predict, control, on, running, **how) if any(scales) else predict)


def _placed(net: ControlEncoder[Any], pixels: Tensor) -> tuple[Tensor]:
    return (pixels.to(net.device, net.dtype),)


def _asked(net: ControlEncoder[Any], passes: Sequence[Pass]) -> tuple[Tensor, Tensor, Tensor]:
    """Latents, time and prompt of all passes, as a control net takes them. It never sees channels that are joined."""
    step = passes[0].step
    sample = torch.cat([p.latents * step.scale_in for p in passes])
    tokens = torch.cat([p.conditioning.tokens for p in passes])
    return sample.to(net.dtype), step.t, tokens.to(net.dtype)


def _added(net: ControlEncoder[Any], passes: Sequence[Pass]) -> Mapping[str, Any]:
    """What SDXL's control nets read beside that."""
    if net.config.addition_embed_type is None:
        return {}
    words = SDXLConditioning.cat([p.conditioning for p in passes])
    return {"added_cond_kwargs": {"text_embeds": words.pooled.to(net.dtype), "time_ids": words.time_ids}}


def _residuals(said: ControlNetOutput) -> Residuals:
    return {"down": said.down_block_res_samples, "mid": (said.mid_block_res_sample,)}


def _check_kinds(net: ControlNetUnionModel, images: Any, kinds: list[int], scales: Sequence[float]) -> None:
    """Refuse what does not go together before anything runs."""
    count = len(images) if isinstance(images, Sequence) else 1
    if not len(kinds) == len(scales) == count:
        raise ValueError(
            f"control_image has {count} entries, control_mode {len(kinds)} and controlnet_conditioning_scale "
            f"{len(scales)}. Give one of each for each kind of picture."
        )
    known = net.config.num_control_type
    if strange := [kind for kind in kinds if not 0 <= kind < known]:
        raise ValueError(f"control_mode={strange[0]}, but this control net knows the kinds 0 to {known - 1}.")
    if len(set(kinds)) < len(kinds):
        raise ValueError(f"control_mode={kinds} names a kind twice. Give each kind one picture.")
