"""Values that must agree along the edges: a walk gives each block a variable, joins variables along the wires, and
finds values of one variable that do not fit.

Latent spaces, families of conditioning, layouts of denoisers and requirements of guiders are such values; each is a
`Kind`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from .block import Block
from .cache import cached
from .errors import Problem
from .paths import without_names
from .structure import Container, Structure
from .wiring import INPUTS

Path = tuple[str, ...]


class Kind(Protocol):
    """A kind of value that must agree: where its values are read, and the text for two that do not fit.

    Its values know whether they fit another: `a.fits(b)`.
    """

    code: str

    # Any: a value of this kind
    def of_port(self, hint: Any) -> Any | None:
        """The value of this kind that a port of this type carries; None for a port of other kinds."""
        ...

    def of_fields(self, block: Block, fields: Mapping[str, Any]) -> Iterable["Evidence"]:
        """The values that a block's components and other fields have."""
        ...

    def is_any(self, value: Any) -> bool:
        """Whether a port with this value fits every other."""
        ...

    def shares(self, value: Any) -> bool:
        """Whether a port with this value shares its block's variable, and has none of its own."""
        ...

    def conflict(self, new: Any, who: str, old: Any) -> str:
        """The sentence for a value that does not fit the value of `who`."""
        ...


Evidence = tuple[Any, Sequence[str]]
"""A value of a kind, and the names of the components or fields that it was read from."""


def evidence_of(fields: Mapping[str, Any], read: Callable[[Any], Any | None]) -> list[Evidence]:
    """The values that `read` finds in these components and fields, each alone; None is no value."""
    return [(value, (name,)) for name, part in fields.items() if (value := read(part)) is not None]


def conflicts(graph: Structure, bindings: Mapping[str, Any], kind: Kind) -> list[Problem]:
    """Values that do not fit where they meet. Reads configs only, never weights."""
    facts = meeting_facts(graph, bindings, kind)
    return list(dict.fromkeys(problem for meeting in facts for problem in _conflicts(meeting, kind)))


Fact = tuple[Any, str]
"""A value, and the first place that has it."""


def meeting_facts(graph: Structure, bindings: Mapping[str, Any], kind: Kind) -> Iterable[Sequence[Fact]]:
    """The values that meet, variable by variable, each once. Reads configs only, never weights."""
    union = _Union(kind)
    _walk(graph, (), {**bindings}, union)
    together: dict[Path, list[Fact]] = {}
    for at, value, who in union.facts:
        known = together.setdefault(union.find(at), [])
        if all(value != was for was, _ in known):
            known.append((value, who))
    return together.values()


def _conflicts(facts: Sequence[Fact], kind: Kind) -> Iterable[Problem]:
    """One problem for each fact that must go: the one that fits the fewest others, of several the last one."""
    against = {
        i: dict.fromkeys(j for j, (other, _) in enumerate(facts) if not other.fits(value))
        for i, (value, _) in enumerate(facts)
    }
    while True:
        odd = max(against, key=lambda i: (len(against[i]), i), default=None)
        if odd is None or not against[odd]:
            return
        (value, who), (was, by) = facts[odd], facts[list(against.pop(odd))[-1]]
        yield Problem(kind.code, who, kind.conflict(value, by, was), str(value), str(was))
        for others in against.values():
            others.pop(odd, None)


class _Union:
    """Union-find over variables, and the facts of each, in order."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.parent: dict[Path, Path] = {}
        self.facts: list[tuple[Path, Any, str]] = []

    def find(self, a: Path) -> Path:
        while (above := self.parent.setdefault(a, a)) != a:
            self.parent[a] = self.parent[above]  # halve the path, so that long chains stay short
            a = above
        return a

    def fix(self, a: Path, value: Any, who: str) -> None:
        self.facts.append((a, value, who))

    def join(self, a: Path, b: Path) -> None:
        self.parent[self.find(b)] = self.find(a)


def _carriers(block: Block, kind: Kind) -> Sequence[tuple[str, str, Any]]:
    """The ports of a block with a value of this kind: side, name, value."""

    def read() -> Sequence[tuple[str, str, Any]]:
        sides = ("in", block.signature.inputs), ("out", block.signature.outputs)
        ports = [(side, name, kind.of_port(port.type)) for side, ports in sides for name, port in ports.items()]
        return [port for port in ports if port[2] is not None]

    return cached(block, "carriers", read, kind.code)


def _walk(graph: Structure, path: Path, bindings: Mapping[str, Any], union: _Union) -> None:
    """Give each block its variable, and join them along the edges. A graph's own ports are variables by name."""
    carries: dict[str, dict[tuple[str, str], Path]] = {}
    for name, outer in graph.nodes.items():
        carries[name] = _block(outer, (*path, name), bindings, union)
    for e in graph.edges:
        target = carries[e.taker].get(("in", e.input))
        source = (*path, INPUTS, e.output) if e.giver == INPUTS else carries[e.giver].get(("out", e.output))
        if target is not None and source is not None:
            union.join(source, target)
    for name, node in {p: n for n, b in graph.nodes.items() for p in b.signature.outputs}.items():
        if (source := carries[node].get(("out", name))) is not None:
            union.join((*path, "outputs", name), source)


def _block(outer: Block, at: Path, bindings: Mapping[str, Any], union: _Union) -> dict[tuple[str, str], Path]:
    """The variable of each port of a block that has one, after joining those inside."""
    kind = union.kind
    block, outside = without_names(outer)
    names = {"in": outside.inputs, "out": outside.outputs}
    components = {old: bindings[new] for old, new in outside.components.items() if new in bindings}
    if isinstance(block, Container):
        return _container(block, names, components, at, union)
    variables: dict[tuple[str, str], Path] = {}
    for side, name, value in _carriers(block, kind):
        own = at if kind.shares(value) else (*at, f"{side}:{name}")
        if not kind.is_any(value):
            union.fix(own, value, f"{_path_text(at)}.{name}")
        variables[side, names[side][name]] = own
    if variables:
        fields = {name: value for name, value in vars(block).items() if name[0] != "_"}
        for value, parts in kind.of_fields(block, {**fields, **components}):
            union.fix(at, value, f"{_path_text(at)} ({', '.join(outside.components.get(n, n) for n in parts)})")
    return variables


def _container(
    block: Container, names: Mapping[str, Mapping[str, str]], components: Mapping[str, Any], at: Path, union: _Union
) -> dict[tuple[str, str], Path]:
    """A port of a container is one with the port of that name of each graph inside; a carried input with its output.

    The list that a container goes over is one with its elements.
    """
    insides = block.insides()
    for i, inside in enumerate(insides):
        _walk(inside.graph, (*at, str(i)), {**components, **inside.graph.bindings}, union)
    variables: dict[tuple[str, str], Path] = {}
    for side, name, _ in _carriers(block, union.kind):
        for i in range(len(insides)):
            inner = (*at, str(i), INPUTS if side == "in" else "outputs", name)
            union.join(variables.setdefault((side, names[side][name]), inner), inner)
    for i, inside in enumerate(insides):
        if inside.repeated:  # an element is one with the list that it is from
            inner = (*at, str(i), INPUTS, inside.item)
            union.join(variables.setdefault(("in", names["in"][inside.over]), inner), inner)
    for name in dict.fromkeys(name for inside in insides for name in inside.carried):
        a, b = ("in", names["in"][name]), ("out", names["out"][name])
        if a in variables and b in variables:
            union.join(variables[a], variables[b])
    return variables


def _path_text(at: Path) -> str:
    """A path as users write it: without the numbers of the graphs inside loops and switches."""
    return ".".join(part for part in at if not part.isdecimal())
