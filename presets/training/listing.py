"""All settings of a method, in one list: for help texts."""

import inspect
from collections.abc import Callable, Iterator
from dataclasses import MISSING, dataclass, fields
from typing import Any, get_type_hints

from ...graph.typing import type_text
from .data import Source, load_data
from .methods import METHODS, settings_of
from .namespaces import OF_SOURCES
from .objective import Objective
from .settings import TrainingSettings


@dataclass(frozen=True)
class Setting:
    """A setting of a training. default: as Python writes it; "" for one that must be set."""

    name: str
    type: str
    default: str


def listed_settings(method: str) -> list[Setting]:
    """The settings of a method: its own, those of its objective, of the data and of the trainer.

    Raises:
        ConfigError: an unknown method.
    """
    hints = {
        **settings_of(method),
        **get_type_hints(load_data, include_extras=True),
        **{name: hint for name, hint in get_type_hints(Source, include_extras=True).items() if name in OF_SOURCES},
        **get_type_hints(TrainingSettings, include_extras=True),
    }
    found: dict[str, Setting] = {}
    for name, default in _defaults(METHODS[method]):
        if name not in found and name in hints:
            text = "" if default is inspect.Parameter.empty else repr(default)
            found[name] = Setting(name, type_text(hints[name]), text)
    return [*found.values()]


def _defaults(method: Callable[..., Any]) -> Iterator[tuple[str, Any]]:
    """Names and defaults; a name may come twice, and the first counts."""
    yield from _keywords(method)
    if "objective" in inspect.signature(method).parameters:
        yield from _of_class(Objective)
    yield from _keywords(load_data)
    yield from ((name, default) for name, default in _of_class(Source) if name in OF_SOURCES)
    yield from _of_class(TrainingSettings)


def _keywords(function: Callable[..., Any]) -> Iterator[tuple[str, Any]]:
    parameters = inspect.signature(function).parameters.values()
    yield from ((p.name, p.default) for p in parameters if p.kind == p.KEYWORD_ONLY)


def _of_class(cls: type[Any]) -> Iterator[tuple[str, Any]]:
    for one in fields(cls):
        made = one.default_factory() if one.default_factory is not MISSING else one.default
        yield one.name, inspect.Parameter.empty if made is MISSING else made
