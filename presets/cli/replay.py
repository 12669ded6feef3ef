"""`sfumato replay`: make a picture again from the record in its file."""

from pathlib import Path
from typing import Any

import typer

from ..records.files import write_picture
from .arguments import arguments
from .messages import print_json, print_text, reported_errors
from .options import (
    Debug,
    Device,
    Json,
    ModelFolders,
    Recorded,
    ReplayImage,
    ReplayMask,
    ReplayOutput,
    ReplaySetting,
)  # fmt: skip
from .output import first_path
from .progress import Progress
from .sources import paused_garbage_collection


def replay(
    file: Recorded,
    folder: ModelFolders = None,
    image: ReplayImage = None,
    mask: ReplayMask = None,
    settings: ReplaySetting = None,
    device: Device = None,
    output: ReplayOutput = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Make a picture again from the record in its file, and compare: identical, within tolerance, or what differs.

    Exits with 1 if the new picture is different. Models that were local files are looked for in --folder.
    """
    with reported_errors(as_json=json, debug=debug), Progress() as progress:
        options = arguments({}, {"image": image, "mask_image": mask}, settings or [])
        path = None if output is None else first_path(output, None)[0]
        progress.stage("importing torch")
        with paused_garbage_collection():
            from ..records.replay import replay as replayed
        progress.stage("replaying")
        found = replayed(file, folder=folder or ".", device=device, **_values(file, options.texts))
        if path is not None:
            write_picture(found.picture, path, record=True, private=())
    if json:
        data = {"verdict": found.verdict, "largest": found.largest, "mean": round(found.mean, 4)}
        print_json({**data, "differences": list(found.differences)})
    else:
        print_text(*str(found).split("\n"), *([] if path is None else [str(Path(path))]))
    if found.verdict == "different":
        raise typer.Exit(1)


def _values(file: str, texts: Any) -> dict[str, Any]:  # values of inputs
    """The texts of options, read by the types of the recorded graph's inputs; an unknown name stays text."""
    from ..records.rebuild import input_types
    from ..records.replay import read_record
    from ..values import parsed

    kinds = input_types(read_record(file)[0]) if texts else {}
    return {name: parsed(text, kinds[name]) if name in kinds else text for name, text in texts.items()}
