"""Control nets of Stable Diffusion 1, 2 and XL: residuals for a U-Net, computed from a control image."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Literal, NamedTuple, Self, TypeVar

import torch.nn.functional as F
from torch import Tensor, nn

from ...graph.errors import UnfitValue
from .attention import Prompt
from .config import Width
from .constants import NO_CONSTANTS, Constants
from .initialization import zero_init
from .unet_2d_condition import UNet2DConditionModel
from .unet_config import MidType, UNet2DConditionConfig, UNetEncoderConfig
from .unet_encoder import UNetEncoder


class ControlConfig(UNetEncoderConfig):
    """The keys that all control nets of U-Nets have."""

    conditioning_channels: Width = 3
    controlnet_conditioning_channel_order: Literal["rgb", "bgr"] = "rgb"
    conditioning_embedding_out_channels: tuple[Width, ...] = (16, 32, 96, 256)
    global_pool_conditions: bool = False

    @property
    def unet(self) -> UNet2DConditionConfig:
        """The config of a U-Net with the same encoder."""
        shared = self.model_dump(include=set(UNet2DConditionConfig.model_fields))
        return UNet2DConditionConfig(**shared, up_block_types=("UpBlock2D",) * len(self.down_block_types))


class ControlNetConfig(ControlConfig):
    """The published keys. `controlnet_conditioning_channel_order` is "bgr" for nets that read blue first."""

    mid_block_type: MidType | None = "UNetMidBlock2DCrossAttn"


class ControlNetOutput(NamedTuple):
    """The residuals for a U-Net's skips, the largest first, and for the output of its middle; `b c h w` each."""

    down_block_res_samples: tuple[Tensor, ...]
    mid_block_res_sample: Tensor


class EmbeddedImage(NamedTuple):
    """A control image as the net adds it to its input, `b channels h w`. It depends on no step: make it once a run."""

    features: Tensor


C = TypeVar("C", bound=ControlConfig)


class ControlEncoder(UNetEncoder[C]):
    """Base of control nets: a copy of a U-Net's encoder, then zero convolutions (Zhang et al. 2023, figure 3)."""

    def build_control(self, config: C) -> None:
        """Make the copy, the image's embedding and the zero convolutions."""
        unet = config.unet
        self.build_encoder(unet)
        self.controlnet_cond_embedding = ControlImageEmbedding(config, unet.block_out_channels[0])
        self.controlnet_down_blocks = nn.ModuleList(zero_init(nn.Conv2d(n, n, 1)) for n in self.skip_channels)
        bottom = unet.block_out_channels[-1]
        self.controlnet_mid_block = zero_init(nn.Conv2d(bottom, bottom, 1))

    def image_size(self, height: int, width: int) -> tuple[int, int]:
        """Return the rows and columns of the control image for latents of that size."""
        factor = 2 ** (len(self.config.conditioning_embedding_out_channels) - 1)
        return height * factor, width * factor

    def residuals(
        self,
        x: Tensor,
        emb: Tensor,
        prompt: Prompt,
        scale: float,
        guess_mode: bool,
    ) -> ControlNetOutput:
        """Encode `x` `b c h w`, and apply the zero convolutions and the scale."""
        x, skips = self.encode(x, emb, prompt)
        outputs = [conv(skip) for conv, skip in zip(self.controlnet_down_blocks, skips, strict=True)]
        outputs.append(self.controlnet_mid_block(x))
        if self.config.global_pool_conditions:
            outputs = [r.mean((2, 3), keepdim=True) for r in outputs]
        elif guess_mode:  # as published: from 0.1 for the largest to 1 for the middle
            outputs = [r * 10 ** (i / (len(outputs) - 1) - 1) for i, r in enumerate(outputs)]
        *down, mid = outputs if scale == 1.0 else [r * scale for r in outputs]
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
        """Make a control net to train: a copy of the U-Net's encoder and zero convolutions, so that it adds nothing.

        It is on the U-Net's device and in its dtype.

        Args:
            unet: the U-Net to copy.
            conditioning_channels: channels of the control image.
            controlnet_conditioning_channel_order: "bgr" reads blue first.
            conditioning_embedding_out_channels: widths of the image's embedding; None is the published default.
            load_weights_from_unet: False leaves the copy random.
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
    """Computes residuals for a U-Net from a control image: edges, a pose, depth (Zhang et al. 2023, section 3.2).

    Parameter names and config keys are published.
    """

    config_class = ControlNetConfig

    def build(self, config: ControlNetConfig) -> None:
        """Make the layers."""
        self.build_control(config)

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float,
        encoder_hidden_states: Tensor,
        controlnet_cond: Tensor | EmbeddedImage,
        conditioning_scale: float = 1.0,
        *,
        class_labels: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        added_cond_kwargs: Mapping[str, Tensor] | None = None,
        guess_mode: bool = False,
        constants: Constants = NO_CONSTANTS,
    ) -> ControlNetOutput:
        """Compute residuals for a U-Net, from noisy latents and a control image.

        Args:
            sample, timestep, encoder_hidden_states, class_labels, encoder_attention_mask, added_cond_kwargs,
                constants: as the U-Net takes them.
            controlnet_cond: the control image, `b c rows columns` from 0 to 1, of `image_size(h, w)`. Nets trained for
                inpainting take -1 where the image is to be painted. Or the result of `embed_image`.
            conditioning_scale: a factor of all residuals.
            guess_mode: scale residuals of larger feature maps down, so that the image can steer without a prompt.

        Raises:
            UnfitValue: an input that is missing, or that the model does not read.
            UnfitValue: an image of another size or number of channels.
        """
        emb = self.embed(sample, timestep, class_labels, added=added_cond_kwargs, constants=constants)
        prompt = self.project_prompt(encoder_hidden_states, encoder_attention_mask, constants)
        if not isinstance(controlnet_cond, EmbeddedImage):
            check_control_image(self, controlnet_cond, sample)
            controlnet_cond = self.embed_image(controlnet_cond)
        x = self.conv_in(sample) + controlnet_cond.features
        return self.residuals(x, emb, prompt, conditioning_scale, guess_mode)

    def embed_image(self, image: Tensor) -> EmbeddedImage:
        """Embed control images `b c rows columns`, to pass them in every step."""
        bgr = self.config.controlnet_conditioning_channel_order == "bgr"
        return EmbeddedImage(self.controlnet_cond_embedding(image.flip(1) if bgr else image))


class ControlImageEmbedding(nn.Module):
    """Maps pixels to the size of latents: convolutions, half of which have stride 2 (Zhang et al. 2023, eq. 4)."""

    def __init__(self, config: ControlConfig, channels: int) -> None:
        super().__init__()
        widths = config.conditioning_embedding_out_channels
        self.conv_in = nn.Conv2d(config.conditioning_channels, widths[0], 3, padding=1)
        self.blocks = nn.ModuleList()
        for inner, outer in pairwise(widths):
            self.blocks.append(nn.Conv2d(inner, inner, 3, padding=1))
            self.blocks.append(nn.Conv2d(inner, outer, 3, padding=1, stride=2))
        self.conv_out = zero_init(nn.Conv2d(widths[-1], channels, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        """Map the control image `b c rows columns` to `b channels h w`."""
        x = F.silu(self.conv_in(x))
        for block in self.blocks:
            x = F.silu(block(x))
        return self.conv_out(x)


def check_control_image(net: ControlEncoder[C], image: Tensor, sample: Tensor) -> None:
    """Refuse a control image that does not fit the latents.

    Raises:
        UnfitValue: another size or number of channels.
    """
    needed = (net.config.conditioning_channels, *net.image_size(sample.shape[2], sample.shape[3]))
    if tuple(image.shape[1:]) != needed:
        raise UnfitValue(
            f"controlnet_cond needs {' x '.join(map(str, needed))} (channels x rows x columns) for latents of "
            f"{sample.shape[2]} x {sample.shape[3]}, got {' x '.join(map(str, image.shape[1:]))}."
        )
