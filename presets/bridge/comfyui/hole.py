"""A hole: a block in the place of a node that has no block here. It has the ports of the node, and it cannot run."""

from typing import Annotated, Any

from ....components.conditioning import FluxConditioning, SD3Conditioning, SDConditioning, SDXLText
from ....components.pictures import PictureInput
from ....components.types import Conditioning, Images, Latents, Mask, Predict
from ....graph import Block, Port
from ....graph.cache import cached
from ....graph.errors import BlockFailed
from ....graph.ports import Input, Output, Signature

_TYPES: dict[str, Any] = {
    "IMAGE": Images,
    "MASK": Mask,
    "LATENT": Latents,
    "CONDITIONING": Conditioning,
    "MODEL": Predict,
    "STRING": str,
    "INT": int,
    "FLOAT": float,
    "BOOLEAN": bool,
    "PICTURE": PictureInput,
}
"""The port types of ComfyUI's types. Others are ports of a kind of their own."""


_CONDITIONING = {"sd": SDConditioning, "sdxl": SDXLText, "sd3": SD3Conditioning, "flux": FluxConditioning}


def port_type(kind: str) -> Any:
    """The port type of a type of ComfyUI.

    >>> port_type("VIDEO")
    typing.Annotated[typing.Any, Port('comfyui VIDEO')]
    """
    if kind.startswith("CONDITIONING "):
        return _CONDITIONING[kind.removeprefix("CONDITIONING ")]
    return _TYPES.get(kind, Any if kind in ("*", "") else Annotated[Any, Port(f"comfyui {kind}")])


class Hole(Block, name="comfyui.Hole"):
    """The place of a node of ComfyUI that no block stands for: `graph.replace(name, block)` fills it.

    node: the type of the node. title: what the file calls it. takes, gives: names and ComfyUI's types of its inputs and
    outputs. settings: the literals that the file has for it, as text.

    Raises:
        BlockFailed: it is run.
    """

    node: str
    title: str = ""
    takes: tuple[tuple[str, str], ...] = ()
    gives: tuple[tuple[str, str], ...] = ()
    settings: tuple[tuple[str, str], ...] = ()
    reason: str = "sfumato has no block for this type"

    @property
    def signature(self) -> Signature:
        """The ports of the node."""
        return cached(self, "signature", self._read_signature)

    def _read_signature(self) -> Signature:
        return Signature(
            {name: Input(port_type(kind)) for name, kind in self.takes},
            {name: Output(port_type(kind)) for name, kind in self.gives},
        )

    def __call__(self, **values: Any) -> None:
        """Raise an error that says how to fill the hole."""
        takes, gives = (
            ", ".join(f"{name}: {kind}" for name, kind in ports) or "nothing" for ports in (self.takes, self.gives)
        )
        raise BlockFailed(
            f"The node {self.node} of ComfyUI has no block: {self.reason}. It takes {takes}, and gives {gives}. "
            "Put a block with these ports in its place: graph.replace(name, block)."
        )
