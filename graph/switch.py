"""The switch: a block that runs one of several graphs, chosen by a value known only while running."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Self, Union, cast

from .block import Block
from .cache import cached
from .errors import InputError, Problem, WireError
from .events import Events
from .execution import run_alone
from .ports import Input, Output, Outputs, Signature
from .structure import Container, Inside, Runner, Structure
from .typing import meet, type_text
from .wiring import RESERVED, component_problems, joint, parts_of


class Switch(Container, name="Switch"):
    """Run the graph of `cases` whose name is the value of the input `on`; `default` where there is none of that name.

    Its inputs are those of all cases, its outputs the names that every case gives. Where the choice is known when the
    graph is made, make another graph instead: `replace`, or another preset function.
    """

    on: str
    cases: Mapping[str, Structure]
    default: Structure | None = None

    def __post_init__(self) -> None:
        problems = [
            Problem(
                "not-a-block",
                f"cases.{name}",
                f"is {type(case).__name__}, not a graph. Write {name!r}: Graph(name=block, …).",
                type(case).__name__,
                "Graph",
            )
            for name, case in self._all().items()
            if not isinstance(case, Structure)  # pyright: ignore[reportUnnecessaryIsInstance]  users pass anything
        ]
        if not self.cases:
            problems.append(Problem("cases", "cases", "is empty. Give at least one: cases={'name': Graph(…)}."))
        text = "is no name for a case: use letters, digits and underscores. The fallback is given as default=."
        problems += [
            Problem("name", f"cases.{name}", text, name)
            for name in self.cases if not name.isidentifier() or name in RESERVED | {"default"}
        ]  # fmt: skip
        if problems:
            raise WireError(problems)
        gives = [set(case.outputs) for case in self._all().values()]
        if not set.intersection(*gives):
            per = "; ".join(f"{n} gives {', '.join(c.outputs)}" for n, c in self._all().items())
            raise WireError(Problem("cases", "cases", f"the cases have no output in common: {per}."))
        if clash := component_problems({n: case.signature for n, case in self._all().items()}):
            raise WireError(clash)
        for name in {n for case in self._all().values() for n in case.inputs}:
            kinds = [(c, case.inputs[name].type) for c, case in self._all().items() if name in case.inputs]
            for case, kind in kinds[1:]:
                if meet(kinds[0][1], kind) is None:
                    have, want = type_text(kind), type_text(kinds[0][1])
                    text = f"no value fits all cases: {kinds[0][0]} takes {want}, {case} takes {have}."
                    raise WireError(Problem("readers", f"cases.{name}", text, have, want))

    def _all(self) -> dict[str, Structure]:
        return {**self.cases, **({"default": self.default} if self.default is not None else {})}

    @property
    def signature(self) -> Signature:
        """The inputs of all cases and `on`, and the outputs that every case gives."""
        return cached(self, "signature", self._read_signature)

    def _read_signature(self) -> Signature:
        cases = list(self._all().values())
        readers: dict[str, list[Input]] = {self.on: [Input(str)]}
        for case in cases:
            for name, port in case.inputs.items():
                readers.setdefault(name, []).append(port)
        common = [n for n in cases[0].outputs if all(n in c.outputs for c in cases)]
        outputs = {n: Output(Union[tuple(c.outputs[n].type for c in cases)]) for n in common}  # noqa: UP007  built at run time
        inputs = {name: joint(ports) for name, ports in readers.items()}
        return Signature(inputs, outputs, parts_of(c.signature for c in cases))

    def __call__(self, **values: Any) -> Outputs:
        """Run the switch by itself."""
        return run_alone("switch", self, values)

    def insides(self) -> tuple[Inside, ...]:
        """The cases and the default, of which one runs."""
        outputs = tuple(self.signature.outputs)
        return tuple(Inside(case, outputs, part=name) for name, case in self._all().items())

    def run_inside(self, runner: Runner, values: dict[str, Any]) -> Events:
        """Run the case that the value of `on` names. `InputError` if there is none and no default."""
        chosen = self._part_for(values[self.on])
        return runner.once(next(inside for inside in runner.insides if inside.part == chosen), values)

    def _part_for(self, value: Any) -> str:  # Any: a run passes what its source gave
        if isinstance(value, str) and value in self.cases:
            return value
        if self.default is None:
            text = f"is {value!r}, but there is no such case and no default. There are: {', '.join(self.cases)}."
            raise InputError(Problem("case", self.on, text, repr(value), candidates=tuple(self.cases)))
        return "default"

    def caption(self, names: Mapping[str, str]) -> str:
        """Its cases, and the input that chooses."""
        return f"one of {', '.join(self._all())} · by {names.get(self.on, self.on)}"

    def with_children(self, children: Mapping[str, Block]) -> Self:
        """The same switch between other graphs."""
        cases = {n: cast(Structure, c) for n, c in children.items() if n != "default"}
        return replace(self, cases=cases, default=cast("Structure | None", children.get("default")))
