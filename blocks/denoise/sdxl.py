"""SDXL's U-Net as a function of passes."""

from collections.abc import Sequence
from functools import partial
from typing import Annotated, NamedTuple

from torch import Tensor

from ...components.conditioning import SDXLConditioning
from ...components.models.unet_2d_condition import UNet2DConditionModel
from ...components.types import Number, Pass, PredictFunction
from ...graph import Block, Running, component, knob
from ...graph.ports import ALONE
from ...graph.space import ANY_SPACE
from ...graph.typing import Port
from .passes import Batching, asking
from .unet import ask_unet, embedded_guidance

Predict = Annotated[PredictFunction, Port("predict", space=ANY_SPACE, family=SDXLConditioning)]


class Predictor(NamedTuple):
    predict: Predict


class PredictNoise(Block):
    """Offer the U-Net as a function of passes; it reads the pooled prompt and the sizes beside the tokens."""

    unet: UNet2DConditionModel = component()
    batching: Batching = "together"

    def __call__(self, running: Running = ALONE) -> Predictor:
        return Predictor(asking(self.unet, _forward, self.batching, running))


class PredictDistilled(Block):
    """Offer a U-Net that was distilled to know guidance (LCM: Luo et al. 2023, section 4.2): one pass stands for two.

    It reads `guidance_scale` itself, so the guider has nothing to do.
    """

    unet: UNet2DConditionModel = component()
    batching: Batching = "together"
    guidance_scale: Number = knob(8.5)

    def __call__(self, running: Running = ALONE) -> Predictor:
        forward = partial(_forward, guidance=embedded_guidance(self.unet, self.guidance_scale))
        return Predictor(asking(self.unet, forward, self.batching, running))


def _forward(unet: UNet2DConditionModel, passes: Sequence[Pass], guidance: Tensor | None = None) -> Tensor:
    words = SDXLConditioning.cat([p.conditioning for p in passes])
    added = {"text_embeds": words.pooled.to(unet.dtype), "time_ids": words.time_ids}
    return ask_unet(unet, passes, words.tokens, added, guidance)
