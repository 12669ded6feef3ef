"""Picture files: their names, which are decided before anything runs, and how they are written."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from .messages import CommandError

FORMATS = {
    ".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".tif": "TIFF", ".tiff": "TIFF", ".bmp": "BMP",
}  # fmt: skip
_HOW: Mapping[str, Mapping[str, Any]] = {"JPEG": {"quality": 95}, "WEBP": {"quality": 95}}  # what Pillow's savers take


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


def write(picture: Any, path: Path, *, record: bool, private: Sequence[str]) -> None:  # a PIL image
    """Write a picture, whole or not at all. record: whether the file gets the record of the run, without the `private`
    inputs.

    SaveError if it cannot be written.
    """
    from ...graph.saving import saving_file
    from ..records.picture import Picture

    kind = FORMATS[path.suffix.lower()]
    how: dict[str, Any] = {"record": record, "private": private} if isinstance(picture, Picture) else {}
    with saving_file(path) as draft:
        picture.save(draft, format=kind, **_HOW.get(kind, {}), **how)


def as_pictures(images: Any) -> Sequence[Any]:  # PIL images
    """A graph's output `images` as PIL images. A tensor holds pixels from 0 to 1."""
    if isinstance(images, list | tuple):
        return images
    from ...blocks.decode.images import FinishImages

    return FinishImages()(images).images


def size_text(number: int) -> str:
    """A number of bytes as text: "3.4 KB"."""
    return f"{number / 1e6:.1f} MB" if number >= 1e6 else f"{number / 1e3:.1f} KB"


def _slug(prompt: str | None) -> str:
    """A file name made of the first words of a prompt."""
    words = "-".join(re.findall(r"\w+", (prompt or "").lower()))
    return words[:40].strip("-") or "picture"
