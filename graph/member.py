"""The place of one run among runs that go on side by side.

One thread computes at a time. The thread of a run gives its turn back when the run needs an answer that others may
share, when it waits for memory, and when it ends. Threads talk through queues alone, since nothing waits to put a
message into one: a garbage collection may release memory, and so wake a run, in the middle of anything.
"""

from collections.abc import Callable, Hashable, Sequence
from queue import SimpleQueue
from typing import Any, Literal, NamedTuple, TypeVar

Q = TypeVar("Q")
A = TypeVar("A")
Answer = Callable[[Sequence[Q]], Sequence[A]]
"""Computes an answer for each of several requests."""

Does = Literal["ready", "computing", "asking", "waiting", "ended"]
"""What the thread of a run does: it is ready for its turn; it has it; it needs an answer; it waits for memory that
others hold; it has ended."""


class Question(NamedTuple):
    """A request of a run. Requests with equal keys are answered in one call."""

    key: Hashable
    request: Any  # any value of a block, as its answer
    answer: Answer[Any, Any]


class Reply(NamedTuple):
    """A turn, with the answer to the question of the run, or the reason why there is none."""

    answer: Any = None
    error: Exception | None = None


class Message(NamedTuple):
    """What a run does now."""

    member: "Member"
    does: Does
    question: Question | None = None


class TakesTurns:
    """The base of a run that may be one of several that go on side by side. member: its place among them."""

    member: "Member | None" = None

    def shared(self, key: Hashable, request: Q, answer: Answer[Q, A]) -> A:
        """The answer to a request, computed in one call with the requests of runs side by side."""
        return answer([request])[0] if self.member is None else self.member.ask(key, request, answer)


class Member:
    """One of the runs that go on side by side. Its methods are for the thread of the run.

    messages: to the group, which gives the turns.
    """

    def __init__(self, messages: "SimpleQueue[Message]") -> None:
        self._messages = messages
        self._waits_for_memory = False
        self._turns: SimpleQueue[Reply] = SimpleQueue()

    def give_turn(self, reply: Reply) -> None:
        """Let the thread of the run compute. For the group."""
        self._turns.put(reply)

    def wait_for_turn(self) -> Any:
        """Wait until the group gives the turn. Gives the answer to the question of the run, or raises the reason."""
        answer, error = self._turns.get()
        if error is not None:
            raise error
        return answer

    def ask(self, key: Hashable, request: Q, answer: Answer[Q, A]) -> A:
        """The answer to a request. Others compute until it is there."""
        self._messages.put(Message(self, "asking", Question(key, request, answer)))
        return self.wait_for_turn()

    def wait_for_memory(self) -> None:
        """Give the turn back, unless it was given back before: the run waits for memory that others hold."""
        if not self._waits_for_memory:
            self._waits_for_memory = True
            self._messages.put(Message(self, "waiting"))

    def go_on(self) -> None:
        """Wait for the turn, if it was given back to wait for memory."""
        if self._waits_for_memory:
            self._waits_for_memory = False
            self._messages.put(Message(self, "ready"))
            self.wait_for_turn()

    def end(self) -> None:
        """Give the last turn back."""
        self._messages.put(Message(self, "ended"))
