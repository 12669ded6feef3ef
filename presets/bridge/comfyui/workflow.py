"""A workflow as one flat list of nodes, each with literal inputs and links: ComfyUI's API format, typed."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias, cast

from ....graph.errors import GraphFileError
from ....graph.limits import AboveLimit, check_limit
from ....registry import printable

Literal: TypeAlias = Any
"""A JSON value that a widget holds: text, number, bool, None, or a list or object of them."""
_SHOWN = 60


class Link(NamedTuple):
    """The output of another node, by its place."""

    node: str
    output: int


@dataclass(frozen=True)
class Node:
    """One node that the server would run.

    inputs: by name, a literal or a `Link`. title: what the user calls it. unnamed: values of widgets whose names are
    not known, in their order; no literal of `inputs` is one of them. models: names of model files that the node states,
    each with the folder and the address that it states. outputs: name and type of each; None where the file does not
    state them.
    """

    id: str
    type: str
    inputs: Mapping[str, Literal | Link]
    title: str = ""
    unnamed: tuple[Literal, ...] = ()
    models: Mapping[str, tuple[str, str]] = field(default_factory=dict[str, tuple[str, str]])
    outputs: tuple[tuple[str, str], ...] | None = None

    @property
    def links(self) -> dict[str, Link]:
        """The inputs that are links."""
        return {name: value for name, value in self.inputs.items() if isinstance(value, Link)}

    @property
    def place(self) -> str:
        """The node in texts: its id, its type, and its title where that is another text."""
        title = f" {printable(self.title)[:_SHOWN]!r}" if self.title not in ("", self.type) else ""
        return f"{printable(self.id)} {printable(self.type)[:_SHOWN]}{title}"


class Ignored(NamedTuple):
    """A node of the file that does not run, with the reason."""

    id: str
    type: str
    title: str
    reason: str


@dataclass(frozen=True)
class Workflow:
    """The nodes that run, by id, each after those that it reads; and those that do not run."""

    nodes: Mapping[str, Node]
    ignored: tuple[Ignored, ...] = ()

    @classmethod
    def of(cls, nodes: Mapping[str, Node], ignored: tuple[Ignored, ...] = ()) -> "Workflow":
        """A workflow of these nodes, in the order in which they run.

        Raises:
            GraphFileError: too many nodes, or nodes that read each other in a circle.
        """
        try:
            check_limit("workflow_nodes", len(nodes))
        except AboveLimit as error:
            raise GraphFileError(f"The workflow {error}") from None
        return cls(dict(_in_order(nodes)), ignored)

    def readers(self) -> dict[str, list[tuple[str, str, int]]]:
        """For each node its readers: id, input and the place of the output."""
        found: dict[str, list[tuple[str, str, int]]] = {name: [] for name in self.nodes}
        for node in self.nodes.values():
            for name, link in node.links.items():
                if link.node in found:
                    found[link.node].append((node.id, name, link.output))
        return found

    def to_api(self) -> dict[str, Any]:  # JSON
        """The API format: what ComfyUI's server runs, and what its pictures hold as `prompt`."""
        return {
            node.id: {
                "class_type": node.type,
                "inputs": {name: _written(value) for name, value in node.inputs.items()},
                "_meta": {"title": node.title or node.type},
            }
            for node in self.nodes.values()
        }


def from_api(data: Mapping[str, Any]) -> Workflow:  # JSON
    """Read the API format.

    Raises:
        GraphFileError: an entry that is no node, or nodes that read each other in a circle.
    """
    nodes: dict[str, Node] = {}
    for name, entry in data.items():
        if not isinstance(entry, Mapping) or not isinstance(entry.get("class_type"), str):
            raise GraphFileError(f"The node {name!r} has no class_type. The file is not ComfyUI's API format.")
        found = cast(Mapping[str, Any], entry)
        inputs, meta = found.get("inputs", {}), found.get("_meta")
        if not isinstance(inputs, Mapping):
            raise GraphFileError(
                f"The inputs of the node {name!r} are no object. The file is not ComfyUI's API format."
            )
        title = cast(Mapping[str, Any], meta).get("title") if isinstance(meta, Mapping) else None
        read = {key: _read(value, data) for key, value in cast(Mapping[str, Any], inputs).items()}
        nodes[name] = Node(name, found["class_type"], read, title if isinstance(title, str) else found["class_type"])
    return Workflow.of(nodes)


def is_api(data: Mapping[str, Any]) -> bool:  # JSON
    """Whether this is the API format."""
    return bool(data) and all(isinstance(v, Mapping) and "class_type" in v for v in data.values())


def _read(value: Any, nodes: Mapping[str, Any]) -> Literal | Link:  # JSON
    if isinstance(value, list):
        pair = cast(list[Any], value)
        if len(pair) == 2 and isinstance(pair[0], str) and type(pair[1]) is int and pair[0] in nodes:
            return Link(pair[0], pair[1])
    if isinstance(value, Mapping) and [*cast(Mapping[str, Any], value)] == ["__value__"]:
        return cast(Mapping[str, Any], value)["__value__"]
    return value


def _written(value: Literal | Link) -> Any:  # JSON
    if isinstance(value, Link):
        return [value.node, value.output]
    return {"__value__": value} if isinstance(value, list) else value


def _in_order(nodes: Mapping[str, Node]) -> Iterator[tuple[str, Node]]:
    """Each node after those that it reads. Otherwise the order is that of the file."""
    waiting = {name: {link.node for link in node.links.values()} & nodes.keys() for name, node in nodes.items()}
    readers: dict[str, list[str]] = {name: [] for name in nodes}
    for name, needed in waiting.items():
        for one in needed:
            readers[one].append(name)
    ready = [name for name, needed in waiting.items() if not needed]
    count = 0
    while count < len(ready):
        name = ready[count]
        count += 1
        yield name, nodes[name]
        for reader in readers[name]:
            waiting[reader].discard(name)
            if not waiting[reader]:
                ready.append(reader)
    if count < len(nodes):
        left = [nodes[name].place for name, needed in waiting.items() if needed]
        raise GraphFileError(f"The nodes read each other in a circle: {', '.join(left[:8])}. Remove one of the links.")
