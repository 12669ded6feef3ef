"""The use of a memo by one run: outputs that it reuses, and outputs that it adds."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from ..run_order import Line, RunOrder, Value
from ..stored import NotStored, store
from ..structure import Values
from ..wiring import INPUTS
from .entry import Entry
from .memo import Memo, changed
from .node_keys import NodeKey, key_by_values, node_keys

_LIBRARY = __name__.partition(".")[0]


@dataclass(frozen=True)
class Reason:
    """The record of one node of a run.

    did: "ran"; "reused", its outputs are from the memo; or "skipped", since only reused nodes read its outputs. why: in
    words. seconds: how long it ran, or would have run.
    """

    node: str
    did: Literal["ran", "reused", "skipped"]
    why: str
    seconds: float = 0.0


@dataclass
class Reuse:
    """One run's use of a memo. `start` and `take_equal` choose what is reused, and `add` keeps outputs."""

    memo: Memo
    reasons: dict[str, Reason] = field(default_factory=dict[str, Reason])
    _keys: dict[str, NodeKey] = field(default_factory=dict[str, NodeKey])
    _by_values: dict[str, NodeKey] = field(default_factory=dict[str, NodeKey])

    def start(
        self, order: RunOrder, inputs: Values, bindings: Values, origins: Mapping[str, str]
    ) -> tuple[RunOrder, dict[str, dict[str, Any]], list[str]]:
        """The part of a run order that the run needs, the outputs of the reused nodes, and notes."""
        keys = self._keys = node_keys(order, inputs, bindings, origins)
        notes: list[str] = []
        reused: dict[str, dict[str, Any]] = {}
        needed = {value[0] for _, value in order.outputs}
        kept: list[Line] = []
        for line in reversed(order.lines):
            node = keys[line.name]
            if line.name not in needed and line.outputs:
                self.reasons[line.name] = Reason(line.name, "skipped", "only reused nodes read its outputs")
                continue
            entry = None if line.makes_function or node.no_key else self.memo.get(node.key, notes)
            values = self._values(line, entry, notes) if entry else None
            kept.append(line)
            if entry is not None and values is not None:
                reused[line.name] = values
                notes.extend(entry.notes)
                self.reasons[line.name] = Reason(line.name, "reused", "nothing changed", entry.seconds)
                continue
            needed |= {value[0] for _, value in (*line.args, *line.knobs) if value[0] != INPUTS}
            self.reasons[line.name] = Reason(line.name, "ran", self._why(line, node))
        kept.reverse()
        self.reasons = {line.name: self.reasons[line.name] for line in order.lines}
        return _without(order, kept, reused), reused, notes

    def take_equal(self, line: Line, values: dict[Value, Any], notes: list[str]) -> bool:
        """Add the outputs of a node to the values of a run, if the memo has them for the values of its inputs.

        `start` knows only which nodes give its inputs; when the node is next, their values are known.
        """
        if line.makes_function or (node := key_by_values(line, self._keys[line.name], values)) is None:
            return False
        self._by_values[line.name] = node
        entry = self.memo.get(node.key, notes)
        if entry is None or (found := self._values(line, entry, notes)) is None:
            return False
        notes.extend(entry.notes)
        values.update((value, found[value[1]]) for value in line.outputs)
        self.reasons[line.name] = Reason(line.name, "reused", "its inputs have equal values", entry.seconds)
        return True

    def add(self, line: Line, values: Mapping[Value, Any], seconds: float, notes: tuple[str, ...]) -> None:
        """Keep the outputs of a node that ran."""
        reason, node = self.reasons[line.name], self._keys[line.name]
        self.reasons[line.name] = replace(reason, seconds=seconds)
        if line.makes_function or line.block.quick or node.no_key:
            return
        try:
            outputs = {value[1]: store(values[value]) for value in line.outputs}
        except NotStored as error:
            self.reasons[line.name] = replace(reason, why=f"{reason.why}; not kept: {error} cannot be stored")
            return
        self.memo.put(Entry(line.name, node, seconds, outputs, notes), self._by_values.get(line.name))

    def _values(self, line: Line, entry: Entry, notes: list[str]) -> dict[str, Any] | None:
        package = type(line.block).__module__.partition(".")[0]
        try:
            return entry.values(frozenset({_LIBRARY, package}))
        except (ValueError, TypeError, IndexError, RuntimeError) as error:
            notes.append(f"{line.name}: its entry in the memo cannot be used ({error}). It is computed again.")
            return None

    def _why(self, line: Line, node: NodeKey) -> str:
        if line.makes_function:
            return "it gives a function, which is not kept"
        if line.block.quick:
            return "its outputs are quick to make, and not kept"
        if node.no_key:
            return f"not kept: {node.no_key}"
        near = self.memo.nearest(line.name, node)
        return "the memo has no entry of it" if near is None else f"changed: {', '.join(changed(near.node, node))}"


def _without(order: RunOrder, kept: list[Line], reused: Mapping[str, Any]) -> RunOrder:
    """These lines alone. Values that were dead after a removed line are dead after the line before it."""
    if len(kept) == len(order.lines) and not reused:
        return order
    names = {line.name for line in kept}
    lines: list[Line] = []
    for line in order.lines:
        if line.name in names:
            lines.append(line)
        elif lines and line.dead:
            lines[-1] = replace(lines[-1], dead=(*lines[-1].dead, *line.dead))
    return RunOrder(tuple(lines), order.outputs)


def explained(reasons: Mapping[str, Reason]) -> str:
    """A line for each node: whether it ran, was reused or was skipped, and why."""
    wide = max((len(name) for name in reasons), default=0)
    return "\n".join(
        f"{r.node:<{wide}}  {r.did:<7}  {f'{r.seconds:.3f} s' if r.seconds else '':>9}  {r.why}"
        for r in reasons.values()
    )
