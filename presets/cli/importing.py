"""`sfumato import`: a workflow of ComfyUI as a graph."""

from typing import Any

from .messages import print_json, print_text, reported_errors
from .options import Debug, ImportedFile, ImportedFolder, Json, ModelsFolder, PictureFolder
from .sources import paused_garbage_collection


def import_workflow(
    file: ImportedFile,
    models: ModelsFolder = None,
    images: PictureFolder = None,
    output: ImportedFolder = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Read a workflow of ComfyUI: report what becomes of each node, and write its graph with -o.

    The file is JSON in either format, or a picture that ComfyUI made.
    """
    with reported_errors(as_json=json, debug=debug):
        with paused_garbage_collection():
            from ..bridge.comfyui import from_comfyui

            graph, inputs, report = from_comfyui(file, models=models, images=images)
        if output is not None:
            graph.save(output)
        if json:
            print_json({
                "preset": graph.preset, "inputs": {name: _plain(value) for name, value in inputs.items()},
                "nodes": [vars(node) for node in report.nodes],
                "ignored": [one._asdict() for one in report.ignored],
                "files": [{**vars(one), "path": None if one.path is None else str(one.path)} for one in report.files],
                "notes": report.notes, "graph": output,
            })  # fmt: skip
            return
        kind = "/".join(graph.preset) if graph.preset else f"a graph of {len(graph.nodes)} nodes"
        print_text(f"{file}: {kind}")
        print_text(*(f"  {name}={_plain(value)!r}" for name, value in inputs.items()))
        print_text(*str(report).split("\n"))


def _plain(value: Any) -> Any:  # of any input
    """A value as JSON has it; others, such as a picture, as text."""
    return value if isinstance(value, str | int | float | bool | list | None) else type(value).__name__
