"""Paths in files: each may lead only inside the folder of its file, or into folders that the program names."""

import errno
import os
from collections.abc import Iterable
from pathlib import Path, PurePath, PureWindowsPath

from ..errors import LoadError

_EMBEDDED = Path(__file__).resolve().parents[2] / "presets" / "embedded"
"""The models of this package, which everybody has: a file may name them."""
_SHOWN = 200  # letters of a path in an error


LOAD_WAY = "write sf.load(…, access=sf.Access(folders=[{path!r}]))"


def path_inside(
    name: str | PurePath,
    folder: str | os.PathLike[str],
    allowed: Iterable[str | Path] = (),
    *,
    way: str = LOAD_WAY,
) -> Path:
    """The absolute path that a file names.

    Args:
        name: the path as the file has it, absolute or relative to `folder`.
        folder: the folder of the file.
        allowed: further folders, which the program names.
        way: how a user allows `{path}`, for the error; "" where there is no way.

    Raises:
        LoadError: a path that leads to another place, also through links; one that is no path of this machine.
    """
    text = str(name)
    shown = repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…")
    if not text or not text.isprintable():
        raise LoadError(f"needs the path of a file or folder. Got {shown}.")
    path = Path(os.path.abspath(Path(folder, text)))
    try:
        target = followed(path)
        if any(target.is_relative_to(Path(place).resolve()) for place in (_EMBEDDED, *allowed)):
            return path
        inside, exists = target.is_relative_to(boundary_of(Path(folder))), target.exists()
    except (OSError, ValueError) as error:  # a loop of links; a name that is too long
        raise LoadError(f"{shown} cannot be followed ({getattr(error, 'strerror', None) or error}).") from None
    if not inside or leads_out(text, folder):
        advice = f" If the path is yours, {way.format(path=str(path))}." if exists and way else ""
        raise LoadError(
            f"{shown} leads out of the folder {folder}. A file may name only what is inside its folder.{advice}"
        )
    return path


def followed(path: Path) -> Path:
    """The absolute path behind all links. The last parts need not exist. OSError for a loop of links."""
    try:
        return path.resolve(strict=True)
    except (FileNotFoundError, NotADirectoryError):
        return path.resolve()
    except RuntimeError as error:  # a loop, before Python 3.13
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path)) from error


def leads_out(name: str | PurePath, folder: str | os.PathLike[str] = "") -> bool:
    """Whether a path leaves its folder by its text alone: `..`, `~`, a drive, a server, an address, another root.

    >>> [leads_out(path) for path in ("unet", "../unet", "/etc", "~/x", "C:x", "a\\\\..\\\\b", "file:///etc")]
    [False, True, True, True, True, True, True]
    """
    text = str(name)
    if str(folder) and f"{text}{os.sep}".startswith(place := f"{os.path.abspath(folder)}{os.sep}"):
        text = text.removeprefix(place.removesuffix(os.sep)).removeprefix(os.sep)  # an absolute path into the folder
    windows = PureWindowsPath(text)
    if text.startswith("~") or "\0" in text or ":" in text or (os.sep != "\\" and "\\" in text):
        return True
    return bool(windows.drive or windows.root) or ".." in windows.parts


def boundary_of(folder: Path) -> Path:
    """The folder that links may not leave. The cache of the Hub's client links its snapshots to `blobs`."""
    boundary = folder.resolve()
    for parent in boundary.parents:
        if parent.name == "snapshots" and parent.parent.name.startswith("models--"):
            return parent.parent if (parent.parent / "blobs").is_dir() else boundary
    return boundary
