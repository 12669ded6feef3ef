"""Going on from the state of a run, with changes."""

from collections.abc import Mapping
from typing import Any

from .call import prepare
from .keywords import ADAPTERS
from .run import Run
from .run_state import RunState
from .structure import Structure
from .takeover import Side, take_over


def resumed(state: RunState, changes: Mapping[str, Any], graph: Structure | None = None) -> Run:
    """A run that goes on from a state.

    Finished nodes do not run again, but for those that the changes reach and whose outputs are needed. Loops that have
    begun keep what they carry.

    Args:
        state: the state, which does not change.
        changes: keywords as in a call, in place of those of the run, and further ones.
        graph: a graph in place of the one that was called, such as one with another block.

    Raises:
        InputError: changes that do not fit, or that nothing reads which is left to run.
    """
    state, missing = state.complete(changes), state.missing
    if ADAPTERS in missing:  # the state has them now, and further ones would be added to them
        changes = {name: value for name, value in changes.items() if name != ADAPTERS}
    before = prepare(state.graph, (), state.values)
    run = prepare(state.graph if graph is None else graph, (), {**state.values, **changes})
    sides = Side.of(before.graph, before.inputs), Side.of(run.graph, run.inputs)
    run.go_on_from(*take_over(*sides, state.reached))
    return run
