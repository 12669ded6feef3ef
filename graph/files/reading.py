"""Reading a graph file: first its form, then its blocks, then its edges. Each stage reports all its problems at once.

Nothing in a file is run or imported. Blocks are looked up by registered name, components by known class.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, Generic, TypeVar, cast, get_type_hints

from pydantic import TypeAdapter, ValidationError

from ...registry import blocks as BLOCKS
from ...registry import closest, codecs, did_you_mean, find_block
from ..binding import bound
from ..block import Block
from ..edits import bad_nodes, check_made, edited
from ..errors import ConfigError, GraphFileError, LoadError, Problem, SfumatoError, WireError
from ..json_text import JsonTextError, read
from ..limits import AboveLimit, check_limit, limit
from ..named import Named, is_name
from ..structure import Container, Structure
from ..tasks import of_other_task
from ..validate import Unfit
from . import bindings
from .edges import edges_of
from .faults import file_errors
from .forms import FILE_NAME, FORMAT, AdapterForm, BlockForm, FileForm, GraphForm, InnerForm, NamedForm, NodeForm
from .values import Values

S = TypeVar("S", bound=Structure)
_NODE: TypeAdapter[Any] = TypeAdapter(NodeForm)
_CHECKPOINTS = ("model_index.json", "modular_model_index.json")


def load(
    kind: type[S],
    source: str | os.PathLike[str],
    manager: Any = None,
    classes: Mapping[str, type[Block]] | None = None,
    allowed: Sequence[str | Path] = (),
) -> S:
    """Read a graph of the class `kind` from a folder, or from its `graph.json`.

    Components load at their first use, by `manager` (default: that of the process). `classes` are block classes by
    their names in the file. They go before registered ones. The file may name its own folder, and the `allowed` ones.

    Raises:
        GraphFileError: all problems of the file, with the place of each and what to do.
    """
    with file_errors(source, GraphFileError):
        path = Path(source)
        path = path / FILE_NAME if path.is_dir() else path
        return from_json(
            kind, _parsed(path), path.parent, where=str(path), manager=manager, classes=classes, allowed=allowed
        )


def read_form(path: Path) -> FileForm:
    """The checked form of a graph file, with no block or component looked up. Raises `GraphFileError`."""
    return _form(_parsed(path), str(path))


def from_json(
    kind: type[S],
    data: Any,
    folder: str | os.PathLike[str] = ".",
    *,
    where: str = "graph",
    manager: Any = None,
    classes: Mapping[str, type[Block]] | None = None,
    allowed: Sequence[str | Path] = (),
) -> S:
    """The graph of the class `kind` for the content of a graph file. Relative paths in it start at `folder`."""
    form = _form(data, where)
    reading = _Reading(kind, Path(folder), manager, classes or {}, form.auto_map, allowed)
    graph: S | None = None
    try:
        graph = reading.graph(form.graph, "graph")
    except _TooManyError:
        pass  # they are reported
    except RecursionError:
        raise GraphFileError(f"{where}: is nested too deep for a graph.") from None
    if reading.problems or graph is None:
        raise GraphFileError.of(where, reading.problems)
    return graph


def _parsed(path: Path) -> Any:
    try:
        return read(path, "graph_bytes")
    except FileNotFoundError:
        beside = sorted(p.name for p in path.parent.iterdir()) if path.parent.is_dir() else []
        hint = " The folder is a checkpoint. Write sf.load(folder)." if set(_CHECKPOINTS) & set(beside) else ""
        content = f"The folder has: {', '.join(beside[:12])}." if beside else "The folder is empty or missing."
        raise GraphFileError(f"{path}: there is no such file.{hint} {content}") from None
    except JsonTextError as error:
        raise GraphFileError(f"{path}: {error}") from None
    except OSError as error:
        raise GraphFileError(f"{path}: cannot be read ({error.strerror or error}).") from error


def _form(data: Any, where: str) -> FileForm:
    if not isinstance(data, dict) or not {"format", "graph"} <= data.keys():
        got = f"the keys {', '.join(data) or 'none'}" if isinstance(data, dict) else type(data).__name__
        text = f'{where}: is no graph file: needs {{"format": {FORMAT}, "graph": …}}, got {got}.'
        raise GraphFileError(f"{text} graph.save(folder) writes graph files.")
    data = cast("dict[str, Any]", data)
    if data["format"] != FORMAT or isinstance(data["format"], bool):
        raise GraphFileError(f"{where}: {_other_format(data['format'], data.get('sfumato', 'unknown'))}")
    _check_counts(data["graph"], where)
    try:
        return FileForm.model_validate(data)
    except ValidationError as error:
        found = error.errors()[: limit("graph_problems")]
        raise GraphFileError.of(where, [_form_problem(problem, data) for problem in found]) from None
    except RecursionError:
        raise GraphFileError(f"{where}: is nested too deep for a graph.") from None


def _check_counts(graph: Any, where: str) -> None:
    """Refuse too many nodes and edges, in all graphs together, and graphs too deep within each other."""
    nodes = edges = depth = 0
    level: list[Any] = [graph]
    try:
        while level := [part for part in level if isinstance(part, dict)]:
            nodes += sum(1 for part in level if "block" in part)
            edges += sum(len(part["edges"]) for part in level if isinstance(part.get("edges"), list))
            longest = max((len(n) for part in level if isinstance(n := part.get("name"), str)), default=0)
            check_limit("name_letters", longest)
            depth += any("nodes" in part for part in level)
            check_limit("graph_nodes", nodes, whole=False)
            check_limit("graph_edges", edges, whole=False)
            check_limit("graph_depth", depth, whole=False)
            level = [inner for part in level for inner in _parts(part)]
    except AboveLimit as error:
        raise GraphFileError(f"{where}: {error}") from None


def _parts(part: Mapping[str, Any]) -> list[Any]:
    """The parts of a graph or of a node: nodes, graphs, and the block of a named node."""
    nodes, graphs = part.get("nodes"), part.get("graphs")
    found = [part[key] for key in ("of", "graph") if key in part]
    found += nodes if isinstance(nodes, list) else []
    return [*found, *(graphs.values() if isinstance(graphs, dict) else ())]


def _other_format(found: Any, writer: Any) -> str:  # JSON values
    text = f"is of format {found!r}, written by sfumato {writer}, and this version reads format {FORMAT}."
    if isinstance(found, int) and found < FORMAT:
        return f"{text} The names of blocks have changed since. Make the graph again and save it: graph.save(folder)."
    return f"{text} Update sfumato: pip install -U sfumato."


def _form_problem(error: Any, data: Any) -> Problem:  # one of pydantic's ErrorDetails
    """A problem of form with its place in the file: nodes by name, without pydantic's names of union members."""
    place: list[str] = []
    at: Any = data
    for i, part in enumerate(error["loc"]):
        if isinstance(at, dict) and part in at:
            at = at[part]
            place.append(f".{part}")
        elif isinstance(at, list) and isinstance(part, int) and part < len(at):
            at = at[part]
            name = at.get("name") if isinstance(at, dict) else None
            place.append(f".{name}" if isinstance(name, str) and name else f"[{part}]")
        elif i == len(error["loc"]) - 1 and error["type"] == "missing":
            place.append(f".{part}")
    needed = error["msg"][:1].lower() + error["msg"][1:]
    text = f"{needed}, got {_short(at)}."
    if error["type"] == "missing":
        text = "is missing."
    elif error["type"] == "extra_forbidden":
        text = "is no known key. Check the spelling."
    return Problem("form", "".join(place).lstrip("."), text)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 60 else f"{text[:57]}…"


class _TooManyError(Exception):
    """More problems than anybody reads."""


class _Reading(Generic[S]):
    """One pass over the graph of a file. It gathers problems; a part with a problem is None."""

    def __init__(
        self,
        kind: type[S],
        folder: Path,
        manager: Any,
        classes: Mapping[str, type[Block]],
        auto_map: Mapping[str, str],
        allowed: Sequence[str | Path],
    ) -> None:
        self.kind = kind
        self.folder = folder
        self.manager = manager
        self.classes = classes
        self.auto_map = auto_map
        self.allowed = allowed
        self.problems: list[Problem] = []
        self.values = Values(lambda block, at: self._sources[id(block)], self._inside)
        self._sources: dict[int, Any] = {}  # the JSON of blocks inside config, by identity

    def graph(self, form: GraphForm, at: str) -> S | None:
        before = len(self.problems)
        nodes: dict[str, Block] = {}
        names = [step.name for step in form.nodes]
        for step in form.nodes:
            block = self.node(step, f"{at}.nodes.{step.name}")
            if block is not None:
                nodes[step.name] = block
        for name in dict.fromkeys(names):
            if names.count(name) > 1:
                text = f"is the name of {names.count(name)} nodes. Names must be unique: rename the others."
                self._problem(f"{at}.nodes.{name}", text)
        self._list(f"{at}.nodes", bad_nodes(nodes))
        held = self._components(form.components, at)
        if len(self.problems) > before:
            return None
        edges, found = edges_of(form.edges, nodes, at)
        self._list("", found)
        if found:
            return None
        slots = {slot: tuple(paths) for slot, paths in form.slots.items()}
        preset = (form.preset[0], form.preset[1]) if form.preset else None
        graph = self.kind.of(nodes, edges, declared=tuple(form.outputs), slots=slots, preset=preset)
        try:
            check_made(graph, ())
            graph = self._bound(graph, held, at)
        except (WireError, LoadError) as error:
            self._refusal(error, at)
            return None
        return self._adapted(graph, form.adapters, at)

    def _adapted(self, graph: S, forms: Sequence[AdapterForm], at: str) -> S | None:
        if not forms:
            return graph
        entries = [form.model_dump(exclude_unset=True) for form in forms]
        try:
            return codecs["attach"](graph, codecs["adapters"](entries, self.folder, self.allowed))
        except (ConfigError, LoadError) as error:
            self._problem(f"{at}.adapters", str(error))
            return None

    def node(self, form: Any, at: str) -> Block | None:  # one of the node forms
        if isinstance(form, BlockForm):
            return self._leaf(form, at)
        try:
            if isinstance(form, InnerForm):
                return self.graph(form.graph, f"{at}.graph")
            return self._named(form, at)
        except (SfumatoError, TypeError) as error:
            self._refusal(error, at)
            return None

    def _named(self, form: NamedForm, at: str) -> Block | None:
        block = self.node(form.of, f"{at}.of")
        if block is None:
            return None
        s = block.signature
        known = [*s.inputs, *s.outputs, *s.components]
        for old in form.names:
            if old not in known:
                text = f"{form.of.block} has no port {old!r} to rename. {did_you_mean(old, dict.fromkeys(known))}"
                self._problem(f"{at}.names", text)
        for old, new in form.names.items():
            if not is_name(new):
                self._problem(f"{at}.names", f"{old!r}: needs a name of letters, digits and underscores, got {new!r}.")
        fit = form.names.keys() <= set(known) and all(map(is_name, form.names.values()))
        return Named(block=block, names=tuple(form.names.items())) if fit else None

    def _leaf(self, form: BlockForm, at: str) -> Block | None:
        cls = self._class(form.block, at)
        if cls is None:
            return None
        before = len(self.problems)
        hints = get_type_hints(cls, include_extras=True)
        held = [f for f in fields(cls) if f.init]  # type: ignore[arg-type]  # a dataclass
        own = {f.name: f for f in held if "component" not in f.metadata}
        parts = [f.name for f in held if "component" in f.metadata]
        for key in form.config.keys() - own.keys():
            self._problem(f"{at}.config.{key}", f"{cls.__name__} has no such field. {did_you_mean(key, own)}")
        values = self._graphs(form.graphs, cls, own, at)
        for name, f in own.items():
            if name not in {**form.config, **values} and f.default is MISSING and f.default_factory is MISSING:
                self._problem(f"{at}.config.{name}", f"is missing, and {cls.__name__} has no default for it.")
        for key in [key for key in own if key in form.config]:
            try:
                values[key] = self.values.decode(form.config[key], hints[key], f"{at}.config.{key}")
            except (Unfit, ConfigError) as error:
                self._problem(f"{at}.config.{key}", f"{str(error).rstrip('.')}.")
        for name in form.components.keys() - set(parts):
            text = f"{cls.__name__} has no such component. {did_you_mean(name, parts)}"
            self._problem(f"{at}.components.{name}", text)
        values |= self._components(form.components, at)
        if len(self.problems) > before:
            return None
        try:
            return cls(**values)
        except (SfumatoError, TypeError, ValueError) as error:
            self._refusal(error, at)
            return None

    def _graphs(
        self, forms: Mapping[str, GraphForm], cls: type[Block], known: Iterable[str], at: str
    ) -> dict[str, Any]:
        """The graphs of a container, by field: one, or several by name."""
        made: dict[str, Any] = {}
        if forms and not issubclass(cls, Container):
            self._problem(f"{at}.graphs", f"{cls.__name__} holds no graphs. Remove the key.")
            return made
        for key, form in forms.items():
            field, _, part = key.partition(".")
            if field not in known:
                self._problem(f"{at}.graphs.{key}", f"{cls.__name__} has no such field. {did_you_mean(field, known)}")
            graph = self.graph(form, f"{at}.graphs.{key}")
            if part:
                made.setdefault(field, {})[part] = graph
            else:
                made[field] = graph
        return made

    def _inside(self, data: Any, at: str) -> Block:
        """A block that is a config value of another block."""
        try:
            form = _NODE.validate_python(data)
        except ValidationError:
            raise Unfit('takes a block: {"block": name, "config": {…}}') from None
        if (made := self.node(form, at)) is None:
            raise Unfit("has a block that cannot be read")
        self._sources[id(made)] = data
        return made

    def _class(self, name: str, at: str) -> type[Block] | None:
        cls = self.classes.get(name) or find_block(name)
        if isinstance(cls, type) and issubclass(cls, Block) and not issubclass(cls, Structure | Named):
            return cls
        if name in self.auto_map:
            text = f"is code beside this file ({self.auto_map[name]}), which Graph.load does not run."
            self._problem(f"{at}.block", f"{text} Use sf.load(folder): it lists the code, and runs it if you trust it.")
            return None
        near = closest(name, BLOCKS) or [n for n in BLOCKS if n.rpartition(".")[2] == name.rpartition(".")[2]]
        guess = f" Did you mean {', '.join(map(repr, near))}?" if near else ""
        package = name.partition(".")[0]
        text = f"no block is called {name!r}.{guess} Import the module that defines it, or install its package"
        self._problem(f"{at}.block", f"{text} (perhaps {package!r}), before loading." if "." in name else f"{text}.")
        return None

    def _components(self, entries: Mapping[str, Any], at: str) -> dict[str, Any]:
        plain = {n: None if e is None else e.model_dump(exclude_unset=True) for n, e in entries.items()}
        made, found = bindings.read_components(plain, at, self.folder, self.manager, self.allowed)
        self._list("", found)
        return made

    def _bound(self, graph: S, bindings: Mapping[str, Any], at: str) -> S:
        """The graph with its bindings. Those that a block needs are checked; the others are kept."""
        needed = {n: v for n, v in bindings.items() if n in graph.components and v is not None}
        missing = [n for n in graph.components if n not in bindings]
        for name in bindings.keys() - graph.components.keys():
            if (near := closest(name, missing, 1)) and not of_other_task(graph, name):
                text = f"no block of this graph needs such a component. Did you mean {near[0]!r}?"
                self._problem(f"{at}.components.{name}", text)
        if needed:
            bound(graph, needed)
        return edited(graph, bindings=dict(bindings)) if bindings else graph

    def _problem(self, place: str, text: str) -> None:
        self._add([Problem("graph-file", place, text)])

    def _list(self, at: str, found: Iterable[Problem]) -> None:
        dot = "." if at else ""
        self._add(Problem(p.code, f"{at}{dot}{p.place}", p.message, p.got, p.needed) for p in found)

    def _add(self, found: Iterable[Problem]) -> None:
        """Add problems, up to their limit: a suggestion for each of thousands would take minutes."""
        for problem in found:
            self.problems.append(problem)
            if len(self.problems) >= limit("graph_problems"):
                raise _TooManyError

    def _refusal(self, error: Exception, at: str) -> None:
        """Report the refusal of a block or a graph, with its place."""
        if isinstance(error, WireError):
            self._list(at, error.problems)
        else:
            self._problem(at, f"{error}" if isinstance(error, ConfigError | LoadError) else f"cannot be made: {error}.")
