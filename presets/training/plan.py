"""`TrainingPlan`: what a training would do and need, measured on two steps."""

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from ...graph import ConfigError
from ...registry import counted
from .events import StepFinished
from .trainer import Trainer


@dataclass(frozen=True)
class TrainingPlan:
    """What a training would do and need. `print(plan)` shows it."""

    steps: int
    epochs: float
    pictures: int
    batches: int
    """Of an epoch, of all processes."""
    rows: int
    """Of a step."""
    parameters: int
    """Numbers that are trained."""
    memory: Mapping[str, int]
    """Bytes: of what is trained, its gradients, the optimizer and the moving average; and `peak`, the most that the
    device had in use, or this process on a CPU."""
    seconds_per_step: float
    frozen: tuple[str, ...]
    """Nodes of the recipe that are computed once for each sample, and kept."""

    @property
    def seconds(self) -> float:
        """Of the whole training, without validation and sample pictures."""
        return self.steps * self.seconds_per_step

    def __str__(self) -> str:
        megabytes = ", ".join(f"{name} {size / 2**20:,.1f} MiB" for name, size in self.memory.items())
        lines = {
            "steps": f"{self.steps} of {counted(self.rows, 'row')}, {self.epochs:.3g} epochs",
            "data": f"{counted(self.pictures, 'picture')}, {self.batches} batches in an epoch",
            "trained": f"{self.parameters:,} numbers",
            "memory": megabytes,
            "time": f"{self.seconds_per_step:.3g} s a step, {_duration(self.seconds)} in all",
            "computed once": ", ".join(self.frozen) or "nothing",
        }
        return "\n".join(f"{name:<14}{text}" for name, text in lines.items())


def measure(trainer: Trainer, pictures: int, frozen: tuple[str, ...]) -> TrainingPlan:
    """Make two steps, and say what the whole training would need. The trainer is not to be used after it.

    Raises:
        ConfigError: a training of fewer than two steps.
    """
    if trainer.steps - trainer.step < 2:
        raise ConfigError(f"A plan is measured on two steps, and the training has {trainer.steps}. Pass more steps.")
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    ends = list[float]()
    events = trainer.stream()
    for event in events:
        if isinstance(event, StepFinished):
            ends.append(time.perf_counter())
            if len(ends) == 2:
                break
    events.close()
    epoch = trainer.order.epoch(0)
    return TrainingPlan(
        steps=trainer.steps,
        epochs=trainer.steps / trainer.order.steps_of(1),
        pictures=pictures,
        batches=len(epoch),
        rows=sum(len(batch.names) for batch in epoch[: trainer.order.batches_of_step]),
        parameters=sum(parameter.numel() for parameter in trainer.trained.parameters()),
        memory={**trainer.stepper.sizes(), "peak": _peak()},
        seconds_per_step=ends[1] - ends[0],
        frozen=frozen,
    )


def _peak() -> int:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    if sys.platform == "win32":
        return 0
    import resource

    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else used * 1024  # Linux counts in KiB


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{seconds:.0f} s" if seconds < 120 else f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"
