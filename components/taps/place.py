"""Values that changes get: the layer that is changed, and the forward that runs."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import nn

from ...graph.errors import UnfitValue
from ..models.levels import Size
from ..models.perturbable import PerturbableLayers
from ..schedulers.schedule import Step
from .memory import PassMemory

Part = Literal["block", "self", "cross", "attention", "feed_forward"]
"""A part of a transformer block: all of it, its self-attention (joint attention too), its attention to the prompt, all
its attention, its feed-forward layers."""
Kind = Literal["self", "cross", "joint"]
"""Whether tokens of the picture attend to each other, to the prompt, or to both at once."""


@dataclass(frozen=True)
class PassRows:
    """The rows of one pass among all rows of a forward: from `start` to before `stop`.

    step: of the pass. memories: of the changes that keep something for it from step to step.
    """

    role: str
    start: int
    stop: int
    step: Step | None = None
    memories: tuple[PassMemory, ...] = ()

    @property
    def rows(self) -> slice:
        """The rows, to index a tensor with."""
        return slice(self.start, self.stop)


@dataclass(frozen=True)
class Forward:
    """One forward of the denoiser.

    passes: those that share it, in the order of their rows. All rows of a pass are in one forward. step: of all passes,
    where a change does not read the step of each.
    memory: empty at the start of a call of `predict`, and shared by all forwards of that call. These run in the order
    of their first pass. So what a pass with one tap writes, a later pass with another tap reads, in the same step.
    """

    passes: tuple[PassRows, ...]
    step: Step
    memory: dict[Any, Any] = field(default_factory=dict[Any, Any])  # Any: values that changes write

    def memories_of(self, owner: object) -> Sequence[PassMemory]:
        """Return the memory of a change for each pass; none where a pass has no such memory."""
        found = [memory for p in self.passes for memory in p.memories if memory.owner == owner]
        return found if len(found) == len(self.passes) else ()

    @property
    def first_rows(self) -> list[int]:
        """For each row, the first row of its pass: `k[forward.first_rows]` are the keys of that row."""
        return [p.start for p in self.passes for _ in range(p.start, p.stop)]


class Current:
    """The forward that a view runs now. A view runs one forward at a time, so threads do not meet here.

    found: the forward; None where the model is called by itself, without passes.
    """

    def __init__(self) -> None:
        self.found: Forward | None = None

    @property
    def forward(self) -> Forward:
        """The forward. UnfitValue where there is none."""
        return required(self.found)


def required(found: Forward | None) -> Forward:
    """Return the forward. UnfitValue where there is none."""
    if found is None:
        raise UnfitValue(
            "The change of a layer needs the passes of the forward, got none. Call the model through predict."
        )
    return found


@dataclass(frozen=True)
class Place:
    """A layer that is changed.

    path: of the layer in the model. block: the path of its block. index: of the block, in forward order. kind: of an
    attention, None for other layers. size: of the latents. patch: the side of a token in latents, None for a U-Net.
    """

    path: str
    block: str
    index: int
    kind: Kind | None
    size: Size
    patch: int | None
    current: Current


@dataclass(frozen=True)
class TappedBlock:
    """A block that is changed: `parts` are the places in it."""

    path: str
    module: nn.Module
    layers: PerturbableLayers
    size: Size
    current: Current

    def parts(self, part: Part) -> Sequence[Place]:
        """The places of a part of the block; a block may lack a part."""
        return [self._place(path, kind) for path, kind in self._paths(part)]

    def _paths(self, part: Part) -> Iterator[tuple[str, Kind | None]]:
        if part == "block":
            yield self.path, None
            return
        names = self.layers.feed_forward
        if part != "feed_forward":
            names = dict.fromkeys((*self.layers.attention, *self.layers.cross_attention))
        for name in names:
            if self.module._modules.get(name) is None:
                continue
            kind = None if part == "feed_forward" else self._kind(name)
            if part in ("feed_forward", "attention") or part == ("cross" if kind == "cross" else "self"):
                yield f"{self.path}.{name}", kind

    def _kind(self, name: str) -> Kind:
        if name in self.layers.cross_attention or self.path not in self.layers.with_self_attention:
            return "cross"
        return "joint" if name in self.layers.joint_attention else "self"

    def _place(self, path: str, kind: Kind | None) -> Place:
        blocks = self.layers.blocks
        index = blocks.index(self.path) if self.path in blocks else self.layers.up_levels.index(self.path)
        return Place(path, self.path, index, kind, self.size, self.layers.patch, self.current)
