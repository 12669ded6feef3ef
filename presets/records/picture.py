"""Pictures that know the run that made them: their files say how they were made."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from ...components.picture_texts import FORMATS_WITH_TEXTS, PARAMETERS, RECORD, with_texts
from ...graph import SfumatoError
from ...graph.keywords import Call
from ...registry.log import LOG
from ..bridge.a1111.writing import parameters
from .keys import Json, pixels_key
from .record import Made, seed_of, to_text

SWITCH = "SFUMATO_RECORD"
"""The environment variable that turns records off: `SFUMATO_RECORD=0`."""


@dataclass(frozen=True)
class Origin:
    """The run of a picture, its place in the run, and the key of its pixels."""

    made: Made
    row: int
    rows: int
    size: tuple[int, int]
    pixels: str

    @classmethod
    def of(cls, image: Image.Image, made: Made, row: int, rows: int) -> "Origin":
        """The origin of an image that a run has just made."""
        return cls(made, row, rows, image.size, pixels_key(image))

    def record(self, private: Sequence[str] = ()) -> Json:
        """The record of the picture; see `Made.record`."""
        return self.made.record(
            {"row": self.row, "rows": self.rows, "size": list(self.size), "pixels": self.pixels}, private
        )


class Picture(Image.Image):
    """A PIL image that a run has made. Its files have a record of the run, from which `sf.replay` makes it again.

    A picture whose pixels were changed since is saved without a record, and so are changed copies.
    """

    _origin: Origin | None = None

    @property
    def record(self) -> Mapping[str, Any] | None:  # JSON values
        """The record that a file of this picture has; None if its pixels were changed."""
        return None if (origin := self._current()) is None else origin.record()

    @property
    def seed(self) -> int | None:
        """The seed of this picture, or the one of all pictures of its run; None if its run had none."""
        origin = self._origin
        return None if origin is None else seed_of(origin.made.values, origin.row, origin.rows)

    def copy(self) -> Image.Image:
        """A copy, which has the same record."""
        return _picture(super().copy(), self._origin)

    def save(
        self,
        fp: Any,  # a path or a file, as for Pillow
        format: str | None = None,
        *,
        record: bool = True,
        private: Sequence[str] = (),
        **params: Any,
    ) -> None:
        """Save it as Pillow does. A PNG, JPEG or WebP file gets the record, and the `parameters` of A1111's web UI.

        record: whether the file gets them. private: names of inputs that it does not get ("prompt",). The other
        parameters are Pillow's.

        Raises:
            InputError: private names that are no inputs of the run.
        """
        if record and (kind := _format(fp, format)) in FORMATS_WITH_TEXTS:
            params = self._with_record(kind, (private,) if isinstance(private, str) else private, params)
        super().save(fp, format, **params)

    def _with_record(self, kind: str, private: Sequence[str], params: dict[str, Any]) -> dict[str, Any]:
        if os.environ.get(SWITCH) == "0" or (origin := self._current()) is None:
            return params
        record = origin.record(private)
        try:
            texts = {RECORD: to_text(record), PARAMETERS: parameters(origin.made.graph, record)}
            return with_texts(kind, texts, params)
        except (SfumatoError, OSError, ValueError) as error:
            LOG.warning("The picture is saved without a record of its run. %s", error)
            return params

    def _current(self) -> Origin | None:
        """The origin, if the pixels are still those of the run."""
        origin = self._origin
        return origin if origin is not None and origin.pixels == pixels_key(self) else None


def recorded(call: Call, outputs: Mapping[str, Any]) -> Mapping[str, Any]:
    """The outputs of a call, with pictures that know it. Lists of PIL images are pictures, and single ones."""
    made = Made.by(call)
    return {name: _with_origin(value, made) for name, value in outputs.items()}


def _with_origin(value: Any, made: Made) -> Any:  # any output
    if type(value) is Image.Image:
        return _picture(value, Origin.of(value, made, 0, 1))
    if type(value) is list and value and all(type(one) is Image.Image for one in value):
        return [_picture(one, Origin.of(one, made, k, len(value))) for k, one in enumerate(value)]
    return value


def _picture(image: Image.Image, origin: Origin | None) -> Picture:
    picture = Picture()
    picture.__dict__.update(image.__dict__)  # as Pillow's own copies do, a new image of the same pixels
    picture._origin = origin
    return picture


def _format(fp: Any, format: str | None) -> str:
    """The format that Pillow will write."""
    if format:
        return format.upper()
    name = fp if isinstance(fp, str | bytes | os.PathLike) else getattr(fp, "name", "")
    name = os.fsdecode(name) if isinstance(name, str | bytes | os.PathLike) else ""
    return Image.registered_extensions().get(Path(name).suffix.lower(), "")
