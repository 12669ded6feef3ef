"""The parts of a preset's graph and of its call that a workflow of ComfyUI has no place for."""

from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from typing import Any

from ....components.adapters.attached import AttachedAdapters
from ....graph import Block, Graph
from ....graph.memo.contents import content_key
from ....graph.memo.library_values import NoContentKey
from ....graph.paths import blocks_inside
from ....registry import presets as families
from ...save import index_keys

_SAME_PICTURE = {"output_type", "batching", "slicing"}
"""Inputs and fields that change how a picture is made or passed on, and not the picture."""
_WRITTEN = {"tile", "draws"}
"""Fields that a node has by itself. VAEEncode draws from no seed, so it is the node for both values of `draws`."""


def unwritten_adapters(graph: Graph) -> Iterator[str]:
    """The adapters whose strengths a LoraLoader cannot have, and embeddings, which ComfyUI reads from its folder."""
    attached = graph.adapters
    if not isinstance(attached, AttachedAdapters):
        return
    for adapter in next(iter(attached.rows), ()):
        encoders = {f for name, f in adapter.by_component.items() if name.startswith("text_encoder")}
        for text, found in (
            ("changes over the steps", adapter.varies),
            ("differs between blocks", bool(adapter.blocks)),
            ("differs between text encoders", len(encoders) > 1),
        ):
            if found:
                yield f"the strength of the adapter {adapter.name!r} {text}"
    for one in attached.embeddings:
        yield f"the embedding {one.name!r} is attached. Leave it out, and write embedding:{one.name} in the prompt"


def unwritten_inputs(graph: Graph, passed: Mapping[str, Any], read: AbstractSet[str]) -> Iterator[str]:
    """The inputs that were passed, differ from the default, and are in no node."""
    for name, value in passed.items():
        if name in graph.inputs and name not in read | _SAME_PICTURE and not _same(value, graph.inputs[name].default):
            yield f"the input {name!r} is in no node"


def unwritten_fields(graph: Graph, read: AbstractSet[str]) -> Iterator[str]:
    """The config fields that differ from those of the preset, or of a new guider, and are in no node."""
    family, task = graph.preset or ("", "")
    plain = dict(blocks_inside(families[family].make(task, graph.adapted_bindings, **index_keys(graph))))
    for path, block in blocks_inside(graph):
        usual = _usual(block, plain.get(path))
        for name, value in block.config().items():
            if name not in read | _SAME_PICTURE | _WRITTEN and name in usual and not _same(value, usual[name]):
                yield f"{'.'.join(path)}: {name}={value!r} is in no node"


def _usual(block: Block, plain: Block | None) -> Mapping[str, Any]:
    if plain is not None and type(plain) is type(block):
        return plain.config()
    try:
        return type(block)().config()
    except TypeError:  # a block with fields that have no default
        return {}


def _same(a: Any, b: Any) -> bool:  # values of inputs and fields
    try:
        return a is b or content_key(a) == content_key(b)
    except NoContentKey:
        return False
