"""Keys of the nodes of a run order, made of everything that their outputs are computed from."""

import sys
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, cast
from uuid import uuid4

from ..block import Block
from ..cache import cached
from ..run_order import Line, RunOrder, Value
from ..structure import Values
from ..wiring import INPUTS
from .code import code_key, digest, digest_texts
from .contents import content_key, held_components
from .library_values import NoContentKey

_COMPONENT_KEYS: ContextVar[dict[int, tuple[str, str]] | None] = ContextVar("sfumato_component_keys", default=None)


@contextmanager
def unchanged_components() -> Generator[None]:
    """Make the key of each component once for all runs within it. No component may change meanwhile."""
    token = _COMPONENT_KEYS.set({})
    try:
        yield
    finally:
        _COMPONENT_KEYS.reset(token)


@dataclass(frozen=True)
class NodeKey:
    """The key of a node's outputs, made of everything that they are computed from.

    key: of all of it. parts: by name, the key of the code, of each config field, input and component. no_key: why the
    outputs are not kept, or "".
    """

    key: str
    parts: Mapping[str, str]
    no_key: str = ""


def node_keys(
    order: RunOrder, inputs: Values, bindings: Values, origins: Mapping[str, str] = MappingProxyType({})
) -> dict[str, NodeKey]:
    """The key of each node of a run order, by name: one pass along it, linear in its size.

    The key of a node is made of its block, its components, and the sources of its inputs: the contents of a value that
    the call passes, or the key of the node that gives the value. origins: by node, a key of the part of its work that
    another run has done with other inputs.
    """
    sources = _Sources(inputs, bindings)
    found: dict[str, NodeKey] = {}
    for line in order.lines:
        parts: dict[str, str] = {}
        reasons: list[str] = []
        for name, (key, reason) in (
            *_block_parts(line),
            *((port, sources.value(value)) for port, value in (*line.args, *line.knobs)),
            *((f"component {name}", sources.component(name)) for name in _component_names(line)),
            ("pure", sources.purity(line)),
            *((("resumed from", (origins[line.name], "")),) if line.name in origins else ()),
        ):
            parts[name] = key
            if reason:
                reasons.append(reason)
        node = NodeKey(digest_texts((*parts, *parts.values())), parts, "; ".join(reasons))
        found[line.name] = node
        sources.add(line, node)
    return found


def outputs_key(order: RunOrder, inputs: Values, bindings: Values) -> str:
    """The key of all outputs of a run, made of everything that they are computed from.

    Raises:
        NoContentKey: outputs that differ each time, or parts whose contents cannot be read.
    """
    keys = node_keys(order, inputs, bindings)
    givers = {value[0]: keys[value[0]] for _, value in order.outputs if value[0] != INPUTS}
    if any(node.no_key for node in givers.values()):
        without = {name for name, node in keys.items() if node.no_key}
        first = [line.name for line in order.lines if line.name in without and without.isdisjoint(_givers(line))]
        raise NoContentKey("; ".join(f"{name}: {keys[name].no_key}" for name in first))
    return digest_texts([repr(order.outputs), *(node.key for node in givers.values())])


def _givers(line: Line) -> Iterable[str]:
    """The nodes whose outputs a node reads."""
    return (value[0] for _, value in (*line.args, *line.knobs))


def key_by_values(line: Line, node: NodeKey, values: Mapping[Value, Any]) -> NodeKey | None:
    """The key of a node by the values of its inputs, in place of the nodes that give them; None where it has none.

    Other nodes may give the same values, such as the number of prompts of another prompt. Only plain values are read:
    tensors would take longer than most blocks.
    """
    made = {port: values[value] for port, value in (*line.args, *line.knobs) if value[0] != INPUTS}
    if node.no_key or not made or not all(map(_is_plain, made.values())):
        return None
    parts = {**node.parts, **{port: content_key(value) for port, value in made.items()}}
    return NodeKey(digest_texts(("by values", *parts, *parts.values())), parts)


def _is_plain(value: Any) -> bool:  # any value that flows in a graph
    """Whether a value is a number, a text that is no address, None, or a tuple of such."""
    if isinstance(value, tuple):
        return all(map(_is_plain, cast("tuple[object, ...]", value)))
    if type(value) is str:
        return not value.startswith(("http://", "https://"))
    return value is None or type(value) in (bool, int, float)


class _Sources:
    """The keys of values and components, each with the reason why there is none, or ""."""

    def __init__(self, inputs: Values, bindings: Values) -> None:
        self._inputs, self._bindings = inputs, bindings
        self._values: dict[Value, tuple[str, str]] = {}
        self._components: dict[str, tuple[str, str]] = {}

    def add(self, line: Line, node: NodeKey) -> None:
        """Add the outputs of a node."""
        reason = f"{line.name} is not kept" if node.no_key else ""
        self._values.update((value, (f"{node.key}.{value[1]}", reason)) for value in line.outputs)

    def value(self, value: Value) -> tuple[str, str]:
        """The key of a value at a wire. The default of an input is in the code of its block."""
        if value not in self._values:
            passed = value[0] == INPUTS and value[1] in self._inputs
            self._values[value] = _key_of(self._inputs[value[1]]) if passed else ("default", "")
        return self._values[value]

    def component(self, name: str) -> tuple[str, str]:
        """The key of a component that the graph binds."""
        if name not in self._components:
            self._components[name] = _component_key(self._bindings[name]) if name in self._bindings else ("", "")
        return self._components[name]

    def purity(self, line: Line) -> tuple[str, str]:
        """A constant for a pure node; for others a text that no other run has, and the reason."""
        reason = self._impure(line)
        return (uuid4().hex, reason) if reason else ("pure", "")

    def _impure(self, line: Line) -> str:
        for block in _blocks(line.block):
            if not block.pure or (block.random_without and block is not line.block):
                return f"{type(block).__name__} is not pure"
        args = dict(line.args)
        for name in line.block.random_without:
            source = args.get(name)
            if source is None or (source[0] == INPUTS and self._inputs.get(source[1]) is None):
                return f"{type(line.block).__name__} draws a new {name}"
        return ""


def _block_parts(line: Line) -> Sequence[tuple[str, tuple[str, str]]]:
    """The keys of code, config and own components. Kept with the block, unless it names files, which can change."""
    block = line.block
    if cached(block, "may name files", lambda: any(map(_may_name_files, block.config().values()))):
        return _parts_of(block)
    return cached(block, "memo parts", lambda: _parts_of(block))


def _may_name_files(value: Any) -> bool:  # of a config field
    return not (value is None or isinstance(value, bool | int | float))


def _parts_of(block: Block) -> list[tuple[str, tuple[str, str]]]:
    torch = sys.modules.get("torch")  # its kernels are part of what a block computes
    parts = [("code", (digest(code_key(type(block)), torch.__version__ if torch else ""), ""))]
    parts += [(f"config {name}", _key_of(value)) for name, value in block.config().items()]
    return parts + [(f"component {name}", _key_of(value)) for name, value in held_components(block)]


def _component_names(line: Line) -> list[str]:
    return [outer for _, outer in line.components] if line.container is None else list(line.names.values())


def _key_of(value: Any) -> tuple[str, str]:  # any value that flows in a graph
    """The key of a value; where it has none, one that no other value has, and the reason."""
    try:
        return content_key(value), ""
    except NoContentKey as error:
        return uuid4().hex, f"{error} has no key"


def _component_key(component: Any) -> tuple[str, str]:
    known = _COMPONENT_KEYS.get()
    if known is None:
        return _key_of(component)
    if id(component) not in known:
        known[id(component)] = _key_of(component)
    return known[id(component)]


def _blocks(block: Block) -> list[Block]:
    return [block, *(inner for child in block.children().values() for inner in _blocks(child))]
