"""Writing a graph file: all of a graph as JSON, whole or not at all."""

import os
from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, get_type_hints

from ...registry import blocks as BLOCKS
from ...registry.log import LOG
from ..block import Block
from ..code import HUB
from ..errors import GraphFileError, Problem
from ..fields import EMPTY
from ..json_text import pretty, read
from ..named import Named
from ..saving import Draft, saving_folder
from ..structure import Container, Structure
from ..validate import Unfit
from . import code
from .bindings import ComponentWriter
from .forms import FILE_NAME, FORMAT
from .values import Values, equal_values


def save(graph: Structure, folder: str | os.PathLike[str]) -> Path:
    """Write `graph.json` into a folder, and bound objects with weights into folders beside it.

    The source of blocks that are in no installed package is written beside it (`auto_map`). The logger `sfumato` warns
    of a class without a source file. All files are saved together, or none (`saving_folder`). Returns the path of the
    graph file.

    Raises:
        GraphFileError: config or components that a file cannot hold, all of them at once.
        SaveError: a folder that cannot be written.
    """
    place = Path(folder)
    if place.suffix == ".json" or place.is_file():
        raise GraphFileError(f"{place}: needs a folder, got a file. Write graph.save({str(place.parent)!r}).")
    with saving_folder(place) as draft:
        write(graph, draft, str(place / FILE_NAME))
    return place / FILE_NAME


def write(graph: Structure, draft: Draft, where: str) -> list[str]:
    """Write a graph into the draft of a save, as `save` does. `where` names the file in errors.

    Returns the names of the files of code.
    """
    writer = ComponentWriter(draft.folder, draft.path)
    data, made = _file(graph, writer, where)
    found = code.code_of(made.classes)
    for text in found.without_source:
        LOG.warning("%s: is saved without the code of a block. %s", where, text)
    content = {**{key: value for key, value in data.items() if key != "graph"}, **found.keys(), "graph": data["graph"]}
    code.refuse_overwriting(found, draft.folder, _saved_code(draft.folder / FILE_NAME))
    writer.write()
    code.write(found, draft.path)
    (draft.path / FILE_NAME).write_text(pretty(content) + "\n", encoding="utf-8", newline="\n")
    return sorted(found.files)


def to_json(graph: Structure, writer: ComponentWriter | None = None) -> dict[str, Any]:  # JSON values
    """The content of a graph file, without writing it. Bound objects with weights are refused.

    writer: makes the entries of components; by default those of a file without a folder.
    """
    return _file(graph, writer or ComponentWriter(), "the graph")[0]


def blocks_without_source(graph: Structure) -> list[str]:
    """The blocks of a graph whose source cannot be saved: one text each, with the reason."""
    made = _Writing(ComponentWriter())
    made.graph(graph, "graph", "")
    return code.code_of(made.classes).without_source


def _saved_code(path: Path) -> dict[str, Any]:
    """The key "code" of the graph file at this path; {} if there is no such file or key."""
    try:
        return dict(read(path, "graph_bytes")["code"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _file(graph: Structure, writer: ComponentWriter, where: str) -> tuple[dict[str, Any], "_Writing"]:
    made = _Writing(writer)
    content = made.graph(graph, "graph", "")
    if found := [*made.problems, *writer.problems]:
        raise GraphFileError.of(where, found)
    return {"format": FORMAT, "sfumato": library_version(), "graph": content}, made


@cache
def library_version() -> str:
    """The version of sfumato that is installed."""
    try:
        return version("sfumato")
    except PackageNotFoundError:
        return "unknown"


class _Writing:
    """One pass over a graph; problems are gathered."""

    def __init__(self, writer: ComponentWriter) -> None:
        self.writer = writer
        self.problems: list[Problem] = []
        self.classes: dict[str, type[Block]] = {}
        """The classes of the blocks, by the names that the file gives them."""

    def graph(self, graph: Structure, at: str, path: str) -> dict[str, Any]:
        if type(graph).registered_name != "Graph":
            self._problem(at, f"is a {type(graph).__name__}, a subclass of Graph. A file can hold plain graphs only.")
        data: dict[str, Any] = {"preset": list(graph.preset)} if graph.preset else {}
        steps: list[dict[str, Any]] = []
        for name, block in graph.nodes.items():
            steps.append({"name": name, **self.node(block, f"{at}.nodes.{name}", f"{path}{name}/")})
        edges = [
            {"from": e.source, "to": e.target, "how": "pinned" if e.pinned else "ruled"} for e in graph.edges
        ]  # fmt: skip
        data |= {"outputs": list(graph.declared), "nodes": steps, "edges": edges}
        if graph.slots:
            data["slots"] = {slot: list(paths) for slot, paths in graph.slots.items()}
        adapters = self.writer.adapters(graph, path, at)
        return data | self._components(graph.bindings, at, path) | ({"adapters": adapters} if adapters else {})

    def node(self, block: Block, at: str, path: str) -> dict[str, Any]:
        if isinstance(block, Structure):
            return {"block": "Graph", "graph": self.graph(block, f"{at}.graph", path)}
        if type(block) is Named:
            if len({old for old, _ in block.names}) != len(block.names):
                self._problem(at, f"renames one port twice: {block.names}. Make the block with named().")
            return {"block": "Named", "names": dict(block.names), "of": self.node(block.block, f"{at}.of", path)}
        return self._leaf(block, at, path)

    def _leaf(self, block: Block, at: str, path: str) -> dict[str, Any]:
        cls = type(block)
        name = cls.registered_name
        if cls.__module__.partition(".")[0] == HUB:  # two repos may have blocks of one name
            name = name if self.classes.setdefault(name, cls) is cls else f"{cls.__module__}.{name}"
        elif BLOCKS.find(name) is not cls:
            text = f"has the name {cls.registered_name!r}, which another class has too. Give it its own:"
            self._problem(at, f'{text} class {cls.__name__}(Block, name="package.{cls.__name__}").')
        self.classes[name] = cls
        hints = get_type_hints(cls, include_extras=True)
        config: dict[str, Any] = {}
        graphs: dict[str, Any] = {}
        held: dict[str, Any] = {}
        for f in fields(block):  # type: ignore[arg-type]  # a dataclass
            value = getattr(block, f.name)
            if "component" in f.metadata:
                if value is not EMPTY and value is not f.default:
                    held[f.name] = value
            elif isinstance(block, Container) and (inner := _graphs(f.name, value)):
                for key, graph in inner.items():
                    graphs[key] = self.graph(graph, f"{at}.graphs.{key}", f"{path}{key.replace('.', '/')}/")
            elif f.init:
                config[f.name] = self._value(value, hints[f.name], f"{at}.config.{f.name}", path)
        data = {"block": name, "config": config, **({"graphs": graphs} if graphs else {})}
        return {**data, **self._components(held, at, path)}

    def _value(self, value: Any, hint: Any, at: str, path: str) -> Any:
        """The value as JSON, after checking that reading it gives an equal value."""
        inside: list[Block] = []

        def block_from(data: Any, at: str) -> Block:
            return inside[data["block"]]

        def keep(block: Block, at: str) -> Any:
            inside.append(block)
            return {"block": len(inside) - 1}

        try:
            trial = Values(keep, block_from)
            data = trial.encode(value, at)
            back = Values(lambda block, at: {"block": inside.index(block)}, block_from).decode(data, hint, at)
            if not equal_values(back, value):
                raise Unfit(f"is {value!r}, but a file would give {back!r}. Give the field a narrower type.")
            real = Values(lambda block, at: self.node(block, at, path), block_from)
            return real.encode(value, at) if inside else data
        except Unfit as error:
            self._problem(at, f"{error}")
            return None

    def _components(self, held: Mapping[str, Any], at: str, path: str) -> dict[str, Any]:
        entries = {n: self.writer.entry(v, f"{path}{n}", f"{at}.components.{n}") for n, v in held.items()}
        return {"components": entries} if entries else {}

    def _problem(self, at: str, text: str) -> None:
        self.problems.append(Problem("unwritable", at, text))


def _graphs(field: str, value: Any) -> dict[str, Structure]:  # Any: a config value
    """The graphs that a container has in this field, by the keys that a file gives them."""
    if isinstance(value, Structure):
        return {field: value}
    if isinstance(value, Mapping):
        return {f"{field}.{part}": graph for part, graph in value.items() if isinstance(graph, Structure)}
    return {}
