"""Control nets of Stable Diffusion 1, 2 and XL: a picture steers a U-Net from outside."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Literal, NamedTuple, Self, TypeVar

import torch.nn.functional as F
from torch import Tensor, nn

from .unet_2d_condition import UNet2DConditionModel
from .unet_config import EncoderConfig, MidType, UNet2DConditionConfig
from .unet_encoder import UNetEncoder


class ControlConfig(EncoderConfig):
    """What all control nets of U-Nets have beside the keys of the way down."""

    conditioning_channels: int = 3
    controlnet_conditioning_channel_order: Literal["rgb", "bgr"] = "rgb"
    conditioning_embedding_out_channels: tuple[int, ...] = (16, 32, 96, 256)
    global_pool_conditions: bool = False

    @property
    def unet(self) -> UNet2DConditionConfig:
        """The config of a U-Net with this way down."""
        shared = {key: getattr(self, key) for key in UNet2DConditionConfig.model_fields if hasattr(self, key)}
        return UNet2DConditionConfig(**shared, up_block_types=("UpBlock2D",) * len(self.down_block_types))


class ControlNetConfig(ControlConfig):
    """Keys and defaults as published."""

    mid_block_type: MidType | None = "UNetMidBlock2DCrossAttn"


class ControlNetOutput(NamedTuple):
    """What is added to a U-Net: to each of what goes across, the largest first, and after its middle."""

    down_block_res_samples: tuple[Tensor, ...]
    mid_block_res_sample: Tensor


C = TypeVar("C", bound=ControlConfig)


class ControlEncoder(UNetEncoder[C]):
    """The trainable copy of a U-Net's way down, and the convolutions that lead from it (Zhang et al. 2023, fig. 3)."""

    def build_control(self, config: C) -> None:
        """Make the copy, the picture's embedding and the zero convolutions."""
        unet = config.unet
        self.build_encoder(unet)
        self.controlnet_cond_embedding = PictureEmbedding(config, unet.block_out_channels[0])
        self.controlnet_down_blocks = nn.ModuleList(zeros(nn.Conv2d(n, n, 1)) for n in self.skip_channels)
        bottom = unet.block_out_channels[-1]
        self.controlnet_mid_block = zeros(nn.Conv2d(bottom, bottom, 1))

    def image_size(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of the picture for latents of that size."""
        factor = 2 ** (len(self.config.conditioning_embedding_out_channels) - 1)
        return height * factor, width * factor

    def control(
        self,
        x: Tensor,
        emb: Tensor,
        context: Tensor,
        mask: Tensor | None,
        scale: float,
        guess_mode: bool,
    ) -> ControlNetOutput:
        """What the encoder says of `x`, led out through the zero convolutions and weighted."""
        x, skips = self.descend(x, emb, context, mask)
        led = [conv(skip) for conv, skip in zip(self.controlnet_down_blocks, skips, strict=True)]
        led.append(self.controlnet_mid_block(x))
        if self.config.global_pool_conditions:
            led = [r.mean((2, 3), keepdim=True) for r in led]
        elif guess_mode:  # published: from a tenth for what is largest to one for the middle
            led = [r * 10 ** (i / (len(led) - 1) - 1) for i, r in enumerate(led)]
        *down, mid = led if scale == 1.0 else [r * scale for r in led]
        return ControlNetOutput(tuple(down), mid)

    @classmethod
    def from_unet(
        cls,
        unet: UNet2DConditionModel,
        *,
        conditioning_channels: int = 3,
        controlnet_conditioning_channel_order: Literal["rgb", "bgr"] = "rgb",
        conditioning_embedding_out_channels: Sequence[int] | None = None,
        load_weights_from_unet: bool = True,
    ) -> Self:
        """A control net to train: the U-Net's way down, copied, and zero convolutions, so that it adds nothing yet.

        It can be trained as it is, on the U-Net's device and in its dtype. `load_weights_from_unet=False` leaves the
        copy random.
        """
        fields = cls.config_class.model_fields
        config = {key: value for key, value in unet.config.to_dict().items() if key in fields}
        config["conditioning_channels"] = conditioning_channels
        config["controlnet_conditioning_channel_order"] = controlnet_conditioning_channel_order
        if conditioning_embedding_out_channels is not None:
            config["conditioning_embedding_out_channels"] = tuple(conditioning_embedding_out_channels)
        net = cls.from_config(config).to(device=unet.device, dtype=unet.dtype)
        if load_weights_from_unet:
            mine = net.state_dict().keys()
            net.load_state_dict({name: t for name, t in unet.state_dict().items() if name in mine}, strict=False)
        return net


class ControlNetModel(ControlEncoder[ControlNetConfig]):
    """Says what a picture (edges, a pose, depth) adds to a U-Net's features (Zhang et al. 2023, section 3.2).

    Parameter names and config keys are the published ones.
    """

    config_class = ControlNetConfig

    def build(self, config: ControlNetConfig) -> None:
        self.build_control(config)

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float,
        encoder_hidden_states: Tensor,
        controlnet_cond: Tensor,
        conditioning_scale: float = 1.0,
        *,
        class_labels: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        added_cond_kwargs: Mapping[str, Tensor] | None = None,
        guess_mode: bool = False,
    ) -> ControlNetOutput:
        """What to add to the U-Net, for noisy latents and a picture.

        Args:
            sample, timestep, encoder_hidden_states, class_labels, encoder_attention_mask, added_cond_kwargs: as the
                U-Net takes them.
            controlnet_cond: the picture, `b c rows columns` from 0 to 1, of `image_size(h, w)`. Where something is to
                be painted, nets trained to inpaint take -1.
            conditioning_scale: what all that is added is multiplied by.
            guess_mode: weigh what is added the less the larger it is, so that a picture leads without a prompt.

        Raises:
            TypeError: an input that this model needs and did not get, or got and has no place for.
            ValueError: a picture of another size or number of channels.
        """
        emb = self.embed(sample, timestep, class_labels, added=added_cond_kwargs)
        context, mask = self.project_prompt(encoder_hidden_states, encoder_attention_mask)
        check_control_image(self, controlnet_cond, sample)
        if self.config.controlnet_conditioning_channel_order == "bgr":
            controlnet_cond = controlnet_cond.flip(1)
        x = self.conv_in(sample) + self.controlnet_cond_embedding(controlnet_cond)
        return self.control(x, emb, context, mask, conditioning_scale, guess_mode)


class PictureEmbedding(nn.Module):
    """A picture at the size of latents: convolutions, half of which have stride 2 (Zhang et al. 2023, eq. 4)."""

    def __init__(self, config: ControlConfig, channels: int) -> None:
        super().__init__()
        widths = config.conditioning_embedding_out_channels
        self.conv_in = nn.Conv2d(config.conditioning_channels, widths[0], 3, padding=1)
        self.blocks = nn.ModuleList()
        for inner, outer in pairwise(widths):
            self.blocks.append(nn.Conv2d(inner, inner, 3, padding=1))
            self.blocks.append(nn.Conv2d(inner, outer, 3, padding=1, stride=2))
        self.conv_out = zeros(nn.Conv2d(widths[-1], channels, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.conv_in(x))
        for block in self.blocks:
            x = F.silu(block(x))
        return self.conv_out(x)


Z = TypeVar("Z", bound=nn.Module)


def zeros(layer: Z) -> Z:
    """The layer with weights of zero: at the start of training it adds nothing."""
    for weight in layer.parameters():
        nn.init.zeros_(weight)
    return layer


def check_control_image(net: ControlEncoder[C], picture: Tensor, sample: Tensor) -> None:
    """Refuse a picture that does not fit the latents."""
    rows, columns = net.image_size(sample.shape[2], sample.shape[3])
    wanted = (net.config.conditioning_channels, rows, columns)
    if tuple(picture.shape[1:]) != wanted:
        came = " x ".join(map(str, picture.shape[1:]))
        raise ValueError(
            f"controlnet_cond is {came}, but this control net takes {' x '.join(map(str, wanted))} (channels x rows x "
            f"columns) for latents of {sample.shape[2]} x {sample.shape[3]}."
        )
