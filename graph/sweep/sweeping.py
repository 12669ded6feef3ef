"""Running a sweep: all combinations side by side, with one memo."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from ...registry import counted
from ..call import prepare
from ..errors import InputError, Problem, SfumatoError
from ..keywords import MEMO
from ..memo import memo
from ..run import Run
from ..structure import Structure
from ..together import together
from .axes import Axis, axes_of, combinations
from .table import Cell, Sweep


def sweep(graph: Structure, values: Mapping[str, Any], at_once: int) -> Sweep:
    """Run all combinations of the values that vary.

    Raises:
        InputError: values that cannot vary, or a combination that the graph refuses.
        ExceptionGroup: all combinations failed.
    """
    if at_once < 1:
        raise InputError(
            Problem("value", "at_once", f"needs a number of runs, at least 1, got {at_once}.", str(at_once))
        )
    axes = axes_of(values)
    values = values if values.get(MEMO) is not None else {**values, MEMO: memo()}
    places = list(combinations(axes))
    runs = [_prepared(graph, values, axes, place) for place in places]  # so that nothing runs before all is checked
    try:
        together(runs, at_once)
    except ExceptionGroup as errors:
        if len(errors.exceptions) == len(runs):
            raise
        text = f"{len(errors.exceptions)} of {counted(len(runs), 'run')} of the sweep failed. Read cell.error of each."
        warnings.warn(text, UserWarning, stacklevel=3)
    return Sweep(axes, [_cell(axes, place, run) for place, run in zip(places, runs, strict=True)])


def _values(axes: Sequence[Axis], place: Sequence[int]) -> dict[str, Any]:
    return {axis.name: axis.values[number] for axis, number in zip(axes, place, strict=True)}


def _labels(axes: Sequence[Axis], place: Sequence[int]) -> dict[str, str]:
    return {axis.name: axis.labels[number] for axis, number in zip(axes, place, strict=True)}


def _prepared(graph: Structure, values: Mapping[str, Any], axes: Sequence[Axis], place: Sequence[int]) -> Run:
    """The run of one combination."""
    try:
        return prepare(graph, (), {**values, **_values(axes, place)}).without_history()
    except SfumatoError as error:
        if axes:
            error.add_note(f"  in the combination {', '.join(f'{n}: {v}' for n, v in _labels(axes, place).items())}")
        raise


def _cell(axes: Sequence[Axis], place: Sequence[int], run: Run) -> Cell:
    outputs: Mapping[str, Any] = run.outputs if run.error is None else {}
    return Cell(_labels(axes, place), _values(axes, place), outputs, run.error)
