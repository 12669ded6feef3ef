"""Own components: a block that shares a component with others can get one of its own, under another name.

`DecodeLatents` and `EncodeImage` share `vae`. Where a caller passes `decoder=`, `DecodeLatents` has that one, and
`EncodeImage` keeps `vae`.
"""

from collections.abc import Mapping

from .cache import cached
from .paths import blocks_inside
from .ports import Component
from .structure import Structure


def own_components(graph: Structure) -> Mapping[str, Component]:
    """The names under which a caller may give blocks of the graph a component of their own, where none is so called."""
    return cached(graph, "own components", lambda: _own_components(graph))


def _own_components(graph: Structure) -> Mapping[str, Component]:
    parts = [part for _, block in blocks_inside(graph) for part in block.signature.components.values()]
    taken = {*graph.components, *graph.inputs, *graph.slots}
    return {part.own: part for part in parts if part.own is not None and part.own not in taken}
