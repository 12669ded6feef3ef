"""`guider_config.json`: read and write guiders as published."""

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Self, cast

from ...components.storage.files import read_json, write_text
from ...graph import Block, ConfigError, LoadError
from ...registry import guiders

NAME = "guider_config.json"


class PublishedGuider(Block, abstract=True):
    """A guider that `guider_config.json` may hold: it can be read and written."""

    def to_config(self) -> dict[str, Any]:
        """The config as in `guider_config.json`: JSON values, sorted keys, `_class_name` first."""
        return to_config(self)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `guider_config.json` into a folder. SaveError if it cannot be written."""
        save_pretrained(self, folder)

    @classmethod
    def from_pretrained(cls, folder: str | Path, *, subfolder: str | None = None) -> Self:
        """Read `guider_config.json` of a folder. Raise LoadError where it is missing or holds another guider."""
        found = from_pretrained(folder, subfolder=subfolder)
        if not isinstance(found, cls):
            name, path = type(found).__name__, Path(folder, subfolder or "") / NAME
            raise LoadError(f"{path} holds a {name}, not a {cls.__name__}. Read it with guiders.{name}.")
        return found


def to_config(guider: Block) -> dict[str, Any]:
    """The published config of a guider."""
    return {"_class_name": type(guider).__name__, **{key: _json(v) for key, v in sorted(guider.config().items())}}


def from_config(config: Mapping[str, Any]) -> Block:
    """Make the guider that a config names. Raise UnknownName for an unknown name, ConfigError for an unfit key."""
    name = config.get("_class_name")
    if not isinstance(name, str):
        raise ConfigError(f"The config of a guider needs '_class_name', got {name!r}. Pass the name of a guider.")
    return cast("type[Block]", guiders[name]).from_config(config)


def save_pretrained(guider: Block, folder: str | Path) -> None:
    """Write `guider_config.json` into a folder. SaveError if it cannot be written; an old file is then unchanged."""
    write_text(Path(folder, NAME), json.dumps(to_config(guider), indent=2) + "\n")


def from_pretrained(folder: str | Path, *, subfolder: str | None = None) -> Block:
    """Read the guider of `guider_config.json` in a folder. Raise LoadError where it is missing or damaged."""
    path = Path(folder, subfolder or "") / NAME
    if not path.exists():
        raise LoadError(f"{path.parent} has no {NAME}. Pass the folder of the guider, or its subfolder=.")
    return from_config(read_json(path))


def _json(value: Any) -> Any:  # Any: a config value
    if isinstance(value, Block):
        return to_config(value)
    if isinstance(value, tuple | list):
        return [_json(item) for item in cast("list[Any]", value)]
    if is_dataclass(value):
        return {f.name: _json(getattr(value, f.name)) for f in fields(value)}
    return value
