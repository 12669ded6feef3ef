"""What must be one thing along the edges: a walk that gives each block a variable and joins them along its wires.

Latent spaces, families of conditioning, layouts of denoisers and what guiders ask of them are such things; each is a
`Kind`, and this walk serves them all.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from .block import Block
from .errors import Problem
from .graph import Graph
from .loop import Loop
from .paths import renamed
from .switch import Switch
from .wiring import INPUTS

Path = tuple[str, ...]


class Kind(Protocol):
    """A kind of variable: what says something of it, and the text for two that do not fit.

    Its values know whether they fit another: `a.fits(b)`.
    """

    code: str

    # Any: a value of this kind
    def of_port(self, hint: Any) -> Any | None:
        """What a port of this type carries; None if it carries nothing of this kind."""
        ...

    def of_held(self, block: Block, held: Mapping[str, Any]) -> Iterable["Told"]:
        """What is said by what a block holds: its components that are bound, and its fields."""
        ...

    def is_any(self, value: Any) -> bool:
        """Whether a port that carries this says nothing by it."""
        ...

    def shares(self, value: Any) -> bool:
        """Whether a port that carries this shares its block's variable, and has none of its own."""
        ...

    def told(self, new: Any, who: str, old: Any) -> str:
        """The sentence for a value that does not fit what `who` said."""
        ...


Told = tuple[Any, Sequence[str]]
"""A value of a kind, and the names of the components or fields that tell it."""


def each(held: Mapping[str, Any], of: Callable[[Any], Any | None]) -> list[Told]:
    """What `of` says of each of these alone, where it says anything."""
    return [(said, (name,)) for name, value in held.items() if (said := of(value)) is not None]


def problems(graph: Graph, bindings: Mapping[str, Any], kind: Kind) -> list[Problem]:
    """Where two that do not fit meet. Reads configs only, never weights."""
    union = _Union(kind)
    _walk(graph, (), {**bindings}, union)
    together: dict[Path, list[_Fact]] = {}
    for at, value, who in union.facts:
        known = together.setdefault(union.find(at), [])
        if all(value != was for was, _ in known):
            known.append((value, who))
    return list(dict.fromkeys(found for facts in together.values() for found in _apart(facts, kind)))


_Fact = tuple[Any, str]
"""A value, and who was the first to tell it."""


def _apart(facts: Sequence[_Fact], kind: Kind) -> Iterable[Problem]:
    """One problem for each fact that must go: the one that fits the fewest others, of several the last told."""
    left = [*facts]
    while True:
        against = {i: [o for o in left if not o[0].fits(value)] for i, (value, _) in enumerate(left)}
        odd = max(against, key=lambda i: (len(against[i]), i), default=None)
        if odd is None or not against[odd]:
            return
        (value, who), (was, by) = left.pop(odd), against[odd][-1]
        yield Problem(kind.code, who, kind.told(value, by, was), str(value), str(was))


class _Union:
    """Union-find over variables, and what is said of each, in order."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.parent: dict[Path, Path] = {}
        self.facts: list[tuple[Path, Any, str]] = []

    def find(self, a: Path) -> Path:
        while self.parent.setdefault(a, a) != a:
            a = self.parent[a]
        return a

    def fix(self, a: Path, value: Any, who: str) -> None:
        self.facts.append((a, value, who))

    def join(self, a: Path, b: Path) -> None:
        self.parent[self.find(b)] = self.find(a)


def _carriers(block: Block, kind: Kind) -> Sequence[tuple[str, str, Any]]:
    """The ports of a block that carry something of this kind: side, name, what. Read once a block."""
    cache: dict[str, Sequence[tuple[str, str, Any]]] = block.__dict__.setdefault("_carried", {})
    if kind.code not in cache:
        sides = ("in", block.signature.inputs), ("out", block.signature.outputs)
        ports = [(side, name, kind.of_port(port.type)) for side, ports in sides for name, port in ports.items()]
        cache[kind.code] = [port for port in ports if port[2] is not None]
    return cache[kind.code]


def _walk(graph: Graph, path: Path, bound: Mapping[str, Any], union: _Union) -> None:
    """Give each block its variable, and join them along the edges. A graph's own ports are variables by name."""
    carries: dict[str, dict[tuple[str, str], Path]] = {}
    for name, outer in graph.nodes.items():
        carries[name] = _block(outer, (*path, name), bound, union)
    for e in graph.edges:
        target = carries[e.taker].get(("in", e.input))
        source = (*path, INPUTS, e.output) if e.giver == INPUTS else carries[e.giver].get(("out", e.output))
        if target is not None and source is not None:
            union.join(source, target)
    for name, node in {p: n for n, b in graph.nodes.items() for p in b.signature.outputs}.items():
        if (source := carries[node].get(("out", name))) is not None:
            union.join((*path, "outputs", name), source)


def _block(outer: Block, at: Path, bound: Mapping[str, Any], union: _Union) -> dict[tuple[str, str], Path]:
    """The variable of each port of a block that has one, after joining those inside."""
    kind = union.kind
    block, outside = renamed(outer)
    ports = {"in": outside.inputs, "out": outside.outputs}
    held = {old: bound[new] for old, new in outside.components.items() if new in bound}
    if isinstance(block, Graph | Loop | Switch):
        insides = [block] if isinstance(block, Graph) else list(block.children().values())
        for i, body in enumerate(insides):
            assert isinstance(body, Graph)
            _walk(body, (*at, str(i)), {**held, **body.bindings}, union)
        found: dict[tuple[str, str], Path] = {}
        for side, name, _ in _carriers(block, kind):
            for i in range(len(insides)):
                here = (*at, str(i), INPUTS if side == "in" else "outputs", name)
                union.join(found.setdefault((side, ports[side][name]), here), here)
        if isinstance(block, Loop):
            for name in block.carry:
                a, b = ("in", outside.inputs[name]), ("out", outside.outputs[name])
                if a in found and b in found:
                    union.join(found[a], found[b])
        return found
    found = {}
    for side, name, said in _carriers(block, kind):
        own = at if kind.shares(said) else (*at, f"{side}:{name}")
        if not kind.is_any(said):
            union.fix(own, said, f"{_said(at)}.{name}")
        found[side, ports[side][name]] = own
    if found:
        fields = {name: value for name, value in vars(block).items() if name[0] != "_"}
        for told, names in kind.of_held(block, {**fields, **held}):
            union.fix(at, told, f"{_said(at)} ({', '.join(outside.components.get(n, n) for n in names)})")
    return found


def _said(at: Path) -> str:
    """A path as users write it: without the numbers of the graphs inside loops and switches."""
    return ".".join(part for part in at if not part.isdecimal())
