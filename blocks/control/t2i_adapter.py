"""T2I-Adapters of Stable Diffusion 1, 2 and XL."""

from functools import partial

from torch import Tensor

from ...components.models.t2i_adapter import T2IAdapter
from ...components.pictures import PictureInput
from ...components.types import Number, Rows, ZeroToOne
from ...graph import Block, Running, component, knob
from ...graph.ports import ALONE
from ..denoise.unet import Predict
from .controlnet import Controlled
from .images import read_control
from .residuals import add_residuals, is_inside


class ApplyT2IAdapter(Block):
    """Guide the U-Net by a picture, through features that an adapter computes once (Mou et al. 2023).

    Put it before the guider. `adapter_image` is as `control_image` of `ApplyControlNet`. adapter_conditioning_scale:
    multiplies the features; 0 is no control. adapter_conditioning_factor: they are added in the first steps, as many as
    this fraction of the run.

    Raises:
        UnfitValue: another number of pictures than one, or one for each prompt or for each picture to make.
    """

    adapter: T2IAdapter = component()
    background: str = "black"
    adapter_conditioning_scale: Number = knob(1.0)
    adapter_conditioning_factor: ZeroToOne = knob(1.0)

    def __call__(
        self, predict: Predict, adapter_image: PictureInput, rows: Rows, running: Running = ALONE
    ) -> Controlled:
        net, scale = self.adapter, self.adapter_conditioning_scale

        def scaled(pixels: Tensor) -> tuple[Tensor, ...]:
            return tuple(f.float() * scale for f in net(pixels.to(net.device, net.dtype)))

        channels, ground = net.config.in_channels, self.background
        features = read_control(adapter_image, rows, net.image_size, channels, scaled, ground, "adapter_image")
        is_on = partial(is_inside, start=0.0, end=self.adapter_conditioning_factor)
        controlled = add_residuals(predict, lambda passes: {"levels": features(passes)}, is_on, running)
        return Controlled(controlled if scale else predict)
