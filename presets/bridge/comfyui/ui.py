"""The UI format, which users save and share: subgraphs flattened, and only nodes left that the server would run."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

from ....graph.errors import GraphFileError
from ....graph.limits import AboveLimit, check_limit, limit
from .widgets import FRONT_END_ONLY, ObjectInfo, widgets_of
from .workflow import Ignored, Link, Literal, Node, Workflow

RUNS, MUTED, BYPASSED = 0, 2, 4
"""The modes of a node. ComfyUI's server runs all others as 0."""
NOTES = ("Note", "MarkdownNote", "LabelNote")
_INSIDE, _OUTSIDE = -10, -20
"""The ids under which links inside a subgraph name its inputs and its outputs."""
_ITSELF = "-1"
"""The id under which `proxyWidgets` names the inputs of the subgraph itself."""
_OPTIONAL = 7
"""The shape that the front end gives an input that need not be linked."""
Json = Mapping[str, Any]


class _Value(NamedTuple):
    """A literal that a link leads to."""

    value: Literal


class _Absent(NamedTuple):
    """The end of a link to a node that does not run."""


_Source = Link | _Value | _Absent | None
"""Where a link leads; None where nothing is linked."""


class _Wire(NamedTuple):
    origin: int | str
    slot: int
    target: int | str
    target_slot: int


@dataclass
class _Scope:
    """A graph of nodes: the file's own, or that of one node whose type is a subgraph."""

    path: str
    nodes: dict[str, Json]
    wires: dict[int, _Wire]
    definition: Json = field(default_factory=dict[str, Any])
    instance: Json = field(default_factory=dict[str, Any])
    outer: "_Scope | None" = None
    inner: "dict[str, _Scope]" = field(default_factory=dict[str, "_Scope"])
    bypassed: bool = False

    @property
    def depth(self) -> int:
        return 0 if self.outer is None else 1 + self.outer.depth


def is_ui(data: Json) -> bool:
    """Whether this is the UI format."""
    return isinstance(data.get("nodes"), list) and isinstance(data.get("links", []), list)


def from_ui(data: Json, object_info: ObjectInfo | None = None) -> Workflow:
    """Read the UI format, version 0.4.

    object_info: the answer of ComfyUI's server to `/object_info`. Without it the names of widgets are those of the file
    and of the types that this package knows.

    Raises:
        GraphFileError: parts that are missing or of another kind, subgraphs that contain themselves, too many nodes,
            or links in a circle.
    """
    return _Flattening(data, object_info or {}).workflow()


class _Flattening:
    def __init__(self, data: Json, object_info: ObjectInfo) -> None:
        self.object_info = object_info
        parts = data.get("definitions")
        listed = _list(parts, "subgraphs") if isinstance(parts, Mapping) else []
        self.definitions = {str(one["id"]): one for one in listed if "id" in one}
        self.count = 0
        self.root = self._scope("", data)
        self.ignored: list[Ignored] = []

    # ------------------------------------------------------------------------------------------------- scopes
    def _scope(self, path: str, graph: Json, outer: _Scope | None = None, instance: Json | None = None) -> _Scope:
        nodes = {str(node["id"]): node for node in _list(graph, "nodes") if "id" in node}
        self.count += len(nodes)
        try:
            check_limit("workflow_nodes", self.count)
        except AboveLimit as error:
            raise GraphFileError(f"The workflow {error}") from None
        scope = _Scope(path, nodes, dict(_wires(graph)), graph if outer else {}, instance or {}, outer)
        if scope.depth > limit("graph_depth"):
            raise GraphFileError(
                f"Subgraphs are nested more than {limit('graph_depth')} deep, or contain themselves. Flatten some."
            )
        for name, node in nodes.items():
            if (definition := self.definitions.get(str(node.get("type")))) is not None:
                inner = self._scope(f"{path}{name}:", definition, scope, node)
                inner.bypassed = _mode(node) == BYPASSED
                scope.inner[name] = inner
        return scope

    def _scopes(self, scope: _Scope) -> Iterator[_Scope]:
        """The scopes that run, from outside to inside."""
        yield scope
        for name, inner in scope.inner.items():
            if _mode(scope.nodes[name]) not in (MUTED, BYPASSED):
                yield from self._scopes(inner)
            else:
                self._ignore(scope, scope.nodes[name], "muted" if _mode(scope.nodes[name]) == MUTED else "bypassed")

    # ------------------------------------------------------------------------------------------------- nodes
    def workflow(self) -> Workflow:
        made: dict[str, Node] = {}
        absent: set[str] = set()
        for scope in self._scopes(self.root):
            for name, node in scope.nodes.items():
                kind = str(node.get("type"))
                if name in scope.inner or kind in ("Reroute", "PrimitiveNode", "GetNode", "SetNode"):
                    continue
                if kind in NOTES or _mode(node) in (MUTED, BYPASSED):
                    why = "a note" if kind in NOTES else "muted" if _mode(node) == MUTED else "bypassed"
                    self._ignore(scope, node, why)
                    continue
                flat = self._node(scope, name, node, absent)
                made[flat.id] = flat
        self._drop_readers(made, absent)
        return Workflow.of(made, tuple(self.ignored))

    def _node(self, scope: _Scope, name: str, node: Json, absent: set[str]) -> Node:
        named, unnamed = widgets_of(node, self.object_info)
        inputs: dict[str, Literal | Link] = {**named, **_proxies(scope.instance, name)}
        flat = scope.path + name
        for one in _list(node, "inputs"):
            widget = one.get("widget")
            key = str(widget["name"]) if isinstance(widget, Mapping) and "name" in widget else str(one.get("name"))
            source = self._source(scope, one.get("link"))
            if isinstance(source, Link):
                inputs[key] = source
            elif isinstance(source, _Value):
                inputs[key] = source.value
            elif isinstance(source, _Absent) and one.get("shape") != _OPTIONAL and widget is None:
                absent.add(flat)
        outputs = tuple((str(one.get("name")), str(one.get("type"))) for one in _list(node, "outputs"))
        return Node(flat, str(node.get("type")), inputs, _title(node), unnamed, _models(node), outputs)

    def _drop_readers(self, made: dict[str, Node], absent: set[str]) -> None:
        """Remove nodes that read one which does not run, and their readers."""
        while absent:
            for name in absent & made.keys():
                node = made.pop(name)
                self.ignored.append(Ignored(name, node.type, node.title, "reads a muted node"))
            absent = {n.id for n in made.values() if any(link.node in absent for link in n.links.values())}

    def _ignore(self, scope: _Scope, node: Json, why: str) -> None:
        self.ignored.append(Ignored(f"{scope.path}{node['id']}", str(node.get("type")), _title(node), why))

    # ------------------------------------------------------------------------------------------------- links
    def _source(self, scope: _Scope, link: object, seen: frozenset[tuple[str, int]] = frozenset()) -> _Source:
        """The output or literal that a link leads to, through all nodes that the server does not know."""
        if type(link) is not int or (wire := scope.wires.get(link)) is None:
            return None
        if (key := (scope.path, link)) in seen:
            raise GraphFileError(f"The links of the workflow lead in a circle at the node {scope.path}{wire.target}.")
        seen |= {key}
        if wire.origin == _INSIDE:
            return self._from_outside(scope, wire.slot, seen)
        name = str(wire.origin)
        node = scope.nodes.get(name)
        if node is None:
            return _Absent()
        kind, mode = str(node.get("type")), _mode(node)
        if mode == MUTED:
            return _Absent()
        if mode == BYPASSED:
            return self._through(scope, node, wire.slot, seen)
        if name in scope.inner:
            inner = scope.inner[name]
            leaving = [n for n, w in inner.wires.items() if w.target == _OUTSIDE and w.target_slot == wire.slot]
            return self._source(inner, leaving[0], seen) if leaving else _Absent()
        match kind:
            case "Reroute":
                return self._source(scope, _link_of(node, 0), seen)
            case "PrimitiveNode":
                values = node.get("widgets_values")
                return _Value(cast(list[Any], values)[0]) if isinstance(values, list) and values else None
            case "SetNode":
                return self._source(scope, _link_of(node, 0), seen)
            case "GetNode":
                return self._get(scope, node, seen)
            case _:
                return Link(scope.path + name, wire.slot)

    def _from_outside(self, scope: _Scope, slot: int, seen: frozenset[tuple[str, int]]) -> _Source:
        """The source of an input of a subgraph: a link of its node, or the value that the node has for it."""
        declared = _list(scope.definition, "inputs")
        if scope.outer is None or not 0 <= slot < len(declared):
            return None
        name = declared[slot].get("name")
        for one in _list(scope.instance, "inputs"):
            if one.get("name") == name and one.get("link") is not None:
                return self._source(scope.outer, one["link"], seen)
        given = {
            **_promoted(scope.definition, scope.instance),
            **_proxies(scope.instance, _ITSELF),
            **_proxies(scope.outer.instance, str(scope.instance["id"])),
        }
        return _Value(given[str(name)]) if str(name) in given else None

    def _through(self, scope: _Scope, node: Json, slot: int, seen: frozenset[tuple[str, int]]) -> _Source:
        """What an output of a bypassed node gives: the input of its place, or else the first input, of its type."""
        outputs, inputs = _list(node, "outputs"), _list(node, "inputs")
        kind = outputs[slot].get("type") if 0 <= slot < len(outputs) else None
        ordered = [*inputs[slot : slot + 1], *inputs]
        fitting = next((one for one in ordered if _alike(kind, one.get("type"))), None)
        return _Absent() if fitting is None else self._source(scope, fitting.get("link"), seen) or _Absent()

    def _get(self, scope: _Scope, node: Json, seen: frozenset[tuple[str, int]]) -> _Source:
        """The source of the SetNode of the same name, in this graph or one around it."""
        wanted, at = _first_value(node), scope
        while True:
            for one in at.nodes.values():
                if one.get("type") == "SetNode" and _first_value(one) == wanted and _mode(one) != MUTED:
                    return self._source(at, _link_of(one, 0), seen)
            if at.outer is None:
                return _Absent()
            at = at.outer


# ------------------------------------------------------------------------------------------------- parts of JSON
def _list(data: object, key: str) -> list[Json]:
    """The objects in a list of the file."""
    found = cast(Json, data).get(key) if isinstance(data, Mapping) else None
    return (
        [cast(Json, one) for one in cast(list[Any], found) if isinstance(one, Mapping)]
        if isinstance(found, list)
        else []
    )


def _wires(graph: Json) -> Iterator[tuple[int, _Wire]]:
    """Links as lists, as in a file, and as objects, as in a subgraph."""
    links = graph.get("links")
    for link in cast(list[Any], links) if isinstance(links, list) else []:
        if isinstance(link, Mapping):
            one = cast(Json, link)
            parts = [one.get(key) for key in ("id", "origin_id", "origin_slot", "target_id", "target_slot")]
        elif isinstance(link, list) and len(cast(list[Any], link)) >= 5:
            parts = cast(list[Any], link)[:5]
        else:
            continue
        number, origin, slot, target, target_slot = parts
        if type(number) is int and type(slot) is int and type(target_slot) is int:
            yield number, _Wire(cast(int | str, origin), slot, cast(int | str, target), target_slot)


def _link_of(node: Json, place: int) -> object:
    inputs = _list(node, "inputs")
    return inputs[place].get("link") if place < len(inputs) else None


def _mode(node: Json) -> int:
    mode = node.get("mode")
    return mode if isinstance(mode, int) else RUNS


def _title(node: Json) -> str:
    title = node.get("title")
    return title if isinstance(title, str) else str(node.get("type"))


def _first_value(node: Json) -> object:
    values = node.get("widgets_values")
    return cast(list[Any], values)[0] if isinstance(values, list) and values else None


def _models(node: Json) -> dict[str, tuple[str, str]]:
    """The model files that a node states: name, then folder and address."""
    properties = node.get("properties")
    return {
        str(one["name"]): (str(one.get("directory", "")), str(one.get("url", "")))
        for one in _list(properties, "models")
        if "name" in one
    }


def _promoted(definition: Json, instance: Json) -> dict[str, Literal]:
    """The values that a subgraph's node has for inputs of the subgraph, by their names."""
    named = instance.get("widgets_values_named")
    if isinstance(named, Mapping) and named:
        return {str(name): value for name, value in cast(Json, named).items()}
    properties = instance.get("properties")
    if isinstance(properties, Mapping) and "proxyWidgets" in properties:  # the values are in their order
        return {}
    values = instance.get("widgets_values")
    listed = cast(list[Any], values) if isinstance(values, list) else []
    names = [str(one.get("name")) for one in _list(definition, "inputs") if _is_widget(str(one.get("type")))]
    return dict(zip(names, listed, strict=False))


def _proxies(instance: Json, name: str) -> dict[str, Literal]:
    """The values that a subgraph's node has for widgets of the node `name` inside it, or for its own inputs."""
    properties, values = instance.get("properties"), instance.get("widgets_values")
    pairs = cast(Json, properties).get("proxyWidgets") if isinstance(properties, Mapping) else None
    if not isinstance(pairs, list) or not isinstance(values, list):
        return {}
    found: dict[str, Literal] = {}
    for pair, value in zip(cast(list[Any], pairs), cast(list[Any], values), strict=False):
        if not isinstance(pair, list) or len(cast(list[Any], pair)) < 2 or value is None:
            continue
        place, widget = cast(list[Any], pair)[:2]
        if str(place) == name and widget not in FRONT_END_ONLY:
            found[str(widget)] = value
    return found


def _alike(kind: object, other: object) -> bool:
    """Whether two types of ports have one in common. An input may list several."""
    first, second = ({*one.split(",")} if isinstance(one, str) else set[str]() for one in (kind, other))
    return bool(first & second) or ("*" in first | second and bool(first) and bool(second))


def _is_widget(kind: str) -> bool:
    return kind in ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO") or (kind.startswith("COMFY_") and "DYNAMIC" in kind)
