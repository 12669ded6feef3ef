"""The order of batches: which batch belongs to which step and process, from any position on."""

from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from math import ceil
from typing import Any, Protocol

from ...graph import ConfigError


class Batch(Protocol):
    """Samples of one forward. Nothing is read before `load`."""

    @property
    def names(self) -> Sequence[str]:
        """The names of the samples, one for each row."""
        ...

    @property
    def places(self) -> Sequence[int]:
        """The places of the samples in the epoch, from which their random numbers are made."""
        ...

    def load(self) -> Mapping[str, Any]:  # Any: the inputs of a recipe
        """The inputs of the recipe for these rows, without `random`. It is called in a thread."""
        ...


class Batches(Protocol):
    """All batches of the data."""

    def epoch(self, number: int) -> Sequence[Batch]:
        """The batches of an epoch in their order, which depends on nothing but its number."""
        ...


@dataclass(frozen=True, order=True)
class Position:
    """How far a training is."""

    step: int = 0
    """Finished steps."""
    epoch: int = 0
    step_in_epoch: int = 0
    batch: int = 0
    """Batches of the present step that each process has finished."""


@dataclass(frozen=True)
class Turn:
    """One batch of one process, and where it is."""

    position: Position
    """Before the batch."""
    batch: Batch
    share: float
    """The rows of the batch as a part of those of the step. 0: a batch of another process, so that this one has work
    where the last step of an epoch has too few batches for all."""
    last: bool
    """Whether the step ends with it."""
    after: Position
    """After the batch, and after its step if that ends."""


@dataclass(frozen=True)
class Order:
    """Which batches a process computes."""

    batches: Batches
    accumulation: int
    processes: int = 1
    process: int = 0

    def steps_of(self, epochs: int) -> int:
        """The steps of these epochs."""
        return sum(ceil(len(self.epoch(number)) / self.batches_of_step) for number in range(epochs))

    def epoch(self, number: int) -> Sequence[Batch]:
        """The batches of an epoch. ConfigError if there are none."""
        if not (found := self.batches.epoch(number)):
            raise ConfigError("data: has no picture. Pass a folder or a data set with at least one.")
        return found

    @property
    def batches_of_step(self) -> int:
        """The batches of a step, of all processes. The last step of an epoch may have fewer."""
        return self.accumulation * self.processes

    def turns(self, position: Position) -> Iterator[Turn]:
        """The turns of this process from a position on, without an end."""
        while True:
            all_batches = self.epoch(position.epoch)
            groups = range(0, len(all_batches), self.batches_of_step)
            for start in groups[position.step_in_epoch :]:
                for turn in self._turns_of_step(all_batches[start : start + self.batches_of_step], position):
                    yield turn
                    position = turn.after
            position = replace(position, epoch=position.epoch + 1, step_in_epoch=0)

    def _turns_of_step(self, group: Sequence[Batch], position: Position) -> Iterator[Turn]:
        rows = sum(len(batch.names) for batch in group)
        count = ceil(len(group) / self.processes)
        for number in range(position.batch, count):
            index = number * self.processes + self.process
            last = number == count - 1
            after = (
                replace(position, step=position.step + 1, step_in_epoch=position.step_in_epoch + 1, batch=0)
                if last
                else replace(position, batch=number + 1)
            )
            has_work = index < len(group)
            batch = group[index] if has_work else group[0]
            yield Turn(replace(position, batch=number), batch, len(batch.names) / rows * has_work, last, after)


def loaded(turns: Iterator[Turn]) -> Generator[tuple[Turn, Mapping[str, Any]]]:
    """Each turn with the inputs of its batch. The next batch is read while the caller computes."""
    with ThreadPoolExecutor(1, "sfumato-data") as reader:
        turn = next(turns)
        coming = reader.submit(turn.batch.load)
        for following in turns:
            inputs = coming.result()
            coming = reader.submit(following.batch.load)
            yield turn, inputs
            turn = following
