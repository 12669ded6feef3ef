"""`Source`: where pictures and captions are, and how often each is used. `Record`: one picture of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any, TypeAlias

from ....blocks.image.place import Stored
from ....graph.errors import ConfigError
from .captions import Captions

Where: TypeAlias = str | Path | Sequence[Mapping[str, Any]] | Any
"""A folder, a file, a repo of the Hub, a list of rows, or a `datasets.Dataset`, whose package may be missing."""


@dataclass(frozen=True)
class Source:
    """A set of pictures.

    Args:
        data: a folder of pictures; a `.parquet`, `.csv`, `.jsonl` or `.tar` file, or a folder of such files; a repo of
            datasets on the Hub ("owner/name"); a `datasets.Dataset`; or a list of rows ({"image": …, "text": …}).
        prompt: the caption of pictures that have none.
        captions: how captions change from epoch to epoch; None for that of `load_data`.
        repeats: how often each picture is used in an epoch. With 0.5, an epoch has one half of the pictures, and the
            next epoch the other half.
        weight: the share of this source in an epoch, relative to the weights of the others, in place of `repeats`; 1
            for a source without one, where another has one. The source whose pictures are used least often uses each
            once.
        is_prior: whether these are pictures of a class (DreamBooth, Ruiz et al. 2022): the input `is_prior` says so.
        image, text, mask, control: the columns of a table; None finds them by their customary names.
        masks, controls: folders with a mask or a control picture for each picture, under the same name.
        split: of a dataset that has several.
        revision: a branch, tag or commit of a repo.

    Raises:
        ConfigError: a setting out of its range.
    """

    data: Where
    prompt: str | None = None
    captions: Captions | None = None
    repeats: float = 1.0
    weight: float | None = None
    is_prior: bool = False
    image: str | None = None
    text: str | None = None
    mask: str | None = None
    control: str | None = None
    masks: str | Path | None = None
    controls: str | Path | None = None
    split: str | None = None
    revision: str | None = None

    def __post_init__(self) -> None:
        if not (isfinite(self.repeats) and self.repeats > 0):
            raise ConfigError(f"repeats: needs a number above 0, got {self.repeats}.")
        if self.weight is not None and not (isfinite(self.weight) and self.weight > 0):
            raise ConfigError(f"weight: needs a number above 0, got {self.weight}.")
        if self.weight is not None and self.repeats != 1:
            raise ConfigError("A source needs either repeats or weight, got both. Leave one out.")

    @property
    def title(self) -> str:
        """The name of the source in errors."""
        return str(self.data) if isinstance(self.data, str | Path) else f"the {type(self.data).__name__}"


@dataclass(frozen=True)
class Record:
    """One picture of a source.

    captions: several are alternatives; () is none.
    """

    name: str
    picture: Stored
    captions: tuple[str, ...] = ()
    mask: Stored | None = None
    control: Stored | None = None
