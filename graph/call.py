"""A call: from its keywords to a run. Nothing runs before everything about it is checked."""

import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from inspect import iscoroutinefunction
from typing import Any

from ..registry import HINTS, closest
from .analysis import sole_makers
from .binding import not_ready
from .errors import InputError, LoadError, Problem
from .keywords import CALL_KEYWORDS, MEMO, ON_EVENT, PROGRESS, Call
from .knobs import knob_problems
from .limits import limit
from .memo import Memo
from .own_components import own_components
from .planned import foreign_values
from .rewrites import Rewrite, adapt, adapt_by_prompts, attend, prune, simplify, swap, use_values
from .run import Run
from .run_order import run_order, unbound
from .structure import Structure
from .tasks import AUTO, graph_for, task_of, task_with_input, way_without_input
from .typing import type_text
from .validate import Unfit, fitted, value_text
from .wiring import INPUTS

BEFORE_CHECKS: tuple[Rewrite, ...] = (swap, attend, adapt, adapt_by_prompts, use_values, prune)
AFTER_CHECKS: tuple[Rewrite, ...] = (simplify, prune)
"""A call is these rewrites of the graph, in this order, with the checks of its values between."""


@dataclass(frozen=True)
class Settled:
    """A call after its checks. graph: the one that runs. notes: texts for the user."""

    graph: Structure
    call: Call
    notes: tuple[str, ...]

    @property
    def inputs(self) -> Mapping[str, Any]:
        """The inputs that the graph takes."""
        return {name: value for name, value in self.call.values.items() if name in self.graph.inputs}


def prepare(graph: Structure, positional: Sequence[Any], keywords: Mapping[str, Any], *, progress: bool = False) -> Run:
    """A run of the graph with these values. Raises `InputError` with everything that is wrong, and `LoadError`.

    progress: whether a progress bar is shown, where the keywords do not say.
    """
    settled = settle(graph, positional, keywords)
    graph = settled.graph
    _check_ready(graph)
    drawn = drawn_inputs(graph, settled.call.values)
    call = settled.call.with_values(drawn)
    values = replace(settled, call=call).inputs
    progress = progress if call.progress is None else call.progress
    return Run(
        graph, values, settled.notes, call.memo,
        call=call, drawn=frozenset(drawn), on_event=call.on_event, progress=progress,
    )  # fmt: skip


def settle(graph: Structure, positional: Sequence[Any], keywords: Mapping[str, Any]) -> Settled:
    """A call with everything about it checked but the files of its components. Raises `InputError`."""
    if graph.preset is not None and graph.preset[1] == AUTO:
        graph = graph_for(graph, keywords)
    call = Call.of(graph, positional, keywords)
    for rewrite in BEFORE_CHECKS:
        graph = rewrite(graph, call)
    if problems := list(_unfit_keywords(call)):
        raise InputError(problems)
    notes = _unused(graph, call)
    call = checked(graph, call)
    for rewrite in AFTER_CHECKS:
        graph = rewrite(graph, call)
    return Settled(graph, call, notes)


def _unfit_keywords(call: Call) -> Iterator[Problem]:
    """What is wrong with the memo, the listener and the progress bar of a call."""
    if not isinstance(call.memo, Memo | None):
        text = f"needs a memo, got {_value_text(call.memo)}. Make one with sf.memo(), and pass it to each call."
        yield Problem("value", MEMO, text, type(call.memo).__name__, "Memo")
    if iscoroutinefunction(call.on_event):
        text = "is an async function, and a run calls it without await. Write `async for event in graph.stream(…)`."
        yield Problem("value", ON_EVENT, text, "async function", "function")
    elif not (call.on_event is None or callable(call.on_event)):
        text = f"needs a function of one event, got {_value_text(call.on_event)}. Write on_event=print, for example."
        yield Problem("value", ON_EVENT, text, type(call.on_event).__name__, "function")
    if not isinstance(call.progress, bool | None):
        text = f"needs True or False, got {_value_text(call.progress)}."
        yield Problem("value", PROGRESS, text, type(call.progress).__name__, "bool")


def drawn_inputs(graph: Structure, values: Mapping[str, Any]) -> dict[str, int]:
    """A new number for each input without which a block draws one, such as `seed`: so a run can be repeated."""
    found: dict[str, int] = {}
    for line in run_order(graph, graph.wanted).lines:
        wires = dict(line.args)
        for port in line.block.random_without:
            giver, name = wires.get(port, ("", ""))
            if giver == INPUTS and values.get(name) is None and _takes_number(graph.inputs[name].type):
                found.setdefault(name, secrets.randbits(32))
    return found


def _takes_number(kind: Any) -> bool:
    try:
        fitted(2**32 - 1, kind)
    except Unfit:
        return False
    return True


def _unused(graph: Structure, call: Call) -> tuple[str, ...]:
    return tuple(
        f"{name!r} is not used with {', '.join(call.swaps) or 'these values'}: nothing in this run reads it."
        for name in call.values if name in call.graph.inputs and name not in graph.inputs
    )  # fmt: skip


def checked(graph: Structure, call: Call) -> Call:
    """The call with the values that the graph takes, as their types want them. Raises `InputError`."""
    problems, inputs = unknown_names(graph, call), graph.inputs
    values = {name: value for name, value in call.values.items() if name in inputs}
    problems += _missing(graph, values)
    for name, value in values.items():
        kind = inputs[name].type
        try:
            values[name] = fitted(value, kind)
        except Unfit as error:
            way = HINTS.get(f"{name}={value!r}" if isinstance(value, str) else f"{name}: {type(value).__name__}")
            text = f"{error}, got {_value_text(value)}.{f' {way}' if way else ''}"
            problems.append(Problem("value", name, text, type(value).__name__, type_text(kind)))
    if problems := problems or [*knob_problems(graph, values), *foreign_values(graph, values)]:
        raise InputError(problems)
    return replace(call, values=values)


def _check_ready(graph: Structure) -> None:
    """Raise one `LoadError` with all components that cannot be loaded."""
    errors = list(not_ready(graph))
    if len(errors) == 1:
        raise errors[0][1]
    if errors:
        raise LoadError("\n  ".join([f"({len(errors)} components)", *(f"{name}: {e}" for name, e in errors)]))


def _value_text(value: Any) -> str:
    text = value_text(value)
    return text if text.startswith("a ") else f"{text} ({type(value).__name__})"


def unknown_names(graph: Structure, call: Call) -> list[Problem]:
    """The values of a call that the graph does not have, with the nearest names."""
    plain = call.graph
    known = [*graph.inputs, *plain.slots, *plain.components]
    everything = [*known, *own_components(plain), *sole_makers(graph), *CALL_KEYWORDS]
    problems: list[Problem] = []
    for name in call.values:
        if name in graph.inputs or name in plain.inputs:
            continue
        if len(problems) >= limit("graph_problems"):
            break
        if name in graph.outputs and name not in graph.inputs:
            makes = [n for n, b in graph.nodes.items() if name in b.signature.outputs]
            text = f"is made by {' and '.join(makes)}. A call can pass only what one node makes. Rename one of them."
        elif task := task_with_input(plain, name):
            own = task_of(plain)
            text = f"is no input of {own}. Write pipe.task({task!r})(…, {name}=…)."
            if task == own:
                text = f"no block of this graph reads it. The block of {own} that does was taken out."
        elif name in HINTS:
            text = f"no such input. {HINTS[name]}"
        else:
            near = closest(name, everything, 1)
            text = f"no such input. {f'Did you mean {near[0]!r}? ' if near else ''}There are: {', '.join(known)}."
        problems.append(Problem("unknown", name, text, name, candidates=tuple(closest(name, everything))))
    return problems


def _missing(graph: Structure, values: Mapping[str, Any]) -> list[Problem]:
    problems: list[Problem] = []
    for name, port in graph.inputs.items():
        if port.required and name not in values:
            readers = ", ".join(e.target for e in graph.edges if e.giver == INPUTS and e.output == name)
            kind = type_text(port.type)
            text = f"needs a value: {kind}, read by {readers}.{way_without_input(graph, name)}"
            problems.append(Problem("missing", name, text, needed=kind))
    for name, nodes in unbound(graph, graph.wanted).items():
        kind = type_text(graph.components[name].type)
        way = f"Write graph.bind({name}=…), or load a checkpoint: sf.load(…)."
        text = f"no component is bound, and {', '.join(nodes)} needs {kind}. {way}"
        problems.append(Problem("unbound", name, text, needed=kind))
    return problems
