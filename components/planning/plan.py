"""A plan: what a call would do and need, as a value and as a table."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from ...registry import printable
from ..memory.sizes import show_size


@dataclass(frozen=True)
class PlannedNode:
    """One node of a plan.

    did: "runs"; "reused", its outputs are in the memo; or "skipped", since only reused nodes read its outputs. calls:
    how often it runs. flops: its floating-point operations in all calls, those of functions that it gives included;
    None where they are not known. why: the reason for that, or what has changed since the nearest entry of the memo.
    """

    path: str
    block: str
    did: Literal["runs", "reused", "skipped"] = "runs"
    calls: int = 0
    flops: int | None = 0
    why: str = ""


@dataclass(frozen=True)
class PlannedComponent:
    """A component that the run needs.

    bytes: of its weights in memory, by its files or its config; None where neither says. streaming_bytes: those on its
    device at once, if it is streamed; else 0. download_bytes: of its files that are not on this machine yet. missing:
    whether its weights are nowhere, so that a run would fail.
    """

    name: str
    type: str
    dtype: str
    device: str
    bytes: int | None
    streaming_bytes: int = 0
    download_bytes: int = 0
    missing: bool = False


@dataclass(frozen=True)
class Stage:
    """Nodes whose components are in memory together.

    weights: the bytes of all components in memory then, by device. activations: the most bytes of other tensors at
    once, as torch would allocate them without its own working memory. limits: of weights by the budget, by device.
    memory: of the devices. known: whether all its nodes are known; if not, the numbers are too low.
    """

    nodes: tuple[str, ...]
    components: tuple[str, ...]
    device: str
    weights: Mapping[str, int]
    activations: int
    limits: Mapping[str, int]
    memory: Mapping[str, int]
    known: bool = True

    @property
    def peak(self) -> int:
        """The most bytes on the device of its components."""
        return self.weights.get(self.device, 0) + self.activations

    @property
    def excess(self) -> int:
        """The bytes by which it does not fit; 0 if it fits."""
        over = [size - self.limits[device] for device, size in self.weights.items() if device in self.limits]
        if self.device in self.memory:
            over.append(self.peak - self.memory[self.device])
        return max(0, *over, 0)


@dataclass(frozen=True)
class Proposal:
    """A change with which all stages fit: what it does, its figures, and the line to write."""

    change: str
    peak: int
    code: str


@dataclass(frozen=True)
class Plan:
    """What a call would do and need. It prints as a table.

    nodes: in the order of running. components: those that the nodes need. stages: in the order of running. proposals:
    changes for a plan that does not fit. notes: texts that a run would send.
    """

    nodes: tuple[PlannedNode, ...]
    components: tuple[PlannedComponent, ...]
    stages: tuple[Stage, ...]
    proposals: tuple[Proposal, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def flops(self) -> int:
        """The floating-point operations of all nodes that are known; a multiplication with an addition is two."""
        return sum(node.flops or 0 for node in self.nodes)

    @property
    def unknown(self) -> tuple[str, ...]:
        """The paths of the nodes that are not known."""
        return tuple(node.path for node in self.nodes if node.flops is None)

    @property
    def weights(self) -> Mapping[str, int]:
        """The most bytes of weights at once, by device."""
        devices = dict.fromkeys(device for stage in self.stages for device in stage.weights)
        return {device: max(stage.weights.get(device, 0) for stage in self.stages) for device in devices}

    @property
    def peak(self) -> Mapping[str, int]:
        """The most bytes at once, by device: weights and activations."""
        found = dict(self.weights)
        for stage in self.stages:
            found[stage.device] = max(found.get(stage.device, 0), stage.peak)
        return found

    @property
    def download_bytes(self) -> int:
        """The bytes of files that are not on this machine yet."""
        return sum(component.download_bytes for component in self.components)

    @property
    def fits(self) -> bool:
        """Whether all stages fit into the budget and the memory of their devices."""
        return not any(stage.excess for stage in self.stages)

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON values, with the sums."""
        sums = {
            "flops": self.flops, "unknown": [*self.unknown], "weights": dict(self.weights), "peak": dict(self.peak),
            "download_bytes": self.download_bytes, "fits": self.fits,
        }  # fmt: skip
        stages = [{**asdict(stage), "peak": stage.peak, "excess": stage.excess} for stage in self.stages]
        rows = {name: [asdict(row) for row in getattr(self, name)] for name in ("nodes", "components", "proposals")}
        return {**sums, **rows, "stages": stages, "notes": [*self.notes]}

    def __str__(self) -> str:
        return "\n".join(_text(self))

    __repr__ = __str__


def _text(plan: Plan) -> Iterable[str]:
    yield from _table(("node", "block", "calls", "FLOPs", ""), map(_node_row, plan.nodes))
    unknown = f", {len(plan.unknown)} nodes unknown" if plan.unknown else ""
    yield f"in all {show_count(plan.flops)}FLOP{unknown}"
    if plan.components:
        yield ""
        yield from _table(
            ("component", "class", "dtype", "device", "weights", ""), map(_component_row, plan.components)
        )
    if plan.stages:
        yield ""
        yield from _table(("stage", "weights", "activations", "peak", ""), map(_stage_row, plan.stages))
    if plan.download_bytes:
        yield f"to download: {show_size(plan.download_bytes)}"
    if plan.proposals:
        yield ""
        yield "It would fit with one of these:"
        for proposal in plan.proposals:
            yield f"  {proposal.change}: at most {show_size(proposal.peak)}"
            yield f"    {proposal.code}"
    for note in plan.notes:
        yield f"note: {printable(note)}"


def _node_row(node: PlannedNode) -> Sequence[str]:
    if node.did != "runs":
        return node.path, node.block, node.did, "", node.why
    flops = "unknown" if node.flops is None else show_count(node.flops).strip() if node.flops else "-"
    return node.path, node.block, str(node.calls), flops, node.why


def _component_row(one: PlannedComponent) -> Sequence[str]:
    notes = [f"{show_size(one.streaming_bytes)} at once"] if one.streaming_bytes else []
    notes += [f"{show_size(one.download_bytes)} to download"] if one.download_bytes else []
    notes += ["no weights on this machine"] if one.missing else []
    size = "unknown" if one.bytes is None else show_size(one.bytes)
    return one.name, one.type, one.dtype, one.device, size, ", ".join(notes)


def _stage_row(stage: Stage) -> Sequence[str]:
    weights = ", ".join(f"{show_size(size)} {device}" for device, size in stage.weights.items())
    least = "" if stage.known else "at least "
    over = f"{show_size(stage.excess)} too much" if stage.excess else ""
    names = ", ".join(stage.nodes)
    return names, weights, f"{least}{show_size(stage.activations)}", f"{least}{show_size(stage.peak)}", over


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterable[str]:
    lines = [head, *([printable(cell) for cell in row] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    for line in lines:
        yield "  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip()


def show_count(count: int) -> str:
    """A number of operations with a prefix of a thousand.

    >>> show_count(950), show_count(3_527_630_848), show_count(12_300_000_000_000)
    ('950 ', '3.53 G', '12.3 T')
    """
    size, units = float(count), iter(("", "k", "M", "G", "T", "P"))
    unit = next(units)
    while size >= 1000 and unit != "P":
        size, unit = size / 1000, next(units)
    return f"{size:.3g} {unit}"
