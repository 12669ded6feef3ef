"""Commands that look and run nothing: show, check, inspect, presets."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from .source import Reach
from .telling import Debug, Json, Refused, Trust, as_data, note, say, telling

_X = Annotated[
    str,
    typer.Argument(
        metavar="X", help="Preset (see: sfumato presets), folder, repo of the Hub, file of weights, or graph file."
    ),
]
_Revision = Annotated[
    str | None, typer.Option(metavar="NAME", help="Branch, tag or commit of a repo.", show_default="main")
]
_Variant = Annotated[
    str | None, typer.Option(metavar="NAME", help="Weights of this form, such as fp16.", show_default=False)
]
_Task = Annotated[str | None, typer.Option(help="Which of the family's graphs.", show_default="text2image")]


def show(
    x: _X,
    task: _Task = None,
    revision: _Revision = None,
    variant: _Variant = None,
    svg: Annotated[
        str | None, typer.Option(metavar="FILE", help="Write the drawing to this file.", show_default=False)
    ] = None,
    mermaid: Annotated[bool, typer.Option("--mermaid", help="Print it as a mermaid flowchart.")] = False,
    trust_remote_code: Trust = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Show a graph: inputs with types and defaults, nodes and edges, components, outputs, slots."""
    with telling(as_json=json, debug=debug):
        if json + mermaid + (svg is not None) > 1:
            raise Refused("--json, --mermaid and --svg are three ways to show it. Give one.")
        from .source import open_graph

        graph = open_graph(x, task, reach=Reach(trust_remote_code, revision, variant))
        if svg is not None:
            from ...components.loading.weights import write_atomically

            drawn, path = graph.show("svg"), Path(svg).expanduser()
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, lambda draft: draft.write_text(drawn, encoding="utf-8"))
            typer.echo(str(path))
        elif json:
            say(_described(graph))
        else:
            typer.echo(graph.show("mermaid" if mermaid else "text"))


def check(
    x: _X,
    task: _Task = None,
    revision: _Revision = None,
    variant: _Variant = None,
    trust_remote_code: Trust = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Check a graph, or every task of a checkpoint: wires, components, files. Exits 1 where something is wrong.

    No weights are read.
    """
    with telling(as_json=json, debug=debug):
        graphs = list(_graphs(x, task, Reach(trust_remote_code, revision, variant)))
        found = list({(p.code, p.place): p for graph in reversed(graphs) for p in graph.check()}.values())
        if json:
            say({"ok": not found, "checked": [_name(g) for g in graphs], "problems": [as_data(p) for p in found]})
        elif not found:
            typer.echo(f"{x}: ok ({', '.join(_name(g) for g in graphs)})")
        for problem in found if not json else ():
            typer.echo(str(problem))
        if found:
            if not json:
                note("error", f"{x}: {len(found)} problem{'s' if len(found) > 1 else ''}")
            raise typer.Exit(1)


def inspect(
    x: _X, revision: _Revision = None, variant: _Variant = None, json: Json = False, debug: Debug = False
) -> None:
    """Say what a preset, folder, repo or file holds: family, tasks, and each component with class, dtype and size.

    Reads the headers of weight files, no weights.
    """
    with telling(as_json=json, debug=debug):
        from ..inspect import inspect as inspected

        found = inspected(x, revision=revision, variant=variant)
        if json:
            say({**asdict(found), "bytes": found.bytes, "parameters": found.parameters})
        else:
            typer.echo(str(found))


def presets(json: Json = False, debug: Debug = False) -> None:
    """List what can be named: presets with a model inside, and families that a folder's model may be of."""
    with telling(as_json=json, debug=debug):
        from ...registry import presets as families
        from ..names import family_name, names

        rows: list[dict[str, Any]] = []
        for name in names():
            family = family_name(name)
            rows.append(
                {"name": name, "family": family, "tasks": [*families[family].tasks], "model": name not in families}
            )
        if json:
            say(rows)
            return
        width = max(len(row["name"]) for row in rows)
        for row in rows:
            kind = f"a model of the family {row['family']}" if row["model"] else "a family: give a folder with a model"
            typer.echo(f"{row['name']:<{width}}  {kind}  ({', '.join(row['tasks'])})")


def _graphs(x: str, task: str | None, reach: Reach) -> Iterator[Any]:
    """The graph of a file or of the task that was asked for; else one for each task of the family."""
    from ...registry import presets as families
    from .source import open_graph

    first = open_graph(x, task, reach=reach)
    yield first
    path = Path(x).expanduser()
    own_file = (path.suffix == ".json" and path.is_file()) or (path / "graph.json").is_file()
    if task is None and first.preset is not None and not own_file:
        yield from (first.task(name) for name in families[first.preset[0]].tasks if name != first.preset[1])


def _name(graph: Any) -> str:
    return graph.preset[1] if graph.preset else f"{len(graph.nodes)} nodes"


def _described(graph: Any) -> dict[str, Any]:
    """A graph as JSON: what it takes, needs and gives, and the nodes and edges of its file."""
    from ...graph.files import to_json
    from ...graph.typing import type_text as in_words

    inputs = {
        name: {"type": in_words(port.type), "required": port.required}
        | ({} if port.required else {"default": _plain(port.default)})
        for name, port in graph.inputs.items()
    }
    components = {
        name: {
            "type": in_words(part.type),
            "required": part.required,
            "bound": str(getattr(graph.bindings[name], "spec", type(graph.bindings[name]).__name__))
            if graph.bindings.get(name) is not None else None,
        }
        for name, part in graph.components.items()
    }  # fmt: skip
    outputs = {name: in_words(port.type) for name, port in graph.outputs.items()}
    slots = {slot: list(paths) for slot, paths in graph.slots.items()}
    whole = to_json(graph)["graph"]
    described: dict[str, Any] = {"preset": list(graph.preset) if graph.preset else None, "inputs": inputs}
    described |= {"components": components, "outputs": outputs, "slots": slots}
    return described | {"nodes": whole["nodes"], "edges": whole["edges"]}


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, bool | int | float | str) else repr(value)
