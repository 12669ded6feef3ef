"""The inputs of a run in a record: plain values as JSON, pictures and tensors by their contents, private ones not."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from ...graph import InputError, Problem
from ...graph.files.values import Values
from ...graph.structure import Structure
from ...graph.validate import Unfit
from ...registry import did_you_mean
from ..values import takes_picture
from .keys import Json, value_key

CONTENT = "$content"
"""The key of an input that a record has by its contents only. Its value is the key of these, or null."""
PRIVATE = "$private"
"""The key of an input that was left out."""


def _no_block(block: Any, at: str) -> Any:
    raise Unfit("holds a block")


_VALUES = Values(_no_block, _no_block)


def to_json(graph: Structure, values: Mapping[str, Any], private: Collection[str] = ()) -> Json:
    """The values of a call as a record has them."""
    inputs = graph.inputs
    found: Json = {}
    for name, value in values.items():
        kind = inputs[name].type if name in inputs else None
        if name in private:
            found[name] = {PRIVATE: True}
        elif (data := _plain(value, kind, name)) is not None:
            found[name] = data[0]
        else:
            found[name] = {CONTENT: value_key(value, kind)}
    return found


def defaults(graph: Structure, passed: Collection[str]) -> Json:
    """The plain defaults of the inputs that a call did not pass."""
    return {
        name: port.default
        for name, port in graph.inputs.items()
        if name not in passed and isinstance(port.default, bool | int | float | str)
    }


def _plain(value: Any, kind: Any, at: str) -> tuple[Any] | None:  # JSON values
    """The value as JSON, if a reader gets an equal value of it."""
    if kind is None or (value is not None and takes_picture(kind)):
        return None
    try:
        data = _VALUES.encode(value, at)
        _VALUES.decode(data, kind, at)
    except (Unfit, TypeError, ValueError):
        return None
    return (data,)


@dataclass
class Inputs:
    """The inputs of a record, read for a graph.

    values: for the call. missing: those that must be passed, each with the reason. other: those whose contents are not
    the recorded ones.
    """

    values: dict[str, Any] = field(default_factory=dict[str, Any])
    missing: dict[str, str] = field(default_factory=dict[str, str])
    other: list[str] = field(default_factory=list[str])


def from_json(graph: Structure, recorded: Mapping[str, Any], passed: Mapping[str, Any]) -> Inputs:
    """The inputs for a call of the graph.

    passed: values of inputs that the record does not hold, or that replace recorded ones.

    Raises:
        InputError: recorded values that the graph does not take.
    """
    found, problems = Inputs(), list[Problem]()
    for name, data in recorded.items():
        port = graph.inputs.get(name)
        if name in passed:
            value = found.values[name] = passed[name]
            if not _agrees(value, data, None if port is None else port.type, name):
                found.other.append(name)
        elif isinstance(data, Mapping) and PRIVATE in data:
            found.missing[name] = "was left out of the record"
        elif isinstance(data, Mapping) and CONTENT in data:
            found.missing[name] = "is in the record by its contents only"
        elif port is None:
            text = f"no input of the recorded graph has this name. {did_you_mean(name, graph.inputs)}"
            problems.append(Problem("record", name, text))
        else:
            try:
                found.values[name] = _VALUES.decode(data, port.type, name)
            except (Unfit, TypeError, ValueError) as error:
                problems.append(Problem("record", name, f"{error}."))
    if problems:
        raise InputError(problems)
    found.values |= {name: value for name, value in passed.items() if name not in found.values}
    return found


def _agrees(value: Any, data: Any, kind: Any, at: str) -> bool:
    """Whether a value is the recorded one. A private one may be any, and so may one without a key."""
    if isinstance(data, Mapping) and PRIVATE in data:
        return True
    if isinstance(data, Mapping) and CONTENT in data:
        return data[CONTENT] is None or data[CONTENT] == value_key(value, kind)
    plain = _plain(value, kind, at)
    return plain is not None and plain[0] == data
