"""Runs side by side: what several of them need at the same moment is computed in one call."""

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextvars import Context, copy_context
from inspect import ismethod
from queue import SimpleQueue
from typing import Any
from weakref import WeakMethod

from ..registry import counted
from ..registry.log import LOG
from .errors import Cancelled, GraphError, InputError, Problem
from .gradients import gradient_mode
from .member import Answer, Does, Member, Message, Question, Reply
from .run import Run
from .validate import value_text


def together(runs: Iterable[Run], at_once: int | None = None) -> None:
    """Bring runs to their ends side by side. Then each has its `outputs`.

    Denoisers compute the passes that runs need at the same moment in one forward: of runs with one model, and of passes
    with equal shapes. Prompts, seeds, guiders, schedulers, steps and adapters may differ.

    Args:
        runs: of `graph.stream(...)` or `graph.start(...)`, in the order in which they take turns. An iterator is read
            when a run can begin.
        at_once: so many go on side by side, and the next begins when one ends; None for all.

    Raises:
        ExceptionGroup: the errors of runs that failed, when all have ended. A run that was cancelled is not among them.
        InputError: a value that is no run.
        GraphError: a run that is passed twice.
    """
    RunGroup(runs, at_once).advance()


class RunGroup:
    """Runs side by side, which others may join while they go on.

    Each run has a thread, and one thread computes at a time, in the order in which the runs were added. A run goes on
    until its denoiser needs predictions. When all are there, one forward serves the passes that can share it. A run of
    `graph.start(...)` computes as it did until it is there.

    runs: an iterator is read when a run can begin. at_once: so many runs go on side by side, and the next begins when
    one ends; None for all. on_end: gets each run that has ended, in the thread of `advance`, which then raises no error
    of a run.
    """

    def __init__(
        self,
        runs: Iterable[Run] = (),
        at_once: int | None = None,
        on_end: Callable[[Run], None] | None = None,
    ) -> None:
        self._at_once = at_once
        self._on_end = on_end
        self._messages: SimpleQueue[Message] = SimpleQueue()
        self._new: SimpleQueue[_Place] = SimpleQueue()
        self._places: dict[Member, _Place] = {}
        self._runs: set[Run] = set()
        self._answers: dict[Hashable, WeakMethod[Answer[Any, Any]]] = {}  # of the last forwards
        self._later: Iterator[Run] = runs if isinstance(runs, Iterator) else iter(())
        for run in () if isinstance(runs, Iterator) else runs:
            self.add(run)

    def add(self, run: Run) -> None:
        """Add a run, from any thread. It begins before the next forward of the others, or with the next `advance`.

        Raises:
            InputError: a value that is no run.
            GraphError: a run that is in the group already.
        """
        if not isinstance(run, Run):  # pyright: ignore[reportUnnecessaryIsInstance]  not all code has types
            kind = type(run).__name__
            text = f"needs runs, got {value_text(run)} ({kind}). Make each run with graph.stream(…)."
            raise InputError(Problem("value", "runs", text, kind, "Run"))
        if run in self._runs:
            raise GraphError("This run goes on side by side with others already. Pass each run once.")
        self._runs.add(run)
        self._new.put(_Place(run, Member(self._messages), copy_context()))

    def advance(self) -> None:
        """Bring all runs to their ends, with those that are added meanwhile.

        Raises:
            ExceptionGroup: the errors of runs that failed. A run that was cancelled is not among them.
        """
        ended = _Ended(self._on_end)
        try:
            while self._advance(ended):
                pass
        except BaseException:  # such as Ctrl-C: no thread stays behind
            self._cancel()
            while self._advance(ended):
                pass
            raise
        finally:
            self._answers.clear()
        if ended.errors:
            raise BaseExceptionGroup(f"{len(ended.errors)} of {counted(ended.count, 'run')} failed", ended.errors)

    def _cancel(self) -> None:
        """Cancel all runs, and begin no others."""
        self._later = iter(())
        while not self._new.empty():
            place = self._new.get()
            self._runs.discard(place.run)
            place.run.cancel()
        for place in self._places.values():
            place.run.cancel()

    def _advance(self, ended: "_Ended") -> bool:
        """Give one thread its turn, or answer what all ask. Whether runs are left."""
        while not self._messages.empty():
            self._read()
        for member in [member for member, place in self._places.items() if place.does == "ended"]:
            place = self._places.pop(member)
            self._runs.discard(place.run)
            ended.add(place.run)
        while (self._at_once is None or len(self._places) < self._at_once) and (place := self._next()) is not None:
            self._places[place.member] = place
            place.start()
        places = list(self._places.values())
        if not places:
            return False
        ready = next((place for place in places if place.does == "ready"), None)
        asking = [place for place in places if place.does == "asking"]
        if any(place.does == "computing" for place in places):
            self._read()
        elif ready is not None:
            ready.give_turn()
        elif asking:
            self._answer(asking)
        else:  # all wait for memory
            self._read()
        return True

    def _next(self) -> "_Place | None":
        """The run that begins next, or None."""
        if self._new.empty() and (run := next(self._later, None)) is not None:
            self.add(run)
        return None if self._new.empty() else self._new.get()

    def _read(self) -> None:
        """Wait for a message of a run, and read it."""
        member, does, question = self._messages.get()
        place = self._places[member]
        place.does, place.question = does, question

    def _answer(self, asking: Sequence["_Place"]) -> None:
        """Answer the questions of all runs, those with equal keys in one call."""
        by_key: dict[Hashable, list[tuple[_Place, Question]]] = {}
        for place in asking:
            if place.run.is_cancelled:
                place.is_ready(Reply(error=Cancelled("The run was cancelled.")))
            elif place.question is not None:
                by_key.setdefault(place.question.key, []).append((place, place.question))
            place.question = None
        last, self._answers = self._answers, {}
        for key, found in by_key.items():
            # The same object as for the last forward, which keeps views of the model. Its run may have ended since.
            answer = last[key]() if key in last else None
            answer = answer or found[0][1].answer
            if ismethod(answer):
                self._answers[key] = WeakMethod(answer)
            questions = [question for _, question in found]
            for (place, _), reply in zip(found, _replies(questions, answer), strict=True):
                place.is_ready(reply)


class _Ended:
    """The runs that have ended: their number, and the errors of those that failed, unless a function gets the runs."""

    def __init__(self, on_end: Callable[[Run], None] | None) -> None:
        self.count = 0
        self.errors: list[BaseException] = []
        self._on_end = on_end

    def add(self, run: Run) -> None:
        self.count += 1
        if self._on_end is not None:
            self._on_end(run)
        elif run.error is not None and not isinstance(run.error, Cancelled):
            self.errors.append(run.error)


class _Place:
    """A run of a group, and what it does now."""

    def __init__(self, run: Run, member: Member, context: Context) -> None:
        self.run, self.member, self._context = run, member, context
        self.does: Does = "computing"
        self.question: Question | None = None
        self._reply = Reply()

    def start(self) -> None:
        """Let the run take turns with the others."""
        if not self.run.has_thread:
            self.does = "ready"
        self._context.run(self.run.take_turns, self.member)

    def is_ready(self, reply: Reply) -> None:
        """The run has an answer, and computes when its turn comes."""
        self.does, self._reply = "ready", reply

    def give_turn(self) -> None:
        """Let the thread of the run compute."""
        self.does = "computing"
        self.member.give_turn(self._reply)
        self._reply = Reply()


def _replies(questions: Sequence[Question], answer: Answer[Any, Any]) -> Sequence[Reply]:
    """The replies to questions with equal keys. Where an answer to several fails, each is answered alone."""
    try:
        with gradient_mode(recorded=False):
            return [Reply(one) for one in answer([question.request for question in questions])]
    except Exception as error:  # whatever a block raises
        if len(questions) == 1:
            return [Reply(error=error)]
        text = f"{type(error).__name__}: {error}"
    LOG.warning("What %d runs side by side share has failed, so each computes its part alone: %s", len(questions), text)
    return [reply for question in questions for reply in _replies([question], question.answer)]
