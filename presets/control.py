"""Control nets and adapters of a checkpoint: their blocks go before the guider, whatever the task."""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ..blocks.control.controlnet import ApplyControlNet, ApplyControlNetUnion
from ..blocks.control.image_prompt import ImagePrompt
from ..blocks.control.t2i_adapter import ApplyT2IAdapter
from ..blocks.image.crop import CropControl
from ..graph import Block, Graph, named
from .settings import Components, read_config

Config = Mapping[str, Any]  # JSON values

_UNET_BLOCKS: Mapping[str, type[Block]] = {
    "ControlNetModel": ApplyControlNet,
    "ControlNetUnionModel": ApplyControlNetUnion,
    "T2IAdapter": ApplyT2IAdapter,
}
IMAGE_PROMPTS = ("ImagePromptAdapter", "FluxImagePromptAdapter", "SD3ImagePromptAdapter")
"""The classes of image prompt adapters, which one block reads whatever the family."""
_NODES = {"controlnet": "control", "adapter": "adapt", "ip_adapter": "image_prompt"}
_NAME = re.compile(r"(controlnet|adapter|ip_adapter)(?:_(\d+))?")
_PICTURES = ("control_image", "control_mask", "adapter_image")
_SHARED = ("predict", "rows", "random", "transformer", "vae", "height", "width", "guidance_scale",
           "image_encoder", "feature_extractor")  # fmt: skip
"""The ports and components that all control nets and image prompts of a graph share."""


def is_control(name: str) -> bool:
    """Whether a component of this name is of control: `controlnet`, `controlnet_1`, `adapter`, `ip_adapter`."""
    return _NAME.fullmatch(name) is not None


def control_components(components: Components) -> Iterator[tuple[str, str, Config]]:
    """The control nets and adapters among the components: the node for each, its number, and its config.

    Of several (`controlnet`, `controlnet_1` …, as they are saved) the first has the number "".
    """
    for name, component in components.items():
        if found := _NAME.fullmatch(name):
            kind, number = found[1], found[2] or ""
            yield _NODES[kind] + (f"_{number}" if number else ""), number, read_config(component)


def numbered(block: Block, number: str) -> Block:
    """The block with a number at its own ports and components: `control_image_1`, `controlnet_conditioning_scale_1`."""
    s = block.signature
    ports = dict.fromkeys([*s.inputs, *s.outputs, *s.components])
    return named(block, **{port: f"{port}_{number}" for port in ports if port not in _SHARED}) if number else block


def attach_controls(graph: Graph, components: Components, block_for: Callable[[Config], Block | None]) -> Graph:
    """Insert a block for each control net, adapter and image prompt of the checkpoint.

    block_for: None for one of another family.
    """
    for node, number, config in control_components(components):
        block = ImagePrompt() if config.get("_class_name") in IMAGE_PROMPTS else block_for(config)
        if block is not None:
            graph = graph.insert(node, numbered(block, number), before="denoise.guider")
    return with_cropped_controls(graph)


def with_cropped_controls(graph: Graph) -> Graph:
    """Where the graph crops its picture to a mask, crop the control pictures too."""
    if "crop" not in graph.nodes:
        return graph
    for name in [name for name in graph.inputs if name.removesuffix(_number(name)) in _PICTURES]:
        node = f"crop_{name}"
        graph = graph.insert(node, named(CropControl(), control_image=name), after="crop")
        graph = graph.wire(f"{node}.image", "inputs.image")
    return graph


def _number(name: str) -> str:
    """`_1` of `control_image_1`; "" of a name without a number."""
    _, _, last = name.rpartition("_")
    return f"_{last}" if last.isdecimal() else ""


def attach_unet_controls(graph: Graph, components: Components) -> Graph:
    """`attach_controls` for U-Nets: the class of a net says which block it needs."""

    def block_for(config: Config) -> Block | None:
        block = _UNET_BLOCKS.get(str(config.get("_class_name")))
        return block and block()

    return attach_controls(graph, components, block_for)
