"""Pictures of a class for DreamBooth: the preset draws them once, and a folder keeps them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from ...graph import Graph
from ...graph.edits import edited
from ...graph.files.writing import to_json
from ...graph.saving import saving_file
from ..records.keys import code_keys, component_key, json_key
from ..records.picture import Picture
from ..records.record import attached_adapters

_AT_ONCE = 4
"""Pictures of one call."""


def draw_class_pictures(
    pipe: Graph, prompt: str, count: int, folder: str | Path, inputs: Mapping[str, Any] | None = None
) -> Path:
    """Draw pictures of a class with a preset; returns the folder inside `folder` that keeps them.

    The name of that folder is a key of all that the pictures are made from: the models, the blocks, the prompt and the
    inputs. So a picture is drawn once, and another model or prompt has a folder of its own. The seed of a picture is
    its number.

    Args:
        pipe: the preset.
        prompt: such as "a dog".
        count: of pictures.
        folder: where folders of class pictures are.
        inputs: further inputs of the preset, such as `{"num_inference_steps": 20}`.

    Raises:
        SaveError: a folder that cannot be written.
        InputError: inputs that the preset does not have.
    """
    more = {**(inputs or {})}
    place = Path(folder) / _key(pipe, prompt, more)
    missing = [number for number in range(count) if not _file(place, number).is_file()]
    for start in range(0, len(missing), _AT_ONCE):
        seeds = missing[start : start + _AT_ONCE]
        drawn = pipe(**more, prompt=prompt, num_images_per_prompt=len(seeds), seed=seeds).images
        for number, image in zip(seeds, drawn, strict=True):
            _save(image, _file(place, number))
    return place


def _file(place: Path, number: int) -> Path:
    return place / f"{number:05}.png"


def _save(image: Image.Image | Picture, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with saving_file(file) as draft:
        image.save(draft, format="PNG")


def _key(pipe: Graph, prompt: str, inputs: Mapping[str, Any]) -> str:
    """The key of what class pictures are made from."""
    return json_key(
        {
            "components": {name: component_key(value) for name, value in pipe.bindings.items()},
            "code": code_keys(pipe),
            "graph": to_json(edited(pipe, bindings={}, adapters=None)),
            "adapters": attached_adapters(pipe),
            "prompt": prompt,
            "inputs": {name: repr(value) for name, value in inputs.items()},
        }
    )
