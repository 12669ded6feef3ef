"""The commands that run no graph: show, check, inspect, presets."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import typer

from .messages import CommandError, print_json, print_note, print_text, problem_data, reported_errors
from .options import CheckTask, Debug, Folders, Json, Mermaid, Revision, Source, SvgFile, Task, Trust, Variant
from .sources import Repo, open_graph


def show(
    model: Source,
    task: Task = None,
    revision: Revision = None,
    variant: Variant = None,
    svg: SvgFile = None,
    mermaid: Mermaid = False,
    trust_remote_code: Trust = None,
    folder: Folders = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Show the graph of a model: inputs with types and defaults, nodes, edges, outputs, components and slots."""
    with reported_errors(as_json=json, debug=debug):
        if json + mermaid + (svg is not None) > 1:
            raise CommandError("--json, --mermaid and --svg exclude each other. Pass only one.")
        graph = open_graph(model, task, repo=Repo(trust_remote_code, revision, variant, tuple(folder or ())))
        if svg is not None:
            from ...components.storage.files import write_text

            path = Path(svg).expanduser()
            write_text(path, graph.show("svg"))
            print_text(str(path))
        elif json:
            print_json(_graph_data(graph))
        else:
            print_text(*graph.show("mermaid" if mermaid else "text").split("\n"))


def check(
    model: Source,
    task: CheckTask = None,
    revision: Revision = None,
    variant: Variant = None,
    trust_remote_code: Trust = None,
    folder: Folders = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Check a graph file, or the graphs of all tasks of a checkpoint: edges, components and files.

    Reads the headers of weight files, not the weights. Exits with 1 if something is wrong. A further task of the family
    whose components the checkpoint does not have is listed, and is no problem.
    """
    with reported_errors(as_json=json, debug=debug):
        first, *others = _graphs(model, task, Repo(trust_remote_code, revision, variant, tuple(folder or ())))
        lacking = {_name(graph): names for graph in others if (names := _unbound(graph) - _unbound(first))}
        graphs = [first, *(graph for graph in others if _name(graph) not in lacking)]
        found = list({(p.code, p.place): p for graph in reversed(graphs) for p in _problems(graph)}.values())
        if json:
            print_json(
                {
                    "ok": not found,
                    "checked": [_name(g) for g in graphs],
                    "not_served": {name: sorted(names) for name, names in lacking.items()},
                    "problems": [problem_data(p) for p in found],
                }
            )
        elif not found:
            print_text(f"{model}: ok ({', '.join(_name(g) for g in graphs)})")
        for name, names in lacking.items() if not json else ():
            print_text(f"{model}: no components for the task {name}, which needs {', '.join(sorted(names))}")
        for problem in found if not json else ():
            print_text(*str(problem).split("\n"))
        if found:
            if not json:
                print_note("error", f"{model}: {len(found)} problem{'s' if len(found) > 1 else ''}")
            raise typer.Exit(1)


def inspect(
    model: Source, revision: Revision = None, variant: Variant = None, json: Json = False, debug: Debug = False
) -> None:
    """List the contents of a model: its family, its tasks, and each component with class, dtype and size.

    Reads the headers of weight files, not the weights.
    """
    with reported_errors(as_json=json, debug=debug):
        from ..inspect import inspect as inspected

        found = inspected(model, revision=revision, variant=variant)
        if json:
            print_json({**asdict(found), "bytes": found.bytes, "parameters": found.parameters})
        else:
            print_text(*str(found).split("\n"))


def presets(json: Json = False, debug: Debug = False) -> None:
    """List the presets: models that are included, and families of checkpoints."""
    with reported_errors(as_json=json, debug=debug):
        from ...registry import presets as families
        from ..names import family_name, names

        rows: list[dict[str, Any]] = []
        for name in names():
            family = family_name(name)
            rows.append(
                {"name": name, "family": family, "tasks": [*families[family].tasks], "model": name not in families}
            )
        if json:
            print_json(rows)
            return
        width = max(len(row["name"]) for row in rows)
        for row in rows:
            kind = f"included model, family {row['family']}" if row["model"] else "family, needs a checkpoint"
            print_text(f"{row['name']:<{width}}  {kind:<26}  ({', '.join(row['tasks'])})")


def _graphs(model: str, task: str | None, repo: Repo) -> Iterator[Any]:
    """The graph of a graph file, or of the task. Without a task: one graph for each task of the family."""
    from ...registry import presets as families

    first = open_graph(model, task, repo=repo)
    yield first
    path = Path(model).expanduser()
    own_file = (path.suffix == ".json" and path.is_file()) or (path / "graph.json").is_file()
    if task is None and first.preset is not None and not own_file:
        yield from (
            first.task(name) for name in families[first.preset[0]].served(first.bindings) if name != first.preset[1]
        )


def _unbound(graph: Any) -> set[str]:
    """The components that a graph needs and that are not bound."""
    return {problem.place for problem in graph.check() if problem.code == "unbound"}


def _problems(graph: Any) -> Iterator[Any]:
    """The problems of `graph.check`, and then those in the headers of weight files of the other components."""
    from ...components.handle import Handle
    from ...components.loading.component import weight_problems
    from ...graph import Problem

    found = graph.check()
    yield from found
    places = {problem.place for problem in found}
    for name in graph.components:
        bound = graph.bindings.get(name)
        if isinstance(bound, Handle) and name not in places:
            yield from (Problem("weights", name, text) for text in weight_problems(bound.spec))


def _name(graph: Any) -> str:
    return graph.preset[1] if graph.preset else f"{len(graph.nodes)} nodes"


def _graph_data(graph: Any) -> dict[str, Any]:
    """A graph as JSON values: inputs, components, outputs and slots, and the nodes and edges of its file."""
    from ...graph.files import to_json
    from ...graph.typing import type_text

    inputs = {
        name: {"type": type_text(port.type), "required": port.required}
        | ({} if port.required else {"default": _plain(port.default)})
        for name, port in graph.inputs.items()
    }
    components = {
        name: {
            "type": type_text(part.type),
            "required": part.required,
            "bound": str(getattr(graph.bindings[name], "spec", type(graph.bindings[name]).__name__))
            if graph.bindings.get(name) is not None else None,
        }
        for name, part in graph.components.items()
    }  # fmt: skip
    outputs = {name: type_text(port.type) for name, port in graph.outputs.items()}
    slots = {slot: list(paths) for slot, paths in graph.slots.items()}
    whole = to_json(graph)["graph"]
    described: dict[str, Any] = {"preset": list(graph.preset) if graph.preset else None, "inputs": inputs}
    described |= {"components": components, "outputs": outputs, "slots": slots}
    return described | {"nodes": whole["nodes"], "edges": whole["edges"]}


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, bool | int | float | str) else repr(value)
