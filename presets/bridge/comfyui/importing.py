"""`sf.from_comfyui`: a workflow of ComfyUI as a graph, with its values and a report."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ....blocks.control.flux import EncodeControl
from ....blocks.image.read import ReadImage
from ....blocks.image.resize import ResizeImages
from ....components.picture_files import read_picture_file
from ....graph import Graph
from ....graph.errors import GraphFileError
from .explicit import Explicit
from .files import Files, Models
from .opening import read_workflow
from .padding import margins, padded
from .pipelines import preset_graph, with_defaults
from .preset_form import Single, inputs_of, single_of
from .reading import Known, known_of
from .report import NodeReport, Report
from .values import Out, Picture, PictureMask, Value
from .workflow import Workflow


class Imported(NamedTuple):
    """A workflow as a graph: `graph(**inputs)` runs it. report: what became of each node, and which files it needs."""

    graph: Graph
    inputs: dict[str, Any]  # values of any input
    report: Report


def from_comfyui(
    file: str | os.PathLike[str] | Mapping[str, Any] | Workflow,
    *,
    models: Models = None,
    images: str | os.PathLike[str] | None = None,
    object_info: Mapping[str, Any] | None = None,
    **settings: Any,
) -> Imported:
    """Read a workflow of ComfyUI: the UI format that users save, or the API format, from JSON or from a picture.

    A workflow with one sampler becomes the preset of its family, whose settings have the workflow's values as defaults:
    `graph(prompt=…)` goes on with them. Others become a graph with a block for each node. A node without a block is a
    `Hole`: `graph.replace(name, block)` fills it.

    Args:
        file: a JSON file, a PNG, WebP or JPEG picture that ComfyUI saved, or the JSON itself.
        models: ComfyUI's folder `models`, or a mapping from names of files to paths. Without it no model is bound.
        images: ComfyUI's folder `input`, where the pictures are that the workflow loads.
        object_info: the answer of a ComfyUI server to `/object_info`, which names the widgets of all its node types.
        settings: as for `sf.load`: manager, device, dtype, quantization.

    Raises:
        GraphFileError: a file that is no workflow, or one whose nodes read each other in a circle.
        LoadError: a model file that was found and cannot be read.
    """
    workflow = file if isinstance(file, Workflow) else read_workflow(file, object_info)
    known = known_of(workflow)
    urls = {name: url for node in workflow.nodes.values() for name, (_, url) in node.models.items()}
    files, notes = Files(models, urls), list[str]()
    single = single_of(known.saved[0][1]) if len(known.saved) == 1 else None
    if single is not None:
        graph, found, blocks = *_preset(single, files, settings, notes), dict[str, str]()
    else:
        if not known.saved:
            raise GraphFileError("The workflow saves no picture, so it has no output. Add a node SaveImage.")
        builder = Explicit(known, files, settings, notes)
        graph, found, blocks = builder.graph(), builder.wiring.inputs, builder.blocks
    inputs = {name: _with_file(value, images, notes) for name, value in found.items()}
    inputs |= _size_of_picture(graph, inputs)
    if single is not None:
        graph = with_defaults(graph, inputs)
    return Imported(graph, inputs, _report(known, files, notes, blocks))


def _preset(
    single: Single, files: Files, settings: Mapping[str, Any], notes: list[str]
) -> tuple[Graph, dict[str, Any]]:
    graph = preset_graph(single, files, settings, notes)
    inputs = inputs_of(single)
    for name in [name for name in inputs if name not in graph.inputs]:
        notes.append(f"the input {name!r} is left out: the graph does not have it")
        del inputs[name]
    return graph, inputs


def _size_of_picture(graph: Graph, inputs: Mapping[str, Any]) -> dict[str, int]:
    """Height and width of the picture that a run starts from, or that the denoiser reads as channels.

    ComfyUI draws at its size, and presets at their own.
    """
    if "height" in inputs or "height" not in graph.inputs:
        return {}
    read, encode = graph.nodes.get("read"), graph.nodes.get("encode_control")
    if isinstance(read, ReadImage) and read.height is not None:
        name, multiple = "image", read.multiple
    elif isinstance(encode, EncodeControl):
        name, multiple = "control_image", encode.multiple
    elif graph.preset is None and not any(isinstance(block, ResizeImages) for block in graph.nodes.values()):
        name, multiple = "image", EncodeControl.multiple  # a block between changes no size
    else:
        return {}
    picture = inputs.get(name)
    if isinstance(picture, str):
        picture = read_picture_file(picture) if Path(picture).is_file() else None
    if picture is None:
        return {}
    width, height = (max(side // multiple, 1) * multiple for side in picture.size)
    return {"height": height, "width": width}


def _with_file(value: Value, images: str | os.PathLike[str] | None, notes: list[str]) -> Any:  # of any input
    """A picture as the path of its file, where that was found; else its name."""
    if isinstance(value, PictureMask):
        return _mask(value, images, notes)
    if not isinstance(value, Picture):
        return value
    path = None if images is None else Path(images) / value.name
    if path is not None and ".." not in path.parts and path.is_file():
        picture = read_picture_file(path)
        if value.pad is not None:
            return padded(picture, value.pad)
        # ComfyUI reads the colours of transparent parts, which a mask in the alpha channel covers.
        return picture.convert("RGB") if picture.has_transparency_data else str(path)
    notes.append(f"the picture {value.name!r} was not found: pass images= with its folder")
    return value.name


def _mask(value: PictureMask, images: str | os.PathLike[str] | None, notes: list[str]) -> Any:  # a picture
    """The transparent part of a picture is what ComfyUI paints: its alpha channel, inverted."""
    from PIL import ImageOps

    found = _with_file(value.picture, images, notes)
    if found == value.picture.name or images is None:
        return value.picture.name
    picture = read_picture_file(Path(images) / value.picture.name).convert("RGBA")
    if value.picture.pad is not None:
        return margins(picture, value.picture.pad)
    if value.channel in ("red", "green", "blue"):
        return picture.getchannel(value.channel[0].upper())
    return ImageOps.invert(picture.getchannel("A"))


def _report(known: Known, files: Files, notes: list[str], blocks: Mapping[str, str]) -> Report:
    nodes: list[NodeReport] = []
    for node in known.workflow.nodes.values():
        fate, text = known.fates[node.id]
        nodes.append(NodeReport(node.id, node.type, node.title, fate, text, blocks.get(node.id, "")))
        files.want(value.file for value in _loaded(known, node.id) if value is not None)
    return Report(tuple(nodes), known.workflow.ignored, files.needed, tuple(dict.fromkeys(notes)))


def _loaded(known: Known, name: str) -> list[Any]:
    found = [value for link, value in known.values.items() if link.node == name]
    return [value for value in found if hasattr(value, "file") and not isinstance(value, Out)]
