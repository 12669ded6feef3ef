"""`Port`: the tag of a port type, and how to read it from a hint."""

from typing import Any

from ..space import LatentSpace
from .hints import tags_of, union_members, untagged


class Port:
    """A tag on a type that says what kind of value it is: `Annotated[Tensor, Port("latents")]`.

    A value of kind "latents" flows only into ports of that kind or of no kind. `space` is the latent space of values of
    this kind; `ANY_SPACE` is one variable for each block, which edges and components determine. `family` is for ports
    that carry a function: the class, or classes, of the values that it reads, if subclasses of that class are families.
    """

    def __init__(self, kind: str, *, space: LatentSpace | None = None, family: type | tuple[type, ...] = ()) -> None:
        self.kind = kind
        self.space = space
        self.family = family if isinstance(family, tuple) else (family,)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Port) and self._parts == other._parts

    def __hash__(self) -> int:
        return hash(self._parts)

    @property
    def _parts(self) -> tuple[object, ...]:
        return self.kind, self.space, self.family

    def __repr__(self) -> str:
        return f"Port({self.kind!r}{'' if self.space is None else f', space={self.space}'})"


def port_of(hint: Any) -> Port | None:
    """The port tag of a type, or None. Of several tags, the outermost."""
    return next((tag for tag in reversed(tags_of(hint)) if isinstance(tag, Port)), None)


def families_of(hint: Any) -> tuple[type, ...]:
    """The families of a port: the classes that its tag names, or its own class if that has `__family__ = True`.

    A class with `__family__ = True` has one subclass for each family.
    """
    for arm in union_members(hint):
        if (tag := port_of(arm)) is not None and tag.family:
            return tag.family
        if isinstance(cls := untagged(arm), type) and getattr(cls, "__family__", False):
            return (cls,)
    return ()
