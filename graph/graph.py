"""The graph: named blocks in order, joined by edges. It is itself a block, and a pipeline when nothing is missing.

Everything is immutable: an edit returns a new graph that shares the rest. What the edits check stands in `wiring`,
how a graph runs in `run`, how it is bound in `binding`.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self, cast

from ..registry import codecs
from .block import Block, same_component
from .errors import Problem, WireError
from .paths import block_at, edit_at
from .ports import Component, Input, Output, Outputs, Signature
from .slots import slot_problems
from .wiring import INPUTS, RESERVED, Edge, misplaced, misplaced_by, no_node, problems, rule, signature_of

if TYPE_CHECKING:
    import networkx as nx

    from .compare import Diff
    from .run import Run

Slots = Mapping[str, Sequence[str]]


class Graph(Block, name="Graph"):
    """Named blocks in order: `Graph(encode=EncodePrompt(), outputs=["images"], slots={"guider": ["denoise.guider"]})`.

    `outputs` are the names that a call gives back (without them: every name's last value). `slots` are names under
    which a call may swap blocks. Raises `WireError` with every problem at once.
    """

    nodes: Mapping[str, Block]
    edges: tuple[Edge, ...]
    slots: Mapping[str, tuple[str, ...]]
    bindings: Mapping[str, Any]
    preset: tuple[str, str] | None
    """The family and task that this graph was made for, as in `sf.presets()`; None for a graph of your own."""
    declared: tuple[str, ...]

    def __init__(
        self,
        nodes: Mapping[str, Block] | None = None,
        /,
        *,
        outputs: Iterable[str] = (),
        slots: Slots | None = None,
        preset: tuple[str, str] | None = None,
        **more: Block,
    ) -> None:
        given: dict[str, Any] = {**(nodes or {}), **more}
        if isinstance(outputs, Block):
            text = "is a reserved word: outputs=('images',) names what a call gives back. Give the node another name."
            raise WireError(Problem("name", "outputs", text, repr(outputs)))
        if isinstance(outputs, str):
            text = f"is the text {outputs!r}, not a tuple. Write outputs=({outputs!r},)."
            raise WireError(Problem("name", "outputs", text, repr(outputs), "tuple"))
        if isinstance(slots, Block):
            raise WireError(Problem("name", "slots", "is a reserved word. Give the node another name.", "slots"))
        if bad := list(_bad_nodes(given)):
            raise WireError(bad)
        declared = tuple(outputs)
        self._fill(given, rule(given), declared, {k: tuple(v) for k, v in (slots or {}).items()}, {}, preset)
        self._verify(given)

    def _fill(
        self, nodes: Mapping[str, Block], edges: tuple[Edge, ...], declared: tuple[str, ...],
        slots: Mapping[str, tuple[str, ...]], bindings: Mapping[str, Any], preset: tuple[str, str] | None,
    ) -> None:  # fmt: skip
        self.__dict__.update(nodes=nodes, edges=edges, declared=declared, slots=slots, bindings=bindings, preset=preset)

    def _verify(self, touched: Iterable[str], before: "Graph | None" = None) -> None:
        found = problems(self.nodes, self.edges, self.declared)
        if not found:
            old = misplaced(before.nodes, before.edges, before.declared) if before and touched else []
            found = [*misplaced_by(set(touched), self.nodes, self.edges, self.declared, old), *slot_problems(self)]
        if not found:
            from .spaces import made_problems  # here, for it reads loops and switches

            found = made_problems(self)
        if found:
            raise WireError(found)

    def _edit(self, touched: Iterable[str] = (), **changes: Any) -> Self:
        """A graph with some of its parts changed: edges that are not pinned are ruled anew."""
        new = object.__new__(type(self))
        new.__dict__["_spare"] = changes.pop("spare", self.spare)
        nodes = changes.get("nodes", self.nodes)
        pinned = changes.pop("pinned", [e for e in self.edges if e.pinned and e.taker in nodes])
        edges = rule(nodes, pinned) if "nodes" in changes or pinned != self.pinned else self.edges
        lost = [e for e in pinned if e not in edges]
        parts: dict[str, Any] = {n: self.__dict__[n] for n in ("declared", "slots", "bindings", "preset")}
        new._fill(nodes, (*edges, *lost), **{**parts, **{k: v for k, v in changes.items() if k != "nodes"}})
        new._verify(touched, self)
        return new

    # ------------------------------------------------------------------------------------------- reading
    @property
    def signature(self) -> Signature:
        if "_signature" not in self.__dict__:
            s = signature_of(self.nodes, self.edges, self.declared)
            needed = {name: part for name, part in s.components.items() if name not in self.bindings}
            self.__dict__["_parts"] = s.components
            self.__dict__["_signature"] = Signature(s.inputs, s.outputs, needed)
        return self.__dict__["_signature"]

    @property
    def inputs(self) -> Mapping[str, Input]:
        """What a call takes, by name, in the order of reading."""
        return self.signature.inputs

    @property
    def outputs(self) -> Mapping[str, Output]:
        """What a call gives, by name."""
        return self.signature.outputs

    @property
    def components(self) -> Mapping[str, Component]:
        """Every component that the blocks need, bound or not; `bindings` says what is bound."""
        _ = self.signature
        return self.__dict__["_parts"]

    @property
    def pinned(self) -> list[Edge]:
        """The edges that somebody chose with `wire`."""
        return [e for e in self.edges if e.pinned]

    def __getitem__(self, path: str) -> Block:
        """The block at a path: `graph["denoise.guider"]`."""
        return block_at(self, path)

    def children(self) -> Mapping[str, Block]:
        return self.nodes

    def config(self) -> dict[str, Any]:
        return {}

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, Graph):
            return False
        same_nodes = list(self.nodes) == list(other.nodes) and all(a == other.nodes[n] for n, a in self.nodes.items())
        mine, theirs = ((set(g.edges), g.declared, g.slots, g.preset) for g in (self, other))
        return same_nodes and mine == theirs and _same_bindings(self.bindings, other.bindings)

    def __hash__(self) -> int:
        return hash((tuple(self.nodes.items()), frozenset(self.edges), self.declared, tuple(sorted(self.bindings))))

    def __repr__(self) -> str:
        return f"Graph({', '.join(f'{n}={type(b).__name__}' for n, b in self.nodes.items())})"

    # ------------------------------------------------------------------------------------------- changing
    def replace(self, path: str, block: Block) -> Self:
        """The same graph with another block at `path` ("decode", "denoise.guider")."""

        def edit(graph: "Graph", name: str) -> "Graph":
            _must_have(graph, name)
            return graph._edit([name], nodes={**graph.nodes, **_node(name, block)})

        return edit_at(self, path, edit)

    def insert(self, name: str, block: Block, *, before: str | None = None, after: str | None = None) -> Self:
        """The same graph with a block more, before or after a node; a path there says which graph inside."""
        if before is not None and after is not None:
            text = f"both before={before!r} and after={after!r} are given. Give one."
            raise WireError(Problem("place", name, text))
        anchor = before if before is not None else after
        if anchor is None:
            anchor, after = (([*self.nodes] or [""])[-1], "")

        def edit(graph: "Graph", at: str) -> "Graph":
            _must_have(graph, at)
            _must_be_free(graph, name)
            items = list(graph.nodes.items())
            i = list(graph.nodes).index(at) + (before is None)
            return graph._edit([name], nodes=dict([*items[:i], *_node(name, block).items(), *items[i:]]))

        return edit_at(self, anchor, edit) if anchor else self._edit([name], nodes=_node(name, block))

    def remove(self, path: str) -> Self:
        """The same graph without that node: its readers take the next nearest value, or it becomes an input."""

        def edit(graph: "Graph", name: str) -> "Graph":
            _must_have(graph, name)
            if leaning := [e for e in graph.pinned if e.giver == name]:
                target = leaning[0].target
                text = f"{target} is pinned to it. Wire it elsewhere first: graph.wire({target!r}, …)."
                raise WireError(Problem("pinned", name, text))
            return graph._edit(nodes={n: b for n, b in graph.nodes.items() if n != name})

        slots = {s: tuple(p for p in paths if not f"{p}.".startswith(f"{path}.")) for s, paths in self.slots.items()}
        return edit_at(self._edit(slots={s: p for s, p in slots.items() if p}), path, edit)

    def rename(self, path: str, name: str) -> Self:
        """The same graph with a node called otherwise; pinned edges and slots follow."""
        head, _, old = path.rpartition(".")
        new_path = f"{head}.{name}" if head else name

        def edit(graph: "Graph", at: str) -> "Graph":
            _must_have(graph, at)
            _must_be_free(graph, name)

            def moved(n: str) -> str:
                return name if n == at else n

            pinned = [Edge(moved(e.giver), e.output, moved(e.taker), e.input, True) for e in graph.pinned]
            nodes = {moved(n): b for n, b in graph.nodes.items()}
            bad = list(_bad_nodes({name: nodes[name]}))
            if bad:
                raise WireError(bad)
            return graph._edit(nodes=nodes, pinned=pinned, **({"slots": slots} if graph is self else {}))

        slots = {
            s: tuple(new_path + p.removeprefix(path) if p == path or p.startswith(path + ".") else p for p in paths)
            for s, paths in self.slots.items()
        }
        if not head:
            return edit_at(self, old, edit)
        renamed = edit_at(self._edit(slots={}), path, edit)
        return renamed._edit(slots=slots)

    def wire(self, target: str, source: str | None) -> Self:
        """Pin an edge: `graph.wire("refine.positive", "encode.positive")`. `None` as source gives it back to the rule.

        `"inputs.name"` as source makes the target read the graph's input `name`.
        """
        path, _, port = target.rpartition(".")
        if not path:
            text = f"is no input of a node. Write 'node.{target}'. There are: {', '.join(self.nodes)}."
            raise WireError(Problem("no-input", target, text))

        def edit(graph: "Graph", name: str) -> "Graph":
            pinned = [e for e in graph.pinned if (e.taker, e.input) != (name, port)]
            if source is not None:
                giver, _, output = source.removeprefix(_shared_head(path, source)).rpartition(".")
                pinned.append(Edge(giver or INPUTS, output, name, port, True))
            return graph._edit(nodes=graph.nodes, pinned=pinned)

        return edit_at(self, path, edit)

    def only(self, *outputs: str) -> Self:
        """The sub-graph that gives these outputs: other blocks go, and what only they needed is not asked for."""
        if not outputs:
            raise WireError(Problem("no-output", "only", f"name an output. There are: {', '.join(self.outputs)}."))
        from .analysis import ancestors

        asked = self._edit(declared=tuple(outputs))
        kept = ancestors(asked.nodes, asked.edges, outputs)
        slots = {s: tuple(p for p in paths if p.partition(".")[0] in kept) for s, paths in self.slots.items()}
        nodes = {n: b for n, b in self.nodes.items() if n in kept}
        parts = signature_of(nodes, rule(nodes), ()).components
        bindings = {n: v for n, v in self.bindings.items() if n in parts}
        pinned = [e for e in self.pinned if e.taker in kept]
        new_slots = {s: p for s, p in slots.items() if p}
        return self._edit(nodes=nodes, pinned=pinned, declared=tuple(outputs), slots=new_slots, bindings=bindings)

    @property
    def spare(self) -> Mapping[str, Any]:
        """Components that no block here needs, for sister tasks that do: see `task`. No part of what the graph is."""
        return self.__dict__.get("_spare", {})

    def sparing(self, components: Mapping[str, Any]) -> Self:
        """The same graph with these components at hand for its sister tasks."""
        return self._edit(spare={**self.spare, **components})

    def as_preset(self, family: str, task: str) -> Self:
        """The same graph, known as this task of a preset family: what `task` and error texts refer to."""
        return self._edit(preset=(family, task))

    def with_children(self, children: Mapping[str, Block]) -> Self:
        return self._edit(nodes=dict(children))

    # ------------------------------------------------------------------------------------------- binding
    def bind(self, components: Mapping[str, Any] | None = None, /, **more: Any) -> Self:
        """The same graph holding these components: objects, or handles that load at their first use."""
        from .binding import bound

        return cast(Self, bound(self, {**(components or {}), **more}))

    def using(self, **swaps: Any) -> Self:
        """The same graph with components or slots swapped: objects, published names, or config dicts."""
        from .binding import using

        return cast(Self, using(self, swaps))

    def task(self, name: str) -> "Graph":
        """The sister graph for another task of the family, with the same components: `pipe.task("inpaint")`."""
        from .binding import sister

        return sister(self, name)

    # ------------------------------------------------------------------------------------------- running
    def __call__(self, *first: Any, **values: Any) -> Outputs:
        """Run it. Keywords are inputs, components and slots; one positional value is the first input."""
        return self.stream(*first, **values).result()

    def stream(self, *first: Any, **values: Any) -> "Run":
        """A run that hands out its events: `for event in (run := graph.stream(…)): …`, then `run.outputs`."""
        from .call import prepare

        return prepare(self, first, values)

    # ------------------------------------------------------------------------------------------- looking
    def check(self) -> list[Problem]:
        """Everything that stands between this graph and a run: unbound components, latent spaces, missing files."""
        from .binding import check

        return check(self)

    def diff(self, other: "Graph") -> "Diff":
        """What `other` has that this graph has not, and the reverse: nodes, edges that moved, components."""
        from .compare import diff

        return diff(self, other)

    def explain(self, port: str) -> str:
        """Where a port takes its value from: `graph.explain("denoise.guider.latents")`."""
        from .compare import explain

        return explain(self, port)

    def digraph(self) -> "nx.MultiDiGraph[str]":
        """The graph as networkx sees it, for analysis; each edge carries its `Edge` as `edge`."""
        from .analysis import digraph

        return digraph(self)

    def show(self, how: str = "text") -> str:
        """The graph drawn: "text", "mermaid" or "svg"."""
        from .draw import draw

        return draw(self, how)

    def _repr_html_(self) -> str:
        return self.show("svg")

    def save(self, folder: Any) -> None:
        """Write `graph.json` into a folder: nodes, config, every edge, slots, outputs, and what is bound."""
        from .files import save

        save(self, folder)

    def save_pretrained(self, folder: Any, **more: Any) -> Any:
        """Write all of it into a folder that others load too: see `presets.save.save_pretrained`. Gives the folder."""
        return codecs["save_pretrained"](self, folder, **more)

    @staticmethod
    def load(folder: Any) -> "Graph":
        """Read a graph from a folder, or from its `graph.json`."""
        from .files import load

        return load(folder)


def _bad_nodes(nodes: Mapping[str, Any]) -> Iterable[Problem]:
    """Names and values that cannot be nodes."""
    for name, block in nodes.items():
        if name in RESERVED:
            yield Problem("name", name, "is a reserved word. Give the node another name.", name)
        elif not name.isidentifier() or name.startswith("_"):
            text = "is no name for a node: use letters, digits and underscores, beginning with a letter."
            yield Problem("name", name, text, name)
        if isinstance(block, type) and issubclass(block, Block):
            text = f"is the class {block.__name__}, not a block. Make one: {name}={block.__name__}()."
            yield Problem("not-a-block", name, text, block.__name__, "Block")
        elif not isinstance(block, Block):
            text = f"is {type(block).__name__}, not a block. Subclass Block and write its __call__."
            yield Problem("not-a-block", name, text, type(block).__name__, "Block")


def _node(name: str, block: Any) -> dict[str, Block]:
    if bad := list(_bad_nodes({name: block})):
        raise WireError(bad)
    return {name: block}


def _must_have(graph: Graph, name: str) -> None:
    if name not in graph.nodes:
        raise WireError(no_node(name, graph.nodes))


def _must_be_free(graph: Graph, name: str) -> None:
    if name in graph.nodes:
        raise WireError(
            Problem("name", name, f"is taken by {type(graph.nodes[name]).__name__}. Choose another name.", name)
        )


def _same_bindings(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    return a.keys() == b.keys() and all(same_component(a[n], b[n]) for n in a)


def _shared_head(path: str, source: str) -> str:
    """The part of a target's path that a full source path repeats: edges join nodes of one graph."""
    head = f"{path.rpartition('.')[0]}."
    return head if len(head) > 1 and source.startswith(head) else ""
