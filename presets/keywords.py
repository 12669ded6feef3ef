"""Keywords of functions that users call: a misspelt one is refused with the near one."""

import inspect
from collections.abc import Callable, Collection, Generator
from contextlib import contextmanager
from functools import wraps
from typing import ParamSpec, TypeVar

from ..graph import ConfigError, WireError
from ..registry import HINTS, closest, did_you_mean

P = ParamSpec("P")
R = TypeVar("R")


def checked_keywords(function: Callable[P, R]) -> Callable[P, R]:
    """A function that raises ConfigError for a keyword that it does not have."""
    known = keywords_of(function)

    @wraps(function)
    def checked(*args: P.args, **keywords: P.kwargs) -> R:
        for name in keywords:
            if name not in known:
                way = HINTS.get(name) or did_you_mean(name, known)
                raise ConfigError(f"{function.__name__} has no argument {name!r}. {way}")
        return function(*args, **keywords)

    return checked


def keywords_of(function: Callable[..., object]) -> list[str]:
    """The names of the arguments that a function takes by keyword."""
    parameters = inspect.signature(function).parameters.values()
    return [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]


@contextmanager
def naming_near_keywords(function: str, known: Collection[str]) -> Generator[None]:
    """Raise ConfigError for a swap that a graph does not have and whose name is near a keyword of the function."""
    try:
        yield
    except WireError as error:
        for problem in error.problems:
            if problem.code != "no-slot" or problem.place in HINTS:
                continue
            if near := closest(problem.place, known, 1):
                text = f"{function} has no argument {problem.place!r}. Did you mean {near[0]!r}?"
                raise ConfigError(text) from None
        raise
