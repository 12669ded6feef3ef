"""Refuse to set attributes of values that do not change, with advice on another way."""

from collections.abc import Callable
from dataclasses import FrozenInstanceError
from typing import Any


def refuse_changes(cls: type) -> None:
    """Make a class raise FrozenInstanceError when an attribute is set or deleted.

    The text is that of its method `_way_to_change(name)`.
    """

    def refuse(self: Any, name: str, *_: Any) -> None:
        raise FrozenInstanceError(self._way_to_change(name))

    change: Callable[..., None] = refuse
    setattr(cls, "__setattr__", change)  # noqa: B010  pyright knows what a plain assignment may be
    setattr(cls, "__delattr__", change)  # noqa: B010
