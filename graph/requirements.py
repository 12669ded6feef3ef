"""Requirements that a block has of the components behind a function that it takes: a guider, of the denoiser."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .block import Block
from .fields import Lazy
from .paths import blocks_inside
from .structure import Structure
from .typing import Port, is_callable, port_of, untagged
from .unify import Evidence, evidence_of


class Requirement(ABC):
    """A requirement that a block has of a component. The block holds it in an attribute, whose name errors show."""

    @abstractmethod
    def violation(self, component: Any) -> str | None:
        """The reason why `component` (a model, or the handle of one that is not loaded) does not fit, as a sentence.

        None where it lacks nothing, or nothing is known, or the requirement is for other components. Reads no weights.
        """


@dataclass(frozen=True)
class Match:
    """Requirements and components that meet along one function."""

    requirements: Sequence[Requirement] = ()
    components: Sequence[Any] = ()

    def violation(self, other: "Match") -> str:
        """The first violation of one side's requirements by the other side's components; "" if there is none."""
        pairs = [(r, c) for a, b in ((self, other), (other, self)) for r in a.requirements for c in b.components]
        return next((text for r, c in pairs if (text := r.violation(c)) is not None), "")

    def fits(self, other: "Match") -> bool:
        """Whether no requirement is violated."""
        return not self.violation(other)


def has_requirements(graph: Structure) -> bool:
    """Whether any block of a graph has a requirement."""
    blocks = (block for _, block in blocks_inside(graph))
    return any(isinstance(value, Requirement) for block in blocks for value in vars(block).values())


def function_port(hint: Any) -> Port | None:
    """The tag of a port that carries a function, such as `predict`; None for other ports.

    Such a function stands for the components of the block that made it.
    """
    return port_of(hint) if is_callable(untagged(hint)) else None


class Requirements:
    """Requirements as a kind of value: ports with functions carry them."""

    code = "ask"

    def of_port(self, hint: Any) -> Match | None:
        """An empty match for a function; functions of one block share its variable."""
        return Match() if function_port(hint) is not None else None

    def of_fields(self, block: Block, fields: Mapping[str, Any]) -> Iterable[Evidence]:
        """The requirements and the components among the fields."""
        return evidence_of(fields, _match)

    def is_any(self, value: Match) -> bool:
        """Always: a port by itself requires nothing."""
        return True

    def shares(self, value: Match) -> bool:
        """Always."""
        return True

    def conflict(self, new: Match, who: str, old: Match) -> str:
        """The violation, and where the other side is."""
        return f"{old.violation(new)} It meets {who}."


def _match(value: Any) -> Match | None:
    if isinstance(value, Requirement):
        return Match(requirements=(value,))
    return Match(components=(value,)) if isinstance(value, Lazy) or callable(value) else None
