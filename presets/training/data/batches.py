"""`Batches`: the batches of each epoch, in an order that depends on the seed and the epoch alone."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, overload

from ....blocks.image.place import Pair
from ....graph.errors import ConfigError
from .draws import Draws
from .order import batches_of
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


@dataclass(frozen=True)
class Batches:
    """The batches of all epochs: a function of the seed and the epoch. A batch has pictures of one size.

    Args:
        data: the pictures.
        batch_size: the most rows of a batch.
        inputs: the values that batches make, by their names as inputs of a recipe.
        seed: of the order, and of all that is drawn for a sample.
        shuffle: off, samples keep their order.

    Raises:
        ConfigError: a batch size below 1.
    """

    data: Samples
    batch_size: int
    inputs: tuple[str, ...]
    seed: int = 0
    shuffle: bool = True

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ConfigError(f"batch_size: needs 1 or more, got {self.batch_size}.")

    def epoch(self, number: int) -> "Epoch":
        """The batches of an epoch, counted from 0. ConfigError for a number below 0."""
        if number < 0:
            raise ConfigError(f"epoch: needs 0 or more, got {number}.")
        return Epoch(self, number)


class Epoch(Sequence[Batch]):
    """The batches of an epoch. A batch is made when it is looked up, and reads its pictures when it is loaded."""

    def __init__(self, batches: Batches, number: int) -> None:
        self.number = number
        self._batches = batches

    @cached_property
    def _uses(self) -> Sequence[Use]:
        return self._batches.data.uses(self._batches.seed, self.number)

    @cached_property
    def _planned(self) -> Sequence[tuple[int, ...]]:
        """The numbers of the samples of each batch."""
        draws = Draws((self._batches.seed, self.number)) if self._batches.shuffle else None
        return batches_of(list(map(self._batches.data.size_of, self._uses)), self._batches.batch_size, draws)

    def __len__(self) -> int:  # without the order, so that the steps of a training are counted quickly
        of_sizes = Counter(map(self._batches.data.size_of, self._uses))
        return sum(-(-count // self._batches.batch_size) for count in of_sizes.values())

    @overload
    def __getitem__(self, index: int) -> Batch: ...
    @overload
    def __getitem__(self, index: slice) -> list[Batch]: ...
    def __getitem__(self, index: int | slice) -> Batch | list[Batch]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        data, seed = self._batches.data, self._batches.seed
        samples = tuple(data.sample(self._uses[i], seed, self.number) for i in self._planned[index])
        return Batch(samples, self._batches.inputs)
