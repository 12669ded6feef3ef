"""Options of functions that are chosen by name, checked against their signatures."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from ...graph import ConfigError
from ...registry import did_you_mean, printable


def checked_options(
    what: str, function: Callable[..., Any], options: Mapping[str, Any], *, given: int = 0
) -> dict[str, Any]:
    """These options, if the function has parameters of their names.

    Args:
        what: the thing that has the options, for the error.
        function: its function or class.
        options: by name.
        given: how many of its first parameters are no options.

    Raises:
        ConfigError: unknown names.
    """
    parameters = list(inspect.signature(function).parameters.values())[given:]
    known = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    for name in options:
        if name not in known:
            raise ConfigError(f"{what} has no option {printable(str(name))!r}. {did_you_mean(str(name), known)}")
    return dict(options)
