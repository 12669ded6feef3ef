"""`load_data`: pictures and captions of all sources, each opened once and checked."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from ....blocks.image.place import Pair
from ....components.pictures import ground_colour
from ....graph.errors import ConfigError, LoadError
from ....graph.validate import value_text
from ....registry import counted
from ....registry.log import LOG
from .buckets import Buckets, Crop
from .captions import Captions
from .folder import PICTURES, Found, Skipped, read_folder, read_listed, shown
from .looking import Seen, look
from .source import Record, Source, Where
from .training_data import Layout, Part, SomeRecords, TrainingData

_NEEDS = (
    f"Needs a folder with files that end in {', '.join(PICTURES)}; or files of .parquet, .tar, .csv or .jsonl; "
    "or a repo of datasets on the Hub."
)
_WITHOUT = {
    "caption": "Put a file with the same name and the end .txt beside each picture, or set prompt= of the Source.",
    "control picture": "Others have one. Add those that are missing.",
}


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
    _check(layout, captions)
    sources = _sources(data)
    found = [_found(source) for source in sources]
    looked = [look(*each) for each in zip(found, sources, strict=True)]
    skipped = [one for each in looked for one in each.skipped]
    if strict and skipped:
        raise LoadError(_listing(f"{counted(len(skipped), 'file')} cannot be used.", skipped))
    if skipped:
        LOG.warning(_listing(f"{counted(len(skipped), 'file')} cannot be used and will be skipped.", skipped))
    for source, each in zip(sources, looked, strict=True):
        if not each.seen:
            raise LoadError(f"{source.title}: has no picture that can be read. {_NEEDS}")
    seen = [one for each in looked for one in each.seen]
    _check_all("caption", [one.name for one in seen if not one.has_caption], len(seen))
    _check_all("control picture", [one.name for one in seen if not one.has_control], len(seen))
    parts = [
        _part(source, each.records, own.seen, layout) for source, each, own in zip(sources, found, looked, strict=True)
    ]
    return TrainingData(
        _with_repeats(parts),
        layout,
        captions,
        has_captions=seen[0].has_caption,
        has_masks=alpha_mask or any(one.has_mask for one in seen),
        skipped=tuple(skipped),
    )


# ------------------------------------------------------------------------------------------------ settings
def _size(size: int | Pair | Buckets) -> Pair | Buckets:
    if isinstance(size, Buckets):
        return size
    rows, columns = (size, size) if isinstance(size, int) else size
    if min(rows, columns) < 1:
        raise ConfigError(f"size: needs pixels, got {rows}x{columns}.")
    return rows, columns


def _check(layout: Layout, captions: Captions) -> None:
    if not isinstance(captions, Captions):  # pyright: ignore[reportUnnecessaryIsInstance]  users pass anything
        raise ConfigError(f"captions: needs sf.data.Captions(…), got {value_text(captions)}.")
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
def _part(source: Source, records: Sequence[Record], seen: Sequence[Seen], layout: Layout) -> Part:
    own = [one.size for one in seen]
    return Part(source, SomeRecords(records, [one.number for one in seen]), own, [layout.size_for(one) for one in own])


def _found(source: Source) -> Found:
    """The pictures of a source, by the kind of what it names."""
    from .tables import SAVED, read_repo, read_rows, read_saved, read_table
    from .tars import read_tars

    if not isinstance(source.data, str | Path):
        return read_rows(source)
    path = Path(os.path.abspath(Path(source.data).expanduser()))  # files of metadata name places by such paths
    if path.is_dir():
        files = sorted(f for f in path.rglob("*") if f.is_file())
        if any(f.suffix.lower() in PICTURES for f in files):
            return read_folder(path, source)
        if any(f.name in SAVED for f in files if f.parent == path):
            return read_saved(path, source)
        for end, read in ((".parquet", read_table), (".tar", read_tars)):
            if some := [f for f in files if f.suffix.lower() == end]:
                return read(some, source)
        raise LoadError(f"{path}: has no pictures. {_NEEDS}")
    if path.is_file():
        match path.suffix.lower():
            case ".parquet":
                return read_table([path], source)
            case ".tar":
                return read_tars([path], source)
            case ".jsonl" | ".csv":
                return read_listed(path, source)
            case _:
                raise LoadError(f"{path}: is no source of pictures. {_NEEDS}")
    return read_repo(source)


# ------------------------------------------------------------------------------------------------ all sources
def _check_all(what: str, without: Sequence[str], count: int) -> None:
    """LoadError where some of `count` pictures have something, and others are without."""
    if 0 < len(without) < count:
        raise LoadError(f"{counted(len(without), 'picture')} without a {what}: {shown(without)}. {_WITHOUT[what]}")


def _listing(first: str, skipped: Sequence[Skipped]) -> str:
    lines = [f"  {one.name}  {one.reason}" for one in skipped[:20]]
    more = [f"  and {len(skipped) - 20} more"] if len(skipped) > 20 else []
    return "\n".join([first, *lines, *more])
