"""A call that was walked without values: its nodes, and the memory of its components in stages."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...graph.block import Block
from ...graph.call import Settled
from ...graph.memo.reuse import Reuse
from ...graph.named import Named
from ...graph.run_order import Line, RunOrder, Value, run_order
from ..handle import Handle
from ..memory.budget import Budget
from .counting import Counting
from .memory import Managers, Needs, Together, leased_together, memory_of
from .models import EmptyComponents
from .plan import Plan, PlannedNode, Stage
from .walk import Node, Walk


@dataclass(frozen=True)
class Walked:
    """A call that was walked: what its nodes compute, and what their components need.

    runs: the nodes that run. needs: by the keys of handles.
    """

    call: Settled
    runs: RunOrder
    reuse: Reuse | None
    nodes: Mapping[str, Node]
    notes: tuple[str, ...]
    groups: tuple[Together, ...]
    needs: Mapping[str, Needs]

    @classmethod
    def of(cls, call: Settled) -> "Walked":
        """Walk a call."""
        graph, order = call.graph, run_order(call.graph, call.graph.wanted)
        reuse, reused, notes = None, dict[str, dict[str, Any]](), list[str]()
        if call.call.memo is not None:
            reuse = Reuse(call.call.memo)
            order, reused, notes = reuse.start(order, call.inputs, graph.adapted_bindings, {})
        counting = Counting()
        walk = Walk(counting, EmptyComponents(counting).of)

        def take(line: Line, values: dict[Value, Any]) -> bool:
            return reuse is not None and reuse.take_equal(line, values, notes)

        taken = walk.whole(graph, order, call.inputs, reused, take)
        runs = RunOrder(tuple(line for line in order.lines if line.name not in (*reused, *taken)), order.outputs)
        groups = tuple(leased_together(graph, runs))
        needs = {handle.key: Needs.of(handle) for group in groups for handle in group.handles}
        return cls(call, runs, reuse, walk.nodes, (*call.notes, *notes, *dict.fromkeys(walk.notes)), groups, needs)

    def plan(self) -> Plan:
        """The plan, without proposals."""
        components = tuple(self.needs[key].planned(name) for name, key in self.names.items())
        return Plan(tuple(self._rows()), components, self.stages(self.needs), notes=self.notes)

    @property
    def names(self) -> Mapping[str, str]:
        """The keys of the components that the run needs, by their names in the graph, in the order of their use."""
        bound = {value.key: name for name, value in self.call.graph.bindings.items() if isinstance(value, Handle)}
        return {bound.get(key, one.entry.name): key for key, one in self.needs.items()}

    def stages(self, needs: Mapping[str, Needs], budget: Budget | None = None) -> tuple[Stage, ...]:
        """The stages, with components that need so much memory, and with this budget in place of the managers'."""
        managers = Managers(budget)
        return tuple(
            self._stage(group, [needs[handle.key] for handle in group.handles], managers) for group in self.groups
        )

    def _stage(self, group: Together, own: Sequence[Needs], managers: Managers) -> Stage:
        nodes = [node for node in self.nodes.values() if is_within(node.path, group.nodes)]
        weights = managers.use(own)
        largest = max(own, key=lambda one: one.on_device)
        budget = managers.budget_of(largest.manager)
        return Stage(
            group.nodes, tuple(one.entry.name for one in own), largest.entry.device, weights,
            max((node.count.peak for node in nodes), default=0),
            {device: limit for device in weights if (limit := budget(device)) is not None},
            {device: size for device in weights if (size := memory_of(device))},
            all(not node.unknown for node in nodes),
        )  # fmt: skip

    def _rows(self) -> Iterator[PlannedNode]:
        for line in run_order(self.call.graph, self.call.graph.wanted).lines:
            reason = self.reuse.reasons[line.name] if self.reuse is not None else None
            if reason is not None and reason.did != "ran":
                yield PlannedNode(line.name, _block_name(line.block), reason.did, why=reason.why)
                continue
            for node in self.nodes.values():
                if is_within(node.path, [line.name]):
                    why = node.unknown or (reason.why if reason is not None else "")
                    flops = None if node.unknown else node.count.flops
                    yield PlannedNode(node.path, _block_name(node.block), "runs", node.calls, flops, why)


def is_within(path: str, nodes: Sequence[str]) -> bool:
    """Whether a path is that of one of these nodes, or of a node inside one."""
    return any(path == node or path.startswith(f"{node}.") for node in nodes)


def _block_name(block: Block) -> str:
    while isinstance(block, Named):
        block = block.block
    return type(block).__name__
