"""`Run`: the events, the state and the result of one execution of a graph, and the ways to stop it."""

import sys
import threading
from collections import deque
from collections.abc import AsyncIterator, Generator, Iterator, Mapping
from contextvars import copy_context
from typing import NoReturn, Self

from ..registry import codecs
from .errors import Cancelled, GraphError
from .events import Event, RunFinished
from .execution import Execution
from .keywords import Call
from .listeners import Listeners, OnEvent, in_thread
from .member import Member
from .memo import Memo
from .memo.reuse import explained
from .ports import Outputs
from .run_state import RunState
from .state import State
from .structure import Structure, Values
from .takeover import Takeover


class Run:
    """One run of a graph. Iterate it for its events, or call `result()`; both go on from its present state.

    `start()` runs it in a thread. Any thread may call `cancel`, `pause` and `finish_now`.

    `notes` are texts that become events, or Python warnings where nobody listens. `memo` has outputs of earlier runs.
    `call` is the call that made it. `drawn` are inputs that the call did not pass, and that have a new random number.
    `on_event` gets each event before the run hands it out. `progress` shows a bar.
    """

    def __init__(
        self,
        graph: Structure,
        inputs: Values,
        notes: tuple[str, ...],
        memo: Memo | None,
        *,
        call: Call,
        drawn: frozenset[str] = frozenset(),
        on_event: OnEvent | None = None,
        progress: bool = False,
    ) -> None:
        self.graph = graph
        self.inputs = inputs
        self.call = call
        """The call that made the run, with its checked values."""
        self._outputs: Outputs | None = None
        self._execution = Execution(graph, inputs, notes, memo, drawn)
        self._on_event = on_event
        self._progress = progress
        self._events: Generator[Event, None, None] | None = None
        self._events_left = deque[Event]()  # of a run that another thread has paused
        self._advancing = threading.RLock()  # held by the thread that runs blocks
        self._is_advancing = False
        self._thread: threading.Thread | None = None
        self._joining = threading.Lock()  # held when the run joins others, and when its thread ends
        self._ended = threading.Event()  # of the thread; waiting for it, unlike a join, sees Ctrl-C on all systems
        self._error: BaseException | None = None  # that ended the thread

    def __reduce__(self) -> NoReturn:
        raise GraphError(
            "A run belongs to its process: it has leases of components there. Send the graph and the inputs to another "
            "process, and start the run there."
        )

    @property
    def outputs(self) -> Outputs:
        """The outputs of a run that has ended. Raises `GraphError` before its end."""
        if self._outputs is None:
            raise GraphError(
                "This run has no outputs yet, because it has not ended. Iterate it to its end, or call run.result()."
            )
        return self._outputs

    @property
    def error(self) -> BaseException | None:
        """The error that ended a run with its own thread; None for a run that has not failed."""
        return self._error

    @property
    def has_thread(self) -> bool:
        """Whether the run was started in a thread of its own."""
        return self._thread is not None

    @property
    def is_cancelled(self) -> bool:
        """Whether the run was cancelled."""
        return self._execution.requests.stop.is_set()

    @property
    def state(self) -> RunState:
        """The state of the run at this moment, also after an error. `sf.resume(run.state)` goes on from it."""
        run = self._execution
        with run.turn_ends:
            return RunState.of(self.call, run.state, run.history.moments if run.history is not None else ())

    def go_on_from(self, state: State, takeovers: Mapping[str, Takeover]) -> None:
        """Begin with the state of another run. takeovers: its loops that go on under changes, by path."""
        self._execution.state = state
        self._execution.takeovers = dict(takeovers)

    def without_history(self) -> Self:
        """The run, which keeps no earlier steps for `run.state.at`."""
        self._execution.history = None
        return self

    def explain(self) -> str:
        """A table of the nodes of a run with a memo: whether each ran, was reused or was skipped, and why."""
        if self._execution.reuse is None:
            return "This run has no memo, so every node ran. Pass memo=sf.memo()."
        return explained(self._execution.reuse.reasons)

    def __iter__(self) -> Iterator[Event]:
        return self

    def __next__(self) -> Event:
        if self._thread is not None and not self._in_own_thread:
            raise GraphError("This run has its own thread, so it cannot be iterated. Call run.result() to wait for it.")
        with self._advancing:
            if self._events_left:
                return self._events_left.popleft()
            if self._events is None:
                self._events = self._run()
            self._is_advancing = True
            try:
                return next(self._events)
            except StopIteration:
                raise
            except BaseException:
                self._events = None  # a generator that has raised is over; the next one goes on from the state
                raise
            finally:
                self._is_advancing = False

    def _run(self) -> Generator[Event, None, None]:
        with Listeners(self._on_event, self._progress) as listeners:
            self._outputs = Outputs(
                _with_records((yield from listeners.tell_each(self._execution.run())), self._execution.state, self.call)
            )
            yield listeners.tell(RunFinished("", self._outputs))

    def __aiter__(self) -> AsyncIterator[Event]:
        """The events, each made in a thread while the event loop goes on. A cancelled task cancels the run."""
        return in_thread(self)

    def start(self) -> Self:
        """Run to the end in a thread of its own. Gives the run. A run starts once."""
        if self._thread is not None:
            raise GraphError("This run was started before. Make another one: graph.start(…).")
        self._execution.silent = self._on_event is None
        self._thread = threading.Thread(target=copy_context().run, args=(self._run_in_thread,), name="sfumato run")
        self._thread.start()
        return self

    def _run_in_thread(self) -> None:
        try:
            if self._execution.member is not None:
                self._execution.member.wait_for_turn()
            for _ in self:
                pass
        except Cancelled as error:
            self._error = error.with_traceback(None)  # its frames would keep the values of the run
        except BaseException as error:  # `result` raises it
            self._error = error
        finally:
            with self._joining:
                self._ended.set()
                if self._execution.member is not None:
                    self._execution.member.end()

    def result(self) -> Outputs:
        """Run to the end, or wait for the end of a run with its own thread. Gives the outputs.

        Raises the error of the run. Ctrl-C cancels it.
        """
        if self._thread is None or self._in_own_thread:
            self._execution.silent = self._on_event is None
            for _ in self:
                pass
            return self.outputs
        try:
            self._ended.wait()
        except KeyboardInterrupt:
            self.cancel()
            self._ended.wait()
            raise
        if self._error is not None:
            raise self._error
        return self.outputs

    def close(self) -> None:
        """Release the components that it holds. A run without its own thread leases them again when it is iterated; one
        with its own thread is cancelled."""
        if self._thread is not None and not self._in_own_thread:
            self.cancel()
            self._ended.wait()
            return
        with self._advancing:
            events, self._events = self._events, None
            if events is not None:
                events.close()

    def cancel(self) -> None:
        """Stop the run: it raises `Cancelled` before its next node or model pass, and releases its components."""
        self._execution.requests.cancelled()
        self._execution.wake()
        self._release_if_idle()

    def pause(self) -> RunState:
        """Stop the run where none of its work is lost: before a node, or after a turn of a loop. Gives its state.

        The run raises `Paused`. Waits until it has stopped, unless the run itself calls it: in a function that gets its
        events. Another thread that iterates the run gets the events until then.
        """
        self._execution.requests.paused()
        self._execution.wake()
        if self._thread is None and not self._release_if_idle():
            with self._advancing:
                self._events = _rest(self._events, self._events_left)
        elif self._thread is not None and not self._in_own_thread:
            self._ended.wait()
        return self.state

    def finish_now(self) -> None:
        """End each loop with its present turn, and decode the result: `result()` gives pictures early.

        The last turn gives the clean latents that its prediction points to. A loop that begins later has one turn.
        """
        self._execution.requests.finish_now()

    @property
    def _in_own_thread(self) -> bool:
        return threading.current_thread() is self._thread

    def _release_if_idle(self) -> bool:
        """Release the components of a run that nobody iterates at the moment. False if somebody does."""
        if self._thread is not None or not self._advancing.acquire(blocking=False):
            return False
        try:
            if not self._is_advancing:  # else a block of the run has called
                self.close()
        finally:
            self._advancing.release()
        return True

    def take_turns(self, member: Member) -> None:
        """Go on side by side with others. Starts a run that was not started; one with its own thread joins them later.

        Raises:
            GraphError: a run that does so already.
        """
        run = self._execution
        with self._joining:
            if run.member is not None:
                raise GraphError("This run goes on side by side with others already. Pass it to one group.")
            run.member = run.leases.member = member
            if self._ended.is_set():
                member.end()
        if self._thread is None:
            self.start()
        else:
            run.wake()

    def check(self) -> None:
        """Raise `Cancelled` if the run was cancelled."""
        self._execution.check()

    def note(self, text: str) -> None:
        """Send a text to whoever listens to the run; without listeners it becomes a Python warning."""
        self._execution.note(text)


def _with_records(outputs: Values, state: State, call: Call) -> Values:
    """The outputs, with pictures that know the call; not of a run that was changed or finished on its way."""
    if state.origins or "PIL.Image" not in sys.modules:
        return outputs
    return codecs["record"](call, outputs)


def _rest(events: Generator[Event, None, None] | None, left: deque[Event]) -> Generator[Event, None, None] | None:
    """Take the events until a run ends, pauses or fails. Gives the generator; None after an error."""
    try:
        left.extend(events or ())
    except BaseException:  # of any class
        return None
    return events
