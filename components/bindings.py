"""Handles of the process's own manager, for specs and for entries of graph files. `registry.codecs` leads here."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from ..graph.errors import ConfigError
from ..registry import resolve
from .handle import Handle
from .manager import ComponentsManager, default_manager
from .spec import ComponentSpec

_PACKAGE = Path(__file__).parent.parent
_INLINE = {"type_hint", "config"}


def handle_of(spec: ComponentSpec) -> Handle:
    """A handle of the process's own manager: what a graph binds for a spec."""
    return default_manager().handle(spec)


def from_json(
    data: Mapping[str, JsonValue], folder: str | os.PathLike[str], manager: ComponentsManager | None = None
) -> Any:  # a Handle, or an object made from an inline config
    """A handle for an entry like those of a published index, or the object of an inline `{type_hint, config}`.

    A path that begins with "." is taken from `folder`, where the file stands, so that a moved folder still loads;
    one that begins with "sfumato:" is inside this package: the embedded model, wherever it is installed.
    Reads no weights. ConfigError for an entry that does not fit, LoadError or UnknownName for a class that is not here.
    """
    if set(data) == _INLINE:
        hint, config = data["type_hint"], data["config"]
        if not (isinstance(hint, list) and len(hint) == 2 and isinstance(config, dict)):
            raise ConfigError(f'came {dict(data)!r}, wanted {{"type_hint": [library, class], "config": {{…}}}}.')
        made = resolve([str(part) for part in hint])
        if not hasattr(made, "from_config"):
            raise ConfigError(f"a {made.__name__} is not made from a config. Give the folder of its files.")
        return made.from_config(config)
    path = data.get("pretrained_model_name_or_path")
    if isinstance(path, str):
        data = {**data, "pretrained_model_name_or_path": _located(path, folder)}
    spec = ComponentSpec.from_json(data)
    if spec.type_hint is not None:
        _ = spec.type  # a class that is not here is told now, with its place in the file
    return (manager or default_manager()).handle(spec)


def _located(path: str, folder: str | os.PathLike[str]) -> str:
    if path == "." or path.startswith(("./", "../")):
        return os.path.abspath(Path(folder, path))
    library, colon, inside = path.partition(":")
    if library != "sfumato" or not colon:
        return path
    if ".." in Path(inside).parts or Path(inside).is_absolute():
        raise ConfigError(f"came {path!r}, which leads out of this package; wanted a folder inside it.")
    return str(_PACKAGE / inside)
