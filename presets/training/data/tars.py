"""Tar files in the layout of WebDataset: files whose names are equal up to the first dot are one sample."""

import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from ....graph.errors import LoadError, PictureError
from ....graph.json_text import JsonTextError, decoded, parse
from ....graph.limits import AboveLimit, check_limit
from ....registry import printable
from .columns import CAPTIONS, captions_in
from .folder import PICTURES, TEXTS, Found, Skipped
from .source import Record, Source

_PICTURE_ENDS = tuple(end.removeprefix(".") for end in PICTURES)
_TEXT_ENDS = (*(end.removeprefix(".") for end in TEXTS), "json")


@dataclass(frozen=True)
class _Place:
    """A file inside a tar file."""

    tar: Path
    start: int
    size: int

    def bytes(self, most: str) -> bytes:
        """The contents. most: the name of the limit on their size. AboveLimit for more."""
        check_limit(most, self.size)
        with self.tar.open("rb") as file:
            file.seek(self.start)
            return file.read(self.size)


@dataclass
class _Group:
    """The files of one sample, by the ends of their names."""

    name: str
    files: dict[str, _Place] = field(default_factory=dict[str, _Place])

    def find(self, ends: Sequence[str]) -> _Place | None:
        return next((self.files[end] for end in ends if end in self.files), None)


def read_tars(tars: Sequence[Path], source: Source) -> Found:
    """The pictures of tar files, in their order. Nothing is unpacked: a picture is read where it is.

    Raises:
        LoadError: a file that is no tar file, or is broken.
    """
    found, groups = Found(), list[_Group]()
    for tar in tars:
        groups += _groups(tar)
    for group in groups:
        if group.find(_TEXT_ENDS) and not group.find(_image_ends(source)):
            reason = "is a caption without a picture. Put a picture of the same name into the tar file."
            found.skipped.append(Skipped(group.name, reason))
    found.records = _Records([group for group in groups if group.find(_image_ends(source))], source)
    return found


def _image_ends(source: Source) -> Sequence[str]:
    return _PICTURE_ENDS if source.image is None else (source.image,)


def _groups(tar: Path) -> Sequence[_Group]:
    groups: dict[str, _Group] = {}
    try:
        with tarfile.open(tar, "r:") as archive:
            for member in archive:
                key, _, end = PurePosixPath(member.name).name.partition(".")
                if not member.isreg() or member.issparse() or not key:
                    continue
                name = (PurePosixPath(member.name).parent / key).as_posix()
                group = groups.setdefault(name, _Group(f"{tar.name}/{name}"))
                group.files[end.lower()] = _Place(tar, member.offset_data, member.size)
    except (tarfile.TarError, OSError, ValueError) as error:
        raise LoadError(f"{tar}: is no tar file that can be read ({printable(str(error))}). Fetch it again.") from error
    return list(groups.values())


class _Records(Sequence[Record]):
    """Samples of tar files as records. Their files are read when a record is looked up."""

    def __init__(self, groups: Sequence[_Group], source: Source) -> None:
        self._groups, self._source = groups, source

    def __len__(self) -> int:
        return len(self._groups)

    def __getitem__(self, index: Any) -> Any:  # a record, or a list of them for a slice
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        group, source = self._groups[index], self._source
        ends = [None if one is None else [one] for one in (source.mask, source.control)]
        mask = group.find(ends[0] or [f"mask.{end}" for end in _PICTURE_ENDS])
        control = group.find(ends[1] or [f"control.{end}" for end in _PICTURE_ENDS])
        picture = group.find(_image_ends(source))
        assert picture is not None  # groups without one are not among these
        try:
            return Record(
                group.name,
                picture.bytes("picture_bytes"),
                _captions(group, source),
                None if mask is None else mask.bytes("picture_bytes"),
                None if control is None else control.bytes("picture_bytes"),
            )
        except AboveLimit as error:
            raise PictureError(f"{group.name}: {error}") from None


def _captions(group: _Group, source: Source) -> tuple[str, ...]:
    """The caption in a text file, or in the customary key of a JSON file."""
    place = group.find(_TEXT_ENDS if source.text is None else [source.text])
    if place is None and source.text is not None:
        place = group.files.get("json")  # the name is that of a key in it
    if place is None:
        return ()
    try:
        text = decoded(place.bytes("caption_bytes"))
        if place is not group.files.get("json"):
            return (text,)
        values = parse(text)
    except (JsonTextError, AboveLimit) as error:
        raise LoadError(f"{group.name}: its caption {error}") from None
    if not isinstance(values, Mapping):
        raise LoadError(f"{group.name}: its JSON needs to be an object with a caption.")
    names = CAPTIONS if source.text is None else (source.text,)
    found = next((values[name] for name in names if name in values), None)
    return captions_in(found, group.name)
