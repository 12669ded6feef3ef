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
    """What a graph binds for an entry of a graph file: a handle, or the object of an inline `{type_hint, config}`.

    A path that begins with "." is relative to `folder`, that of the graph file, so a moved folder still loads. A path
    that begins with "sfumato:" is inside this package, like the embedded model. manager: by default the one of this
    process. Reads no weights.

    Raises:
        ConfigError: the entry does not fit.
        LoadError, UnknownName: a class that is not known.
    """
    if set(data) == _INLINE:
        hint, config = data["type_hint"], data["config"]
        if not (isinstance(hint, list) and len(hint) == 2 and isinstance(config, dict)):
            raise ConfigError(f'needs {{"type_hint": [library, class], "config": {{…}}}}. Got {dict(data)!r}.')
        made = resolve([str(part) for part in hint])
        if not hasattr(made, "from_config"):
            raise ConfigError(f"a {made.__name__} cannot be made from a config. Name the folder of its files.")
        return made.from_config(config)
    path = data.get("pretrained_model_name_or_path")
    if isinstance(path, str):
        data = {**data, "pretrained_model_name_or_path": _absolute(path, folder)}
    spec = ComponentSpec.from_json(data)
    if spec.type_hint is not None:
        _ = spec.type  # an unknown class is an error now, with its place in the file
    return (manager or default_manager()).handle(spec)


def _absolute(path: str, folder: str | os.PathLike[str]) -> str:
    if path == "." or path.startswith(("./", "../")):
        return os.path.abspath(Path(folder, path))
    library, colon, inside = path.partition(":")
    if library != "sfumato" or not colon:
        return path
    if ".." in Path(inside).parts or Path(inside).is_absolute():
        raise ConfigError(f"needs a folder inside this package. Got {path!r}, which leads out of this package.")
    return str(_PACKAGE / inside)
