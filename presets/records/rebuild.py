"""The graph of a record, with its components and adapters found again, and how they differ from the recorded ones."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ...components.manager import ComponentsManager
from ...graph import Graph, GraphFileError, InputError, LoadError, Problem
from ...graph.files.reading import from_json
from ...graph.structure import Structure
from ...registry import printable
from ..adapter import from_json as adapters_from_json
from ..adapter import load_adapter
from ..embedding import load_embedding
from ..search import found_path
from . import keys
from .keys import Json


@dataclass(frozen=True)
class Rebuilt:
    """A graph with everything bound, the inputs that were passed, and the parts that are not as recorded."""

    graph: Graph
    inputs: Mapping[str, Any]
    differences: list[str] = field(default_factory=list[str])


def rebuilt(
    record: Json,
    where: str,
    folder: str | Path | Sequence[str | Path],
    graph: Structure | None,
    manager: ComponentsManager | None,
    device: Any,  # what torch.device takes
    passed: Mapping[str, Any],
) -> Rebuilt:
    """The graph of a record. `passed` are components and inputs by name.

    Raises:
        GraphFileError: the record has no graph, or one that cannot be built.
        InputError: components that must be passed.
        LoadError: files that are not found.
    """
    folders = [Path(one) for one in ([folder] if isinstance(folder, str | Path) else folder)]
    if device is not None:
        manager = ComponentsManager(device=device)
    saved: Json = record["graph"]
    if graph is not None:
        made: Any = graph
    elif "graph" not in saved:
        reason = printable(str(saved.get("reason", "")))
        raise GraphFileError(f"{where}: its record has no graph, because {reason} Pass graph=, as it was.")
    else:
        made = _made(saved, where, folders, manager)
    components = {name: value for name, value in passed.items() if name in made.components}
    if components:
        made = made.bind(components)
    _check_bound(made, record)
    made = _with_adapters(made, record["adapters"], folders)
    rest = {name: value for name, value in passed.items() if name not in components}
    return Rebuilt(made, rest, list(_differences(made, record)))


def input_types(record: Json) -> dict[str, Any]:  # type forms
    """The types of the inputs of a recorded graph, by name; {} where the record has none. No component is looked up."""

    def without_components(part: Any) -> Any:  # JSON values
        if isinstance(part, list):
            return [without_components(one) for one in part]
        if not isinstance(part, dict):
            return part
        return {key: without_components(value) for key, value in part.items() if key != "components"}

    if "graph" not in record["graph"]:
        return {}
    graph = from_json(Graph, _plain(without_components(record["graph"])))
    return {name: port.type for name, port in graph.inputs.items()}


def _plain(saved: Json) -> Json:
    """A graph file without code: a record has none, and nothing in it is run."""
    return {key: value for key, value in saved.items() if key not in ("auto_map", "code", "requirements")}


def _made(saved: Json, where: str, folders: Sequence[Path], manager: ComponentsManager | None) -> Graph:
    """The recorded graph. Its local files are looked for in the folders."""
    errors: list[Exception] = []

    def placed(part: Any) -> Any:  # JSON values
        if isinstance(part, list):
            return [placed(one) for one in part]
        if not isinstance(part, dict):
            return part
        path = part.get("pretrained_model_name_or_path")
        if "type_hint" in part and isinstance(path, str) and path.startswith("./"):
            try:
                return {**part, "pretrained_model_name_or_path": str(found_path(path, folders, None))}
            except LoadError as error:
                errors.append(error)
        return {key: placed(value) for key, value in part.items()}

    data = _plain(placed(saved))
    if errors:
        raise LoadError("\n  ".join(dict.fromkeys(map(str, errors))))
    return from_json(Graph, data, folders[0] if folders else ".", where=where, manager=manager, allowed=folders)


def _check_bound(graph: Structure, record: Json) -> None:
    """InputError for components that the record describes and nothing binds."""
    problems: list[Problem] = []
    for name, port in graph.components.items():
        key = record["keys"].get("components", {}).get(name)
        if graph.bindings.get(name) is None and key is not None and port.required:
            text = f"was an object in memory ({printable(str(key.get('class')))}). Pass it: sf.replay(file, {name}=…)."
            problems.append(Problem("unbound", name, text))
    if problems:
        raise InputError(problems)


def _with_adapters(graph: Any, recorded: Json, folders: Sequence[Path]) -> Any:
    """The graph with its adapters and embeddings, of the files that have their names."""
    if not recorded or graph.adapters is not None:  # a graph that was passed has its own
        return graph
    known: dict[str, Any] = {}

    def read(entry: Json) -> Any:
        source = entry.get("source")
        if source is None and "file" not in entry:
            raise LoadError(f"{printable(str(entry.get('name')))}: was made in memory. Pass graph= with it.")
        file = found_path(f"./{entry['file']}", folders, entry.get("sha256")) if source is None else None
        if "token" in entry:
            return load_embedding(str(file or source), token=entry["token"], name=entry["name"])
        key = str(file or source)
        if file is None:
            read_one = load_adapter(key, name=entry["name"])
            file = read_one.content.file
            assert file is not None
        settings = {
            k: entry[k] for k in ("name", "strength", "by_component", "blocks", "window", "curve") if k in entry
        }
        (made,) = adapters_from_json([{**settings, "file": file.name}], file.parent)
        known.setdefault(key, made.content)
        return replace(made, content=known[key])

    rows = [[read(entry) for entry in row] for row in recorded.get("rows", [])]
    embeddings = [read(entry) for entry in recorded.get("embeddings", [])]
    adapters = rows if len(rows) > 1 else [*(rows[0] if rows else []), *embeddings]
    graph = graph.with_adapters(*adapters) if adapters else graph
    return graph.with_adapters(*embeddings) if len(rows) > 1 and embeddings else graph


# ------------------------------------------------------------------------------------------------ what differs
def _differences(graph: Structure, record: Json) -> Iterator[str]:
    recorded: Json = record["keys"]
    saved: Json = record["graph"]
    if "graph" in saved:
        own = keys.config_keys(saved["graph"])
        for name in keys.changed(recorded.get("blocks", {}), own):
            yield f"block {printable(name)}: its config was changed in the record"
        if recorded.get("wires") != keys.edges_key(saved["graph"]):
            yield "graph: its wires were changed in the record"
    if _python(record["versions"]) == _python(keys.versions()):  # else bytecode differs, whatever the code
        for name in keys.changed(recorded.get("code", {}), keys.code_keys(graph)):
            yield f"block {printable(name)}: its code is not the recorded one"
    for name, key in recorded.get("components", {}).items():
        value = graph.bindings.get(name)
        if value is not None:
            yield from _of_component(printable(name), key, keys.component_key(value), record)
    before = record["adapters"]
    attached: Any = graph.adapters
    for row, adapters in enumerate(attached.rows if attached is not None else ()):
        entries = before.get("rows", [])
        for entry, adapter in zip(entries[row] if row < len(entries) else [], adapters, strict=False):
            if entry.get("sha256") != keys.adapter_key(adapter).get("sha256"):
                yield f"adapter {printable(str(entry.get('name')))}: its file has other contents than the recorded one"
    embeddings = attached.embeddings if attached is not None else ()
    found = {one.token: keys.adapter_key(one)["vectors"] for one in embeddings}
    for entry in before.get("embeddings", []):
        if entry.get("vectors") != found.get(entry.get("token")):
            yield f"embedding {printable(str(entry.get('name')))}: its vectors are not the recorded ones"


def _python(versions: Json) -> str:
    return str(versions.get("python", "")).rpartition(".")[0]


def _of_component(name: str, recorded: Json, found: Json, record: Json) -> Iterator[str]:
    for file in keys.changed(recorded.get("files", {}), found.get("files", {})):
        yield f"component {name}: {printable(file)} is not the recorded file"
    for part, text in (
        ("class", "its class is {now}, and was {then}"),
        ("settings", "its settings are not the recorded ones"),
        ("values", "its values are not the recorded ones"),
        ("numbers", "its dtype and device are {now}, and were {then}"),
    ):
        if recorded.get(part) != found.get(part):
            yield f"component {name}: " + text.format(now=found.get(part), then=printable(str(recorded.get(part))))
    if recorded.get("code") != found.get("code") and _python(record["versions"]) == _python(keys.versions()):
        yield f"component {name}: the code of its class is not the recorded one"
