"""Sample pictures during a training. The preset itself draws them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...graph import Graph


def draw_samples(pipe: Graph, calls: Sequence[Mapping[str, Any]], folder: Path | None) -> dict[Path, str]:
    """Draw the pictures of some calls, and save them. Gives the files with their prompts.

    Args:
        pipe: the preset, with what has been trained attached.
        calls: inputs of the preset.
        folder: where to save `0-0.png`: the number of the call, and of its picture. None: nothing is saved.
    """
    files = dict[Path, str]()
    for number, call in enumerate(calls):
        pictures = pipe(**call).images
        if folder is None:
            continue
        folder.mkdir(parents=True, exist_ok=True)
        for index, picture in enumerate(pictures):
            file = folder / f"{number}-{index}.png"
            picture.save(file)
            files[file] = str(call.get("prompt", ""))
    return files
