"""The latents of a run that stopped between two steps, with all that its next steps need."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from ..graph.loop_memory import LoopMemory
from .random import Random
from .schedulers.schedule import WORK, Schedule


@dataclass(frozen=True, eq=False)
class HalfwayLatents:
    """Noisy latents between two steps of a run, and what the next steps need so that the run goes on exactly.

    latents: (batch, channels, height, width), float32, at the level of the first of `steps`. steps: the steps that are
    left. random: the generator states of the next draw. memory: of the nodes in the loop, such as a solver's history
    and a guider's momentum. seeded: the generator states at the start of the run, from which noise for masks and
    images is drawn again.
    """

    __belongs_to__: ClassVar[str] = WORK

    latents: Tensor
    steps: Schedule
    random: Random
    memory: LoopMemory
    seeded: Random

    @property
    def made_by(self) -> str:
        """The scheduler that made the schedule, as text; see `Schedule.made_by`."""
        return self.steps.made_by

    def to(self, device: torch.device) -> "HalfwayLatents":
        """The same on a device. Generator states stay on the CPU."""
        latents, memory = self.latents.to(device), _moved(self.memory, device)
        return replace(self, latents=latents, steps=self.steps.to(device), memory=memory)


def _moved(value: Any, device: torch.device) -> Any:  # Any: what nodes remember
    """A value with its tensors on a device: itself, or in its items or fields."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, Random):
        return value
    if isinstance(value, Mapping):
        return {key: _moved(item, device) for key, item in cast("Mapping[Any, Any]", value).items()}
    if isinstance(value, list | tuple):
        items = [_moved(item, device) for item in cast("list[Any]", value)]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: _moved(getattr(value, f.name), device) for f in fields(value) if f.init})
    return value
