"""Train control nets and T2I-Adapters: the denoiser stays, and a net beside it learns to steer it by a picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from ...blocks.control.t2i_adapter import ApplyT2IAdapter
from ...blocks.train.timesteps import DrawCubic
from ...components.adapters.over import config_of, type_of
from ...components.models.base import Model
from ...components.models.controlnet import ControlNetModel
from ...components.models.t2i_adapter import T2IAdapter
from ...components.models.unet_2d_condition import UNet2DConditionModel
from ...graph import ConfigError, Graph, Lazy, named
from .method import Method
from .new_nets import TrainedNet, first_weights
from .objective import Objective
from .recipe import recipe

M = TypeVar("M", bound=Model[Any])


def controlnet(
    pipe: Graph,
    objective: Objective = Objective(),
    *,
    net: ControlNetModel | str | Path | None = None,
    conditioning_channels: int = 3,
    channel_order: Literal["rgb", "bgr"] = "rgb",
    embedding_widths: Sequence[int] | None = None,
    seed: int = 0,
) -> Method:
    """Train a control net for a U-Net (Zhang et al. 2023): a copy of its encoder, whose output is zero at the start.

    The data needs control pictures. The scripts of others leave out some captions: that is the dropout of captions.

    Args:
        pipe: a preset of Stable Diffusion 1, 2 or XL.
        objective: choices of the recipe.
        net: a net to train on, or its folder; None for a new one.
        conditioning_channels: of a new net: channels of the control picture, 3 or 1 for grey.
        channel_order: of a new net: "bgr" reads blue first.
        embedding_widths: of a new net: widths of the picture's embedding; None is the published default.
        seed: of the first weights of a new net.

    Raises:
        ConfigError: a preset of another family.
    """
    with first_weights(seed):
        made = loaded(net, ControlNetModel) or ControlNetModel.from_unet(
            unet_of(pipe),
            conditioning_channels=conditioning_channels,
            controlnet_conditioning_channel_order=channel_order,
            conditioning_embedding_out_channels=embedding_widths,
        )
    trained = TrainedNet("controlnet", made)
    return Method(objective.changed(recipe(trained.attached(pipe))), trained)


def t2i_adapter(
    pipe: Graph,
    objective: Objective = Objective(),
    *,
    net: T2IAdapter | str | Path | None = None,
    channels: int = 3,
    res_blocks: int = 2,
    adapter_type: Literal["full_adapter", "full_adapter_xl", "light_adapter"] | None = None,
    seed: int = 0,
) -> Method:
    """Train a T2I-Adapter for a U-Net (Mou et al. 2023): a small net that reads the picture once.

    Timesteps are drawn by the cubic density of the paper, since a picture steers the first steps, if the objective does
    not choose another one. The data needs control pictures.

    Args:
        pipe: a preset of Stable Diffusion 1, 2 or XL.
        objective: choices of the recipe.
        net: an adapter to train on, or its folder; None for a new one.
        channels: of a new adapter: channels of the control picture.
        res_blocks: of a new adapter: residual blocks in each level.
        adapter_type: of a new adapter; None is that of diffusers' script for the family.
        seed: of the first weights of a new adapter.

    Raises:
        ConfigError: a preset of another family, or sizes that do not fit.
    """
    keys = config_of(bound_unet(pipe))
    wide = keys.get("addition_embed_type") is not None
    with first_weights(seed):
        made = loaded(net, T2IAdapter) or T2IAdapter(
            in_channels=channels,
            channels=keys["block_out_channels"],
            num_res_blocks=res_blocks,
            adapter_type=adapter_type or ("full_adapter_xl" if wide else "full_adapter"),
            downscale_factor=16 if wide else 8,
        )
    trained = TrainedNet("adapter", made)
    graph = recipe(trained.attached(pipe)).replace("timesteps", DrawCubic())
    graph = graph.replace("adapt", named(ApplyT2IAdapter(), adapter_image="control_image"))
    return Method(objective.changed(graph), trained)


def bound_unet(pipe: Graph) -> Any:  # a UNet2DConditionModel or a lazy one
    """The U-Net of a preset, not loaded yet. ConfigError where it has none."""
    bound = pipe.bindings.get("unet")
    kind = type_of(bound) if bound is not None else None
    if kind is not UNet2DConditionModel:
        got = "none" if kind is None else f"a {kind.__name__}"
        raise ConfigError(f"This method needs a preset with a UNet2DConditionModel, got {got}. Use one of SD or SDXL.")
    return bound


def unet_of(pipe: Graph) -> UNet2DConditionModel:
    """The loaded U-Net of a preset, whose weights are copied. ConfigError where it has none, or a quantized one."""
    bound = bound_unet(pipe)
    unet: UNet2DConditionModel = bound.load() if isinstance(bound, Lazy) else bound
    if unet.quantization is not None:
        raise ConfigError(
            "This method copies weights of the U-Net, and those of a quantized one are packed. Load it plain."
        )
    return unet


def loaded(net: M | str | Path | None, kind: type[M]) -> M | None:
    """A net, which may be in a folder; None for none. A net from a folder is a new object, which is trained."""
    return kind.from_pretrained(net) if isinstance(net, str | Path) else net
