"""Where pictures go: file names that are decided before anything runs, and files that are whole or not there."""

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from .telling import Refused

FORMATS = {
    ".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".tif": "TIFF", ".tiff": "TIFF", ".bmp": "BMP",
}  # fmt: skip
_HOW: Mapping[str, Mapping[str, Any]] = {"JPEG": {"quality": 95}, "WEBP": {"quality": 95}}  # what Pillow's savers take


def target(output: str | None, prompt: str | None) -> tuple[Path, bool]:
    """The first file to write, and whether it may replace one that is there: it may where the user named it.

    Without a name it is made from the prompt. Refuses what cannot be written, before anything runs.
    """
    path = Path(output).expanduser() if output else Path()
    if output is None or path.is_dir() or output.endswith(("/", os.sep)):
        path, named = path / f"{_slug(prompt)}.png", False
    else:
        named = True
    if path.suffix.lower() not in FORMATS:
        came = f"ends in {path.suffix!r}" if path.suffix else "has no suffix"
        raise Refused(f"{path}: {came}, which is no kind of picture. Use one of {', '.join(FORMATS)}.")
    for above in path.absolute().parents:
        if above.is_dir():
            if not os.access(above, os.W_OK | os.X_OK):
                raise Refused(f"{path}: the folder {above} cannot be written to. Give another with --output.")
            break
        if above.exists():
            raise Refused(f"{path}: {above} is a file, not a folder. Give another with --output.")
    return path, named


def files(first: Path, number: int, *, replace: bool) -> list[Path]:
    """`number` files: apple.png, apple-2.png, …; those that are there already are passed over unless `replace`."""

    def candidates() -> Iterator[Path]:
        yield first
        yield from (first.with_stem(f"{first.stem}-{k}") for k in count(2))

    free = (path for path in candidates() if replace or not path.exists())
    return [path for path, _ in zip(free, range(number), strict=False)]


def write(picture: Any, path: Path, settings: Mapping[str, Any]) -> None:  # a PIL image; JSON values
    """Write a picture whole or not at all, with the settings as the text chunk `sfumato` in a PNG."""
    from ...components.loading.weights import write_atomically

    kind = FORMATS[path.suffix.lower()]
    how = dict(_HOW.get(kind, {}))
    if kind == "PNG":
        from PIL.PngImagePlugin import PngInfo

        info = PngInfo()
        info.add_text("sfumato", json.dumps(settings))
        how["pnginfo"] = info
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda draft: picture.save(draft, format=kind, **how))
    except OSError as error:
        raise OSError(f"{path}: cannot be written ({error.strerror or error}).") from error


def as_pictures(images: Any) -> Sequence[Any]:  # PIL images
    """A graph's `images` as PIL images: they are so already, or pixels from 0 to 1 as a tensor."""
    if isinstance(images, list | tuple):
        return images
    from ...blocks.decode.images import FinishImages

    return FinishImages()(images).images


def size(number: int) -> str:
    """Bytes for people."""
    return f"{number / 1e6:.1f} MB" if number >= 1e6 else f"{number / 1e3:.1f} KB"


def _slug(prompt: str | None) -> str:
    """A file name from a prompt: its first words."""
    words = "-".join(re.findall(r"\w+", (prompt or "").lower()))
    return words[:40].strip("-") or "picture"
