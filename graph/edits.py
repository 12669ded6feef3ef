"""Making and changing graphs: each edit gives a new graph that shares the rest, or a `WireError` with every problem."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar, cast

from .analysis import ancestors
from .block import Block
from .errors import Problem, WireError
from .paths import blocks_inside, no_child, without_names
from .slots import slot_problems
from .spaces import made_conflicts
from .structure import Structure
from .typing import type_text
from .validate import Unfit, fitted, value_text
from .wiring import (
    INPUTS,
    RESERVED,
    Edge,
    caused_by,
    last_givers,
    misplaced,
    no_node,
    rule,
    signature_of,
    wire_problems,
)

S = TypeVar("S", bound=Structure)
B = TypeVar("B", bound=Block)

_PARTS = ("nodes", "declared", "slots", "bindings", "preset", "adapters")
"""The parts of a graph beside its edges."""


def check_made(graph: Structure, touched: Iterable[str], before: Structure | None = None) -> None:
    """Raise a `WireError` with the problems of a graph. `touched` are the nodes that an edit of `before` changed."""
    problems = wire_problems(graph.nodes, graph.edges, graph.declared)
    if not problems:
        old = misplaced(before.nodes, before.edges, before.declared) if before and touched else []
        beside = () if before else graph.declared  # an edit is passed only the outputs that it adds
        wrong = misplaced(graph.nodes, graph.edges, graph.declared, beside=beside) if touched else []
        problems = [*caused_by(set(touched), wrong, old, last_givers(graph.nodes)), *slot_problems(graph)]
    if problems := problems or made_conflicts(graph):
        raise WireError(problems)


def edited(graph: S, touched: Iterable[str] = (), **changes: Any) -> S:
    """The graph with some of its parts changed: edges that are not pinned are ruled anew, and adapters fitted anew."""
    nodes = changes.get("nodes", graph.nodes)
    pinned = changes.pop("pinned", [e for e in graph.edges if e.pinned and e.taker in nodes])
    edges = rule(nodes, pinned) if "nodes" in changes or pinned != graph.pinned else graph.edges
    lost = [e for e in pinned if e not in edges]
    if graph.adapters is not None and "bindings" in changes and "adapters" not in changes:
        changes["adapters"] = graph.adapters.fitted(changes["bindings"])
    parts: dict[str, Any] = {n: graph.__dict__[n] for n in _PARTS}
    new = type(graph).of(**{**parts, **changes}, edges=(*edges, *lost))
    check_made(new, touched, graph)
    return new


def replaced(graph: S, path: str, block: Block, outputs: Sequence[str] = ()) -> S:
    """`graph.replace`."""

    def edit(graph: Structure, name: str) -> Structure:
        _must_have(graph, name)
        nodes = {**graph.nodes, **_node(name, block)}
        return edited(graph, [name], nodes=nodes, declared=_declared(graph, outputs))

    return _covering(_edit_at(graph, path, edit, outputs), path, block)


def inserted(
    graph: S, name: str, block: Block, before: str | None, after: str | None, outputs: Sequence[str] = ()
) -> S:
    """`graph.insert`."""
    if before is not None and after is not None:
        text = f"got both before={before!r} and after={after!r}. Pass one."
        raise WireError(Problem("place", name, text))
    anchor = before if before is not None else after
    if anchor is None:
        anchor, after = (([*graph.nodes] or [""])[-1], "")

    def edit(graph: Structure, at: str) -> Structure:
        _must_have(graph, at)
        _must_be_free(graph, name)
        items = list(graph.nodes.items())
        i = list(graph.nodes).index(at) + (before is None)
        nodes = dict([*items[:i], *_node(name, block).items(), *items[i:]])
        return edited(graph, [name], nodes=nodes, declared=_declared(graph, outputs))

    if not anchor:
        return edited(graph, [name], nodes=_node(name, block), declared=_declared(graph, outputs))
    head = anchor.rpartition(".")[0]
    return _covering(_edit_at(graph, anchor, edit, outputs), f"{head}.{name}" if head else name, block)


def _declared(graph: Structure, more: Sequence[str]) -> tuple[str, ...]:
    """The declared outputs of a graph and more; none where every final value is an output."""
    return tuple(dict.fromkeys((*graph.declared, *more))) if graph.declared else ()


def _covering(graph: S, path: str, block: Block) -> S:
    """The graph with slots that also cover the new block at `path`.

    A slot covers a node inside it that has the name and the outputs of the slot's own node: the guider of a second
    loop.
    """
    inside = [(".".join((path, *names)), names[-1], b) for names, b in blocks_inside(block) if names]
    slots: dict[str, tuple[str, ...]] = {}
    for slot, paths in graph.slots.items():
        kinds = {(p.rpartition(".")[2], *without_names(graph[p])[0].signature.outputs) for p in paths}
        more = [p for p, name, b in inside if (name, *b.signature.outputs) in kinds]
        slots[slot] = tuple(dict.fromkeys((*paths, *more)))
    return graph if slots == graph.slots else edited(graph, slots=slots)


def removed(graph: S, path: str) -> S:
    """`graph.remove`."""

    def edit(graph: Structure, name: str) -> Structure:
        _must_have(graph, name)
        if readers := [e for e in graph.pinned if e.giver == name]:
            target = readers[0].target
            text = f"{target} is pinned to it. Wire another source first: graph.wire({target!r}, …)."
            raise WireError(Problem("pinned", name, text))
        return edited(graph, nodes={n: b for n, b in graph.nodes.items() if n != name})

    slots = {s: tuple(p for p in paths if not f"{p}.".startswith(f"{path}.")) for s, paths in graph.slots.items()}
    return _edit_at(edited(graph, slots={s: p for s, p in slots.items() if p}), path, edit)


def renamed(graph: S, path: str, name: str) -> S:
    """`graph.rename`."""
    head, _, old = path.rpartition(".")
    new_path = f"{head}.{name}" if head else name

    def edit(inner: Structure, at: str) -> Structure:
        _must_have(inner, at)
        _must_be_free(inner, name)

        def moved(n: str) -> str:
            return name if n == at else n

        pinned = [Edge(moved(e.giver), e.output, moved(e.taker), e.input, True) for e in inner.pinned]
        nodes = {moved(n): b for n, b in inner.nodes.items()}
        if bad := list(bad_nodes({name: nodes[name]})):
            raise WireError(bad)
        return edited(inner, nodes=nodes, pinned=pinned, **({"slots": slots} if inner is graph else {}))

    slots = {
        s: tuple(new_path + p.removeprefix(path) if p == path or p.startswith(path + ".") else p for p in paths)
        for s, paths in graph.slots.items()
    }
    if not head:
        return _edit_at(graph, old, edit)
    return edited(_edit_at(edited(graph, slots={}), path, edit), slots=slots)


def wired(graph: S, target: str, source: str | None) -> S:
    """`graph.wire`."""
    path, _, port = target.rpartition(".")
    if not path:
        text = f"is no input of a node. Write 'node.{target}'. There are: {', '.join(graph.nodes)}."
        raise WireError(Problem("no-input", target, text))

    def edit(graph: Structure, name: str) -> Structure:
        pinned = [e for e in graph.pinned if (e.taker, e.input) != (name, port)]
        if source is not None:
            giver, _, output = source.removeprefix(_shared_head(path, source)).rpartition(".")
            pinned.append(Edge(giver or INPUTS, output, name, port, True))
        return edited(graph, nodes=graph.nodes, pinned=pinned)

    return _edit_at(graph, path, edit)


def only(graph: S, outputs: tuple[str, ...]) -> S:
    """`graph.only`."""
    if not outputs:
        raise WireError(Problem("no-output", "only", f"name an output. There are: {', '.join(graph.outputs)}."))
    declared = edited(graph, declared=outputs)
    kept = ancestors(declared.nodes, declared.edges, outputs)
    slots = {s: tuple(p for p in paths if p.partition(".")[0] in kept) for s, paths in graph.slots.items()}
    nodes = {n: b for n, b in graph.nodes.items() if n in kept}
    parts = signature_of(nodes, rule(nodes), ()).components
    bindings = {n: v for n, v in graph.bindings.items() if n in parts}
    pinned = [e for e in graph.pinned if e.taker in kept]
    slots = {s: p for s, p in slots.items() if p}
    return edited(graph, nodes=nodes, pinned=pinned, declared=outputs, slots=slots, bindings=bindings)


# ------------------------------------------------------------------------------------------------ paths
def _edit_at(block: B, path: str, edit: Callable[[Structure, str], Structure], outputs: Sequence[str] = ()) -> B:
    """The same block with `edit(graph, node)` done in the graph that holds the last node of `path`.

    `outputs` are those that the edit adds: each graph around it has them too.
    """
    return cast(B, _descend(block, path.split("."), edit, outputs, []))


def _descend(
    block: Block, path: list[str], edit: Callable[[Structure, str], Structure], outputs: Sequence[str], done: list[str]
) -> Block:
    children = block.children()
    if isinstance(block, Structure) and len(path) == 1:
        try:
            return edit(block, path[0])
        except WireError as error:
            raise WireError(_placed(error, done)) from None
    head, *rest = path
    if "" in children:
        head, rest = "", path
    elif head not in children or not rest:
        raise WireError(no_child(head, children.get(head, block), done))
    new = _descend(children[head], rest, edit, outputs, [*done, head] if head else done)
    try:
        around = block.with_children({**children, head: new})
        return edited(around, declared=_declared(around, outputs)) if isinstance(around, Structure) else around
    except WireError as error:
        raise WireError(_placed(error, done)) from None


def _placed(error: WireError, done: list[str]) -> list[Problem]:
    """The problems of an inner graph, named from outside."""
    if not done:
        return list(error.problems)
    head = ".".join(done)
    return [Problem(p.code, f"{head}.{p.place}", p.message, p.got, p.needed, p.candidates) for p in error.problems]


def _shared_head(path: str, source: str) -> str:
    """The part of a target's path that a full source path repeats: edges join nodes of one graph."""
    head = f"{path.rpartition('.')[0]}."
    return head if len(head) > 1 and source.startswith(head) else ""


# ------------------------------------------------------------------------------------------------ nodes
def bad_nodes(nodes: Mapping[str, Any]) -> Iterable[Problem]:
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


def check_parts(nodes: Any, outputs: Any, slots: Any) -> None:
    """Raise a `WireError` where parts of a new graph are no mappings and lists of names, or are blocks."""
    if isinstance(outputs, Block):
        text = "is a reserved word: outputs=('images',) names what a call gives back. Give the node another name."
        raise WireError(Problem("name", "outputs", text, repr(outputs)))
    if isinstance(outputs, str):
        text = f"is the text {outputs!r}, not a tuple. Write outputs=({outputs!r},)."
        raise WireError(Problem("name", "outputs", text, repr(outputs), "tuple"))
    if isinstance(slots, Block):
        raise WireError(Problem("name", "slots", "is a reserved word. Give the node another name.", "slots"))
    if wrong := list(_bad_parts(nodes, outputs, slots)):
        raise WireError(wrong)


def _bad_parts(nodes: Any, outputs: Any, slots: Any) -> Iterable[Problem]:
    """Parts of a new graph that are no mappings and lists of names."""
    parts = {
        "nodes": (nodes, Mapping[str, Any] | None, "Graph(name=block, …)"),
        "outputs": (outputs, Iterable[Any], "outputs=('images',)"),
        "slots": (slots, Mapping[str, Any] | None, "slots={'guider': ['denoise.guider']}"),
    }
    for place, (value, hint, line) in parts.items():
        try:
            fitted(value, hint)
        except Unfit:
            text = f"needs {type_text(hint)}, got {value_text(value)}. Write {line}."
            yield Problem("argument", place, text, type(value).__name__, type_text(hint))


def _node(name: str, block: Any) -> dict[str, Block]:
    if bad := list(bad_nodes({name: block})):
        raise WireError(bad)
    return {name: block}


def _must_have(graph: Structure, name: str) -> None:
    if name not in graph.nodes:
        raise WireError(no_node(name, graph.nodes))


def _must_be_free(graph: Structure, name: str) -> None:
    if name in graph.nodes:
        taken = f"is taken by {type(graph.nodes[name]).__name__}. Choose another name."
        raise WireError(Problem("name", name, taken, name))
