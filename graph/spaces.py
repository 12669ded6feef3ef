"""Values that must agree along the edges: latent spaces, families of conditioning, layouts of denoisers."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from .block import Block
from .errors import Problem
from .layout import ANY_LAYOUT, Layout, Measured
from .planned import Holders, has_two_holders
from .requirements import Requirements, function_port, has_requirements
from .space import ANY_SPACE, LatentSpace
from .structure import Structure
from .typing import families_of, port_of, tags_of, union_members
from .unify import Evidence, conflicts, evidence_of


def made_conflicts(graph: Structure) -> list[Problem]:
    """Conflicts that are found when a graph is made: families that meet, violated requirements, unlike schedulers."""
    if families := conflicts(graph, {}, _Families()):
        return families
    problems = conflicts(graph, graph.bindings, Requirements()) if has_requirements(graph) else []
    return problems or (conflicts(graph, graph.bindings, Holders()) if has_two_holders(graph) else [])


def bound_conflicts(graph: Structure, bindings: Mapping[str, Any]) -> list[Problem]:
    """Conflicts between components: unlike latent spaces, layouts of denoisers, and schedulers that meet."""
    return [conflict for kind in (_Spaces(), _Layouts(), Holders()) for conflict in conflicts(graph, bindings, kind)]


@dataclass(frozen=True)
class _Family:
    """One or several classes of a base whose subclasses do not mix; a value is of one of them."""

    classes: tuple[type, ...]

    def fits(self, other: "_Family") -> bool:
        return any(issubclass(a, b) or issubclass(b, a) for a in self.classes for b in other.classes)

    def __str__(self) -> str:
        return " or ".join(cls.__name__ for cls in self.classes)


class _Spaces:
    """Latent spaces: ports have them, and autoencoders and denoisers fix them."""

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
        way_out = "Bind components of one family, or decode and encode again between them."
        if new.channels is not None and new.channels == old.channels:
            file = "A file with an autoencoder alone does not have its scaling and shift. Pass its path, "
            file += "sf.load(…, vae='file.safetensors'), to use those of the checkpoint."
            way_out = f"{file} Or bind{way_out.removeprefix('Bind')}"
        return f"works in the latent space {new}, but {who} works in {old}, and their latents meet. {way_out}"


class _Families:
    """Families of conditioning: blocks that encode prompts and blocks that predict fix them."""

    code = "family"

    def of_port(self, hint: Any) -> _Family | None:
        classes = families_of(hint)
        return _Family(classes) if classes else None

    def of_fields(self, block: Block, fields: Mapping[str, Any]) -> Iterable[Evidence]:
        return ()

    def is_any(self, value: _Family) -> bool:
        return any("__family__" in vars(cls) for cls in value.classes)

    def shares(self, value: _Family) -> bool:
        # A port for several families is of the same one as its block's other ports.
        return self.is_any(value) or len(value.classes) > 1

    def conflict(self, new: _Family, who: str, old: _Family) -> str:
        way_out = "Encode prompts and denoise with blocks of one family."
        return f"is for {new}, but {who} is for {old}, and they meet. {way_out}"


class _Layouts:
    """The layouts of denoisers: control nets must fit one, and prompts must be as wide as those that it reads.

    Functions such as `predict` have it, and so does conditioning, so that both agree.
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
        return f"has {new.text(keys)}, but {who} has {old.text(keys)}, and they work together. {way_out}"


def _space(component: Any) -> LatentSpace | None:
    space = getattr(component, "space", None)
    return space if isinstance(space, LatentSpace) and space != ANY_SPACE else None


def _layout(component: Any) -> Layout | None:
    layout = getattr(component, "layout", None)
    return layout if isinstance(layout, Layout) else None


def _measured(hint: Any) -> list[Measured]:
    return [tag for arm in union_members(hint) for tag in tags_of(arm) if isinstance(tag, Measured)]
