"""`Batches`: the batches of each epoch, in an order that depends on the seed and the epoch alone."""

from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, overload

from ....blocks.image.place import Pair
from ....graph.errors import ConfigError
from .draws import Draws
from .order import Planned, plan
from .samples import Batch, Sample, Use


class Samples(Protocol):
    """Pictures of which an epoch uses some, or all: `TrainingData`."""

    def uses(self, seed: int, epoch: int) -> Sequence[Use]:
        """All uses of pictures in an epoch."""
        ...

    def size_of(self, use: Use) -> Pair:
        """The size at which the picture is read."""
        ...

    def sample(self, use: Use, seed: int, epoch: int) -> Sample:
        """The picture as the epoch uses it."""
        ...


class Epoch(Sequence[Batch]):
    """The batches of one process in an epoch. Pictures are read when a batch's inputs are looked up."""

    def __init__(self, data: Samples, seed: int, number: int, uses: Sequence[Use], planned: Sequence[Planned]) -> None:
        self.number = number
        self._data, self._seed, self._uses, self._planned = data, seed, uses, planned

    def __len__(self) -> int:
        return len(self._planned)

    @property
    def steps(self) -> int:
        """The number of optimizer steps. It is the same for all processes."""
        return self._planned[-1].step + 1 if self._planned else 0

    @overload
    def __getitem__(self, index: int) -> Batch: ...
    @overload
    def __getitem__(self, index: slice) -> list[Batch]: ...
    def __getitem__(self, index: int | slice) -> Batch | list[Batch]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        number = range(len(self))[index]
        planned = self._planned[number]
        samples = tuple(self._data.sample(self._uses[i], self._seed, self.number) for i in planned.samples)
        return Batch(samples, number, planned.step, planned.ends_step, planned.weight)

    def load(
        self, start: int = 0, *, inputs: Collection[str] = ("pixels",), workers: int = 2, ahead: int = 4
    ) -> Iterator[Batch]:
        """Go through the batches from number `start`, and read pictures ahead in threads.

        Args:
            start: where a resumed training goes on.
            inputs: names of the inputs to read ahead; those that the data lacks are passed over.
            workers: threads; 0 reads nothing ahead. The batches do not depend on it.
            ahead: how many batches are read before they are needed.
        """
        if not workers:
            yield from (self[number].read(inputs) for number in range(start, len(self)))
            return
        with ThreadPoolExecutor(workers, thread_name_prefix="sfumato-data") as pool:
            waiting: list[Future[Batch]] = []
            try:
                for number in range(start, len(self)):
                    waiting.append(pool.submit(self._read, number, inputs))
                    if len(waiting) > ahead:
                        yield waiting.pop(0).result()
                while waiting:
                    yield waiting.pop(0).result()
            finally:  # also where the caller stops early, or a picture cannot be read
                for future in waiting:
                    future.cancel()

    def _read(self, number: int, inputs: Collection[str]) -> Batch:
        return self[number].read(inputs)


@dataclass(frozen=True)
class Batches:
    """The batches of one process: a function of the seed and the epoch.

    An optimizer step has `batch_size * accumulation * processes` samples; one step of an epoch may have fewer.
    Which samples these are does not depend on how the product is divided. A batch has pictures of one size.

    Args:
        data: the pictures.
        batch_size: the most rows of a batch.
        accumulation: batches of a process in an optimizer step. Steps with pictures of several sizes may have more.
        processes: their number.
        process: the number of this one, from 0.
        seed: of the order, and of all that is drawn for a sample.
        shuffle: off, samples keep their order.

    Raises:
        ConfigError: a number out of its range.
    """

    data: Samples
    batch_size: int = 1
    accumulation: int = 1
    processes: int = 1
    process: int = 0
    seed: int = 0
    shuffle: bool = True

    def __post_init__(self) -> None:
        for name in ("batch_size", "accumulation", "processes"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: needs 1 or more, got {getattr(self, name)}.")
        if not 0 <= self.process < self.processes:
            raise ConfigError(f"process: needs a number from 0 to {self.processes - 1}, got {self.process}.")

    def epoch(self, number: int) -> Epoch:
        """The batches of an epoch, counted from 0."""
        if number < 0:
            raise ConfigError(f"The number of an epoch needs to be 0 or more, got {number}.")
        uses = self.data.uses(self.seed, number)
        sizes = [self.data.size_of(use) for use in uses]
        draws = Draws((self.seed, number)) if self.shuffle else None
        planned = plan(sizes, self.batch_size, self.accumulation, self.processes, self.process, draws)
        return Epoch(self.data, self.seed, number, uses, planned)
