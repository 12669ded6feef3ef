"""Handles of the process's own manager, for specs and for entries of graph files. `registry.codecs` leads here."""

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from ..graph.errors import ConfigError
from ..graph.files.inside import path_inside
from ..registry import resolve
from .handle import Handle
from .manager import ComponentsManager, default_manager
from .spec import ComponentSpec
from .storage.location import source_in_file

_PACKAGE = Path(__file__).parent.parent
_INCLUDED = re.compile(r"sfumato:(?P<room>presets|components)/(?P<path>.+)")
"""A path in this package: an embedded model, or the vocabularies and schedulers for single files."""
_INLINE = {"type_hint", "config"}


def handle_of(spec: ComponentSpec) -> Handle:
    """A handle of the process's own manager, which a graph binds for a spec."""
    return default_manager().handle(spec)


def from_json(
    data: Mapping[str, JsonValue],
    folder: str | os.PathLike[str],
    manager: ComponentsManager | None = None,
    allowed: Iterable[str | Path] = (),
) -> Any:  # a Handle, or an object made from an inline config
    """The component for an entry of a graph file: a handle, or the object of an inline `{type_hint, config}`.

    A path is relative to `folder`, that of the graph file, so a moved folder still loads. A path that begins with
    "sfumato:" is inside this package, like an embedded model. Reads no weights.

    Args:
        data: the entry.
        folder: the folder of the file.
        manager: by default the one of this process.
        allowed: further folders that the file may name.

    Raises:
        ConfigError: the entry does not fit.
        LoadError, UnknownName: a class that is not known; a path that leads out of the folder.
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
    if isinstance(path, str) and (found := _INCLUDED.fullmatch(path)):
        data = {**data, "pretrained_model_name_or_path": str(path_inside(found["path"], _PACKAGE / found["room"]))}
    elif isinstance(path, str):
        data = {**data, "pretrained_model_name_or_path": source_in_file(path, Path(folder), allowed)}
    spec = ComponentSpec.from_json(data, of_file=True)
    if spec.type_hint is not None:
        _ = spec.type  # an unknown class is an error now, with its place in the file
    return (manager or default_manager()).handle(spec)
