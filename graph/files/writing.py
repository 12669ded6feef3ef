"""Writing a graph: everything about it as JSON, whole or not at all."""

import logging
import os
import tempfile
from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, get_type_hints

from ...registry import blocks as BLOCKS
from ..block import EMPTY, Block
from ..code import HUB
from ..errors import GraphFileError, Problem
from ..named import Named
from ..structure import Container, Structure
from ..validate import Unfit
from . import code
from .bindings import Writer
from .shape import FORMAT, NAME
from .text import parse, pretty
from .values import Values, same

_LOG = logging.getLogger("sfumato")


def save(graph: Structure, folder: str | os.PathLike[str]) -> Path:
    """Write `graph.json` into a folder, and what is held as objects with weights into folders beside it.

    The source of blocks that no installed package brings goes beside it (`auto_map`); of a class that has no file,
    the logger `sfumato` is told. The graph file appears last and at once, so that a reader never sees half a graph.
    Gives its path.

    Raises:
        GraphFileError: config or components that no file can hold, all of them at once; or a folder that cannot be
            written to.
    """
    place = Path(folder)
    if place.suffix == ".json" or place.is_file():
        raise GraphFileError(f"{place}: is a file, and a folder was wanted. Write graph.save({str(place.parent)!r}).")
    writer = Writer(place)
    data, made = _file(graph, writer, str(place / NAME))
    found = code.code_of(made.classes)
    for text in found.lost:
        _LOG.warning("%s: without the code of a block. %s", place / NAME, text)
    content = {**{key: value for key, value in data.items() if key != "graph"}, **found.keys(), "graph": data["graph"]}
    try:
        place.mkdir(parents=True, exist_ok=True)
        code.check_free(found, place, _code_before(place / NAME))
        writer.write()
        code.write(found, place)
        _replace(place / NAME, pretty(content) + "\n")
    except OSError as error:
        raise GraphFileError(f"{place / NAME}: cannot be written ({error.strerror or error}).") from error
    return place / NAME


def to_json(graph: Structure) -> dict[str, Any]:  # JSON values
    """The content of a graph file, for what carries graphs elsewhere. Objects with weights are refused."""
    return _file(graph, Writer(None), "the graph")[0]


def without_code(graph: Structure) -> list[str]:
    """Blocks of a graph whose source cannot be given to others, and why: one text each."""
    made = _Writing(Writer(None))
    made.graph(graph, "graph", "")
    return code.code_of(made.classes).lost


def _code_before(path: Path) -> dict[str, Any]:
    """What the graph file that stands there says of its code."""
    try:
        return dict(parse(path.read_text(encoding="utf-8"))["code"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _file(graph: Structure, writer: Writer, where: str) -> tuple[dict[str, Any], "_Writing"]:
    made = _Writing(writer)
    content = made.graph(graph, "graph", "")
    if found := [*made.problems, *writer.problems]:
        raise listed(where, found)
    return {"format": FORMAT, "sfumato": _version(), "graph": content}, made


def listed(where: str, found: list[Problem]) -> GraphFileError:
    """One error with all problems, each with its place in the file."""
    if len(found) == 1:
        return GraphFileError(f"{where}: {found[0]}")
    width = max(len(p.place) for p in found)
    rows = "\n".join(f"  {p.place:<{width}}  {p.message}" for p in found)
    return GraphFileError(f"{where}: {len(found)} problems\n{rows}")


@cache
def _version() -> str:
    try:
        return version("sfumato")
    except PackageNotFoundError:
        return "unknown"


def _replace(path: Path, text: str) -> None:
    handle, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
        Path(draft).chmod(0o644)  # mkstemp makes files that only their owner reads
        os.replace(draft, path)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise


class _Writing:
    """One pass over a graph; problems are gathered."""

    def __init__(self, writer: Writer) -> None:
        self.writer = writer
        self.problems: list[Problem] = []
        self.classes: dict[str, type[Block]] = {}
        """The classes of blocks that were met, by the name that the file gives them."""

    def graph(self, graph: Structure, at: str, path: str) -> dict[str, Any]:
        if type(graph).registered_name != "Graph":
            self._problem(at, f"is a {type(graph).__name__}, a subclass of Graph. Only graphs themselves are written.")
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
        return data | self._components(graph.bindings, at, path)

    def node(self, block: Block, at: str, path: str) -> dict[str, Any]:
        if isinstance(block, Structure):
            return {"block": "Graph", "graph": self.graph(block, f"{at}.graph", path)}
        if type(block) is Named:
            if len({old for old, _ in block.names}) != len(block.names):
                self._problem(at, f"renames one port twice: {block.names}. Make it with named().")
            return {"block": "Named", "names": dict(block.names), "of": self.node(block.block, f"{at}.of", path)}
        return self._leaf(block, at, path)

    def _leaf(self, block: Block, at: str, path: str) -> dict[str, Any]:
        cls = type(block)
        name = cls.registered_name
        if cls.__module__.partition(".")[0] == HUB:  # two repos may have blocks of one name
            name = name if self.classes.setdefault(name, cls) is cls else f"{cls.__module__}.{name}"
        elif BLOCKS.find(name) is not cls:
            text = f"is called {cls.registered_name!r}, but that name stands for another class. Give it one of its own:"
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
        """The value as JSON, after trying that the file gives it back as it is."""
        inside: list[Block] = []

        def block_from(data: Any, at: str) -> Block:
            return inside[data["block"]]

        def kept(block: Block, at: str) -> Any:
            inside.append(block)
            return {"block": len(inside) - 1}

        try:
            trial = Values(kept, block_from)
            data = trial.encode(value, at)
            back = Values(lambda block, at: {"block": inside.index(block)}, block_from).decode(data, hint, at)
            if not same(back, value):
                raise Unfit(f"is {value!r}, but would come back from a file as {back!r}. Type the field more narrowly.")
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
