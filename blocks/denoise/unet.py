"""The U-Nets of Stable Diffusion 1, 2 and XL as a function of passes."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import torch
from torch import Tensor

from ...components.conditioning import SDConditioning, SDXLConditioning
from ...components.models.constants import Constants
from ...components.models.embeddings import Sinusoid
from ...components.models.unet_2d_condition import UNet2DConditionModel
from ...components.types import Number, Pass, PredictFunction, RepeatLayers, sum_residuals
from ...graph import Block, Running, component, knob
from ...graph.errors import UnfitValue
from ...graph.ports import ALONE
from ...graph.space import ANY_SPACE
from ...graph.typing import Port
from .denoiser import Batching, make_predict
from .passes import check_channels, input_of, timesteps

Predict = Annotated[PredictFunction, Port("predict", space=ANY_SPACE, family=(SDConditioning, SDXLConditioning))]
"""A U-Net as a function."""

_PLACES: Mapping[str, RepeatLayers | None] = {"down": None, "mid": None, "levels": None}


class Predictor(NamedTuple):
    """The denoiser as a function."""

    predict: Predict


class PredictNoise(Block):
    """Make the U-Net a function of passes, for guiders and for blocks that change passes.

    The U-Net's config says which conditioning it reads: tokens alone (`SDConditioning`), or the pooled prompt and the
    sizes too (`SDXLConditioning`). batching: see `Batching`.

    Raises:
        UnfitValue: conditioning of another family, when the function is called.
        UnfitValue: latents with more or fewer channels than the U-Net reads, when the function is called.
    """

    unet: UNet2DConditionModel = component()
    batching: Batching = "together"

    def __call__(self, running: Running = ALONE) -> Predictor:
        return Predictor(make_predict(self.unet, _forward, self.batching, running))


class PredictDistilled(Block):
    """`PredictNoise` for a U-Net that was distilled to read the guidance scale, such as an LCM.

    One pass does the work of two (Luo et al. 2023, section 4.2), so it needs no guider. guidance_scale: the scale that
    the U-Net reads.

    Raises:
        UnfitValue: a U-Net that reads no guidance scale.
    """

    unet: UNet2DConditionModel = component()
    batching: Batching = "together"
    guidance_scale: Number = knob(8.5)

    def __call__(self, running: Running = ALONE) -> Predictor:
        embedded_guidance(self.unet, self.guidance_scale)  # raises here, and not in a step
        return Predictor(make_predict(self.unet, _forward, self.batching, running, self.guidance_scale))


def _forward(unet: UNet2DConditionModel, passes: Sequence[Pass], constants: Constants) -> Tensor:
    sample = input_of(passes)
    inpaints = unet.config.in_channels == 2 * sample.shape[1] + 1
    hint = ' It was trained to inpaint: use the task "inpaint".' if inpaints else ""
    tokens, further = constants.named("prompt", lambda: _prompt(unet, passes))
    check_channels(sample, unet.config.in_channels, "U-Net", hint)
    added = sum_residuals(passes, _PLACES)
    return unet(
        sample.to(unet.dtype),
        timesteps(passes).expand(len(sample)),
        tokens,
        **further,
        down_block_additional_residuals=added.get("down"),
        mid_block_additional_residual=added["mid"][0] if "mid" in added else None,
        down_intrablock_additional_residuals=added.get("levels"),
        constants=constants,
    )


def _prompt(unet: UNet2DConditionModel, passes: Sequence[Pass]) -> tuple[Tensor, Mapping[str, Any]]:
    """The inputs that no step changes: the tokens, and further ones under their published names."""
    reads = SDConditioning if unet.config.addition_embed_type is None else SDXLConditioning
    conditioning = reads.cat([p.conditioning for p in passes])
    added = conditioning.unet_inputs(unet.dtype)
    return conditioning.tokens.to(unet.dtype), {"added_cond_kwargs": added, "timestep_cond": _guidance(unet, passes)}


def _guidance(unet: UNet2DConditionModel, passes: Sequence[Pass]) -> Tensor | None:
    """The embedded guidance scales, for one row where all are equal; None for a U-Net that reads none."""
    scales = [p.guidance for p in passes if p.guidance is not None]
    if not scales:
        return None
    if len({*scales}) == 1:
        return embedded_guidance(unet, scales[0])
    parts = zip(scales, passes, strict=True)
    return torch.cat([embedded_guidance(unet, scale).expand(len(p.latents), -1) for scale, p in parts])


def embedded_guidance(unet: UNet2DConditionModel, scale: float) -> Tensor:
    """A guidance scale as sinusoids (1, channels): the `timestep_cond` of a distilled U-Net (Meng et al. 2023, sec. 3).

    Raises:
        UnfitValue: a U-Net that reads no guidance scale.
    """
    channels = unet.config.time_cond_proj_dim
    if channels is None:
        raise UnfitValue(
            "This U-Net was not distilled to read a guidance scale (its time_cond_proj_dim is null). "
            "Use PredictNoise and a guider."
        )
    waves = Sinusoid(channels, flip=False, shift=1)
    return waves(torch.tensor([1000.0 * (scale - 1)], device=unet.device)).to(unet.dtype)
