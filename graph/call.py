"""A call: what the keywords mean, what is missing, and the run that comes of it. All of it before any block runs."""

import reprlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..registry import HINTS, closest, presets
from .binding import AUTO, overlay, sister
from .block import Lazy
from .errors import InputError, LoadError, Problem
from .graph import Graph
from .simplified import lightened
from .plan import needed, plan_of, unbound
from .run import Run
from .typing import type_text
from .validate import Unfit, fitted
from .wiring import INPUTS, last_givers


def prepare(graph: Graph, first: Sequence[Any], values: Mapping[str, Any]) -> Run:
    """A run of the graph with these values. Raises `InputError` with everything that is wrong."""
    values = dict(values)
    if graph.preset is not None and graph.preset[1] == AUTO:
        graph = for_names(graph, values)
    if first:
        name = next(iter(graph.inputs), None)
        if len(first) > 1 or name is None or name in values:
            which = f", which is {name!r}" if name else ""
            text = f"takes one value without a name{which}; {len(first)} came. Write name=value."
            raise InputError(Problem("positional", "call", text))
        values[name] = first[0]
    swaps = {n: values.pop(n) for n in list(values) if n in graph.slots or n in graph.components}
    plain, graph = graph, overlay(graph, swaps)
    made = makers(graph)
    if instead := [n for n in values if n not in graph.inputs and n in made]:
        graph = _given(graph, tuple(instead), made)
    graph = _pruned(graph)
    found = _unknown(plain, graph, values)
    notes = tuple(
        f"{name!r} is not used with {', '.join(swaps) or 'these values'}: nothing in this run reads it."
        for name in values if name in plain.inputs and name not in graph.inputs
    )  # fmt: skip
    taken = {name: value for name, value in values.items() if name in graph.inputs}
    found += _missing(graph, taken)
    for name, value in taken.items():
        try:
            taken[name] = fitted(value, graph.inputs[name].type)
        except Unfit as error:
            way = HINTS.get(f"{name}={value!r}") if isinstance(value, str) else None
            text = f"{error}, but {_shown(value)} came.{f' {way}' if way else ''}"
            found.append(Problem("value", name, text, type(value).__name__, type_text(graph.inputs[name].type)))
    if found:
        raise InputError(found)
    if (light := simplified(graph, taken)) is not graph:
        graph = _pruned(light)
        taken = {name: value for name, value in taken.items() if name in graph.inputs}
    _ready(needed(graph, _wanted(graph)))
    return Run(graph, taken, notes)


def _ready(bindings: Mapping[str, Any]) -> None:
    """Ask what loads at its first use whether it could. One LoadError with all that cannot."""
    wrong: dict[str, LoadError] = {}
    for name, value in bindings.items():
        if isinstance(value, Lazy):
            try:
                value.ready()
            except LoadError as error:
                wrong[name] = error
    if len(wrong) == 1:
        raise next(iter(wrong.values()))
    if wrong:
        raise LoadError("\n  ".join([f"({len(wrong)} components)", *(f"{n}: {e}" for n, e in wrong.items())]))


def _shown(value: Any) -> str:
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"a {type(value).__name__} of shape {tuple(value.shape)} and {value.dtype}"
    return f"{reprlib.repr(value)} ({type(value).__name__})"


def _wanted(graph: Graph) -> tuple[str, ...]:
    return graph.declared or tuple(graph.outputs)


def makers(graph: Graph) -> dict[str, str]:
    """Output names that exactly one top-level node makes (gives without taking), and that node.

    A call may give such a value itself; then the node does not run.
    """
    if "_makers" not in graph.__dict__:
        made: dict[str, list[str]] = {}
        for node, block in graph.nodes.items():
            for name in block.signature.outputs:
                if name not in block.signature.inputs:
                    made.setdefault(name, []).append(node)
        graph.__dict__["_makers"] = {name: nodes[0] for name, nodes in made.items() if len(nodes) == 1}
    return graph.__dict__["_makers"]


def for_names(graph: Graph, names: Collection[str]) -> Graph:
    """The graph itself if it takes these names, else the first sister task that does; itself where none does.

    A task that needs components which this one does without, and which are not there, is not chosen unasked.
    """
    if graph.preset is None or _takes(graph, names):
        return graph
    sisters: dict[str, Graph] = graph.__dict__.setdefault("_sisters", {})
    for task in presets[graph.preset[0]].tasks:
        if task not in sisters:
            sisters[task] = sister(graph, task)
        if _takes(sisters[task], names) and _lacks(sisters[task]) - {*names} <= _lacks(graph):
            return sisters[task]
    return graph


def _lacks(graph: Graph) -> set[str]:
    return {name for name, part in graph.components.items() if part.required and name not in graph.bindings}


def _takes(graph: Graph, names: Collection[str]) -> bool:
    return {*graph.inputs, *graph.components, *graph.slots, *makers(graph)}.issuperset(names)


def _given(graph: Graph, names: tuple[str, ...], made: Mapping[str, str]) -> Graph:
    """The graph without the nodes whose outputs the call gives; cached on the graph."""
    cache: dict[tuple[str, ...], Graph] = graph.__dict__.setdefault("_given", {})
    if names not in cache:
        gone = {made[n] for n in names}
        pinned = [
            replace(e, giver=INPUTS) if e.giver in gone else e
            for e in graph.pinned if e.taker not in gone and (e.giver not in gone or e.output in names)
        ]  # fmt: skip
        nodes = {n: b for n, b in graph.nodes.items() if n not in gone}
        still = last_givers(nodes)
        declared = tuple(n for n in graph.declared if n in still)
        cache[names] = graph._edit(nodes=nodes, pinned=pinned, slots={}, declared=declared)
    return cache[names]


def _pruned(graph: Graph) -> Graph:
    """The graph without work that nobody reads, so that it asks for no more than the run uses."""
    if "_pruned" not in graph.__dict__:
        runs = {line.name for line in plan_of(graph, _wanted(graph)).lines}
        if len(runs) == len(graph.nodes):
            graph.__dict__["_pruned"] = graph
        else:
            nodes = {n: b for n, b in graph.nodes.items() if n in runs}
            pinned = [e for e in graph.pinned if e.taker in runs]
            graph.__dict__["_pruned"] = graph._edit(nodes=nodes, pinned=pinned, slots={})
    return graph.__dict__["_pruned"]


def _unknown(plain: Graph, graph: Graph, values: Mapping[str, Any]) -> list[Problem]:
    known = [*graph.inputs, *plain.slots, *plain.components]
    everything = [*known, *makers(graph)]
    found: list[Problem] = []
    for name in values:
        if name in graph.inputs or name in plain.inputs:
            continue
        if name in graph.outputs and name not in graph.inputs:
            makes = [n for n, b in graph.nodes.items() if name in b.signature.outputs]
            text = f"is made by {' and '.join(makes)}. A call may give what one node alone makes: rename one of them."
        elif task := _task_that_takes(plain, name):
            mine = _task_of(plain)
            text = f"is no input of {mine}. Write pipe.task({task!r})(…, {name}=…)."
            if task == mine:
                text = f"nothing reads it here: {mine} has a block that does, but this graph is without it."
        elif name in HINTS:
            text = f"no such input. {HINTS[name]}"
        else:
            near = closest(name, everything, 1)
            text = f"no such input. {f'Did you mean {near[0]!r}? ' if near else ''}There are: {', '.join(known)}."
        found.append(Problem("unknown", name, text, name, candidates=tuple(closest(name, everything))))
    return found


def _task_of(graph: Graph) -> str:
    """The task that a graph is, for people; of one that may be several, the first."""
    if graph.preset is None:
        return "this graph"
    return next(iter(presets[graph.preset[0]].tasks)) if graph.preset[1] == AUTO else graph.preset[1]


def _task_that_takes(graph: Graph, name: str) -> str | None:
    """The task whose graph takes an input of that name: the graph's own, which was edited, or the first sister."""
    if graph.preset is None or (family := presets.find(graph.preset[0])) is None:
        return None
    own = [task for task in family.tasks if task == graph.preset[1]]
    tasks = dict.fromkeys([*own, *family.tasks])
    return next((task for task in tasks if name in family.make(task, graph.bindings).inputs), None)


def _without(graph: Graph, name: str) -> str:
    """Of a part of a task's graph: how another task makes the same without that input; "" where none does."""
    if graph.preset is None or (family := presets.find(graph.preset[0])) is None:
        return ""
    wanted, own = _wanted(graph), _task_of(graph)
    if family.make(own, graph.bindings).declared == wanted:
        return ""
    for task in family.tasks:
        whole: Graph = family.make(task, graph.bindings)
        if task != own and {*wanted} <= {
            output for block in whole.nodes.values() for output in block.signature.outputs
        }:
            part = whole.only(*wanted)
            if name not in part.inputs:
                asked = ", ".join(map(repr, wanted))
                return f" pipe.task({task!r}).only({asked}) gives the same without it, from: {', '.join(part.inputs)}."
    return ""


def _missing(graph: Graph, values: Mapping[str, Any]) -> list[Problem]:
    found: list[Problem] = []
    for name, port in graph.inputs.items():
        if port.required and name not in values:
            readers = ", ".join(e.target for e in graph.edges if e.giver == INPUTS and e.output == name)
            text = f"must be given: {type_text(port.type)}, read by {readers}.{_without(graph, name)}"
            found.append(Problem("missing", name, text, needed=type_text(port.type)))
    for name, nodes in unbound(graph, _wanted(graph), graph.bindings).items():
        kind = type_text(graph.components[name].type)
        way = f"Write graph.bind({name}=…), or load a checkpoint: sf.load(…)."
        text = f"no component is bound; {', '.join(nodes)} needs {kind}. {way}"
        found.append(Problem("unbound", name, text, needed=kind))
    return found
