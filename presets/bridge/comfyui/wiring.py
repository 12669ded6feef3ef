"""A graph in the making: nodes with all their edges pinned, and the values of the graph's inputs."""

import re
from collections.abc import Mapping
from typing import NamedTuple

from ....graph import Block, Edge, Graph
from ....graph.edits import edited
from ....graph.wiring import INPUTS, RESERVED
from .values import Value

SHARED = ("prompts", "long_prompt", "clip_skip", "negative_clip_skip", "output_type", "num_images_per_prompt")
"""Inputs that all nodes of a graph share."""


class Port(NamedTuple):
    """An output of a node of the graph."""

    node: str
    output: str


class Wiring:
    """Collects the nodes of a graph. Each input of a node is an edge, or an input of the graph of its own name."""

    def __init__(self) -> None:
        self.nodes: dict[str, Block] = {}
        self.edges: list[Edge] = []
        self.inputs: dict[str, Value] = {}
        self._names: dict[str, int] = {}

    def name(self, wanted: str) -> str:
        """A name for a node that none has yet."""
        plain = identifier(wanted)
        plain = f"{plain}_node" if plain in RESERVED else plain
        made, count = plain, 1
        while made in self.nodes:
            count += 1
            made = f"{plain}_{count}"
        return made

    def add(
        self,
        wanted: str,
        block: Block,
        links: Mapping[str, Port] | None = None,
        literals: Mapping[str, Value] | None = None,
        bases: Mapping[str, str] | None = None,
    ) -> str:
        """Add a node, and give its name.

        Args:
            wanted: its name, if no other node has it.
            block: the block.
            links: for inputs of the block, the outputs that they read.
            literals: for other inputs, their values.
            bases: for other inputs, the names that the graph's inputs get, where these differ.
        """
        name, links, literals, bases = self.name(wanted), links or {}, literals or {}, bases or {}
        self.nodes[name] = block
        for port in block.signature.inputs:
            if (source := links.get(port)) is not None:
                self.edges.append(Edge(source.node, source.output, name, port, True))
                continue
            base = bases.get(port, port)
            outside = base if base in SHARED else self._input(base)
            self.edges.append(Edge(INPUTS, outside, name, port, True))
            if port in literals:
                self.inputs[outside] = literals[port]
        return name

    def _input(self, base: str) -> str:
        count = self._names[base] = self._names.get(base, 0) + 1
        return base if count == 1 else f"{base}_{count}"

    def graph(self, outputs: tuple[str, ...], slots: Mapping[str, tuple[str, ...]]) -> Graph:
        """The graph. WireError for wires that do not fit."""
        return edited(Graph(), nodes=self.nodes, pinned=self.edges, declared=outputs, slots=dict(slots))


def identifier(text: str) -> str:
    """A name in small letters: "CLIPTextEncode" is "clip_text_encode"."""
    divided = re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", re.sub(r"([A-Z]+)([A-Z][a-z])", r"\1_\2", text))
    made = re.sub(r"\W+", "_", divided, flags=re.ASCII).strip("_").lower()[:60]
    return made if made and made[0].isalpha() else f"node_{made}".rstrip("_")
