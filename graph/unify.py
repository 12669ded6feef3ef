"""What must be one thing along the edges: a walk that gives each block a variable and joins them along its wires.

Latent spaces, families of conditioning, layouts of denoisers and what guiders ask of them are such things; each is a
`Kind`, and this walk serves them all.
"""

from collections.abc import Mapping, Sequence
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

    Its values know whether they fit another, and how they look merged: `a.fits(b)`, `a.merged(b)`.
    """

    code: str

    # Any: a value of this kind
    def of_port(self, hint: Any) -> Any | None:
        """What a port of this type carries; None if it carries nothing of this kind."""
        ...

    def of_component(self, component: Any) -> Any | None:
        """What a component, or another value that a block holds, says; None for nothing."""
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


def problems(graph: Graph, bindings: Mapping[str, Any], kind: Kind) -> list[Problem]:
    """Where two that do not fit meet. Reads configs only, never weights."""
    union = _Union(kind)
    _walk(graph, (), {**bindings}, union)
    return list(dict.fromkeys(union.problems))


class _Union:
    """Union-find over variables, each with what is known of it and who told."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.parent: dict[Path, Path] = {}
        self.known: dict[Path, tuple[Any, str]] = {}
        self.problems: list[Problem] = []

    def find(self, a: Path) -> Path:
        while self.parent.setdefault(a, a) != a:
            a = self.parent[a]
        return a

    def fix(self, a: Path, value: Any, who: str) -> None:
        root = self.find(a)
        if root in self.known:
            self._merge(root, (value, who))
        else:
            self.known[root] = (value, who)

    def join(self, a: Path, b: Path) -> None:
        a, b = self.find(a), self.find(b)
        if a != b:
            self.parent[b] = a
            if (told := self.known.pop(b, None)) is not None:
                if a in self.known:
                    self._merge(a, told)
                else:
                    self.known[a] = told

    def _merge(self, root: Path, new: tuple[Any, str]) -> None:
        old = self.known[root]
        if not old[0].fits(new[0]):
            text = self.kind.told(new[0], old[1], old[0])
            self.problems.append(Problem(self.kind.code, new[1], text, str(new[0]), str(old[0])))
        self.known[root] = (old[0].merged(new[0]), old[1])


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
    held |= {n: v for n, v in vars(block).items() if n[0] != "_" and kind.of_component(v) is not None}
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
        for name, value in held.items():
            if (fixed := kind.of_component(value)) is not None:
                union.fix(at, fixed, f"{_said(at)} ({outside.components.get(name, name)})")
    return found


def _said(at: Path) -> str:
    """A path as users write it: without the numbers of the graphs inside loops and switches."""
    return ".".join(part for part in at if not part.isdecimal())
