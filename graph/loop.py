"""The loop: a block that runs a graph once for each item."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Self, cast

from ..registry import closest, did_you_mean
from .block import Block
from .cache import cached
from .edits import edited
from .errors import Problem, WireError
from .events import Events
from .execution import run_alone
from .loop_memory import LoopMemory
from .ports import VARIES, Input, Output, Outputs, Signature
from .structure import Container, Inside, Runner, Structure
from .typing import assignable, meet, type_text, untagged
from .wiring import misplaced


class Loop(Container, name="Loop"):
    """Run `body` once for each item of the input `over`, which the body sees as `each`.

    `carry` names what flows from one turn to the next: each is an input and an output of the body, of types that fit,
    and an output of the loop. Blocks of the body that depend on neither the item nor on what is carried run once.

    `memory` names an input and output of the loop: what the nodes of the body remember before the first turn, and after
    the last one. So another loop can go on where this one stopped. "" is for a loop whose nodes begin without memory.
    """

    over: str
    each: str
    carry: tuple[str, ...]
    body: Structure
    memory: str = ""

    def __post_init__(self) -> None:
        if isinstance(self.carry, str):
            text = f"is the text {self.carry!r}, not a tuple. Write carry=({self.carry!r},)."
            raise WireError(Problem("carry", "carry", text, repr(self.carry), "tuple"))
        self.__dict__["carry"] = tuple(self.carry)
        if isinstance(self.body, Structure) and self.body.declared != self.carry:  # pyright: ignore[reportUnnecessaryIsInstance]  users pass anything
            lost = [name for name in self.carry if name not in self.body.outputs]
            if not lost:
                if problems := misplaced(
                    self.body.nodes, self.body.edges, self.carry, keyword="carry", beside=self.carry
                ):
                    raise WireError(problems)
                self.__dict__["body"] = edited(self.body, declared=self.carry)
        if problems := list(self._problems()):
            raise WireError(problems)

    def _problems(self) -> Sequence[Problem]:
        if not isinstance(self.body, Structure):  # pyright: ignore[reportUnnecessaryIsInstance]  users pass anything
            text = f"is {type(self.body).__name__}, not a graph. Write body=Graph(name=block, …)."
            return [Problem("not-a-block", "body", text, type(self.body).__name__, "Graph")]
        takes, gives = self.body.inputs, self.body.outputs
        problems: list[Problem] = []
        if self.each not in takes:
            text = f"no block of the body takes {self.each!r}. {did_you_mean(self.each, takes)}"
            problems.append(Problem("each", "each", text, self.each, candidates=tuple(closest(self.each, takes))))
        if not self.carry:
            problems.append(
                Problem(
                    "carry",
                    "carry",
                    "is empty, so the loop would have no output. Name the ports to carry: carry=('latents',).",
                )
            )
        for name in self.carry:
            if name in (self.each, self.over):
                text = f"{name!r} is what the loop goes over, so it cannot be carried."
                problems.append(Problem("carry", "carry", text, name))
            elif name not in gives:
                text = f"no block of the body gives {name!r}. {did_you_mean(name, gives)}"
                problems.append(Problem("carry", "carry", text, name, candidates=tuple(closest(name, gives))))
            elif name not in takes:
                way = f"Give a block the input {name!r}, with a default, or do not carry it."
                text = f"no block of the body takes {name!r}, so no turn would read it. {way}"
                problems.append(Problem("carry", "carry", text, name))
            elif not assignable(gives[name].type, takes[name].type):
                have, want = type_text(gives[name].type), type_text(takes[name].type)
                text = f"{name!r} is {have} after a turn, but the next turn takes {want}. Give it one type."
                problems.append(Problem("carry", "carry", text, have, want))
            elif takes[name].default is VARIES:
                text = f"the readers of {name!r} have different defaults, and a loop needs one. Give them the same."
                problems.append(Problem("carry", "carry", text, name))
        if self.memory and (self.memory in takes or self.memory in gives or self.memory == self.over):
            text = f"{self.memory!r} is also a port of the body. Choose another name for the memory."
            problems.append(Problem("memory", "memory", text, self.memory))
        if not problems and self.over in takes and meet(takes[self.over].type, self._items) is None:
            mine = type_text(takes[self.over].type)
            text = (
                f"the body also takes {self.over!r}, as {mine}, but {self.over!r} is a {type_text(self._items)} here. "
                "Rename one of them."
            )
            problems.append(Problem("over", "over", text, mine, type_text(self._items)))
        return problems

    @property
    def _items(self) -> Any:
        return Sequence[untagged(self.body.inputs[self.each].type)]

    @property
    def signature(self) -> Signature:
        """The inputs of the body but `each`, the input `over`, and carried values as outputs."""
        return cached(self, "signature", self._read_signature)

    def _read_signature(self) -> Signature:
        s = self.body.signature
        both = meet(s.inputs[self.over].type, self._items) if self.over in s.inputs else self._items
        inputs = {self.over: Input(both)}
        inputs |= {n: p for n, p in s.inputs.items() if n not in (self.each, self.over)}
        outputs = {n: Output(s.outputs[n].type) for n in self.carry}
        if self.memory:
            inputs[self.memory] = Input(LoopMemory, {})
            outputs[self.memory] = Output(LoopMemory)
        return Signature(inputs, outputs, s.components)

    def __call__(self, **values: Any) -> Outputs:
        """Run the loop by itself."""
        return run_alone("loop", self, values)

    def insides(self) -> tuple[Inside, ...]:
        """The body, once for each item."""
        return (Inside(self.body, self.carry, over=self.over, item=self.each, carried=self.carry, memory=self.memory),)

    def run_inside(self, runner: Runner, values: dict[str, Any]) -> Events:
        """Run the body for each item. A carried input that is not passed begins with its default."""
        start = {n: values.pop(n) if n in values else self.body.inputs[n].default for n in self.carry}
        return runner.each(runner.insides[0], values, start, lambda _, outputs: outputs)

    def caption(self, names: Mapping[str, str]) -> str:
        """A label with the input that it iterates and the values that it carries."""
        return f"for {self.each} in {names.get(self.over, self.over)} · carries {', '.join(self.carry)}"

    def with_children(self, children: Mapping[str, Block]) -> Self:
        """The same loop over another body. It also carries the outputs that the body has declared."""
        body = cast(Structure, children[""])
        return replace(self, body=body, carry=tuple(dict.fromkeys((*self.carry, *body.declared))))
