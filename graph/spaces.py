"""Latent spaces along the edges: one variable a block, unified where ports are joined, fixed by bound components."""

from collections.abc import Iterator, Mapping
from typing import Any

from .block import Block
from .errors import Problem
from .graph import Graph
from .loop import Loop
from .paths import renamed
from .ports import Signature
from .space import ANY_SPACE, LatentSpace
from .switch import Switch
from .types import port_of
from .wiring import INPUTS

Path = tuple[str, ...]


class _Union:
    """Union-find over variables, each with what is known of its space and who told."""

    def __init__(self) -> None:
        self.parent: dict[Path, Path] = {}
        self.known: dict[Path, tuple[LatentSpace, str]] = {}
        self.problems: list[Problem] = []

    def find(self, a: Path) -> Path:
        while self.parent.setdefault(a, a) != a:
            a = self.parent[a]
        return a

    def fix(self, a: Path, space: LatentSpace, who: str) -> None:
        root = self.find(a)
        if root in self.known:
            self._merge(root, (space, who))
        else:
            self.known[root] = (space, who)

    def join(self, a: Path, b: Path) -> None:
        a, b = self.find(a), self.find(b)
        if a != b:
            self.parent[b] = a
            if (told := self.known.pop(b, None)) is not None:
                if a in self.known:
                    self._merge(a, told)
                else:
                    self.known[a] = told

    def _merge(self, root: Path, new: tuple[LatentSpace, str]) -> None:
        old = self.known[root]
        if not old[0].fits(new[0]):
            text = (
                f"works in the latent space {new[0]}, but {old[1]} works in {old[0]}, and their latents meet. "
                "Bind components of one family, or decode and encode again between them."
            )
            self.problems.append(Problem("space", new[1], text, str(new[0]), str(old[0])))
        self.known[root] = (old[0].merged(new[0]), old[1])


def space_problems(graph: Graph, bindings: Mapping[str, Any]) -> list[Problem]:
    """Components whose latents meet though their spaces differ. Reads configs only, never weights."""
    union = _Union()
    _walk(graph, (), {**bindings}, union)
    return list(dict.fromkeys(union.problems))


def _carriers(signature: Signature) -> Iterator[tuple[str, str, LatentSpace]]:
    for side, ports in (("in", signature.inputs), ("out", signature.outputs)):
        for name, port in ports.items():
            tag = port_of(port.type)
            if tag is not None and tag.space is not None:
                yield side, name, tag.space


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
    """The variable of each port of a block that lives in a latent space, after joining those inside."""
    block, outside = renamed(outer)
    ports = {"in": outside.inputs, "out": outside.outputs}
    held = {old: bound[new] for old, new in outside.components.items() if new in bound}
    held |= {n: v for n, v in block.__dict__.items() if getattr(v, "space", None) is not None}
    if isinstance(block, Graph | Loop | Switch):
        insides = [block] if isinstance(block, Graph) else list(block.children().values())
        for i, body in enumerate(insides):
            assert isinstance(body, Graph)
            _walk(body, (*at, str(i)), {**held, **body.bindings}, union)
        found: dict[tuple[str, str], Path] = {}
        for side, name, _ in _carriers(block.signature):
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
    for side, name, space in _carriers(block.signature):
        own = at if space == ANY_SPACE else (*at, f"{side}:{name}")
        if space != ANY_SPACE:
            union.fix(own, space, f"{_said(at)}.{name}")
        found[side, ports[side][name]] = own
    if found:
        for name, value in held.items():
            space = getattr(value, "space", None)
            if isinstance(space, LatentSpace) and space != ANY_SPACE:
                union.fix(at, space, f"{_said(at)} ({outside.components.get(name, name)})")
    return found


def _said(at: Path) -> str:
    """A path as users write it: without the numbers of the graphs inside loops and switches."""
    return ".".join(part for part in at if not part.isdecimal())
