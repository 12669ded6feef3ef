"""An entry of a memo: the outputs of one node."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..stored import Stored, restore
from .node_keys import NodeKey


@dataclass(frozen=True)
class Entry:
    """The outputs of one node.

    name: of the node. node: the key of the outputs. seconds: the time of their computation. outputs: by port.
    notes: messages of the node to the user.
    """

    name: str
    node: NodeKey
    seconds: float
    outputs: Mapping[str, Stored]
    notes: tuple[str, ...] = ()

    @property
    def bytes(self) -> int:
        """The size of the outputs."""
        return sum(stored.bytes for stored in self.outputs.values())

    def values(self, packages: frozenset[str]) -> dict[str, Any]:
        """The outputs, as copies. ValueError for content that a file must not have: see `restore`."""
        return {port: restore(stored, packages) for port, stored in self.outputs.items()}
