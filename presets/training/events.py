"""What happens in a training, as values that `Trainer.stream` hands out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class TrainingEvent:
    """Something that happened. `step` counts the finished steps of the optimizer."""

    step: int


@dataclass(frozen=True)
class BatchFinished(TrainingEvent):
    """The gradient of a batch was added, and the step needs more batches."""

    batch: int
    """The finished batches of this step."""


@dataclass(frozen=True)
class StepFinished(TrainingEvent):
    """The optimizer has changed the weights."""

    epoch: int
    loss: float
    """The mean over all samples of the step."""
    learning_rates: Mapping[str, float]
    """Of this step, by group."""
    gradient_norm: float
    """Before it was clipped."""
    seconds: float


@dataclass(frozen=True)
class Validated(TrainingEvent):
    """The loss on the validation data was measured."""

    loss: float
    best: bool
    """Whether it is the least until now."""


@dataclass(frozen=True)
class Sampled(TrainingEvent):
    """Sample pictures were drawn and saved."""

    files: Sequence[Path]


@dataclass(frozen=True)
class CheckpointSaved(TrainingEvent):
    """A checkpoint is whole on the disk."""

    folder: Path
