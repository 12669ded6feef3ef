"""Which modules a name stands for: an entry of `modules_to_not_convert`, or of a mixed quantization."""

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Annotated, cast

from pydantic import BeforeValidator

from ...graph.errors import ConfigError
from ...registry import closest


def _listed(value: object) -> object:
    """Published files have null for none, and entries of null."""
    if value is None:
        return ()
    if isinstance(value, str):
        return (value,)
    return tuple(v for v in cast("Iterable[object]", value) if v is not None) if isinstance(value, Iterable) else value


Paths = Annotated[tuple[str, ...], BeforeValidator(_listed)]


def names(entry: str, path: str) -> bool:
    """Whether an entry names the module at `path` or one that it lies in.

    The entry is some whole names of the path, in order and side by side; `*` stands for any letters in one.

    >>> [names("attn", p) for p in ("blocks.0.attn.to_q", "blocks.0.attn2.to_q")]
    [True, False]
    >>> names("blocks.*.attn*", "blocks.0.attn2.to_q")
    True
    """
    asked, there = entry.split("."), path.split(".")
    starts = range(len(there) - len(asked) + 1)
    return any(all(map(fnmatchcase, there[start:], asked)) for start in starts)


def named(entries: Iterable[str], path: str) -> bool:
    """Whether one of the entries names the module at `path`."""
    return any(names(entry, path) for entry in entries)


def check_entries(owner: str, entries: Sequence[str], paths: Sequence[str]) -> None:
    """ConfigError for entries that name no module: a layer that was to be left out would be quantized silently."""
    lost = [entry for entry in entries if not any(names(entry, path) for path in paths)]
    if lost:
        parts = dict.fromkeys(part for path in paths for part in (path, *path.split(".")))
        near = {entry: closest(entry, parts, 1) for entry in lost}
        said = [f"{entry!r}{f' (did you mean {near[entry][0]!r}?)' if near[entry] else ''}" for entry in lost]
        raise ConfigError(f"{owner} has no module named {', '.join(said)}. Give a path, or whole names of one.")
