"""Components in graph files: a handle as its spec, a scheduler inline, an object with weights as a folder."""

import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ...registry import UnknownName, codecs, hint_of
from ..errors import ConfigError, GraphFileError, LoadError, Problem
from ..fields import Lazy, SavedAdapter
from ..structure import Structure
from ..validate import Unfit
from .values import from_strict_json, strict_json

_LOG = logging.getLogger("sfumato")  # a command prints it as notes
_PACKAGE = Path(__file__).parent.parent.parent
_ORDER = ("type_hint", "pretrained_model_name_or_path", "subfolder", "revision", "variant", "dtype")


class ComponentWriter:
    """Makes the entries of one save. An object that several graphs hold is written once.

    Args:
        folder: the folder of the graph file; None if there is none.
        draft: where the save of this folder writes.
    """

    def __init__(self, folder: Path | None = None, draft: Path | None = None) -> None:
        self.folder = folder
        self.draft = draft
        self.problems: list[Problem] = []
        self._done: dict[int, dict[str, Any]] = {}
        self._todo: dict[str, Any] = {}
        self._adapters: dict[str, SavedAdapter] = {}

    def entry(self, value: Any, path: str, at: str) -> dict[str, Any] | None:
        """The entry of a component. `path` is the folder for its weights, `at` its place in the file."""
        if value is None:
            return None
        if id(value) not in self._done:
            try:
                self._done[id(value)] = strict_json(self._entry(value, path))
            except (GraphFileError, ConfigError) as error:
                self.problems.append(Problem("component", at, str(error), type(value).__name__))
                return None
        return self._done[id(value)]

    def adapters(self, graph: Structure, path: str, at: str) -> list[dict[str, Any]]:
        """The entries of the adapters of a graph. Their files are written beside that of the graph."""
        if graph.adapters is None:
            return []
        entries: list[dict[str, Any]] = []
        try:
            if self.folder is None:
                raise GraphFileError("are files, which need a folder. Write graph.save(folder).")
            for number, adapter in enumerate(graph.adapters.saved(graph), 1):
                place = f"{path}adapters/{number}"
                self._adapters[place] = adapter
                entries.append(strict_json({**adapter.settings, "file": f"./{place}/{adapter.file}"}))
        except (GraphFileError, ConfigError) as error:
            self.problems.append(Problem("adapters", f"{at}.adapters", str(error)))
        return entries

    def _entry(self, value: Any, path: str) -> dict[str, Any]:
        if isinstance(value, Lazy):
            return self._relative(dict(value.to_json()))
        name = type(value).__name__
        hint = hint_of(type(value))
        if hint is None or not (hasattr(value, "save_pretrained") or _is_config_only(value)):
            raise GraphFileError(
                f"is a {name} ({type(value).__module__}), a class that a file cannot name. Bind a ComponentSpec or a "
                "published class, or register the class: sfumato.registry.models.add(name, cls)."
            )
        if _is_config_only(value):
            return {"type_hint": list(hint), "config": value.to_config()}
        if self.folder is None:
            raise GraphFileError(f"is a {name} object with weights, which need a folder. Write graph.save(folder).")
        if not all(part.isidentifier() for part in path.split("/")):
            raise GraphFileError(f"would be written to {path!r}, which is no valid folder name. Rename the component.")
        self._todo[path] = value
        dtype = str(getattr(value, "dtype", "")).removeprefix("torch.")
        spec = {"pretrained_model_name_or_path": ".", "subfolder": path, "revision": None, "variant": None}
        return {"type_hint": list(hint), **spec, **({"dtype": dtype} if dtype else {})}

    def _relative(self, data: dict[str, Any]) -> dict[str, Any]:
        """The entry with its keys in order, and with paths inside the folder relative to it."""
        source = data.get("pretrained_model_name_or_path")
        if isinstance(source, str) and os.path.isabs(source):
            inside = next((p for f in (self.draft, self.folder) if f and (p := _below(source, f)) is not None), None)
            if inside is not None:
                data["pretrained_model_name_or_path"] = "." if inside == "." else f"./{inside}"
            elif (inside := _below(source, _PACKAGE)) is not None:  # the included model, wherever it is installed
                data["pretrained_model_name_or_path"] = f"sfumato:{inside}"
            else:
                data["pretrained_model_name_or_path"] = self.outside(source)
        return {key: data[key] for key in (*_ORDER, *sorted(data.keys() - set(_ORDER))) if key in data}

    def outside(self, source: str) -> str:
        """The path that the file has for one that is neither in its folder nor in this package."""
        way = f"To load it, pass access=sf.Access(folders=[{source!r}])."
        _LOG.info("The graph file names %s, which is outside of its folder. %s", source, way)
        return source

    def write(self) -> None:
        """Write the objects with weights and the adapters into the draft, each into its own folder."""
        for path, value in self._todo.items():
            assert self.draft is not None
            value.save_pretrained(self.draft / path)
        for place, adapter in self._adapters.items():
            assert self.draft is not None
            (self.draft / place).mkdir(parents=True, exist_ok=True)
            adapter.write(self.draft / place)


def _below(path: str, folder: Path) -> str | None:
    """The path relative to a folder that contains it, or None."""
    inside = Path(os.path.relpath(path, os.path.abspath(folder)))
    return None if inside.is_absolute() or ".." in inside.parts else inside.as_posix()


def _is_config_only(value: Any) -> bool:
    """Whether a component has a config and no weights, as schedulers have."""
    return hasattr(value, "to_config") and not hasattr(value, "state_dict")


def read_components(
    entries: Mapping[str, dict[str, Any] | None],
    at: str,
    folder: Path,
    manager: Any,
    allowed: Iterable[str | Path] = (),
) -> tuple[dict[str, Any], list[Problem]]:
    """The components of the entries of a file, and problems. No weights are read; only known classes are accepted.

    A path may lead inside `folder`, that of the file, or into one of the `allowed` folders.
    """
    made: dict[str, Any] = {}
    found: list[Problem] = []
    for name, entry in entries.items():
        try:
            made[name] = (
                None if entry is None else codecs["component"](from_strict_json(entry), folder, manager, allowed)
            )
        except (Unfit, ConfigError, LoadError, UnknownName) as error:
            found.append(Problem("component", f"{at}.components.{name}", str(error)))
    return made, found
