"""`sf.from_a1111`: the text of A1111's web UI, Forge or Civitai as a graph, its inputs, and a report."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ....components.picture_files import name_of, read_picture_file
from ....components.picture_texts import PARAMETERS, texts_of
from ....graph import Graph, LoadError, PictureError
from ...load import load
from .infotext import Infotext
from .model_files import ModelFiles
from .models import model_of, parts_of, task_of
from .reading import CHANGES
from .report import Report
from .settings import Settings

_LONGEST_PATH = 1024
_OF_ALL = ("manager", "device", "dtype", "variant", "quantization", "config", "local_files_only")
"""Arguments of `sf.load` that hold for all checkpoints of a text."""


class FromA1111(NamedTuple):
    """A text as a graph: `graph(**inputs)` draws the picture. report: what became of each setting."""

    graph: Graph
    inputs: dict[str, Any]  # values of any input
    report: Report


def from_a1111(
    source: str | os.PathLike[str],
    *,
    folder: str | Path | Sequence[str | Path] = (),
    model: Any = None,  # what sf.load takes, or a Graph
    **settings: Any,
) -> FromA1111:
    """Read the `parameters` of a picture: as text, or from a PNG, JPEG or WebP file.

    Models, LoRAs, embeddings and autoencoders are looked up in `folder` and below, by name and hash. Each setting is in
    the report: used, missing, or not supported. Without a model, the graph is that of the family that the text seems
    to be of, with nothing bound.

    Args:
        source: the text, or the path of a picture.
        folder: a folder with models, or several.
        model: a checkpoint in place of the one that the text names: what `sf.load` takes, or a graph.
        settings: further arguments of `sf.load`: manager, device, dtype, config, text_encoder_2 …

    Raises:
        PictureError: a file that cannot be read, or a picture without such a text.
        LoadError: a folder that does not exist, or a file that was found and cannot be read.
    """
    text = _text(source)
    folders = [Path(one) for one in ([folder] if isinstance(folder, str | Path) else folder)]
    read = Settings(Infotext.of(text), ModelFiles(folders))
    task = task_of(read)
    if model is not None:
        for name in ("Model", "Model hash"):
            read.mark(name, "note", "another model was passed")
    if isinstance(model, Graph):
        graph = model if model.preset is None or model.preset[1] == task else model.task(task)
    else:
        parts: dict[str, Any] = {**parts_of(read), **settings}
        graph = load(model_of(read) if model is None else model, task=task, **parts)
    read.loading = {name: value for name, value in settings.items() if name in _OF_ALL}
    for change in CHANGES:
        graph = change(read, graph)
    return FromA1111(graph, read.inputs, read.report())


def _text(source: str | os.PathLike[str]) -> str:
    """The text itself, or that of a picture."""
    plain = os.fspath(source)
    if isinstance(source, str) and ("\n" in plain or len(plain) > _LONGEST_PATH):
        return plain
    try:
        is_file = Path(plain).expanduser().is_file()
    except (OSError, ValueError) as error:
        raise LoadError(f"{plain[:80]!r}: is no path of a picture ({error}).") from None
    if isinstance(source, str) and not is_file and "Steps: " in plain:
        return plain
    text = texts_of(read_picture_file(plain)).get(PARAMETERS)
    if text is None:
        raise PictureError(
            f"{name_of(plain)}: has no text 'parameters'. A1111's web UI, Forge and sfumato write one; many web sites "
            "remove it."
        )
    return text
