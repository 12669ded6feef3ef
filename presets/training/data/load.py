"""`load_data`: pictures and captions of all sources, each opened once and checked."""

import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

from ....blocks.image.place import Pair, open_stored
from ....components.picture_files import name_of
from ....components.pictures import ground_colour, in_range, size_of
from ....graph.errors import ConfigError, LoadError, PictureError, UnfitValue
from ....registry import counted
from ....registry.log import LOG
from .buckets import Buckets, Crop
from .captions import Captions
from .folder import PICTURES, Found, Skipped, read_folder, read_listed, shown
from .source import Record, Source, Where
from .training_data import Layout, Part, SomeRecords, TrainingData

_WAY = "Put a file with the same name and the end .txt beside each picture, or set prompt= of the Source."


def load_data(
    data: Where | Source | Sequence[Source],
    *,
    size: int | Pair | Buckets = 512,
    crop: Crop = "center",
    flip: float = 0.0,
    captions: Captions = Captions(),
    alpha_mask: bool = False,
    background: str = "white",
    strict: bool = False,
) -> TrainingData:
    """Find the pictures and captions of a training. Each picture is opened once, so that broken ones are known now.

    Args:
        data: a folder, a file, a repo of datasets, a `datasets.Dataset` or a list of rows, as in `Source`; a `Source`;
            or several.
        size: pixels a side of a square, (rows, columns), or `Buckets`.
        crop: the part of a picture that is kept where its aspect ratio is another: "center", or "random", another one
            in each epoch.
        flip: the share of pictures that are mirrored, anew in each epoch.
        captions: how captions change from epoch to epoch.
        alpha_mask: whether the alpha channel of a picture is its mask, where it has no other.
        background: the colour under transparent parts, by name or as "#rrggbb".
        strict: whether a broken picture, or a caption without a picture, is an error. Without it they are skipped:
            `skipped` lists them, and the log warns.

    Raises:
        LoadError: no picture, no such source, pictures without captions where others have one, masks or control
            pictures of another size; with `strict`, whatever would be skipped. All are named.
        ConfigError: a setting out of its range.
    """
    layout = Layout(_size(size), crop, flip, background, alpha_mask)
    _check(layout)
    sources = _sources(data)
    skipped: list[Skipped] = []
    parts = [_part(source, layout, skipped) for source in sources]
    if strict and skipped:
        raise LoadError(_listing(f"{counted(len(skipped), 'file')} cannot be used.", skipped))
    if skipped:
        LOG.warning(_listing(f"{counted(len(skipped), 'file')} cannot be used and will be skipped.", skipped))
    for part in parts:
        if not part.records:
            raise LoadError(f"{part.source.title}: has no picture that can be read. {_needs(part.source)}")
    has_captions = any(_has_caption(part.source, record) for part in parts for record in part.records)
    if has_captions:
        _check_captions(parts)
    _check_controls(parts)
    has_masks = alpha_mask or any(record.mask is not None for part in parts for record in part.records)
    return TrainingData(_with_repeats(parts), layout, captions, has_captions, has_masks, tuple(skipped))


# ------------------------------------------------------------------------------------------------ settings
def _size(size: int | Pair | Buckets) -> Pair | Buckets:
    if isinstance(size, Buckets):
        return size
    rows, columns = (size, size) if isinstance(size, int) else size
    if min(rows, columns) < 1:
        raise ConfigError(f"size: needs pixels, got {rows}x{columns}.")
    return rows, columns


def _check(layout: Layout) -> None:
    if layout.crop not in ("center", "random"):
        raise ConfigError(f"crop: needs 'center' or 'random', got {layout.crop!r}.")
    if not 0 <= layout.flip <= 1:
        raise ConfigError(f"flip: needs a share from 0 to 1, got {layout.flip}.")
    ground_colour(layout.background)


def _sources(data: Where | Source | Sequence[Source]) -> Sequence[Source]:
    if isinstance(data, Source):
        return [data]
    if isinstance(data, list | tuple):
        several = cast("Sequence[Any]", data)
        if not several:
            raise LoadError("The list of sources is empty. Pass a folder, or rows with pictures.")
        if all(isinstance(one, Source) for one in several):
            return several
        if any(not isinstance(one, Mapping) for one in several):
            return [one if isinstance(one, Source) else Source(one) for one in several]
    return [Source(data)]


def _with_repeats(parts: Sequence[Part]) -> tuple[Part, ...]:
    """The parts with the number of uses of each picture, from the weights of their sources where these are set."""
    weights = [part.source.weight for part in parts]
    if all(weight is None for weight in weights):
        return tuple(replace(part, repeats=part.source.repeats) for part in parts)
    if both := [part.source.title for part in parts if part.source.repeats != 1]:
        raise ConfigError(f"Sources need either weights or repeats, and {', '.join(both)} has repeats. Set its weight.")
    each = [(1 if weight is None else weight) / len(part.records) for part, weight in zip(parts, weights, strict=True)]
    return tuple(replace(part, repeats=one / min(each)) for part, one in zip(parts, each, strict=True))


# ------------------------------------------------------------------------------------------------ one source
def _part(source: Source, layout: Layout, skipped: list[Skipped]) -> Part:
    found = _found(source)
    skipped.extend(found.skipped)
    with ThreadPoolExecutor(min(os.cpu_count() or 1, 16)) as pool:
        looked = list(pool.map(partial(_look, found.records), range(len(found.records))))
    unequal = [text for text in looked if isinstance(text, _Unequal)]
    if unequal:
        raise LoadError(
            f"{source.title}: masks and control pictures need the size of their picture. Save these anew: "
            f"{shown([one.text for one in unequal])}."
        )
    skipped.extend(one for one in looked if isinstance(one, Skipped))
    usable = [i for i, one in enumerate(looked) if isinstance(one, tuple)]
    own = [cast("Pair", looked[i]) for i in usable]
    return Part(source, SomeRecords(found.records, usable), own, [layout.size_for(one) for one in own])


@dataclass(frozen=True)
class _Unequal:
    """A mask or a control picture that has another size than its picture."""

    text: str


def _look(records: Sequence[Record], number: int) -> Pair | Skipped | _Unequal:
    """The size of a picture; or what is wrong with it, its mask or its control picture."""
    try:
        record = records[number]
    except PictureError as error:
        return Skipped(str(error).partition(":")[0], str(error))
    sizes: dict[str, Pair] = {}
    for kind, stored in (("picture", record.picture), ("mask", record.mask), ("control picture", record.control)):
        if stored is None:
            continue
        try:
            sizes[kind] = size_of(in_range(open_stored(stored)))
        except (PictureError, UnfitValue, OSError) as error:
            text = str(error).removeprefix(f"{name_of(stored)}: " if isinstance(stored, Path) else "the open file: ")
            return Skipped(record.name, text if kind == "picture" else f"its {kind} {text}")
    own = sizes["picture"]
    for kind, (rows, columns) in sizes.items():
        if (rows, columns) != own:
            return _Unequal(f"{record.name} has {own[0]}x{own[1]} (rows x columns), its {kind} {rows}x{columns}")
    return own


def _found(source: Source) -> Found:
    """The pictures of a source, by the kind of what it names."""
    from .tables import SAVED, read_repo, read_rows, read_saved, read_table
    from .tars import read_tars

    if not isinstance(source.data, str | Path):
        return read_rows(source)
    path = Path(source.data).expanduser()
    if path.is_dir():
        files = sorted(f for f in path.rglob("*") if f.is_file())
        if any(f.suffix.lower() in PICTURES for f in files):
            return read_folder(path, source)
        if any(f.name in SAVED for f in files if f.parent == path):
            return read_saved(path, source)
        for end, read in ((".parquet", read_table), (".tar", read_tars)):
            if some := [f for f in files if f.suffix.lower() == end]:
                return read(some, source)
        raise LoadError(f"{path}: has no pictures. {_needs(source)}")
    if path.is_file():
        match path.suffix.lower():
            case ".parquet":
                return read_table([path], source)
            case ".tar":
                return read_tars([path], source)
            case ".jsonl" | ".csv":
                return read_listed(path, source)
            case _:
                raise LoadError(f"{path}: is no source of pictures. {_needs(source)}")
    return read_repo(source)


def _needs(source: Source) -> str:
    return (
        f"Needs a folder with files that end in {', '.join(PICTURES)}; or files of .parquet, .tar, .csv or .jsonl; "
        "or a repo of datasets on the Hub."
    )


# ------------------------------------------------------------------------------------------------ all sources
def _has_caption(source: Source, record: Record) -> bool:
    return bool(record.captions) or source.prompt is not None


def _check_captions(parts: Iterable[Part]) -> None:
    """LoadError where some pictures have a caption and others have none."""
    without = [r.name for part in parts for r in part.records if not _has_caption(part.source, r)]
    if without:
        raise LoadError(f"{counted(len(without), 'picture')} without a caption: {shown(without)}. {_WAY}")


def _check_controls(parts: Iterable[Part]) -> None:
    """LoadError where some pictures have a control picture and others have none."""
    records = [record for part in parts for record in part.records]
    without = [record.name for record in records if record.control is None]
    if 0 < len(without) < len(records):
        raise LoadError(
            f"{counted(len(without), 'picture')} without a control picture: {shown(without)}. "
            "Others have one, and a training needs one for each."
        )


def _listing(first: str, skipped: Sequence[Skipped]) -> str:
    lines = [f"  {one.name}  {one.reason}" for one in skipped[:20]]
    more = [f"  and {len(skipped) - 20} more"] if len(skipped) > 20 else []
    return "\n".join([first, *lines, *more])
