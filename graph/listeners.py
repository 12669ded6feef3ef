"""The listeners of a run: a function of the caller, a progress bar, and an event loop."""

from collections.abc import AsyncGenerator, Callable
from contextlib import closing
from contextvars import copy_context
from types import TracebackType
from typing import Protocol, Self

from ..registry.progress import ProgressBar
from .events import Event, Events
from .progress import RunProgress

OnEvent = Callable[[Event], object]
"""A function of the caller that gets each event of a run."""


class Listeners:
    """The function and the progress bar of one run. They get each event before the run hands it out."""

    def __init__(self, on_event: OnEvent | None, progress: bool) -> None:
        self._on_event = on_event
        self._bar = ProgressBar() if progress else None
        self._progress = None if self._bar is None else RunProgress(self._bar)

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.__exit__(kind, error, trace)

    def tell(self, event: Event) -> Event:
        """Give them one event. An error of the function gets a note that says so."""
        if self._progress is not None:
            self._progress.show(event)
        if self._on_event is not None:
            try:
                self._on_event(event)
            except Exception as error:  # of any class: it goes on as it is
                where = f" of {event.path!r}" if event.path else ""
                error.add_note(f"  in on_event, at {type(event).__name__}{where}. The run ended there.")
                raise
        return event

    def tell_each(self, events: Events) -> Events:
        """The same events and outputs; each event is given to the listeners first. An error closes the run."""
        if self._progress is None and self._on_event is None:
            return (yield from events)
        with closing(events):
            while True:
                try:
                    event = next(events)
                except StopIteration as stop:
                    return stop.value
                yield self.tell(event)


class Stoppable(Protocol):
    """A run, as `in_thread` uses it."""

    def __next__(self) -> Event: ...

    def cancel(self) -> None:
        """Make it raise `Cancelled` soon."""

    def close(self) -> None:
        """Release what it holds."""


async def in_thread(run: Stoppable) -> AsyncGenerator[Event, None]:
    """The events of a run, each made in a thread, while the event loop goes on.

    Where the iteration ends early, the run is closed; where its task is cancelled, the run is cancelled first.
    """
    from asyncio import CancelledError, shield, wrap_future  # here, since programs without an event loop need none
    from concurrent.futures import ThreadPoolExecutor

    advance = copy_context().run
    thread = ThreadPoolExecutor(1, "sfumato run")  # of its own: a shared one may be full of runs that wait
    try:
        while (event := await wrap_future(thread.submit(advance, next, run, None))) is not None:
            yield event
    except CancelledError:
        run.cancel()
        raise
    finally:
        closed = thread.submit(run.close)  # after the block that runs now
        thread.shutdown(wait=False)
        await shield(wrap_future(closed))
