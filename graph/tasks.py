"""Tasks of a preset family: the sister graph for another task, and the task that a call's names mean."""

from collections.abc import Collection
from typing import TypeVar

from ..registry import closest, did_you_mean, presets
from .analysis import sole_makers
from .binding import bound
from .cache import cached
from .edits import edited
from .errors import Problem, WireError
from .own_components import own_components
from .structure import Structure

S = TypeVar("S", bound=Structure)

AUTO = "auto"
"""The task of a graph that takes another task in each call, by the names that are passed."""


def sister(graph: S, task: str) -> S:
    """`graph.task`: the preset of the same family for another task, with the same components.

    It keeps those that the other task has no block for: a further task may need them.
    """
    if graph.preset is None:
        text = "this graph was not made by a preset, so it has no sister tasks. Make one: sf.load(…, task=…)."
        raise WireError(Problem("task", task, text))
    family = presets[graph.preset[0]]
    if not isinstance(task, str):  # pyright: ignore[reportUnnecessaryIsInstance]  a user's argument
        text = f"needs the name of a task. Got {task!r}. There are: {', '.join(family.tasks)}."
        raise WireError(Problem("task", "task", text))
    if task not in (*family.tasks, AUTO):
        near = closest(task, family.tasks, 1)
        text = f"{graph.preset[0]} has no such task. {did_you_mean(task, family.tasks)}"
        raise WireError(Problem("task", task, text, candidates=tuple(near)))
    if task != AUTO and (why := family.unserved(task, graph.adapted_bindings)):
        raise WireError(Problem("task", task, why))
    made: S = edited(family.sister(graph, task), adapters=graph.adapters)
    made = bound(made, {name: value for name, value in graph.bindings.items() if name in made.components})
    return edited(made, bindings={**graph.bindings, **made.bindings})


def with_inputs_of_adapters(graph: S, plain: S) -> S:
    """A graph with the blocks that its task has where its adapters widen a model: those for a control picture.

    plain: the same graph before the adapters were attached.
    """
    if graph.preset is None or graph.adapters is None or not graph.adapters.widens:
        return graph
    made = presets[graph.preset[0]].refitted(graph, plain)
    if made is graph:
        return graph
    return edited(
        made, pinned=graph.pinned, declared=graph.declared, bindings=graph.bindings, adapters=graph.adapters
    )  # fmt: skip


def graph_for(graph: Structure, names: Collection[str]) -> Structure:
    """The graph itself if it takes these names, else the first sister task that does; itself where none does.

    A task is not chosen if it needs a component that is neither bound nor passed, and that this graph can do without.
    """
    if graph.preset is None or _takes(graph, names):
        return graph
    family = presets[graph.preset[0]]
    for task in cached(graph, "served", lambda: family.served(graph.adapted_bindings)):
        other = cached(graph, "sisters", lambda task=task: sister(graph, task), task)
        if _takes(other, names) and _unbound(other) - {*names} <= _unbound(graph):
            return other
    return graph


def _unbound(graph: Structure) -> set[str]:
    return {name for name, part in graph.components.items() if part.required and name not in graph.bindings}


def _takes(graph: Structure, names: Collection[str]) -> bool:
    known = {*graph.inputs, *graph.components, *own_components(graph), *graph.slots, *sole_makers(graph)}
    return known.issuperset(names)


def of_other_task(graph: Structure, component: str) -> bool:
    """Whether a component of this name belongs to a task of the graph's family."""
    family = presets.find(graph.preset[0]) if graph.preset is not None else None
    return family is not None and bool(family.needed([component]))


def task_of(graph: Structure) -> str:
    """The task of a graph, for people; of one with the task "auto", the first that it serves."""
    if graph.preset is None:
        return "this graph"
    if graph.preset[1] != AUTO:
        return graph.preset[1]
    family = presets[graph.preset[0]]
    return next(iter([*family.served(graph.adapted_bindings), *family.tasks]))


def task_with_input(graph: Structure, name: str) -> str | None:
    """The task whose graph has an input of that name: the graph's own, as its preset makes it, or the first sister."""
    inputs = cached(graph, "inputs of tasks", lambda: _inputs_of_tasks(graph))
    return next((task for task, names in inputs.items() if name in names), None)


def _inputs_of_tasks(graph: Structure) -> dict[str, frozenset[str]]:
    """The inputs of each task's graph: the graph's own task first."""
    if graph.preset is None or (family := presets.find(graph.preset[0])) is None:
        return {}
    served = family.served(graph.adapted_bindings)
    own = [task for task in served if task == graph.preset[1]]
    return {
        task: frozenset(family.make(task, graph.adapted_bindings).inputs) for task in dict.fromkeys([*own, *served])
    }


def way_without_input(graph: Structure, name: str) -> str:
    """For a part of a task's graph: how another task makes the same outputs without that input; "" where none does."""
    if graph.preset is None or (family := presets.find(graph.preset[0])) is None:
        return ""
    own, served = task_of(graph), family.served(graph.adapted_bindings)
    if own not in served or family.make(own, graph.adapted_bindings).declared == graph.wanted:
        return ""
    for task in served:
        whole = family.make(task, graph.adapted_bindings)
        outputs = {output for block in whole.nodes.values() for output in block.signature.outputs}
        if task != own and {*graph.wanted} <= outputs:
            part = whole.only(*graph.wanted)
            if name not in part.inputs:
                names = ", ".join(map(repr, graph.wanted))
                return f" pipe.task({task!r}).only({names}) gives the same without it, from: {', '.join(part.inputs)}."
    return ""
