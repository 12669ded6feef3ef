"""Control nets and adapters that a checkpoint brings, put before the guider of whatever task."""

from collections.abc import Callable, Mapping
from typing import Any

from ..blocks.control.controlnet import ApplyControlNet, ApplyControlNetUnion
from ..blocks.control.t2i_adapter import ApplyT2IAdapter
from ..graph import Block, Graph, named
from .settings import read_config

UNET_CONTROL: Mapping[str, type[Block]] = {
    "ControlNetModel": ApplyControlNet,
    "ControlNetUnionModel": ApplyControlNetUnion,
    "T2IAdapter": ApplyT2IAdapter,
}
"""The block for each class of net, for U-Nets."""

_SHARED = ("predict", "rows", "transformer", "vae")
"""What all nets of a graph have in common; the other ports of a second one are numbered."""


def attaching(
    blocks: Mapping[str, type[Block]], before: str = "denoise.guider"
) -> Callable[[Graph, Mapping[str, Any]], Graph]:
    """For a family: put in a block for each `controlnet` and `adapter` among the components, by its class.

    Of several (`controlnet`, `controlnet_1` …, as they are saved) the block, its component and its inputs are numbered:
    `control_image_1`, `controlnet_conditioning_scale_1`.
    """

    def attach(graph: Graph, components: Mapping[str, Any]) -> Graph:
        for name, component in components.items():
            kind, _, number = name.partition("_")
            if kind not in ("controlnet", "adapter") or (number and not number.isdecimal()):
                continue
            if (found := blocks.get(str(read_config(component).get("_class_name")))) is None:
                continue
            block, node = found(), "control" if kind == "controlnet" else "adapt"
            if number:
                ports = [*block.signature.inputs, *block.signature.components]
                block = named(block, **{port: f"{port}_{number}" for port in ports if port not in _SHARED})
                node = f"{node}_{number}"
            graph = graph.insert(node, block, before=before)
        return graph

    return attach
