"""Slots: names under which a call may swap blocks, and their problems."""

from collections.abc import Iterable

from .errors import Problem, WireError
from .structure import Structure


def slot_problems(graph: Structure) -> Iterable[Problem]:
    """Slots that lead to no block, and names that a call would take in two ways."""
    names = {"an input": graph.inputs, "a component": graph.components}
    for slot, paths in graph.slots.items():
        if not slot.isidentifier():
            yield Problem("name", slot, "is no name for a slot: use letters, digits and underscores.", slot)
        for kind, taken in names.items():
            if slot in taken:
                text = f"is a slot and also {kind} of this graph. Call keywords are one namespace: rename the slot."
                yield Problem("clash", slot, text, slot)
        for path in paths:
            try:
                _ = graph[path]
            except WireError as error:
                yield Problem("slot", slot, f"stands for {path!r}: {error.problems[0].message}", path)
    for name in graph.inputs.keys() & graph.components.keys():
        text = f"is an input and also a component. Call keywords are one namespace: named(block, {name}='…')."
        yield Problem("clash", name, text, name)
