"""A workflow from a file: JSON, or a picture that holds one."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from PIL import Image

from ....components.picture_files import EXIF_BYTES, read_picture_file
from ....graph import json_text
from ....graph.errors import GraphFileError, PictureError
from ....registry import printable
from .ui import from_ui, is_ui
from .widgets import ObjectInfo
from .workflow import Workflow, from_api, is_api

_PICTURES = (".png", ".webp", ".jpg", ".jpeg", ".avif")
_OTHERS = {".mp4": "a video", ".webm": "a video", ".latent": "latents", ".safetensors": "weights"}


def read_workflow(file: str | os.PathLike[str] | Mapping[str, Any], object_info: ObjectInfo | None = None) -> Workflow:
    """The workflow of a file or of its JSON, in either format.

    Raises:
        GraphFileError: a file that is missing or cannot be read, or that is no workflow.
    """
    if isinstance(file, Mapping):
        return _workflow(file, "The JSON", object_info)
    path, name = Path(file).expanduser(), printable(str(file))
    if kind := _OTHERS.get(path.suffix.lower()):
        raise GraphFileError(f"{name}: workflows in {kind} are not read. Save the workflow as JSON, or pass a picture.")
    try:
        if path.suffix.lower() in _PICTURES:
            return _of_picture(path, name, object_info)
        data = json_text.read(path, "workflow_bytes")
    except OSError as error:
        raise GraphFileError(f"{name}: cannot be read ({printable(error.strerror or str(error))}).") from None
    except json_text.JsonTextError as error:
        raise GraphFileError(f"{name}: {error}") from None
    return _workflow(data, name, object_info)


def _workflow(data: object, name: str, object_info: ObjectInfo | None) -> Workflow:
    if not isinstance(data, Mapping):
        raise GraphFileError(f"{name}: is no workflow of ComfyUI. Pass a file that ComfyUI saved.")
    found = cast(Mapping[str, Any], data)
    try:
        if is_api(found):
            return from_api(found)
        if is_ui(found):
            return from_ui(found, object_info)
        if isinstance(inner := found.get("prompt"), Mapping):  # what a client sends to the server
            return _workflow(inner, name, object_info)
    except GraphFileError as error:
        raise GraphFileError(f"{name}: {error}") from None
    raise GraphFileError(
        f"{name}: is neither the UI format of ComfyUI (with 'nodes' and 'links') nor its API format (with a class_type "
        "for each node). Pass a file that ComfyUI saved."
    )


def _of_picture(path: Path, name: str, object_info: ObjectInfo | None) -> Workflow:
    """The API format where the picture has it, since nothing in it depends on the front end; else the UI format."""
    try:
        texts = texts_in(read_picture_file(path))
    except PictureError as error:
        raise GraphFileError(f"{name}: {error}") from None
    for key in ("prompt", "workflow"):
        if key in texts:
            try:
                return _workflow(json_text.parse(texts[key]), name, object_info)
            except json_text.JsonTextError as error:
                raise GraphFileError(f"{name}: its {key!r} {error}") from None
    raise GraphFileError(
        f"{name}: has no workflow. Many sites remove it from pictures. Pass the file that ComfyUI saved."
    )


def texts_in(picture: Image.Image) -> dict[str, str]:
    """The texts that ComfyUI writes into a picture, by name: PNG text chunks, or "name:…" in Exif data."""
    made = {
        key: value for key, value in picture.info.items() if key in ("prompt", "workflow") and isinstance(value, str)
    }
    raw = picture.info.get("exif")
    if made or not isinstance(raw, bytes) or len(raw) > 2 * EXIF_BYTES:
        return made
    for value in dict(picture.getexif()).values():
        key, _, text = value.partition(":") if isinstance(value, str) else ("", "", "")
        if key.lower() in ("prompt", "workflow"):
            made[key.lower()] = text.rstrip("\0")
    return made
