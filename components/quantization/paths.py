"""Entries that name modules, as in `modules_to_not_convert` and in a mixed quantization."""

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Annotated, cast

from pydantic import BeforeValidator

from ...graph.errors import ConfigError
from ...registry import closest


def _listed(value: object) -> object:
    """Published files have null for an empty list, and null entries."""
    if value is None:
        return ()
    if isinstance(value, str):
        return (value,)
    return tuple(v for v in cast("Iterable[object]", value) if v is not None) if isinstance(value, Iterable) else value


Paths = Annotated[tuple[str, ...], BeforeValidator(_listed)]
"""Entries that name modules; one text or a list of them is accepted."""


def names(entry: str, path: str) -> bool:
    """Whether an entry names the module at `path` or a parent of it.

    The entry is one or more adjacent names of the path; `*` matches any letters of one name.

    >>> [names("attn", p) for p in ("blocks.0.attn.to_q", "blocks.0.attn2.to_q")]
    [True, False]
    >>> names("blocks.*.attn*", "blocks.0.attn2.to_q")
    True
    """
    patterns, parts = entry.split("."), path.split(".")
    starts = range(len(parts) - len(patterns) + 1)
    return any(all(map(fnmatchcase, parts[start:], patterns)) for start in starts)


def named(entries: Iterable[str], path: str) -> bool:
    """Whether one of the entries names the module at `path`."""
    return any(names(entry, path) for entry in entries)


def check_entries(owner: str, entries: Sequence[str], paths: Sequence[str]) -> None:
    """ConfigError for entries that name no module. Otherwise a layer would be quantized against the user's wish."""
    unknown = [entry for entry in entries if not any(names(entry, path) for path in paths)]
    if unknown:
        parts = dict.fromkeys(part for path in paths for part in (path, *path.split(".")))
        near = {entry: closest(entry, parts, 1) for entry in unknown}
        texts = [f"{entry!r}{f' (did you mean {near[entry][0]!r}?)' if near[entry] else ''}" for entry in unknown]
        raise ConfigError(f"{owner} has no module named {', '.join(texts)}. Pass a path, or whole names of it.")
