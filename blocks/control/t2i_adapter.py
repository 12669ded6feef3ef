"""T2I-Adapters of Stable Diffusion 1, 2 and XL."""

from functools import partial

from torch import Tensor

from ...components.models.t2i_adapter import T2IAdapter
from ...components.types import Number, Rows, ZeroToOne
from ...graph import Block, Running, component, knob
from ...graph.ports import ALONE
from ..image.read import PictureInput
from .steering import Controlled, PredictUNet, shown, steered, steers


class ApplyT2IAdapter(Block):
    """Let a picture steer the U-Net by features that an adapter reads from it once (Mou et al. 2023).

    Put it before the guider. Pictures are given as to `ApplyControlNet`. The features are added in the first
    `adapter_conditioning_factor` of the steps.
    """

    adapter: T2IAdapter = component()
    adapter_conditioning_scale: Number = knob(1.0)
    adapter_conditioning_factor: ZeroToOne = knob(1.0)

    def __call__(
        self, predict: PredictUNet, adapter_image: PictureInput, rows: Rows, running: Running = ALONE
    ) -> Controlled:
        net, scale = self.adapter, self.adapter_conditioning_scale

        def features(pixels: Tensor) -> tuple[Tensor, ...]:
            return tuple(f.float() * scale for f in net(pixels.to(net.device, net.dtype)))

        seen = shown(adapter_image, rows, net.image_size, net.config.in_channels, features, "adapter_image")
        on = partial(steers, start=0.0, end=self.adapter_conditioning_factor)
        return Controlled(steered(predict, lambda passes: {"levels": seen(passes)}, on, running) if scale else predict)
