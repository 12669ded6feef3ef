"""A run: a generator of events along the edges of a graph.

What a run knows lies in plain fields (`done`, `turns`, `memory`), so that saving is copying them. Functions are never
saved but made again, and so what their makers have read lives as long as they do.
"""

import sys
import threading
import time
import warnings
from collections.abc import Generator, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from .block import Block, Lazy
from .errors import BrokenBlock, Cancelled
from .graph import Graph
from .leases import Held, stretches
from .loop import Loop
from .plan import Line, Plan, Value, plan_of, turn_plans
from .ports import Outputs
from .shapes import check_shapes, debugging
from .switch import Switch
from .typing import type_text
from .wiring import INPUTS

if TYPE_CHECKING:
    from contextlib import ExitStack as ExitStack


class Event(NamedTuple):
    """Something that happened in a run.

    "start" and "done" of a node (`seconds` it took), "load" of a component, "turn" of a loop (`turn` of `turns`, and
    what it carries as `values`), and "note": something to tell the user as `text`.
    """

    kind: Literal["start", "done", "load", "turn", "note"]
    path: str
    seconds: float = 0.0
    turn: int = 0
    turns: int = 0
    values: Mapping[str, Any] = {}
    text: str = ""


class Cell:
    """What a function made by a block writes while it is called; a loop freezes it into memory after each turn."""

    def __init__(self, value: Any) -> None:
        self.value = value


Play = Generator[Event, None, dict[str, Any]]
Given = Mapping[str, Any]


def _no_grad() -> AbstractContextManager[Any]:
    torch = sys.modules.get("torch")
    return torch.no_grad() if torch is not None and hasattr(torch, "no_grad") else nullcontext()


def _values(wires: tuple[tuple[str, Value], ...], given: Given, env: Mapping[Value, Any]) -> dict[str, Any]:
    """What stands at the ends of these wires; an input that is not given is left to its default."""
    found: dict[str, Any] = {}
    for param, value in wires:
        if value[0] != INPUTS:
            found[param] = env[value]
        elif value[1] in given:
            found[param] = given[value[1]]
    return found


class Run:
    """One run of a graph. Iterate it for its events, or ask for its `result()`; both go on where it stands."""

    def __init__(self, graph: Graph, inputs: Given, notes: tuple[str, ...] = ()) -> None:
        self.graph = graph
        self.inputs = inputs
        self.done: dict[str, dict[str, Any]] = {}
        """Finished nodes outside loops: their live values, functions left out."""
        self.turns: dict[str, tuple[int, dict[str, Any]]] = {}
        """Loops that have begun: the next turn, and what is carried into it."""
        self.memory: dict[str, dict[str, Any]] = {}
        """Memory of the loops that have begun, by node, as it was when their turn began."""
        self.outputs: Outputs | None = None
        self._stop = threading.Event()
        self._notes = list(notes)
        self._fresh: dict[str, dict[str, Any]] = {}  # memory that this turn has written; its end makes it `memory`
        self._filled: dict[str, Block] = {}
        self._held = Held(f"{'.'.join(graph.preset)}:" if graph.preset else "", self._stop)
        self._debug = debugging()
        self._play: Play | None = None
        self._silent = False

    # ------------------------------------------------------------------------------------------- from outside
    def __iter__(self) -> Iterator[Event]:
        return self

    def __next__(self) -> Event:
        if self._play is None:
            self._play = self._whole()
        try:
            return next(self._play)
        except StopIteration as stop:
            if stop.value is not None:
                self.outputs = Outputs(stop.value)
            raise
        except BaseException:
            self._play = None  # a generator that has raised is over; the next one begins where the state stands
            raise

    def result(self) -> Outputs:
        """Run to the end and give the outputs."""
        self._silent = True  # nobody listens to events, so notes become warnings
        for _ in self:
            pass
        assert self.outputs is not None
        return self.outputs

    def close(self) -> None:
        """Give back the components that it holds; what is iterated again takes them again. Not while it runs."""
        play, self._play = self._play, None
        if play is not None:
            play.close()

    def cancel(self) -> None:
        """Ask the run to stop: it raises `Cancelled` before its next node or model pass. Any thread may ask."""
        self._stop.set()
        self._held.wake()

    def check(self) -> None:
        """Raise `Cancelled` if `cancel` was called; for blocks, as `Running.check`."""
        if self._stop.is_set():
            raise Cancelled("The run was cancelled.")

    def note(self, text: str) -> None:
        """Add a note for the user; for blocks, as `Running.note`."""
        self._notes.append(text)

    # ------------------------------------------------------------------------------------------- inside
    def _whole(self) -> Play:
        graph = self.graph
        plan = plan_of(graph, graph.declared or tuple(graph.outputs))
        try:
            out = yield from self._graph(plan, "", self.inputs, graph.bindings, {}, keep=True, held=False)
            self._held.outlast([value for value in out.values() if callable(value)])
            return out
        finally:  # at the end, and where it raised, was cancelled, or was closed because nobody goes on with it
            self._fresh.clear()
            self._filled.clear()
            self._held.give_back_all()

    def _graph(
        self, plan: Plan, prefix: str, given: Given, bound: Given, env: dict[Value, Any], *, keep: bool, held: bool
    ) -> Play:
        """`held` says that what the nodes need is leased for them already."""
        holding = stretches(plan) if not held else {}
        number = 0  # of the lease of the stretch that runs
        for place, line in enumerate(plan.lines):
            path = prefix + line.name
            stretch = holding.get(line.name)
            if self._stop.is_set():
                raise Cancelled(f"The run was cancelled before {path}.")
            if keep and path in self.done:
                env.update((value, self.done[path][value[1]]) for value in line.outs if value[1] in self.done[path])
            elif keep and line.until and prefix + line.until in self.done:
                continue  # all that could call its functions is done
            else:
                if stretch and stretch.whole and not number:
                    number = self._held.take(stretch.lines, bound, path)
                yield from self._node(line, path, given, bound, env, keep=keep, held=held or number > 0)
            for value in line.dead:
                env.pop(value, None)
                if keep:
                    self._forget(prefix + value[0], value[1])
            if stretch and number and place == stretch.last and not stretch.lasting:
                self._empty(tuple(prefix + made.name for made in stretch.lines))
                self._held.give_back(number)
                number = 0
        return {name: env[value] for name, value in plan.outputs}

    def _node(
        self, line: Line, path: str, given: Given, bound: Given, env: dict[Value, Any], *, keep: bool, held: bool
    ) -> Generator[Event, None, None]:
        args = _values(line.args, given, env)
        block = line.block
        if isinstance(block, Graph | Loop | Switch):
            inner = {n: bound[outer] for n, outer in line.names.items() if outer in bound}
            match block:
                case Graph():
                    outputs = block.declared or tuple(block.outputs)
                    out = yield from self._nested(line, block, path, args, inner, outputs, keep=keep, held=held)
                case Loop():
                    out = yield from self._loop(block, path, args, inner, held=held)
                case Switch():
                    name, case = block.choose(args[block.on])
                    outputs = tuple(block.signature.outputs)
                    case_path = f"{path}.{name}"
                    out = yield from self._nested(line, case, case_path, args, inner, outputs, keep=keep, held=held)
            env.update((value, out[name]) for value, name in zip(line.outs, line.takes, strict=True))
        else:
            yield from self._leaf(line, path, args, given, bound, env)
        if keep and not line.makes_function:
            self.done[path] = {value[1]: env[value] for value in line.outs}

    def _forget(self, path: str, port: str) -> None:
        if path in self.done:
            self.done[path].pop(port, None)
        else:  # a graph that gave a function, kept by its inner nodes
            self._forget_inside(path)

    def _forget_inside(self, path: str) -> None:
        self.done = {node: made for node, made in self.done.items() if not node.startswith(f"{path}.")}

    def _empty(self, paths: tuple[str, ...]) -> None:
        """Take the components out of the blocks at these paths and inside them."""
        inside = tuple(f"{path}." for path in paths)
        self._filled = {n: b for n, b in self._filled.items() if n not in paths and not n.startswith(inside)}

    def _nested(
        self,
        line: Line,
        graph: Graph,
        path: str,
        given: Given,
        bound: Given,
        outputs: tuple[str, ...],
        *,
        keep: bool,
        held: bool,
    ) -> Play:
        plan = plan_of(graph, outputs)
        bound = {**bound, **graph.bindings} if graph.bindings else bound
        out = yield from self._graph(plan, f"{path}.", given, bound, {}, keep=keep, held=held)
        if keep and not line.makes_function:  # what it gave stands under its own path from now on
            for inner in plan.lines:
                self.done.pop(f"{path}.{inner.name}", None)
            if any(inner.makes_function for inner in plan.lines):
                self._forget_inside(path)
        return out

    def _loop(self, loop: Loop, path: str, given: dict[str, Any], bound: Given, *, held: bool) -> Play:
        items = given[loop.over]
        body = loop.body
        bound = {**bound, **body.bindings}
        start = {c: given.pop(c) if c in given else body.inputs[c].default for c in loop.carry}
        first, carried = self.turns.get(path, (0, start))
        once, each = turn_plans(body, loop.each, loop.carry)
        prefix = f"{path}."
        still: dict[Value, Any] = {}
        if first < len(items):
            yield from self._graph(once, prefix, given, bound, still, keep=False, held=held)
        self.turns[path] = (first, carried)
        for k in range(first, len(items)):
            turn = {**given, **carried, loop.each: items[k]}
            try:
                carried = yield from self._graph(each, prefix, turn, bound, dict(still), keep=False, held=held)
            except Cancelled:
                raise
            except Exception as error:  # whatever a block raises goes on as it is, and says in which turn
                error.add_note(f"  in turn {k + 1} of {len(items)} of {path!r}")
                raise
            for node in [n for n in self._fresh if n.startswith(prefix)]:
                kept = self._fresh.pop(node)
                self.memory[node] = {p: v.value if isinstance(v, Cell) else v for p, v in kept.items()}
            self.turns[path] = (k + 1, carried)
            yield Event("turn", path, turn=k + 1, turns=len(items), values=carried)
        self.turns.pop(path, None)
        self.memory = {node: kept for node, kept in self.memory.items() if not node.startswith(prefix)}
        self._empty((path,))
        return carried

    def _leaf(
        self, line: Line, path: str, args: dict[str, Any], given: Given, bound: Given, env: dict[Value, Any]
    ) -> Generator[Event, None, None]:
        block = line.block
        if line.needs:
            if path not in self._filled:
                yield from self._fill(line, path, bound)
            block = self._filled[path]
        if line.knobs and (knobs := _values(line.knobs, given, env)):
            block = block.with_(**knobs)
        if line.memory:
            args |= self.memory.get(path, {})
        if line.running:
            args[line.running] = self
        yield Event("start", path)
        began = time.perf_counter()
        try:
            with _no_grad():
                out = block(**args)
            if self._debug:
                check_shapes(block, args, out)
        except Cancelled:
            raise Cancelled(f"The run was cancelled in {path}.") from None
        except Exception as error:  # whatever a block raises goes on as it is, and says where
            error.add_note(f"  in {path!r} ({type(block).__name__})")
            raise
        if type(out) is not line.returns and not (line.returns is None and out is None):
            want = type_text(line.returns) if line.returns else "None"
            raise BrokenBlock(
                f"{path} ({type(block).__name__}) gave {type(out).__name__}, but its signature says {want}."
            )
        for value, name in zip(line.outs, line.takes, strict=True):
            env[value] = getattr(out, name)
        if line.memory:
            self._fresh[path] = {name: getattr(out, name) for name in line.memory}
        if self._notes:
            yield from self._tell(path)
        yield Event("done", path, seconds=time.perf_counter() - began)

    def _fill(self, line: Line, path: str, bound: Given) -> Generator[Event, None, None]:
        """Put the components into a block, loading those that are not loaded yet."""
        held: dict[str, Any] = {}
        for field, name in line.needs:
            if name not in bound:
                continue  # optional: `prepare` has refused a run that lacks one that is required
            value = bound[name]
            if isinstance(value, Lazy):
                began = time.perf_counter()
                value = value.load()
                yield Event("load", path, seconds=time.perf_counter() - began, text=name)
            held[field] = value
        self._filled[path] = line.block.with_(**held)

    def _tell(self, path: str) -> Generator[Event, None, None]:
        notes, self._notes = self._notes, []
        for text in notes:
            if self._silent:
                warnings.warn(text, UserWarning, stacklevel=2)
            yield Event("note", path, text=text)
