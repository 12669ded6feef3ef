"""Errors of the file system as errors of this package."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

from ..errors import GraphFileError, LoadError

P = ParamSpec("P")
X = TypeVar("X")
R = TypeVar("R")
_SHOWN = 200  # letters of a path in a text
_OF_PATHS = ("Symlink loop", "Could not determine home directory", "Can't determine home directory")
"""The first words of pathlib's errors for a circle of links and for an unknown home folder, both RuntimeErrors."""


@contextmanager
def file_errors(what: object, kind: type[LoadError | GraphFileError] = LoadError) -> Generator[None]:
    """Raise errors of the file system as `kind`: unreadable files, circles of links, names that are too long.

    what: the folder or file that the user passed, for the text.
    """
    try:
        yield
    except OSError as error:
        place = error.filename if error.filename is not None else what
        raise kind(f"{_short(place)}: cannot be read ({error.strerror or error}). {_ADVICE}") from error
    except RuntimeError as error:
        if not str(error).startswith(_OF_PATHS):
            raise
        raise kind(f"{_short(what)}: cannot be read ({_short(error)}). {_ADVICE}") from error


def reads_files(function: Callable[Concatenate[X, P], R]) -> Callable[Concatenate[X, P], R]:
    """Raise errors of the file system in a function as LoadError. Its first parameter is the folder or file."""

    @wraps(function)
    def reading(x: X, *args: P.args, **kwargs: P.kwargs) -> R:
        with file_errors(x):
            return function(x, *args, **kwargs)

    return reading


_ADVICE = "Check the path, its links and its permissions."


def _short(what: object) -> str:
    text = what.decode(errors="replace") if isinstance(what, bytes) else str(what)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
