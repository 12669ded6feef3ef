"""An entry of a memo: the outputs of one node."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .node_keys import NodeKey
from .stored_values import Stored, restore


@dataclass(frozen=True)
class Entry:
    """The outputs of one node.

    name: of the node. node: what they were computed from. seconds: how long that took. outputs: by port. notes: what
    the node said to the user.
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
        """The outputs, as copies. ValueError for what a file must not say: see `restore`."""
        return {port: restore(stored, packages) for port, stored in self.outputs.items()}
