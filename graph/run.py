"""`Run`: the events, the state and the result of one execution of a graph, and the way to stop it."""

from collections.abc import Iterator

from .block import Block
from .errors import GraphError
from .event import Event, Events
from .execution import Execution, State
from .memo import Memo
from .memo.reuse import explained
from .ports import Outputs
from .structure import Structure, Values


def run_alone(name: str, block: Block, inputs: Values) -> Outputs:
    """Run one block that holds graphs, as the only node of a graph."""
    return Run(Structure.of({name: block}), inputs).result()


class Run:
    """One run of a graph. Iterate it for its events, or call `result()`; both go on from its present state.

    `notes` are texts that become events, or Python warnings where nobody listens. `memo` has outputs of earlier runs.
    """

    def __init__(self, graph: Structure, inputs: Values, notes: tuple[str, ...] = (), memo: Memo | None = None) -> None:
        self.graph = graph
        self.inputs = inputs
        self._outputs: Outputs | None = None
        self._execution = Execution(graph, inputs, notes, memo)
        self._events: Events | None = None

    @property
    def outputs(self) -> Outputs:
        """The outputs of a run that has ended. Raises `GraphError` before its end."""
        if self._outputs is None:
            raise GraphError(
                "This run has no outputs yet, because it has not ended. Iterate it to its end, or call run.result()."
            )
        return self._outputs

    @property
    def state(self) -> State:
        """The progress of the run, as plain data. A run of the same graph and inputs goes on from it."""
        return self._execution.state

    @state.setter
    def state(self, state: State) -> None:
        self._execution.state = state

    def explain(self) -> str:
        """A table of the nodes of a run with a memo: whether each ran, was reused or was skipped, and why."""
        if self._execution.reuse is None:
            return "This run has no memo, so every node ran. Pass memo=sf.memo()."
        return explained(self._execution.reuse.reasons)

    def __iter__(self) -> Iterator[Event]:
        return self

    def __next__(self) -> Event:
        if self._events is None:
            self._events = self._execution.run()
        try:
            return next(self._events)
        except StopIteration as stop:
            if stop.value is not None:
                self._outputs = Outputs(stop.value)
            raise
        except BaseException:
            self._events = None  # a generator that has raised is over; the next one goes on from the state
            raise

    def result(self) -> Outputs:
        """Run to the end. Gives the outputs."""
        self._execution.silent = True
        for _ in self:
            pass
        return self.outputs

    def close(self) -> None:
        """Release the components that it holds; a run that is iterated again leases them again. Not while it runs."""
        events, self._events = self._events, None
        if events is not None:
            events.close()

    def cancel(self) -> None:
        """Ask the run to stop: it raises `Cancelled` before its next node or model pass. Any thread may ask."""
        self._execution.stop.set()
        self._execution.leases.wake()

    def check(self) -> None:
        """Raise `Cancelled` if the run was asked to stop."""
        self._execution.check()

    def note(self, text: str) -> None:
        """Send a text to whoever listens to the run; without listeners it becomes a Python warning."""
        self._execution.note(text)
