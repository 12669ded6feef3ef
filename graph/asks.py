"""What a block asks of components behind a function that it takes: a guider, of the denoiser behind `predict`."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .block import Block, Lazy
from .graph import Graph
from .paths import leaves
from .typing import port_of
from .unify import Told, each


class Ask(ABC):
    """What a block asks. The block holds it in an attribute, whose name is told where it is not met."""

    @abstractmethod
    def unmet(self, component: Any) -> str | None:
        """What `component` (a model, or the handle of one that is not loaded) lacks, as a sentence.

        None where it lacks nothing, or nothing is known, or it is not what is asked for. Reads no weights.
        """


@dataclass(frozen=True)
class Meeting:
    """Those that meet along one function: who asks, and who may be asked."""

    asks: Sequence[Ask] = ()
    asked: Sequence[Any] = ()

    def lacking(self, other: "Meeting") -> str:
        pairs = [(ask, one) for a, b in ((self, other), (other, self)) for ask in a.asks for one in b.asked]
        return next((text for ask, one in pairs if (text := ask.unmet(one)) is not None), "")

    def fits(self, other: "Meeting") -> bool:
        return not self.lacking(other)


def asks(graph: Graph) -> bool:
    """Whether any block of a graph asks anything."""
    return any(isinstance(value, Ask) for _, block in leaves(graph) for value in vars(block).values())


class Asks:
    """A kind of variable for `graph.spaces`: functions called `predict` carry it."""

    code = "ask"

    def of_port(self, hint: Any) -> Meeting | None:
        tag = port_of(hint)
        return Meeting() if tag is not None and tag.kind == "predict" else None

    def of_held(self, block: Block, held: Mapping[str, Any]) -> Iterable[Told]:
        return each(held, _meeting)

    def is_any(self, value: Meeting) -> bool:
        return True

    def shares(self, value: Meeting) -> bool:
        return True

    def told(self, new: Meeting, who: str, old: Meeting) -> str:
        return f"{old.lacking(new)} It meets {who}."


def _meeting(value: Any) -> Meeting | None:
    if isinstance(value, Ask):
        return Meeting(asks=(value,))
    return Meeting(asked=(value,)) if isinstance(value, Lazy) or callable(value) else None
