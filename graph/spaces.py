"""Kinds of things that must be one along the edges: latent spaces, families of conditioning, layouts of denoisers."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from .block import Block
from .errors import Problem
from .layout import ANY_LAYOUT, Layout, Measured
from .requirements import Requirements, function_port, has_requirements
from .space import ANY_SPACE, LatentSpace
from .structure import Structure
from .typing import families_of, port_of, tags_of, union_members
from .unify import Evidence, evidence_of, problems


def made_problems(graph: Structure) -> list[Problem]:
    """What does not go together whenever a graph is made: families, then requirements of blocks."""
    if families := problems(graph, {}, Families()):
        return families
    return problems(graph, graph.bindings, Requirements()) if has_requirements(graph) else []


def bound_problems(graph: Structure, bindings: Mapping[str, Any]) -> list[Problem]:
    """Components that do not go together: latent spaces that meet, and what is built for another denoiser."""
    return [problem for kind in (Spaces(), Layouts()) for problem in problems(graph, bindings, kind)]


@dataclass(frozen=True)
class Family:
    """Classes of values, where the classes of one base are families that do not mix; one of these is meant."""

    classes: tuple[type, ...]

    def fits(self, other: "Family") -> bool:
        return any(issubclass(a, b) or issubclass(b, a) for a in self.classes for b in other.classes)

    def __str__(self) -> str:
        return " or ".join(cls.__name__ for cls in self.classes)


class Spaces:
    """Latent spaces: ports carry them, autoencoders and denoisers fix them."""

    code = "space"

    def of_port(self, hint: Any) -> LatentSpace | None:
        tag = port_of(hint)
        return tag.space if tag is not None else None

    def of_fields(self, block: Block, fields: Mapping[str, Any]) -> Iterable[Evidence]:
        return evidence_of(fields, _space)

    def is_any(self, value: LatentSpace) -> bool:
        return value == ANY_SPACE

    def shares(self, value: LatentSpace) -> bool:
        return value == ANY_SPACE

    def conflict(self, new: LatentSpace, who: str, old: LatentSpace) -> str:
        return (
            f"works in the latent space {new}, but {who} works in {old}, and their latents meet. "
            "Bind components of one family, or decode and encode again between them."
        )


class Families:
    """What denoisers read: conditioning carries it, the blocks that encode prompts and that predict fix it."""

    code = "family"

    def of_port(self, hint: Any) -> Family | None:
        classes = families_of(hint)
        return Family(classes) if classes else None

    def of_fields(self, block: Block, fields: Mapping[str, Any]) -> Iterable[Evidence]:
        return ()

    def is_any(self, value: Family) -> bool:
        return any("__family__" in vars(cls) for cls in value.classes)

    def shares(self, value: Family) -> bool:
        # A port for several families is of the same one as its block's other ports.
        return self.is_any(value) or len(value.classes) > 1

    def conflict(self, new: Family, who: str, old: Family) -> str:
        way_out = "Encode prompts and denoise with blocks of one family."
        return f"is for {new}, but {who} is for {old}, and they meet. {way_out}"


class Layouts:
    """How denoisers are built: what adds to one must fit it, and prompts be as wide as those that it reads.

    The function `predict` carries it, and conditioning, so that it is one along both.
    """

    code = "layout"

    def of_port(self, hint: Any) -> Layout | None:
        carries = function_port(hint) is not None or families_of(hint) or _measured(hint)
        return ANY_LAYOUT if carries else None

    def of_fields(self, block: Block, fields: Mapping[str, Any]) -> Iterable[Evidence]:
        yield from evidence_of(fields, _layout)
        for port in block.signature.outputs.values():
            for tag in _measured(port.type):
                layout, names = tag.of(fields)
                if layout != ANY_LAYOUT:
                    yield layout, names

    def is_any(self, value: Layout) -> bool:
        return value == ANY_LAYOUT

    def shares(self, value: Layout) -> bool:
        return True

    def conflict(self, new: Layout, who: str, old: Layout) -> str:
        keys = old.differing(new)
        way_out = "Bind components of one checkpoint, all in one call, or nets that were trained for it."
        return f"has {new.said(keys)}, but {who} has {old.said(keys)}, and they work together. {way_out}"


def _space(component: Any) -> LatentSpace | None:
    space = getattr(component, "space", None)
    return space if isinstance(space, LatentSpace) and space != ANY_SPACE else None


def _layout(component: Any) -> Layout | None:
    layout = getattr(component, "layout", None)
    return layout if isinstance(layout, Layout) else None


def _measured(hint: Any) -> list[Measured]:
    return [tag for arm in union_members(hint) for tag in tags_of(arm) if isinstance(tag, Measured)]
