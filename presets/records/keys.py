"""Keys of the parts of a run, by which a later run finds the part that differs."""

import hashlib
import json
import platform
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import PIL
import torch
from PIL import Image
from torch import Tensor

from ...components.adapters.adapter import Adapter
from ...components.adapters.embedding import Embedding
from ...components.adapters.over import MachineComponent, innermost
from ...components.contents import file_keys
from ...components.handle import Added, Handle
from ...components.pictures import each_picture
from ...graph import SfumatoError
from ...graph.files.values import strict_json
from ...graph.files.writing import library_version
from ...graph.memo.code import code_key, digest
from ...graph.memo.contents import content_key, file_key
from ...graph.memo.library_values import NoContentKey
from ...graph.paths import blocks_inside
from ...graph.structure import Structure
from ..values import takes_picture

Json = dict[str, Any]
"""An object of JSON values."""

_LETTERS = 16  # of a key in a record: enough to tell contents apart


def versions() -> dict[str, str]:
    """What may change the numbers of a run, beside its parts."""
    found = {
        "sfumato": library_version(),
        "torch": torch.__version__,
        "pillow": PIL.__version__,
        "python": platform.python_version(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
    }
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found


def json_key(data: Any) -> str:  # JSON values
    """The key of JSON values, whatever the order of the names in objects."""
    return digest(json.dumps(data, sort_keys=True))[:_LETTERS]


def pixels_key(picture: Image.Image) -> str:
    """The sha256 of a picture's pixels, with its mode and size."""
    made = hashlib.sha256(f"{picture.mode} {picture.width}x{picture.height}\n".encode())
    made.update(picture.tobytes())
    return made.hexdigest()


def code_keys(graph: Structure) -> dict[str, str]:
    """The key of the code of each block, by its path."""
    return {".".join(path): code_key(type(block))[:_LETTERS] for path, block in blocks_inside(graph)}


def config_keys(graph: Json, path: str = "") -> dict[str, str]:
    """The key of each block of a graph file, by its path: its name, config and renamed ports."""
    found: dict[str, str] = {}
    for node in graph["nodes"]:
        own, place = node, f"{path}{node['name']}"
        while own["block"] == "Named":
            own = own["of"]
        graphs = {"": own["graph"]} if own["block"] == "Graph" else own.get("graphs", {})
        for key, inner in graphs.items():
            part = key.partition(".")[2]
            found |= config_keys(inner, f"{place}.{part}." if part else f"{place}.")
        found[place] = json_key(_without_graphs(node))
    return found


def _without_graphs(node: Json) -> Json:
    plain = {key: value for key, value in node.items() if key not in ("graph", "graphs", "components")}
    return plain | {"of": _without_graphs(plain["of"])} if "of" in plain else plain


def edges_key(graph: Json) -> str:
    """The key of the wires of a graph file, those of the graphs inside too."""

    def wires(part: Any) -> Any:  # JSON values
        if isinstance(part, dict):
            own = {key: value for key, value in part.items() if key in ("edges", "outputs", "slots")}
            return own | {key: wires(value) for key, value in part.items() if key not in (*own, "config", "components")}
        return [wires(one) for one in part] if isinstance(part, list) else None

    return json_key(wires(graph))


def component_key(value: Any) -> Json:  # whatever a graph binds
    """The keys of a component: its class, code, config and files, or the numbers of an object in memory."""
    form = value.form if isinstance(value, MachineComponent) else ""
    whole, value = value, innermost(value)
    if isinstance(value, Added):
        value = value.load()
    if isinstance(value, Handle):
        spec = value.spec
        settings = [spec.hint, spec.config, spec.quantization, spec.variant, spec.subfolder]
        return {
            "class": value.type.__name__,
            "code": code_key(value.type)[:_LETTERS],
            "settings": json_key(settings),
            "files": file_keys(spec),
            "numbers": f"{value.manager.numbers_of(value)}{form}",
        }
    found = {"class": type(value).__name__, "code": code_key(type(value))[:_LETTERS]}
    if is_saved(value):
        return found | {"settings": json_key(strict_json(value.to_config()))}
    with suppress(NoContentKey):
        found["values"] = content_key(whole)
    return found


def is_saved(value: Any) -> bool:  # whatever a graph binds
    """Whether a graph file can name a component: by a spec or a config, and not an object with weights."""
    value = innermost(value)
    if isinstance(value, Handle):
        return not isinstance(value, Added)
    return value is None or (hasattr(value, "to_config") and not hasattr(value, "state_dict"))


def adapter_key(adapter: Adapter | Embedding) -> Json:
    """The name of an adapter or an embedding, its source, its strengths or vectors, and the sha256 of its file."""
    file = adapter.content.file if isinstance(adapter, Adapter) else Path(adapter.source)
    found: Json = {"name": adapter.name}
    if file is not None and file.is_file():
        found |= {"file": file.name, "sha256": file_key(file)}
    if adapter.source and not Path(adapter.source).exists():
        found["source"] = adapter.source  # a repo
    if isinstance(adapter, Embedding):
        return found | {"token": adapter.token, "vectors": content_key(adapter.vectors)[:_LETTERS]}
    return found | {
        "strength": adapter.strength, "by_component": dict(adapter.by_component), "blocks": dict(adapter.blocks),
        "window": list(adapter.window), "curve": [list(point) for point in adapter.curve],
    }  # fmt: skip


def value_key(value: Any, kind: Any) -> str | None:  # any value of an input, and its type
    """The key of a value that a record does not hold: of a picture's pixels, or of a tensor's numbers.

    None for a value whose contents cannot be read.
    """
    try:
        if takes_picture(kind) and value is not None:
            return digest(*(part for one in each_picture(value) for part in _picture_parts(one)))
        return content_key(value)
    except (NoContentKey, SfumatoError, OSError, ValueError):  # ValueError: an open file that is closed by now
        return None


def _picture_parts(picture: Image.Image | Tensor) -> tuple[str, ...]:
    if isinstance(picture, Tensor):
        return ("tensor", content_key(picture.detach().cpu()))
    return (pixels_key(picture),)


def changed(recorded: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """The names whose values differ between two mappings, those that only one has too."""
    return [name for name in dict.fromkeys([*recorded, *found]) if recorded.get(name) != found.get(name)]
