"""`TrainingData`: the pictures of all sources, and the samples that an epoch makes of them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from math import ceil
from pathlib import Path
from typing import Any

from PIL import Image

from ....blocks.image.place import Pair, Stored
from ....graph import ConfigError, Graph
from ....registry import counted
from .batches import Batches
from .buckets import Buckets, Crop, place
from .captions import Captions
from .draws import Draws
from .folder import Skipped
from .order import rounds
from .samples import Sample, Use
from .source import Record, Source

_WHITE = Image.new("L", (1, 1), 255)
"""The mask of a picture that has none, where others have one: the whole of it counts."""


@dataclass(frozen=True)
class Layout:
    """The form in which pictures are read; for the fields see `load_data`."""

    size: Pair | Buckets
    crop: Crop = "center"
    flip: float = 0.0
    background: str = "white"
    alpha_mask: bool = False

    def size_for(self, own: Pair) -> Pair:
        """The size at which a picture of its own size is read."""
        return self.size.size_for(own) if isinstance(self.size, Buckets) else self.size


@dataclass(frozen=True)
class Part:
    """The usable pictures of one source. own: their sizes as they are stored, upright."""

    source: Source
    records: Sequence[Record]
    own: Sequence[Pair]
    sizes: Sequence[Pair]
    repeats: float = 1.0

    def only(self, numbers: Sequence[int]) -> "Part":
        """Some of the pictures."""
        own, sizes = ([values[i] for i in numbers] for values in (self.own, self.sizes))
        return replace(self, records=SomeRecords(self.records, numbers), own=own, sizes=sizes)


class SomeRecords(Sequence[Record]):
    """Some of the records of a source. Those of tables are read at each look-up, so they are not held in memory."""

    def __init__(self, records: Sequence[Record], numbers: Sequence[int]) -> None:
        self._records, self._numbers = records, numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: Any) -> Any:  # a record, or a list of them for a slice
        numbers = self._numbers[index]
        return [self._records[i] for i in numbers] if isinstance(index, slice) else self._records[numbers]


@dataclass(frozen=True)
class TrainingData:
    """Pictures for a training; `sf.load_data` makes it. `len(data)` is their number.

    skipped: pictures and captions that are not used, with reasons.
    """

    parts: tuple[Part, ...]
    layout: Layout
    captions: Captions
    has_captions: bool
    has_masks: bool
    skipped: tuple[Skipped, ...] = ()

    def __len__(self) -> int:
        return sum(len(part.records) for part in self.parts)

    def __repr__(self) -> str:
        pictures, sources = counted(len(self), "picture"), counted(len(self.parts), "source")
        return f"TrainingData({pictures}, {sources}, {len(self.skipped)} skipped)"

    @property
    def sizes(self) -> dict[Pair, int]:
        """The number of pictures of each size."""
        counts: dict[Pair, int] = {}
        for size in sorted(size for part in self.parts for size in part.sizes):
            counts[size] = counts.get(size, 0) + 1
        return counts

    @property
    def inputs(self) -> tuple[str, ...]:
        """The values that its batches can make, by their names as inputs of a recipe."""
        sample = self.sample((0, 0, 0), 0, 0)
        return (*sample.readers, *sample.values)

    def batches(
        self, batch_size: int = 1, *, recipe: Graph | None = None, seed: int = 0, shuffle: bool = True
    ) -> Batches:
        """The batches of all epochs.

        Args:
            batch_size: the most rows of a batch.
            recipe: the graph whose inputs the batches make; None makes all that the data has.
            seed: of the order, and of all that is drawn for a sample.
            shuffle: off, samples keep their order.

        Raises:
            ConfigError: a batch size below 1, or an input of the recipe that the data lacks.
        """
        inputs = self.inputs
        if recipe is not None:
            needed = {name for name, port in recipe.inputs.items() if port.required} - {"random"}
            if lacking := sorted(needed - set(inputs)):
                raise ConfigError("\n  ".join(["The data lacks inputs of the recipe.", *map(_advice, lacking)]))
            inputs = tuple(name for name in inputs if name in recipe.inputs)
        return Batches(self, batch_size, inputs, seed, shuffle)

    def split(self, validation: float, seed: int = 0) -> "tuple[TrainingData, TrainingData]":
        """The pictures for the training, and those for the validation.

        Of each source but those of a class (`is_prior`), a share is drawn for the validation. There, captions keep
        their words, and pictures are cropped at the center and not mirrored.

        Args:
            validation: the share, from 0 to 1.
            seed: of the draw.

        Raises:
            ConfigError: a share that leaves no picture for one of the two.
        """
        drawn: list[tuple[Part, list[int], list[int]]] = []
        for number, part in enumerate(self.parts):
            order = Draws((seed, "validation", number)).order(len(part.records))
            count = 0 if part.source.is_prior else round(len(order) * validation)
            drawn.append((part, sorted(order[count:]), sorted(order[:count])))
        train, held = ([part.only(both[i]) for part, *both in drawn if both[i]] for i in (0, 1))
        if not held or len(train) < len(self.parts):
            raise ConfigError(f"validation: {validation} of {len(self)} pictures leaves none for one of the two parts.")
        plain = replace(self.captions, dropout=0.0, shuffle=False, tag_dropout=0.0)
        sources = [replace(part, source=replace(part.source, captions=None), repeats=1.0) for part in held]
        layout = replace(self.layout, crop="center", flip=0.0)
        return replace(self, parts=tuple(train)), replace(self, parts=tuple(sources), captions=plain, layout=layout)

    def uses(self, seed: int, epoch: int) -> list[Use]:
        """All uses of pictures in an epoch, in the order of the sources."""
        return [
            (number, record, use)
            for number, part in enumerate(self.parts)
            for record, count in sorted(
                rounds(len(part.records), part.repeats, epoch, Draws((seed, "source", number))).items()
            )
            for use in range(count)
        ]

    def size_of(self, use: Use) -> Pair:
        """The size at which a picture is read, whatever the epoch."""
        return self.parts[use[0]].sizes[use[1]]

    def sample(self, use: Use, seed: int, epoch: int) -> Sample:
        """The sample of a use. All that is drawn for it depends on the seed, the epoch and the use alone."""
        number, i, _ = use
        part = self.parts[number]
        record, own, index = part.records[i], part.own[i], self._index(use)
        draws = Draws((seed, epoch, index))
        prompt = None
        if self.has_captions:
            captions = record.captions or (part.source.prompt or "",)
            prompt = (part.source.captions or self.captions).text(captions, draws)
        return Sample(
            index=index,
            name=self._name(part, record),
            picture=record.picture,
            size=own,
            placement=place(own, part.sizes[i], self.layout.crop, self.layout.flip, draws),
            prompt=prompt,
            is_prior=part.source.is_prior,
            mask=self._mask(record) if self.has_masks else None,
            control=record.control,
            background=self.layout.background,
        )

    def _name(self, part: Part, record: Record) -> str:
        """The name of a picture; with several folders or files, that of its own is before it."""
        where = part.source.data
        if len(self.parts) > 1 and isinstance(where, str | Path):
            return f"{Path(where).name}/{record.name}"
        return record.name

    def _mask(self, record: Record) -> Stored | str:
        if record.mask is not None:
            return record.mask
        return "alpha" if self.layout.alpha_mask else _WHITE

    def _index(self, use: Use) -> int:
        number, record, turn = use
        before = [0, *accumulate(len(part.records) * ceil(part.repeats) + len(part.records) for part in self.parts)]
        return before[number] + turn * len(self.parts[number].records) + record


_ADVICE = {
    "prompt": "No picture has a caption. Put a .txt file beside each, or set prompt= of the Source.",
    "mask": "No picture has a mask. Set masks= of the Source, or alpha_mask=True.",
    "control_image": "No picture has a control picture. Set controls= of the Source.",
}


def _advice(name: str) -> str:
    return f"{name}  {_ADVICE.get(name, 'Training data has no such value. Bind it, or make it in the recipe.')}"
