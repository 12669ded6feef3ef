"""What must be one thing along the edges: latent spaces, families of what denoisers read, and layouts of denoisers.

Each block has one variable of each kind, unified where ports are joined and fixed by bound components and by ports that
name one.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from .block import Block
from .errors import Problem
from .graph import Graph
from .layout import ANY_LAYOUT, Layout
from .loop import Loop
from .paths import renamed
from .ports import Signature
from .space import ANY_SPACE, LatentSpace
from .switch import Switch
from .types import family_of, port_of
from .wiring import INPUTS

Path = tuple[str, ...]


@dataclass(frozen=True)
class Family:
    """Classes of values, where the classes of one base are families that do not mix; one of these is meant."""

    classes: tuple[type, ...]

    def fits(self, other: "Family") -> bool:
        return bool(self._common(other))

    def merged(self, other: "Family") -> "Family":
        return Family(self._common(other)) if self.fits(other) else self

    def _common(self, other: "Family") -> tuple[type, ...]:
        """The narrower of each two that may be one."""
        pairs = [(a, b) for a in self.classes for b in other.classes if issubclass(a, b) or issubclass(b, a)]
        return tuple(dict.fromkeys(a if issubclass(a, b) else b for a, b in pairs))

    def __str__(self) -> str:
        return " or ".join(cls.__name__ for cls in self.classes)


Value = LatentSpace | Family | Layout


class Kind(Protocol):
    """A kind of variable: what says something of it, and the text for two that do not fit."""

    code: str

    def of_port(self, hint: Any) -> Value | None: ...
    def of_component(self, component: Any) -> Value | None: ...
    # Any: a value of this kind
    def is_any(self, value: Any) -> bool: ...
    def told(self, new: Any, who: str, old: Any) -> str: ...


class Spaces:
    """Latent spaces: ports carry them, autoencoders and denoisers fix them."""

    code = "space"

    def of_port(self, hint: Any) -> LatentSpace | None:
        tag = port_of(hint)
        return tag.space if tag is not None else None

    def of_component(self, component: Any) -> LatentSpace | None:
        space = getattr(component, "space", None)
        return space if isinstance(space, LatentSpace) and space != ANY_SPACE else None

    def is_any(self, value: Any) -> bool:
        return value == ANY_SPACE

    def told(self, new: Value, who: str, old: Value) -> str:
        return (
            f"works in the latent space {new}, but {who} works in {old}, and their latents meet. "
            "Bind components of one family, or decode and encode again between them."
        )


class Families:
    """What denoisers read: conditioning carries it, the blocks that encode prompts and that predict fix it."""

    code = "family"

    def of_port(self, hint: Any) -> Family | None:
        classes = family_of(hint)
        return Family(classes) if classes else None

    def of_component(self, component: Any) -> None:
        return None

    def is_any(self, value: Any) -> bool:
        return any("__family__" in vars(cls) for cls in value.classes)

    def told(self, new: Value, who: str, old: Value) -> str:
        way_out = "Encode prompts and denoise with blocks of one family."
        return f"is for {new}, but {who} is for {old}, and they meet. {way_out}"


class Layouts:
    """How denoisers are built: the function `predict` carries it, and what adds to the denoiser must fit."""

    code = "layout"

    def of_port(self, hint: Any) -> Layout | None:
        tag = port_of(hint)
        return ANY_LAYOUT if tag is not None and tag.kind == "predict" else None

    def of_component(self, component: Any) -> Layout | None:
        layout = getattr(component, "layout", None)
        return layout if isinstance(layout, Layout) else None

    def is_any(self, value: Any) -> bool:
        return value == ANY_LAYOUT

    def told(self, new: Layout, who: str, old: Layout) -> str:
        keys = old.differing(new)
        text = f"has {new.said(keys)}, but {who} has {old.said(keys)}, and one adds to the other."
        return f"{text} Bind a net that was trained for this model."


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


def space_problems(graph: Graph, bindings: Mapping[str, Any]) -> list[Problem]:
    """Components whose latents meet though their spaces differ. Reads configs only, never weights."""
    return _problems(graph, bindings, Spaces())


def layout_problems(graph: Graph, bindings: Mapping[str, Any]) -> list[Problem]:
    """Control nets and adapters that do not fit the denoiser they add to. Reads configs only, never weights."""
    return _problems(graph, bindings, Layouts())


def family_problems(graph: Graph) -> list[Problem]:
    """Blocks of different families whose values meet. Looks at blocks only."""
    return _problems(graph, {}, Families())


def _problems(graph: Graph, bindings: Mapping[str, Any], kind: Kind) -> list[Problem]:
    union = _Union(kind)
    _walk(graph, (), {**bindings}, union)
    return list(dict.fromkeys(union.problems))


def _carriers(signature: Signature, kind: Kind) -> Iterator[tuple[str, str, Any]]:
    for side, ports in (("in", signature.inputs), ("out", signature.outputs)):
        for name, port in ports.items():
            if (said := kind.of_port(port.type)) is not None:
                yield side, name, said


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
    held |= {n: v for n, v in block.__dict__.items() if kind.of_component(v) is not None}
    if isinstance(block, Graph | Loop | Switch):
        insides = [block] if isinstance(block, Graph) else list(block.children().values())
        for i, body in enumerate(insides):
            assert isinstance(body, Graph)
            _walk(body, (*at, str(i)), {**held, **body.bindings}, union)
        found: dict[tuple[str, str], Path] = {}
        for side, name, _ in _carriers(block.signature, kind):
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
    for side, name, said in _carriers(block.signature, kind):
        # A port for several families is of the same one as its block's other ports: it shares their variable.
        shares = kind.is_any(said) or (isinstance(said, Family) and len(said.classes) > 1)
        own = at if shares else (*at, f"{side}:{name}")
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
