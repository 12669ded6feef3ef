"""Walking a graph without values: its blocks are called in the order of a run, and each is counted."""

import functools
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from types import FunctionType, MethodType
from typing import Any

import torch

from ...graph.block import Block
from ...graph.errors import SfumatoError
from ...graph.fields import Lazy
from ...graph.loop_memory import memory_below, placed_memory
from ...graph.ports import ALONE
from ...graph.run_order import Line, RunOrder, Value, run_order, turn_orders
from ...graph.state import Cell
from ...graph.structure import Container, Inside, Structure, Values
from ...graph.wiring import INPUTS
from .counting import Count, Counting, NeedsValues

Walked = Generator[Any, None, dict[str, Any]]
"""The walk of a part of a graph, in the form that containers expect of a run. It has no events."""


Take = Callable[[Line, dict[Value, Any]], bool]
"""Adds the outputs of a node to values, if they are known without a run; says whether they are."""


@dataclass(frozen=True)
class Unknown:
    """The place of a value that a walk cannot know, and the reason."""

    why: str


@dataclass
class Node:
    """One node as it was walked. calls: how often it ran. unknown: why its operations are not known; "" if they are."""

    path: str
    block: Block
    components: tuple[str, ...] = ()
    calls: int = 0
    count: Count = field(default_factory=Count)
    unknown: str = ""


class Walk:
    """One walk. It is the `Running` of its blocks.

    bindings_of: the components of a graph, with models on the meta device.
    """

    finishing = False
    shared = ALONE.shared

    def __init__(self, counting: Counting, bindings_of: Callable[[Structure], Values]) -> None:
        self.nodes: dict[str, Node] = {}
        self.notes: list[str] = []
        self.bindings_of = bindings_of
        self._counting = counting
        self.memory: dict[str, dict[str, Any]] = {}
        self._fresh: dict[str, dict[str, Any]] = {}

    def check(self) -> None:
        """Nobody cancels a walk."""

    def note(self, text: str) -> None:
        """Keep a text for the user."""
        self.notes.append(text)

    def preview(self, clean: Callable[[], Any]) -> None:
        """Nobody looks at a preview."""

    def whole(
        self, graph: Structure, order: RunOrder, inputs: Values, done: Mapping[str, Mapping[str, Any]], take: Take
    ) -> list[str]:
        """Walk a graph. Gives the nodes that `take` has the outputs of.

        done: the outputs of nodes that do not run. take: adds the outputs of a node to values, if it has them.
        """
        env = {(name, port): value for name, outputs in done.items() for port, value in outputs.items()}
        bindings, taken = self.bindings_of(graph), list[str]()
        for line in order.lines:
            if line.name in done:
                continue
            if take(line, env):
                taken.append(line.name)
                continue
            for _ in self.lines(RunOrder((line,), ()), "", inputs, bindings, env):
                pass
        return taken

    def lines(self, order: RunOrder, prefix: str, inputs: Values, bindings: Values, env: dict[Value, Any]) -> Walked:
        """Walk the lines of a run order; values go to `env`. Gives the outputs."""
        for line in order.lines:
            path = prefix + line.name
            if line.container is None:
                self._block(line, path, inputs, bindings, env)
            else:
                yield from self._container(line, line.container, path, inputs, bindings, env)
            for value in line.dead:
                env.pop(value, None)
        return {name: env[value] for name, value in order.outputs}

    def end_turn(self, prefix: str, *, remember: bool) -> None:
        """Make the memory that nodes have written in a turn the memory of the next one, or drop it."""
        for path in [path for path in self._fresh if path.startswith(prefix)]:
            written = self._fresh.pop(path)
            if remember:
                self.memory[path] = {n: v.value if isinstance(v, Cell) else v for n, v in written.items()}

    def end_loop(self, prefix: str) -> None:
        """Drop the memory of a loop that has ended."""
        self.memory = {path: value for path, value in self.memory.items() if not path.startswith(prefix)}

    # ------------------------------------------------------------------------------------------ one node
    def _container(
        self, line: Line, container: Container, path: str, inputs: Values, bindings: Values, env: dict[Value, Any]
    ) -> Walked:
        args = _read(line.args, inputs, env)
        try:
            _check_known(line, args)
            out = yield from container.run_inside(_Inside(self, line, path, line.bindings_inside(bindings)), args)
        except SfumatoError:
            raise
        except Exception as error:  # of any class: a plan says that it does not know
            out = self._all_unknown(line, path, _reason(error))
        env.update((value, out[name]) for value, name in zip(line.outputs, line.output_names, strict=True))
        return {}

    def _block(self, line: Line, path: str, inputs: Values, bindings: Values, env: dict[Value, Any]) -> None:
        node = self.nodes.setdefault(path, Node(path, line.block, tuple(name for _, name in line.components)))
        node.calls += 1
        args, knobs = _read(line.args, inputs, env), _read(line.knobs, inputs, env)
        try:
            block = self._filled(line, {**args, **knobs}, bindings, knobs)
            if line.memory:
                args |= self.memory.get(path, {})
            if line.running:
                args[line.running] = self
            out = self._called(node, block, args)
            values = {name: getattr(out, name) for name in line.output_names}
        except SfumatoError as error:
            error.add_note(f"  in {path!r} ({type(line.block).__name__})")
            raise
        except Exception as error:  # of any class: a plan says that it does not know
            node.unknown = node.unknown or _reason(error)
            values = dict.fromkeys((*line.output_names, *line.memory), Unknown(f"reads the outputs of {path}"))
            self._fresh[path] = {name: values[name] for name in line.memory}
        else:
            self._fresh[path] = {name: getattr(out, name) for name in line.memory}
        for value, name in zip(line.outputs, line.output_names, strict=True):
            env[value] = self._counted(node, values[name])

    def _filled(self, line: Line, args: Values, bindings: Values, knobs: Values) -> Block:
        """The block of a line with its components and knobs. `NeedsValues` if one of its values is not known."""
        components = {own: bindings[name] for own, name in line.components if name in bindings}
        loaded = {own: value.load() if isinstance(value, Lazy) else value for own, value in components.items()}
        for value in (*args.values(), *loaded.values()):
            if isinstance(value, Unknown):
                raise NeedsValues(value.why)
        return line.block.filled({**loaded, **knobs}).without_values()

    def _called(self, node: Node, block: Block, args: Values) -> Any:  # the outputs of any block
        counting = self._counting
        counting.peak = counting.bytes
        try:
            with torch.no_grad(), counting, counting.counted_for(node.count):
                return block(**args)
        finally:
            node.count.peak = max(node.count.peak, counting.peak)

    def _counted(self, node: Node, value: Any) -> Any:
        """The value; a function that counts its operations for the node that made it."""
        if not isinstance(value, FunctionType | MethodType):
            return value

        @functools.wraps(value)
        def counted(*args: Any, **kwargs: Any) -> Any:
            with self._counting.counted_for(node.count):
                return value(*args, **kwargs)

        return counted

    def _all_unknown(self, line: Line, path: str, why: str) -> dict[str, Any]:
        """Mark all nodes inside a container as unknown. Gives its outputs."""
        for inside in line.insides:
            for inner in run_order(inside.graph, inside.outputs).lines:
                place = f"{inside.path(path)}.{inner.name}"
                if inner.insides:
                    self._all_unknown(inner, place, why)
                else:
                    self.nodes.setdefault(place, Node(place, inner.block)).unknown = why
        return dict.fromkeys(line.output_names, Unknown(f"reads the outputs of {path}"))


class _Inside:
    """The `Runner` of the container of one node."""

    def __init__(self, walk: Walk, line: Line, path: str, bindings: Values) -> None:
        self.walk, self.insides, self.path, self.bindings = walk, line.insides, path, bindings

    def once(self, inside: Inside, values: Values) -> Walked:
        """Walk a graph with these inputs. Gives its outputs."""
        order = run_order(inside.graph, inside.outputs)
        return (yield from self.walk.lines(order, f"{inside.path(self.path)}.", values, self._bindings(inside), {}))

    def each(self, inside: Inside, values: Values, start: Values, merge: Callable[[Values, Values], Values]) -> Walked:
        """Walk a graph once for each element. Gives the last state."""
        items, prefix, state, carries = values[inside.over], f"{inside.path(self.path)}.", start, bool(inside.carried)
        before, turn = turn_orders(inside)
        bindings = self._bindings(inside)
        constant: dict[Value, Any] = {}
        if inside.memory:
            self.walk.memory |= placed_memory(prefix, inside.graph, values.get(inside.memory, {}), self.walk.note)
        if len(items):
            yield from self.walk.lines(before, prefix, values, bindings, constant)
        for item in items:
            inputs = {**values, **(state if carries else {}), inside.item: item}
            state = merge(state, (yield from self.walk.lines(turn, prefix, inputs, bindings, dict(constant))))
            self.walk.end_turn(prefix, remember=carries)
        if inside.memory:
            state = {**state, inside.memory: memory_below(prefix, self.walk.memory)}
        self.walk.end_loop(prefix)
        return dict(state)

    def _bindings(self, inside: Inside) -> Values:
        return {**self.bindings, **self.walk.bindings_of(inside.graph)}


def _read(wires: tuple[tuple[str, Value], ...], inputs: Values, env: Mapping[Value, Any]) -> dict[str, Any]:
    """The values at the ends of these wires; an input that was not passed is left to its default."""
    found = {param: env.get(value) if value[0] != INPUTS else inputs.get(value[1]) for param, value in wires}
    return {param: found[param] for param, value in wires if value[0] != INPUTS or value[1] in inputs}


def _check_known(line: Line, args: Values) -> None:
    """Raise `NeedsValues` if a container cannot choose what it runs: a list to go over, or the value of a switch."""
    read = {inside.over for inside in line.insides if inside.repeated}
    if not read and not isinstance(line.container, Structure):
        read = {*args}
    for name in read:
        if isinstance(value := args.get(name), Unknown):
            raise NeedsValues(value.why)


def _reason(error: Exception) -> str:
    if isinstance(error, NeedsValues):
        return str(error)
    text = str(error).strip().partition("\n")[0][:120]
    if "meta" in text:  # torch's own errors for tensors without values
        return str(NeedsValues())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
