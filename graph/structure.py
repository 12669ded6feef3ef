"""The value of a graph (nodes, edges, declared outputs, slots, bindings), and the protocol of blocks that hold graphs.

Run orders, runs, checks, files and drawings read this value and this protocol. They know no container by name.
"""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, Self

from .block import Block
from .cache import cached
from .events import Events
from .fields import Adapters, same_component
from .paths import block_at
from .pickled import refuse_weights
from .ports import Component, Input, Output, Signature
from .typing import port_of
from .wiring import Edge, rule, signature_of

Values = Mapping[str, Any]


class Runner(Protocol):
    """A run, as a container inside it uses it. Its methods give generators: `yield from` them."""

    @property
    def insides(self) -> "Sequence[Inside]":
        """The graphs of the container, as its own `insides()` gives them."""
        ...

    def once(self, inside: "Inside", values: Values) -> Events:
        """Run a graph with these inputs. Gives its outputs."""
        ...

    def each(
        self, inside: "Inside", values: Values, start: Values, merge: Callable[[Values, Values], Values]
    ) -> Events:
        """Run a graph once for each element of `values[inside.over]`. Gives the last state.

        The state begins as `start`; after each turn it is `merge(state, outputs)`. It is saved between turns, and a
        resumed run goes on from it. For a graph that carries, it is the values of the carried inputs. Nodes that depend
        on neither the item nor a carried port run once. `values[inside.memory]` is the memory of the first turn, and
        the last state has the memory after the last turn under that name.
        """
        ...


class Inside(NamedTuple):
    """A graph that a container holds, and how its ports meet the container's.

    An input of the graph that is neither the item nor carried takes the container's input of the same name.
    """

    graph: "Structure"
    outputs: tuple[str, ...]
    """The outputs of the graph that the container wants."""
    part: str = ""
    """The part of a path that leads to the graph, such as the name of a case; "" for the container's own path."""
    over: str = ""
    """The container's input whose elements the graph gets, one in each turn; "" where it runs once."""
    item: str = ""
    """The graph's input that is such an element."""
    carried: tuple[str, ...] = ()
    """Inputs of the graph that take the output of that name of the turn before."""
    memory: str = ""
    """The container's input with the memory that the nodes of the graph begin with, and the key of their memory in the
    last state; "" for none."""

    @property
    def repeated(self) -> bool:
        """Whether the graph runs once for each element."""
        return bool(self.over)

    @property
    def varying(self) -> frozenset[str]:
        """The inputs of the graph that change from turn to turn."""
        return frozenset((self.item, *self.carried)) if self.over else frozenset()

    @property
    def latents(self) -> str | None:
        """The carried input that is latents: then the turns are steps of denoising."""
        inputs = self.graph.inputs
        tags = ((name, port_of(inputs[name].type)) for name in self.carried)
        return next((name for name, tag in tags if tag is not None and tag.kind == "latents"), None)

    def path(self, container: str) -> str:
        """The path of the graph, in a container at this path."""
        return f"{container}.{self.part}" if self.part else container


class Container(Block, abstract=True):
    """A block that holds graphs. It lists them with `insides`, and runs them with the methods of a `Runner`."""

    @abstractmethod
    def insides(self) -> Sequence[Inside]:
        """The graphs that it holds."""
        ...

    @abstractmethod
    def run_inside(self, runner: Runner, values: dict[str, Any]) -> Events:
        """Run the graphs inside with these inputs of the container: a generator that gives the container's outputs."""
        ...

    @abstractmethod
    def caption(self, names: Mapping[str, str]) -> str:
        """The label in a drawing; `names` are its ports' names outside, where they differ."""
        ...

    def children(self) -> Mapping[str, Block]:
        """The graphs, by their part of a path."""
        return {inside.part: inside.graph for inside in self.insides()}

    def settings(self) -> dict[str, Any]:
        """Its config without the graphs."""
        return {name: value for name, value in self.config().items() if not _holds_graphs(value)}


class Structure(Container, abstract=True):
    """Named blocks in order, joined by edges: a `Graph` without its methods. `edits` makes changed ones."""

    nodes: Mapping[str, Block]
    edges: tuple[Edge, ...]
    slots: Mapping[str, tuple[str, ...]]
    bindings: Mapping[str, Any]
    """Components by name. Other tasks of the family may need those that no block of this graph needs: see `task`."""
    preset: tuple[str, str] | None
    """The family and task that this graph was made for, as in `sf.presets()`; None for a graph of your own."""
    adapters: Adapters | None
    """The adapters on its models. `bindings` are without them; see `adapted_bindings`."""
    declared: tuple[str, ...]
    """The outputs that a call gives back; empty for every name's last value."""

    @classmethod
    def of(cls, nodes: Mapping[str, Block], edges: tuple[Edge, ...] | None = None, **parts: Any) -> Self:
        """A graph of these parts, unchecked; without edges, those of the wiring rule. Parts are fields by name."""
        new = object.__new__(cls)
        new._fill(nodes, rule(nodes) if edges is None else edges, **parts)
        return new

    def _fill(
        self, nodes: Mapping[str, Block], edges: tuple[Edge, ...], *, declared: tuple[str, ...] = (),
        slots: Mapping[str, tuple[str, ...]] | None = None, bindings: Mapping[str, Any] | None = None,
        preset: tuple[str, str] | None = None, adapters: Adapters | None = None,
    ) -> None:  # fmt: skip
        self.__dict__.update(nodes=nodes, edges=edges, declared=declared, preset=preset, adapters=adapters)
        self.__dict__.update(slots={} if slots is None else slots, bindings={} if bindings is None else bindings)

    @property
    def signature(self) -> Signature:
        """The graph as a block: its inputs, its outputs, and the components that are not bound."""
        return cached(self, "signature", self._unbound_signature)

    def _unbound_signature(self) -> Signature:
        s = self._wired_signature()
        unbound = {name: part for name, part in s.components.items() if name not in self.bindings}
        return Signature(s.inputs, s.outputs, unbound)

    def _wired_signature(self) -> Signature:
        return cached(self, "wired signature", lambda: signature_of(self.nodes, self.edges, self.declared))

    @property
    def adapted_bindings(self) -> Mapping[str, Any]:
        """The bindings with the adapters on the models. A run loads these."""
        if (adapters := self.adapters) is None:
            return self.bindings
        return cached(self, "adapted bindings", lambda: adapters.on(self.bindings))

    @property
    def inputs(self) -> Mapping[str, Input]:
        """The inputs of a call, by name, in the order of reading."""
        return self.signature.inputs

    @property
    def outputs(self) -> Mapping[str, Output]:
        """The outputs of a call, by name."""
        return self.signature.outputs

    @property
    def components(self) -> Mapping[str, Component]:
        """Every component that the blocks need, bound or not; `bindings` has the bound ones."""
        return self._wired_signature().components

    @property
    def pinned(self) -> list[Edge]:
        """The edges that somebody chose with `wire`."""
        return [e for e in self.edges if e.pinned]

    @property
    def wanted(self) -> tuple[str, ...]:
        """The names of the outputs that a call gives back."""
        return self.declared or tuple(self.outputs)

    def __getitem__(self, path: str) -> Block:
        """The block at a path: `graph["denoise.guider"]`."""
        return block_at(self, path)

    def children(self) -> Mapping[str, Block]:
        """The nodes."""
        return self.nodes

    def insides(self) -> tuple[Inside, ...]:
        """The graph itself, as one that runs once."""
        return (Inside(self, self.wanted),)

    def run_inside(self, runner: Runner, values: dict[str, Any]) -> Events:
        """Run it once."""
        return runner.once(runner.insides[0], values)

    def caption(self, names: Mapping[str, str]) -> str:
        """A label with the number of nodes."""
        return f"graph of {len(self.nodes)}"

    def config(self) -> dict[str, Any]:
        """Nothing: a graph has parts, and no settings."""
        return {}

    def __getstate__(self) -> dict[str, Any]:
        refuse_weights(self.bindings)
        return super().__getstate__()

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, Structure):
            return False
        same_nodes = list(self.nodes) == list(other.nodes) and all(a == other.nodes[n] for n, a in self.nodes.items())
        a, b = ((set(g.edges), g.declared, g.slots, g.preset) for g in (self, other))
        return same_nodes and a == b and _same_bindings(self.adapted_bindings, other.adapted_bindings)

    def __hash__(self) -> int:
        return hash((tuple(self.nodes.items()), frozenset(self.edges), self.declared, tuple(sorted(self.bindings))))


def _same_bindings(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    return a.keys() == b.keys() and all(same_component(a[n], b[n]) for n in a)


def _holds_graphs(value: Any) -> bool:  # Any: a config value
    if isinstance(value, Mapping):
        return any(map(_holds_graphs, value.values()))
    return isinstance(value, Structure)
