"""The map: a block that runs a graph once for each element of a list, and gives lists."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Self, cast

from ..registry import closest, did_you_mean
from .block import Block
from .cache import cached
from .errors import Problem, WireError
from .events import Events
from .execution import run_alone
from .ports import Input, Output, Outputs, Signature
from .run_order import gives_function
from .structure import Container, Inside, Runner, Structure, Values
from .typing import meet, type_text, untagged
from .wiring import INPUTS


class Map(Container, name="Map"):
    """Run `body` once for each element of the input `over`, which the body sees as `each`.

    Each output of the body becomes a list with one value for each element, in their order. An element sees nothing of
    the others: memory begins anew with each. Blocks of the body that do not depend on the element run once.
    """

    over: str
    each: str
    body: Structure

    def __post_init__(self) -> None:
        if problems := list(self._problems()):
            raise WireError(problems)

    def _problems(self) -> Sequence[Problem]:
        if not isinstance(self.body, Structure):  # pyright: ignore[reportUnnecessaryIsInstance]  users pass anything
            text = f"is {type(self.body).__name__}, not a graph. Write body=Graph(name=block, …)."
            return [Problem("not-a-block", "body", text, type(self.body).__name__, "Graph")]
        inputs = self.body.inputs
        if self.each not in inputs:
            text = f"no block of the body takes {self.each!r}. {did_you_mean(self.each, inputs)}"
            return [Problem("each", "each", text, self.each, candidates=tuple(closest(self.each, inputs)))]
        problems: list[Problem] = []
        if not self.over.isidentifier() or self.over in (INPUTS, self.each):
            text = f"{self.over!r} cannot name the list. Choose a name that is not {self.each!r}, such as 'items'."
            problems.append(Problem("over", "over", text, self.over))
        elif self.over in inputs and meet(inputs[self.over].type, self._elements) is None:
            own = type_text(inputs[self.over].type)
            text = (
                f"the body also takes {self.over!r}, as {own}, but {self.over!r} is a {type_text(self._elements)} "
                "here. Rename one of them."
            )
            problems.append(Problem("over", "over", text, own, type_text(self._elements)))
        for name, output in self.body.outputs.items():
            if gives_function(output):
                text = f"{name!r} is a function, and a map gives values only. Call it in the body: outputs=(…)."
                problems.append(Problem("outputs", f"body.{name}", text, type_text(output.type)))
        return problems

    @property
    def _elements(self) -> Any:
        return Sequence[untagged(self.body.inputs[self.each].type)]

    @property
    def signature(self) -> Signature:
        """The inputs of the body but `each`, the input `over`, and the outputs of the body as lists."""
        return cached(self, "signature", self._read_signature)

    def _read_signature(self) -> Signature:
        s = self.body.signature
        both = meet(s.inputs[self.over].type, self._elements) if self.over in s.inputs else self._elements
        inputs = {self.over: Input(both)}
        inputs |= {name: port for name, port in s.inputs.items() if name not in (self.each, self.over)}
        return Signature(inputs, {n: Output(list[port.type]) for n, port in s.outputs.items()}, s.components)

    def __call__(self, **values: Any) -> Outputs:
        """Run the map by itself."""
        return run_alone("map", self, values)

    def insides(self) -> tuple[Inside, ...]:
        """The body, once for each element."""
        return (Inside(self.body, self.body.wanted, over=self.over, item=self.each),)

    def run_inside(self, runner: Runner, values: dict[str, Any]) -> Events:
        """Run the body for each element, and gather its outputs."""

        def gather(lists: Values, outputs: Values) -> Values:
            return {name: [*made, outputs[name]] for name, made in lists.items()}

        return runner.each(runner.insides[0], values, {name: [] for name in self.body.wanted}, gather)

    def caption(self, names: Mapping[str, str]) -> str:
        """A label with the input that it iterates."""
        return f"for each {self.each} in {names.get(self.over, self.over)}"

    def with_children(self, children: Mapping[str, Block]) -> Self:
        """The same map of another body."""
        return replace(self, body=cast(Structure, children[""]))
