"""A first look at the pictures of a source: each is opened once, with its mask and its control picture."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from ....blocks.image.place import Pair, open_stored
from ....components.picture_files import name_of
from ....components.pictures import in_range, size_of
from ....graph.errors import LoadError, PictureError, UnfitValue
from .folder import Found, Skipped, shown
from .source import Record, Source


@dataclass(frozen=True)
class Seen:
    """What is known of a picture. number: of its record. size: as it is stored, upright. has: what its record has."""

    number: int
    name: str
    size: Pair
    has_caption: bool
    has_mask: bool
    has_control: bool


@dataclass
class Looked:
    """The pictures of a source that can be read, and those that cannot."""

    seen: list[Seen] = field(default_factory=list[Seen])
    skipped: list[Skipped] = field(default_factory=list[Skipped])


@dataclass(frozen=True)
class _Unequal:
    """A mask or a control picture that has another size than its picture."""

    text: str


def look(found: Found, source: Source) -> Looked:
    """Open all pictures of a source, in threads.

    Raises:
        LoadError: masks or control pictures of another size than their picture; or a row of a table that is wrong.
    """
    with ThreadPoolExecutor(min(os.cpu_count() or 1, 16), "sfumato-pictures") as pool:
        results = list(pool.map(partial(_look, found.records, source), range(len(found.records))))
    if unequal := [one.text for one in results if isinstance(one, _Unequal)]:
        raise LoadError(
            f"{source.title}: masks and control pictures need the size of their picture. Save these anew: "
            f"{shown(unequal)}."
        )
    skipped = [one for one in results if isinstance(one, Skipped)]
    return Looked([one for one in results if isinstance(one, Seen)], [*found.skipped, *skipped])


def _look(records: Sequence[Record], source: Source, number: int) -> Seen | Skipped | _Unequal:
    try:
        record = records[number]
    except PictureError as error:  # a picture in a tar file that is above a limit
        name, _, reason = str(error).partition(": ")
        return Skipped(name, reason)
    sizes: dict[str, Pair] = {}
    for kind, stored in (("picture", record.picture), ("mask", record.mask), ("control picture", record.control)):
        if stored is None:
            continue
        try:
            sizes[kind] = size_of(in_range(open_stored(stored)))
        except (PictureError, UnfitValue) as error:
            text = str(error).removeprefix(f"{name_of(stored)}: " if isinstance(stored, Path) else "the open file: ")
            return Skipped(record.name, text if kind == "picture" else f"its {kind} {text}")
    own = sizes["picture"]
    for kind, (rows, columns) in sizes.items():
        if (rows, columns) != own:
            return _Unequal(f"{record.name} has {own[0]}x{own[1]} (rows x columns), its {kind} {rows}x{columns}")
    has_caption = bool(record.captions) or source.prompt is not None
    return Seen(number, record.name, own, has_caption, record.mask is not None, record.control is not None)
