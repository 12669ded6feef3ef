"""The part of a run's progress that another run can go on from, when values, blocks or components have changed.

Nodes that the changes reach run again, with those whose outputs they need and that are gone. A loop that has begun goes
on: what it has carried so far stays, and the changes take effect in its next turns.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable
from uuid import uuid4

from ..registry import counted
from .errors import InputError, Problem, UnfitValue
from .fields import same_component
from .memo.code import digest
from .memo.contents import content_key
from .memo.library_values import NoContentKey
from .planned import work_of
from .run_order import Line, RunOrder, Value, run_order
from .state import State
from .structure import Inside, Structure, Values
from .wiring import INPUTS

Changes = Mapping[Value, frozenset[str]]
"""Values that differ between two runs, with the names of the inputs, components and blocks that make them differ."""


@runtime_checkable
class Resumable(Protocol):
    """Items of a loop, such as a schedule, that know where a loop goes on that has done turns of other items."""

    resumes: Sequence[str]
    """The carried values that depend on the items, such as latents on the noise levels."""

    def resume_from(self, other: Any, turn: int, carried: Values) -> tuple[int, Values]:
        """The turn of these items to go on with, and the carried values for it.

        other: the items of the turns that are done. Raises `UnfitValue` where no turn of these items fits.
        """
        ...


@dataclass
class Takeover:
    """A loop that goes on under changes."""

    items: Any = None
    """The items that it had; None where they are the same."""
    began: dict[str, tuple[Any, frozenset[str]]] = field(default_factory=dict[str, tuple[Any, frozenset[str]]])
    """The carried values that it began with and that may differ now, and the names of the changes."""

    def placed(
        self, path: str, items: Sequence[Any], turn: int, start: Values, carried: Values, state: State
    ) -> tuple[int, Values]:
        """The next turn, and the values that it begins with.

        Raises `InputError` where the loop would have begun with other values, or where its new items do not continue
        the old ones.
        """
        before: Any = items if self.items is None else self.items
        moved = not same(before, items)
        depends = items.resumes if moved and isinstance(items, Resumable) else ()
        for name, (old, causes) in self.began.items():
            if name not in depends and not same(old, start[name]):
                raise InputError([_began_otherwise(path, name, turn, cause) for cause in sorted(causes)])
        if not moved:
            return turn, carried
        state.forget_memory(path)
        if isinstance(items, Resumable):
            try:
                return items.resume_from(before, turn, carried)
            except UnfitValue as error:
                raise InputError(Problem("resume", path, f"{error} {_WAYS}")) from error
        if len(items) < turn or not all(map(same, before[:turn], items[:turn])):
            text = f"has done {counted(turn, 'turn')}, and their items are other ones now. {_WAYS}"
            raise InputError(Problem("resume", path, text))
        return turn, carried


_WAYS = "Go back to its start with state.at(step=0), or begin a new run."


def _ended_otherwise(path: str, name: str, cause: str) -> Problem:
    text = f"changes {name!r} at the start of {path}, which has ended. Leave it out, or begin a new run."
    return Problem("resume", cause, text)


def _began_otherwise(path: str, name: str, turn: int, cause: str) -> Problem:
    text = f"changes {name!r} at the start of {path}, which has done {counted(turn, 'turn')}. Leave it out. {_WAYS}"
    return Problem("resume", cause, text)


def same(a: Any, b: Any) -> bool:  # any values that flow in a graph
    """Whether two values have equal contents."""
    if a is b:
        return True
    try:
        return content_key(a) == content_key(b)
    except NoContentKey:
        return False


@dataclass
class Side:
    """One of the two runs: its lines, the values of its inputs, and its components."""

    order: RunOrder
    inputs: Values
    bindings: Values

    @classmethod
    def of(cls, graph: Structure, inputs: Values) -> "Side":
        """The side of a run of this graph."""
        return cls(run_order(graph, graph.wanted), inputs, graph.adapted_bindings)


def take_over(old: Side, new: Side, state: State) -> tuple[State, dict[str, Takeover]]:
    """The progress that the new run begins with, and the loops that go on under changes, by path.

    Raises `InputError` for changes that nothing reads which is left to run.
    """
    changes: dict[Value, frozenset[str]] = {}
    for name in {**old.inputs, **new.inputs}:
        if (name in old.inputs) != (name in new.inputs) or not same(old.inputs.get(name), new.inputs.get(name)):
            changes[INPUTS, name] = frozenset({name})
    taking = _Taking(state)
    changed = {name for _, name in changes} & {*new.inputs}
    taking.level(old, new, "", changes)
    if ended := [problem for problem in taking.ended if problem.place not in taking.seeds_left]:
        raise InputError(ended)
    if without := sorted(changed - taking.read):
        raise InputError(
            [Problem("resume", name, f"nothing reads it that is left to run. {_WAYS}") for name in without]
        )
    return taking.state, taking.takeovers


class _Taking:
    def __init__(self, state: State) -> None:
        self.before = state
        self.state = state.copy()
        self.takeovers: dict[str, Takeover] = {}
        self.read: set[str] = set()
        """The names of the changes that reach a node that is to run."""
        self.seeds: set[str] = set()
        """The names of the changes that are seeds."""
        self.seeds_left: set[str] = set()
        """Those that a node reads which has not run before."""
        self.ended: list[Problem] = []
        """The loops that have ended and began with random numbers of another seed."""

    def level(
        self,
        old: Side,
        new: Side,
        prefix: str,
        changes: dict[Value, frozenset[str]],
        of_loops: frozenset[str] = frozenset(),
    ) -> None:
        """One graph: `changes` are those of its inputs, and get those of its nodes.

        of_loops: the inputs that come from loops.
        """
        lines = {line.name: line for line in old.order.lines}
        going_on = [line for line in new.order.lines if self._goes_on(prefix + line.name)]
        loops = _of_loops(new.order, of_loops)
        fixed = _fixed(going_on, loops)
        causes: dict[str, frozenset[str]] = {}
        kept: dict[str, frozenset[str]] = {}  # of nodes that do not run again
        for line in new.order.lines:
            path, before = prefix + line.name, lines.get(line.name)
            for port in line.block.random_without:
                self.seeds |= changes.get(dict(line.args).get(port, ("", "")), frozenset())
            found = _causes(line, before, old.bindings, new.bindings, path)
            for _, value in (*line.args, *line.knobs):
                found |= changes.get(value, frozenset())
            if not found:
                continue
            if line.name in fixed:  # its outputs stay those of the other run
                kept[line.name] = found
                began = {cause: name for name, value in _carried(line) for cause in changes.get(value, ())}
                self.ended += [_ended_otherwise(path, began[cause], cause) for cause in began.keys() & self.seeds]
                self._set_origin(path)
                continue
            causes[line.name] = found
            changes.update(dict.fromkeys(line.outputs, found))
            if path not in self.state.done and not self._goes_on(path):
                self._forget(path)  # a loop before its first turn
        self._run_again(new.order, prefix, causes)
        for line in new.order.lines:
            if prefix + line.name not in self.before.done:
                read = [changes.get(value, frozenset()) for _, value in line.args if value[0] == INPUTS]
                self.seeds_left |= self.seeds.intersection(*[frozenset().union(*read)])
        for line in going_on:
            path, before = prefix + line.name, lines.get(line.name)
            for name, (node, _) in _carried(line):
                if seeds := kept.get(node, frozenset()) & self.seeds:
                    turn = self.state.turns[path][0]
                    raise InputError([_began_otherwise(path, name, turn, cause) for cause in sorted(seeds)])
            if line.name not in causes:
                continue
            if before is None:
                self._forget(path)
                continue
            items = {inside.over for inside in line.insides if inside.repeated}
            if any(name in items and node in fixed for name, (node, _) in line.args):
                _check_work(line, path, old.bindings, new.bindings)
            self._change_inside(before, line, path, old, new, changes, loops)
            if not prefix and any(turn for turn, _ in self._turns_inside(path)):
                self._set_origin(path)

    def _goes_on(self, path: str) -> bool:
        """Whether a node has begun and not ended."""
        if path in self.state.done:
            return False
        dot = f"{path}."
        return any(turn for turn, _ in self._turns_inside(path)) or any(n.startswith(dot) for n in self.state.done)

    def _run_again(self, order: RunOrder, prefix: str, causes: Mapping[str, frozenset[str]]) -> None:
        """Let those nodes run again that a node to run reads, and that have changed or whose outputs are gone."""
        done = self.state.done
        read = {value for _, value in order.outputs}
        for line in reversed(order.lines):
            path = prefix + line.name
            if (made := done.get(path)) is not None:
                wanted = [port for node, port in line.outputs if (node, port) in read]
                if not wanted or (line.name not in causes and all(port in made for port in wanted)):
                    continue
                self._forget(path)
            elif line.until and prefix + line.until in done:
                continue
            self.read |= causes.get(line.name, frozenset())
            read.update(value for _, value in (*line.args, *line.knobs))

    def _change_inside(
        self, before: Line, line: Line, path: str, old: Side, new: Side, changes: Changes, loops: frozenset[Value]
    ) -> None:
        """The graphs inside a node that goes on."""
        inner_old, inner_new = before.bindings_inside(old.bindings), line.bindings_inside(new.bindings)
        parts, sources = {inside.part: inside for inside in before.insides}, dict(line.args)
        for inside in line.insides:
            place, other = inside.path(path), parts.get(inside.part)
            if other is None or inside.repeated != other.repeated:
                self._forget(place)
                continue
            sides = (_side(other, inner_old), _side(inside, inner_new))
            if not inside.repeated:
                reached = {(INPUTS, name): changes[value] for name, value in sources.items() if value in changes}
                of_loops = frozenset(name for name, value in sources.items() if value in loops)
                self.level(*sides, f"{place}.", reached, of_loops)
            elif place in self.state.turns:
                values = self._values_of(before, old, path)
                takeover = self.takeovers[place] = Takeover()
                if sources.get(inside.over) in changes:
                    takeover.items = values.get(inside.over)
                for name in inside.carried:
                    if (causes := changes.get(sources.get(name, ("", "")))) and name in values:
                        takeover.began[name] = values[name], causes
                self._change_body(*sides, f"{place}.")

    def _values_of(self, line: Line, side: Side, path: str) -> dict[str, Any]:
        """The values that the inputs of a line had, as far as the progress has them."""
        prefix = path.removesuffix(line.name)
        found: dict[str, Any] = {}
        for name, (node, port) in line.args:
            if node == INPUTS and prefix == "" and port in side.inputs:
                found[name] = side.inputs[port]
            elif port in (made := self.before.done.get(prefix + node, {})):
                found[name] = made[port]
        return found

    def _change_body(self, old: Side, new: Side, prefix: str) -> None:
        """The body of a loop in progress: memory of changed blocks goes, and loops inside begin their turn anew."""
        lines = {line.name: line for line in old.order.lines}
        for line in new.order.lines:
            path, before = prefix + line.name, lines.get(line.name)
            if _causes(line, before, old.bindings, new.bindings, path):
                self.state.memory.pop(path, None)
            if line.container is not None and before is not None:
                inner_old, inner_new = before.bindings_inside(old.bindings), line.bindings_inside(new.bindings)
                parts = {inside.part: inside for inside in before.insides}
                for inside in line.insides:
                    place = inside.path(path)
                    if inside.repeated:
                        self.state.forget_loop(place)
                    elif (other := parts.get(inside.part)) is not None:
                        self._change_body(_side(other, inner_old), _side(inside, inner_new), f"{place}.")

    def _forget(self, path: str) -> None:
        self.state.forget_loop(path)
        self.state.origins.pop(path, None)
        for node in [node for node in self.state.done if node == path or node.startswith(f"{path}.")]:
            del self.state.done[node]

    def _turns_inside(self, path: str) -> list[tuple[int, Values]]:
        return [t for name, t in self.state.turns.items() if name == path or name.startswith(f"{path}.")]

    def _set_origin(self, path: str) -> None:
        """Note that a node of the whole graph, or a part of it, has values that other inputs made."""
        node = path.partition(".")[0]
        dot, state = f"{node}.", self.state
        parts = [
            {n: v for n, v in one.items() if n == node or n.startswith(dot)}
            for one in (state.done, state.turns, state.memory)
        ]
        try:
            state.origins[node] = digest(content_key(parts), self.before.origins.get(node, ""))
        except NoContentKey:
            state.origins[node] = uuid4().hex


def _check_work(line: Line, path: str, old: Values, new: Values) -> None:
    """InputError where the steps of a loop stay, and the scheduler that made them does not."""
    for name in line.names.values():
        if work_of(new.get(name)) and not same_component(old.get(name), new.get(name)):
            text = f"cannot change inside {path}: its steps are made from the results of an earlier loop. {_WAYS}"
            raise InputError(Problem("resume", name, text))


def _repeats(line: Line) -> bool:
    """Whether a node is a loop or a map, or holds one."""
    return any(
        inside.repeated or any(map(_repeats, run_order(inside.graph, inside.outputs).lines)) for inside in line.insides
    )


def _of_loops(order: RunOrder, inputs: frozenset[str]) -> frozenset[Value]:
    """The values that loops give, or nodes that read such values."""
    found = {(INPUTS, name) for name in inputs}
    for line in order.lines:
        if _repeats(line) or any(value in found for _, value in line.args):
            found.update(line.outputs)
    return frozenset(found)


def _fixed(going_on: Sequence[Line], loops: frozenset[Value]) -> set[str]:
    """The nodes that do not run again for what goes on, since other loops would run again with them.

    They give values of loops to what goes on: for a loop its items and first values, for a graph any input.
    """
    found: set[str] = set()
    for line in going_on:
        for name, value in line.args:
            once = [inside for inside in line.insides if not inside.repeated]
            if value in loops and (once or any(name in (i.over, *i.carried) for i in line.insides)):
                found.add(value[0])
    return found


def _carried(line: Line) -> list[tuple[str, Value]]:
    """The values that a loop begins with, and their sources; none for other nodes."""
    names = {name for inside in line.insides if inside.repeated for name in inside.carried}
    return [(name, value) for name, value in line.args if name in names]


def _side(inside: Inside, bindings: Values) -> Side:
    own = inside.graph.adapted_bindings
    return Side(run_order(inside.graph, inside.outputs), {}, {**bindings, **own} if own else bindings)


def _causes(line: Line, before: Line | None, old: Values, new: Values, path: str) -> frozenset[str]:
    """The names of the changes of a node itself: its path, where its block or wires differ, and its components."""
    if before is None or (line.args, line.knobs) != (before.args, before.knobs) or not _same_block(before, line):
        return frozenset({path})
    outer = [name for _, name in line.components] if line.container is None else list(line.names.values())
    return frozenset(name for name in outer if not same_component(old.get(name), new.get(name)))


def _same_block(a: Line, b: Line) -> bool:
    try:
        return a.block is b.block or bool(a.block == b.block)
    except (TypeError, ValueError, RuntimeError):  # a field that compares by elements, such as a tensor
        return same(a.block, b.block)
