"""The names of picture files, which are decided before anything runs."""

import os
import re
from collections.abc import Iterator
from itertools import count
from pathlib import Path

from ..records.files import FORMATS
from .messages import CommandError


def first_path(output: str | None, prompt: str | None) -> tuple[Path, bool]:
    """The first file to write, and whether it may replace a file: it may where the user named it.

    Without a name it is named after the prompt. Refuses a path that cannot be written.
    """
    path = Path(output).expanduser() if output else Path()
    if output is None or path.is_dir() or output.endswith(("/", os.sep)):
        path, named = path / f"{_slug(prompt)}.png", False
    else:
        named = True
    if path.suffix.lower() not in FORMATS:
        suffix = f"the suffix {path.suffix!r} is no picture format" if path.suffix else "has no suffix"
        raise CommandError(f"{path}: {suffix}. Use one of {', '.join(FORMATS)}.")
    for above in path.absolute().parents:
        if above.is_dir():
            if not os.access(above, os.W_OK | os.X_OK):
                raise CommandError(f"{path}: the folder {above} cannot be written to. Pass another with --output.")
            break
        if above.exists():
            raise CommandError(f"{path}: {above} is a file, not a folder. Pass another path with --output.")
    return path, named


def numbered_paths(first: Path, number: int, *, replace: bool) -> list[Path]:
    """`number` paths: apple.png, apple-2.png, … Without `replace`, paths of existing files are skipped."""

    def candidates() -> Iterator[Path]:
        yield first
        yield from (first.with_stem(f"{first.stem}-{k}") for k in count(2))

    free = (path for path in candidates() if replace or not path.exists())
    return [path for path, _ in zip(free, range(number), strict=False)]


def size_text(number: int) -> str:
    """A number of bytes as text: "3.4 KB"."""
    return f"{number / 1e6:.1f} MB" if number >= 1e6 else f"{number / 1e3:.1f} KB"


def _slug(prompt: str | None) -> str:
    """A file name made of the first words of a prompt."""
    words = "-".join(re.findall(r"\w+", (prompt or "").lower()))
    return words[:40].strip("-") or "picture"
