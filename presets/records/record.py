"""The record of a picture: its graph, inputs and seed, the keys of all parts, and the versions that made it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePath
from typing import Any

from ...components.adapters.over import innermost
from ...components.handle import Handle
from ...graph import ConfigError, GraphFileError, InputError, PictureError, Problem
from ...graph.edits import edited
from ...graph.files.bindings import ComponentWriter
from ...graph.files.writing import to_json
from ...graph.json_text import JsonTextError, parse
from ...graph.keywords import Call
from ...graph.structure import Structure
from ...graph.swaps import overlay
from ...registry import codecs, did_you_mean
from . import inputs, keys
from .keys import Json

FORMAT = 1
"""The version of the form. It changes when a reader of the old one could misread a new record."""
_KEYS = {"format", "versions", "picture", "inputs", "defaults", "adapters", "keys", "graph"}


@dataclass(frozen=True)
class Made:
    """The call that made some pictures: its graph, swaps, adapters and values."""

    plain: Structure
    swaps: Mapping[str, Any]
    adapters: Any
    values: Mapping[str, Any]

    @classmethod
    def by(cls, call: Call) -> "Made":
        """What a record needs of a call."""
        return cls(call.graph, call.swaps, call.adapters, call.values)

    @cached_property
    def graph(self) -> Structure:
        """The graph with the components, blocks and adapters of the call."""
        graph = overlay(self.plain, self.swaps)
        return graph if self.adapters is None else codecs["adapt"](graph, self.adapters)

    @cached_property
    def shared(self) -> Json:
        """What the records of all these pictures have, but for the inputs."""
        graph = self.graph
        bound = {n: v for n, v in graph.bindings.items() if n in graph.components and v is not None}
        data, reason = _graph_file(graph)
        found: Json = {
            "components": {name: keys.component_key(value) for name, value in bound.items()},
            "code": keys.code_keys(graph),
        }
        if data is not None:
            found |= {"blocks": keys.config_keys(data["graph"]), "wires": keys.edges_key(data["graph"])}
        return {
            "keys": found,
            "adapters": attached_adapters(graph),
            "graph": data if data is not None else {"reason": reason},
            "defaults": inputs.defaults(graph, self.values),
        }

    def record(self, picture: Mapping[str, Any], private: Sequence[str] = ()) -> Json:
        """The record of one picture. Raises InputError for private names that are no inputs of the call."""
        values = self.values
        if wrong := [name for name in private if name not in self.graph.inputs and name not in values]:
            text = f"is no input of this run, so it cannot be left out. {did_you_mean(wrong[0], self.graph.inputs)}"
            raise InputError(Problem("private", wrong[0], text))
        given = inputs.to_json(self.graph, values, private)
        own = {name: keys.json_key(data) for name, data in given.items()}
        shared = self.shared
        seed = seed_of(values, picture["row"], picture["rows"])
        return {
            "format": FORMAT,
            "versions": keys.versions(),
            "picture": {**picture, **({} if seed is None or "seed" in private else {"seed": seed})},
            "inputs": given,
            "defaults": {name: value for name, value in shared["defaults"].items() if name not in private},
            "adapters": shared["adapters"],
            "keys": {"inputs": own, **shared["keys"]},
            "graph": shared["graph"],
        }


def seed_of(values: Mapping[str, Any], row: int, rows: int) -> int | None:
    """The seed of a picture: that of its row, or the one of all rows; None where the values have none for it.

    Half-way latents have random numbers of their own, so the seed of such a call does not count.
    """
    seed = values.get("seed") if values.get("halfway") is None else None
    if isinstance(seed, list | tuple):
        return int(seed[row]) if len(seed) == rows else None
    return None if seed is None else int(seed)


def _graph_file(graph: Structure) -> tuple[Json | None, str]:
    """The graph file of a record, and why there is none. It lacks adapters, and objects that no file can name."""
    bindings = {n: v for n, v in graph.bindings.items() if n in graph.components and keys.is_saved(v)}
    try:
        return to_json(edited(graph, bindings=bindings, adapters=None), _Entries()), ""
    except (GraphFileError, ConfigError) as error:
        return None, str(error)


class _Entries(ComponentWriter):
    """Entries of components without the places of folders on this machine: a path is its last part, or as many as tell
    it from others."""

    def __init__(self) -> None:
        super().__init__()
        self._names: dict[str, str] = {}

    def _entry(self, value: Any, path: str) -> dict[str, Any]:
        entry = super()._entry(value, path)
        component = innermost(value)
        return {**entry, "dtype": component.dtype} if isinstance(component, Handle) else entry

    def outside(self, source: str) -> str:
        """The last parts of a path."""
        parts = PurePath(source).parts
        for count in range(1, len(parts)):
            name = "/".join(parts[-count:])
            if self._names.setdefault(name, source) == source:
                return f"./{name}"
        return f"./{Path(source).name}"


def attached_adapters(graph: Structure) -> Json:
    """The adapters of a graph: a list for each prompt, and the embeddings that are in none of their files."""
    attached: Any = graph.adapters
    if attached is None:
        return {}
    rows = [[keys.adapter_key(adapter) for adapter in row] for row in attached.rows]
    in_files = {one for row in attached.rows for adapter in row for one in adapter.content.embeddings}
    alone = [one for one in attached.embeddings if one not in in_files]
    return {"rows": rows, "embeddings": [keys.adapter_key(one) for one in alone]}


def to_text(record: Json) -> str:
    """The record as ASCII text."""
    return json.dumps(record, ensure_ascii=True, allow_nan=False, separators=(",", ":"))


def from_text(text: str, where: str) -> Json:
    """The record in a text. Raises PictureError for one of another form or version. Its graph is not checked yet."""
    try:
        data = parse(text)
    except JsonTextError as error:
        raise PictureError(f"{where}: its record cannot be read. It {error}") from None
    if not isinstance(data, dict) or not isinstance(data.get("format"), int):
        raise PictureError(f"{where}: its text 'sfumato' is no record of a run. Pass a picture that sfumato has saved.")
    if data["format"] != FORMAT:
        text = f"its record is of format {data['format']}, and this version reads format {FORMAT}."
        raise PictureError(f"{where}: {text} Update sfumato: pip install -U sfumato.")
    if not data.keys() >= _KEYS or not all(isinstance(data[key], dict) for key in _KEYS - {"format"}):
        lacking = sorted(key for key in _KEYS if key != "format" and not isinstance(data.get(key), dict))
        raise PictureError(f"{where}: its record is broken (it has no {', '.join(lacking)}).")
    return data
