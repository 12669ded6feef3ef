"""Components that must be one along the edges: a schedule is walked by the scheduler that planned it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from .block import Block
from .errors import ConfigError, LoadError, Problem
from .fields import Lazy, same_component
from .paths import blocks_inside
from .structure import Structure
from .typing import union_members, untagged
from .unify import Evidence, evidence_of


def _work_of(cls: Any) -> str | None:  # Any: a class, or another type form
    """The work that values of a class belong to: the class attribute `__belongs_to__`, such as "schedule"."""
    return getattr(cls, "__belongs_to__", None) if isinstance(cls, type) else None


@dataclass(frozen=True, eq=False)
class Holder:
    """A component that makes or reads the values of a piece of work, such as a schedule."""

    work: str
    component: Any = None
    """None for a port, which has values of any such component."""

    def fits(self, other: "Holder") -> bool:
        """Whether both are one component, or work on different things. Reads configs, never weights."""
        if self.work != other.work or self.component is None or other.component is None:
            return True
        return same_component(self.component, other.component) or same_component(
            _loaded(self.component), _loaded(other.component)
        )

    def __str__(self) -> str:
        kind = self.component.type if isinstance(self.component, Lazy) else type(self.component)
        return getattr(kind, "__name__", "any")


class Holders:
    """Components that must be one as a kind of value: ports of a class with `__belongs_to__` carry them."""

    code = "component"

    def of_port(self, hint: Any) -> Holder | None:
        """Any component of that work; all such ports of one block share its variable."""
        works = (_work_of(untagged(arm)) for arm in union_members(hint))
        return next((Holder(work) for work in works if work), None)

    def of_fields(self, block: Block, fields: Mapping[str, Any]) -> Iterable[Evidence]:
        """The components among the fields."""
        return evidence_of(fields, _holder)

    def is_any(self, value: Holder) -> bool:
        """Whether no component is known."""
        return value.component is None

    def shares(self, value: Holder) -> bool:
        """Always."""
        return True

    def conflict(self, new: Holder, who: str, old: Holder) -> str:
        """Both components, and the way out."""
        same = " with other settings" if str(new) == str(old) else ""
        return (
            f"is {new}{same}, but {who} is {old}, and both work on one {new.work}. Bind the same object to both, or "
            f"give each its own {new.work}."
        )


def has_two_holders(graph: Structure) -> bool:
    """Whether blocks and bindings of a graph have two or more such components."""
    held = [value for _, block in blocks_inside(graph) for value in vars(block).values()]
    return sum(_holder(value) is not None for value in (*held, *graph.bindings.values())) > 1


def foreign_values(graph: Structure, values: Mapping[str, Any]) -> Iterable[Problem]:  # Any: values of inputs
    """A problem for each value, such as a schedule, that none of the graph's components for such work made.

    A value says in `made_by` which component made it: its class and fields, as `repr` writes them.
    """
    for name, value in values.items():
        work, made_by = _work_of(type(value)), getattr(value, "made_by", "")
        if not (work and made_by):
            continue
        held = [value for _, block in blocks_inside(graph) for value in vars(block).values()]
        own = [repr(_loaded(c)) for c in (*held, *graph.bindings.values()) if (h := _holder(c)) and h.work == work]
        if own and made_by not in own:
            maker, kinds = made_by.partition("(")[0], [text.partition("(")[0] for text in own]
            same = " with other settings" if maker in kinds else ""
            text = f"was made by {maker}{same}, and this graph has {' and '.join(dict.fromkeys(kinds))}. "
            yield Problem("component", name, f"{text}Pass a value that was made by the same one.", maker, kinds[0])


def work_of(component: Any) -> str | None:  # Any: a component, bound or not
    """The work that a component does for several blocks, such as "schedule"; None for others."""
    return _work_of(component.type if isinstance(component, Lazy) else type(component))


def _holder(component: Any) -> Holder | None:
    work = work_of(component)
    return Holder(work, component) if work else None


def _loaded(component: Any) -> Any:
    try:
        return component.load() if isinstance(component, Lazy) else component
    except (ConfigError, LoadError):
        return component  # it is reported where it is bound
