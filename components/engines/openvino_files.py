"""Converted models on disk: a folder with OpenVINO's two files and the form of the output."""

import json
from pathlib import Path
from typing import Any

from ...graph.errors import LoadError
from ...graph.saving import saving_folder
from ...registry.log import LOG
from ..storage.files import read_json
from .calls import Layout
from .openvino_import import core, openvino

_MODEL, _FORM = "model.xml", "form.json"


def write_ir(model: Any, form: Layout, folder: Path) -> None:  # an openvino.Model
    """Write a converted model, whole or not at all."""
    with saving_folder(folder) as draft:
        openvino().save_model(model, draft.path / _MODEL, compress_to_fp16=False)
        (draft.path / _FORM).write_text(json.dumps({"output": form}))


def read_ir(folder: Path) -> tuple[Any, Layout] | None:
    """A converted model and the form of its output; None if the folder has none."""
    if not (folder / _FORM).is_file():
        return None
    try:
        return core().read_model(folder / _MODEL), read_json(folder / _FORM)["output"]
    except (RuntimeError, LoadError, KeyError) as error:
        LOG.warning("%s: cannot be read, so it is made again: %s", folder, error)
        return None
