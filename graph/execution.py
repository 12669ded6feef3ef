"""Running a graph: one generator for each graph, along its run order.

The state lies in plain fields, so that saving is copying them. Functions are not saved but made again, so the values
that their makers read live as long as they do.
"""

import threading
import time
import warnings
from collections.abc import Callable, Generator, Mapping
from contextlib import nullcontext, suppress
from typing import Any
from uuid import uuid4

from ..registry import printable_lines
from .block import Block, ports_of
from .debug import check_values, debugging, watched
from .errors import BrokenBlock, Cancelled, Paused
from .events import (
    BlockFinished,
    BlockReused,
    BlockStarted,
    ComponentLoaded,
    Event,
    Events,
    Note,
    StepFinished,
    TurnFinished,
)
from .failures import failure_in
from .fields import Lazy
from .finite import FiniteFlags, not_finite_text
from .gradients import gradient_mode, gradients_recorded
from .leases import RunLeases
from .loop_memory import memory_below, placed_memory
from .member import TakesTurns
from .memo import Memo
from .memo.reuse import Reuse
from .ports import Outputs
from .requests import Requests
from .run_order import Line, RunOrder, Value, run_order, turn_orders
from .sizes import value_bytes
from .state import Cell, History, State
from .structure import Container, Inside, Structure, Values
from .takeover import Takeover
from .typing import type_text
from .wiring import INPUTS


def run_alone(name: str, block: Block, inputs: Values) -> Outputs:
    """Run one block that holds graphs, as the only node of a graph."""
    execution = Execution(Structure.of({name: block}), inputs)
    execution.silent, execution.history = True, None
    events = execution.run()
    while True:
        try:
            next(events)
        except StopIteration as stop:
            return Outputs(stop.value)


def _read(wires: tuple[tuple[str, Value], ...], inputs: Values, env: Mapping[Value, Any]) -> dict[str, Any]:
    """The values at the ends of these wires; an input that was not passed is left to its default."""
    args: dict[str, Any] = {}
    for param, value in wires:
        if value[0] != INPUTS:
            args[param] = env[value]
        elif value[1] in inputs:
            args[param] = inputs[value[1]]
    return args


class Execution(TakesTurns):
    """The interpreter of one run. Blocks that take a `Running` get it."""

    def __init__(
        self,
        graph: Structure,
        inputs: Values,
        notes: tuple[str, ...] = (),
        memo: Memo | None = None,
        drawn: frozenset[str] = frozenset(),
    ) -> None:
        self.graph = graph
        self.inputs = inputs
        self.drawn = drawn
        """Inputs with a new random number: a memo keeps nothing that is made of them."""
        self.state = State()
        self.turn_ends = threading.Lock()
        """Held while a turn ends, since its number and its memory change together."""
        self.history: History | None = History()
        self.takeovers: dict[str, Takeover] = {}
        self.reuse = None if memo is None else Reuse(memo)
        self.requests = Requests()
        self.leases = RunLeases(f"{'.'.join(graph.preset)}:" if graph.preset else "", self.requests)
        self.silent = False
        """Whether the events have no listener, so that notes become warnings."""
        self._notes = list(notes)
        self._sent_notes: list[str] = []
        self._clean: Callable[[], Any] | None = None  # the clean latents that the present turn points to
        self._fresh: dict[str, dict[str, Any]] = {}  # memory that this turn has written; its end makes it `memory`
        self._filled: dict[str, Block] = {}  # blocks with their components, by path
        self._debug, self._gradients = debugging(), gradients_recorded()
        self._flags = FiniteFlags()
        self._dtypes: dict[str, dict[str, str]] = {}  # of the components of each node

    @property
    def finishing(self) -> bool:
        """Whether the turn is the last of its loop, since the run finishes now."""
        return self.requests.finishing

    def check(self) -> None:
        """Raise `Cancelled` if the run was cancelled."""
        self.requests.check()

    def wake(self) -> None:
        """Wake the run where it waits, so that it reads its requests."""
        self.leases.wake()

    def note(self, text: str) -> None:
        """Send a text to whoever listens to the run; without listeners it becomes a Python warning."""
        self._notes.append(text)

    def preview(self, clean: Callable[[], Any]) -> None:
        """Keep what gives the clean latents of this turn, for its event."""
        self._clean = clean

    def take_clean(self) -> Callable[[], Any] | None:
        """What gives the clean latents of the turn that ends."""
        clean, self._clean = self._clean, None
        return clean

    def run(self) -> Events:
        """Run the whole graph, from where the state stands."""
        order, bindings = run_order(self.graph, self.graph.wanted), self.graph.adapted_bindings
        for name, value in self.inputs.items():
            self._flags.add("", name, value, {})
        if self.reuse is not None:
            known = {name: value for name, value in self.inputs.items() if name not in self.drawn}
            order, reused, notes = self.reuse.start(order, known, bindings, self.state.origins)
            self.state.done = reused | self.state.done
            self._notes += notes
            for name in reused:
                self.state.forget_loop(name)
                yield BlockReused(name, self.reuse.reasons[name].seconds)
        try:
            out = yield from self.run_lines(order, "", self.inputs, bindings, {}, keep=True, leased=False)
            self.leases.outlast([value for value in out.values() if callable(value)])
            if at := self._flags.first():
                self.note(not_finite_text(at, self._dtypes))
                yield from self._send_notes(at.path)
            return out
        except Exception as error:  # of any class: it goes on as it is, with a note where numbers were not finite
            with suppress(RuntimeError):  # a device that failed gives no numbers
                if at := self._flags.first():
                    error.add_note(f"  {not_finite_text(at, self._dtypes)}")
            raise
        finally:  # at the end, and where it raised, was cancelled, or was closed because nobody goes on with it
            self._fresh.clear()
            self._filled.clear()
            self.leases.release_all()

    def run_lines(
        self, order: RunOrder, prefix: str, inputs: Values, bindings: Values, env: dict[Value, Any],
        *, keep: bool, leased: bool,
    ) -> Events:  # fmt: skip
        """Run the lines of a run order; values go to `env`. Gives the outputs.

        `keep`: values of finished nodes go to the state. `leased`: what the nodes need is leased already.
        """
        spans = order.spans if not leased else {}
        lease = 0  # the number of the lease of the span that runs
        for place, line in enumerate(order.lines):
            path = prefix + line.name
            span = spans.get(line.name)
            if keep and path in self.state.done:
                done = self.state.done[path]
                env.update((value, done[value[1]]) for value in line.outputs if value[1] in done)
            elif keep and line.until and prefix + line.until in self.state.done:
                continue  # all that could call its functions is done
            elif self.reuse is not None and not prefix and self.reuse.take_equal(line, env, self._notes):
                self.state.done[path] = {value[1]: env[value] for value in line.outputs}
                yield BlockReused(path, self.reuse.reasons[path].seconds)
            else:
                self._check_before(path, pausable=keep)
                if span and span.whole and not lease:
                    lease = self.leases.take(span.lines, bindings, path)
                began, notes = time.perf_counter(), len(self._sent_notes)
                if line.container is None:
                    yield from self._run_block(line, path, inputs, bindings, env)
                else:
                    runner = _Inside(self, line, path, line.bindings_inside(bindings), keep, leased or lease > 0)
                    yield from self._run_container(line.container, runner, inputs, env)
                if self.reuse is not None and not prefix and not self.requests.finished_early:
                    self.reuse.add(line, env, time.perf_counter() - began, tuple(self._sent_notes[notes:]))
                if keep and not line.makes_function:
                    self.state.done[path] = {value[1]: env[value] for value in line.outputs}
            for value in line.dead:
                env.pop(value, None)
                if keep:
                    self._forget(prefix + value[0], value[1])
            if span and lease and place == span.last and not span.lasting:
                self.empty(tuple(prefix + made.name for made in span.lines))
                self.leases.release(lease)
                lease = 0
        return {name: env[value] for name, value in order.outputs}

    def _check_before(self, path: str, *, pausable: bool) -> None:
        if self.requests.stop.is_set():
            raise Cancelled(f"The run was cancelled before {path}.")
        if pausable and self.requests.pause:
            raise Paused(f"The run was paused before {path}.")

    def _forget(self, path: str, port: str) -> None:
        if path in self.state.done:
            self.state.done[path].pop(port, None)
        else:  # a graph that gave a function, kept by its inner nodes
            self.forget_inside(path)

    def forget_inside(self, path: str) -> None:
        """Drop the values of the nodes inside a node."""
        for node in [node for node in self.state.done if node.startswith(f"{path}.")]:
            del self.state.done[node]

    def empty(self, paths: tuple[str, ...]) -> None:
        """Take the components out of the blocks at these paths and inside them."""
        inside = tuple(f"{path}." for path in paths)
        self._filled = {n: b for n, b in self._filled.items() if n not in paths and not n.startswith(inside)}

    def end_turn(self, prefix: str, *, remember: bool) -> None:
        """Make the memory that nodes have written in a turn the memory of the next one, or drop it."""
        if not self._fresh:
            return
        for node in [n for n in self._fresh if n.startswith(prefix)]:
            written = self._fresh.pop(node)
            if remember:
                self.state.memory[node] = {p: v.value if isinstance(v, Cell) else v for p, v in written.items()}

    def end_loop(self, path: str) -> None:
        """Drop the state of a loop that has ended."""
        self.state.forget_loop(path)
        self.empty((path,))

    def _run_container(
        self, container: Container, runner: "_Inside", inputs: Values, env: dict[Value, Any]
    ) -> Generator[Event, None, None]:
        line = runner.line
        out = yield from container.run_inside(runner, _read(line.args, inputs, env))
        env.update((value, out[name]) for value, name in zip(line.outputs, line.output_names, strict=True))

    def _run_block(
        self, line: Line, path: str, inputs: Values, bindings: Values, env: dict[Value, Any]
    ) -> Generator[Event, None, None]:
        args = _read(line.args, inputs, env)
        block = line.block
        if line.components:
            if path not in self._filled:
                yield from self._fill(line, path, bindings)
            block = self._filled[path]
        if line.knobs and (knobs := _read(line.knobs, inputs, env)):
            block = block.filled(knobs)
        if line.memory:
            args |= self.state.memory.get(path, {})
        if line.running:
            args[line.running] = self
        yield BlockStarted(path)
        began = time.perf_counter()
        try:
            models = {n: getattr(b, n) for b in self._filled.values() for n in ports_of(type(b)).components}
            with gradient_mode(self._gradients), watched(block, models) if self._debug else nullcontext():
                out = block(**args)
            seconds = time.perf_counter() - began
            if self._debug:
                check_values(block, args, out)
        except Cancelled:
            raise Cancelled(f"The run was cancelled in {path}.") from None
        except Exception as error:  # whatever a block raises goes on as it is, and says where
            failure = failure_in(block, error)
            (failure or error).add_note(f"  in {path!r} ({type(block).__name__})")
            if failure is not None:
                raise failure from error
            raise
        if type(out) is not line.returns and not (line.returns is None and out is None):
            want = type_text(line.returns) if line.returns else "None"
            raise BrokenBlock(
                f"{path} ({type(block).__name__}) gave {type(out).__name__}, but its signature says {want}."
            )
        size = 0
        for value, name in zip(line.outputs, line.output_names, strict=True):
            env[value] = result = getattr(out, name)
            size += value_bytes(result)
            self._flags.add(path, name, result, self.state.turns)
        if line.memory:
            self._fresh[path] = {name: getattr(out, name) for name in line.memory}
        if self._notes:
            yield from self._send_notes(path)
        yield BlockFinished(path, seconds, size)

    def _fill(self, line: Line, path: str, bindings: Values) -> Generator[Event, None, None]:
        """Put the components into a block; loads those that are not loaded yet."""
        components: dict[str, Any] = {}
        for own_name, name in line.components:
            if name not in bindings:
                continue  # optional: `prepare` has refused a run that lacks one that is required
            value = bindings[name]
            if isinstance(value, Lazy):
                began = time.perf_counter()
                value = value.load()
                yield ComponentLoaded(path, name, time.perf_counter() - began)
            components[own_name] = value
        self._filled[path] = line.block.filled(components)
        dtypes = {name: str(getattr(value, "dtype", "")) for name, value in components.items()}
        self._dtypes[path] = {name: dtype for name, dtype in dtypes.items() if dtype}

    def _send_notes(self, path: str) -> Generator[Event, None, None]:
        notes, self._notes = self._notes, []
        self._sent_notes += notes
        for text in map(printable_lines, notes):
            if self.silent:
                warnings.warn(text, UserWarning, stacklevel=2)
            yield Note(path, text)


class _Inside:
    """The `Runner` of the container of one node."""

    __slots__ = ("bindings", "execution", "insides", "keep", "leased", "line", "path")

    def __init__(self, execution: Execution, line: Line, path: str, bindings: Values, keep: bool, leased: bool) -> None:
        self.execution, self.line, self.path, self.bindings = execution, line, path, bindings
        self.insides, self.keep, self.leased = line.insides, keep, leased

    def once(self, inside: Inside, values: Values) -> Events:
        """Run a graph with these inputs. Gives its outputs."""
        order, path, run = run_order(inside.graph, inside.outputs), inside.path(self.path), self.execution
        keep, bindings = self.keep, self._bindings(inside)
        out = yield from run.run_lines(order, f"{path}.", values, bindings, {}, keep=keep, leased=self.leased)
        if keep and not self.line.makes_function:  # its outputs are kept under its own path from now on
            for inner in order.lines:
                run.state.done.pop(f"{path}.{inner.name}", None)
            if any(inner.makes_function for inner in order.lines):
                run.forget_inside(path)
        return out

    def each(self, inside: Inside, values: Values, start: Values, merge: Callable[[Values, Values], Values]) -> Events:
        """Run a graph once for each element. Gives the last state."""
        path, run = inside.path(self.path), self.execution
        items, item, carries = values[inside.over], inside.item, bool(inside.carried)
        bindings, prefix, turns = self._bindings(inside), f"{path}.", run.state.turns
        components = {**run.graph.adapted_bindings, **bindings}  # a preview may use the decoder
        first, state = turns.get(path, (0, start))
        if (takeover := run.takeovers.pop(path, None)) is not None and first:
            first, state = takeover.placed(path, items, first, start, state, run.state)
        latents = inside.latents
        before, turn = turn_orders(inside)
        if inside.memory and path not in turns:
            run.state.memory |= placed_memory(prefix, inside.graph, values.get(inside.memory, {}), run.note)
        constant: dict[Value, Any] = {}
        if first < len(items):
            yield from run.run_lines(before, prefix, values, bindings, constant, keep=False, leased=self.leased)
        turns[path] = (first, state)
        if run.history is not None and not first:
            run.history.add(path, run.state)
        around = run.requests.another_turn  # of the loop around this one
        for k in range(first, len(items)):
            inputs = {**values, **state, item: items[k]} if carries else {**values, item: items[k]}
            env = dict(constant)
            run.requests.another_turn = False
            try:
                out = yield from run.run_lines(turn, prefix, inputs, bindings, env, keep=False, leased=self.leased)
            except Cancelled:
                raise
            except Exception as error:  # whatever a block raises goes on as it is, and says in which turn
                error.add_note(f"  in turn {k + 1} of {len(items)} of {path!r}")
                raise
            state = merge(state, out)
            with run.turn_ends:
                run.end_turn(prefix, remember=carries)
                turns[path] = (k + 1, state)
            if run.history is not None:
                run.history.add(path, run.state)
            clean = run.take_clean()
            if latents is None:
                yield TurnFinished(path, k + 1, len(items), state)
            else:
                yield StepFinished(path, k + 1, len(items), state, state[latents], clean, components)
            if run.requests.finishing:
                run.state.origins[path.partition(".")[0]] = uuid4().hex  # no other run gives its outputs
                break
            if run.requests.pause:
                raise Paused(f"The run was paused after turn {k + 1} of {len(items)} of {path}.")
        run.requests.another_turn = around
        if inside.memory:
            state = {**state, inside.memory: memory_below(prefix, run.state.memory)}
        run.end_loop(path)
        return dict(state)

    def _bindings(self, inside: Inside) -> Values:
        own = inside.graph.adapted_bindings
        return {**self.bindings, **own} if own else self.bindings
