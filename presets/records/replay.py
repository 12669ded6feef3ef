"""`sf.replay`: make a picture again from the record in its file, and say what differs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from ...components.picture_files import name_of, read_picture_file
from ...components.picture_texts import RECORD, texts_of
from ...graph import Graph, InputError, PictureError, Problem
from ...graph.structure import Structure
from ...registry import printable, printable_lines
from . import inputs, keys
from .keys import Json
from .picture import Picture
from .rebuild import rebuilt
from .record import from_text

Verdict = Literal["identical", "within tolerance", "different"]

LARGEST = 2
"""The largest difference of a channel, of 255, between a picture and its file, for "within tolerance"."""
MEAN_OF_LOSSY = 8.0
"""The largest mean difference, of 255, where the file is lossy."""


@dataclass(frozen=True)
class Replay:
    """A picture that was made again, and how it differs from the recorded one.

    verdict: "identical" where all pixels of the run are equal; "within tolerance" where those of the file are nearly
    so. differences: the parts that are not as recorded, one text for each. picture: the new one. largest, mean: the
    differences of channels between it and the file, of 255. record, graph, inputs: what was run.
    """

    verdict: Verdict
    differences: tuple[str, ...]
    picture: Picture
    largest: int
    mean: float
    record: Json
    graph: Graph
    inputs: Mapping[str, Any]

    def __str__(self) -> str:
        size = "" if self.verdict == "identical" else f" (by {self.largest} of 255 at most, {self.mean:.2f} on average)"
        return printable_lines("\n".join([f"{self.verdict}{size}", *(f"  {text}" for text in self.differences)]))


def read_record(file: Any) -> tuple[Json, Image.Image]:  # what `read_picture_file` takes
    """The record in a picture file, and the picture.

    Raises:
        PictureError: a file that cannot be read, that has no record, or a broken one.
    """
    picture = read_picture_file(file)
    text = texts_of(picture).get(RECORD)
    if text is None:
        raise PictureError(
            f"{name_of(file)}: has no record of a run. Only PNG, JPEG and WebP files that sfumato saved have one, and "
            "many web sites remove it."
        )
    return from_text(text, name_of(file)), picture


def replay(
    file: str | Path,
    *,
    folder: str | Path | Sequence[str | Path] = ".",
    graph: Structure | None = None,
    manager: Any = None,  # a ComponentsManager
    device: Any = None,  # what torch.device takes
    **passed: Any,
) -> Replay:
    """Make a picture again from the record in its file, and compare.

    Nothing in a record is run as code: blocks are looked up by name, as for a graph file, and components by class. A
    record names files by the last parts of their paths, which are looked for in `folder`.

    Args:
        file: a PNG, JPEG or WebP file that sfumato saved.
        folder: the folder, or folders, with the models and adapters that were local files.
        graph: a graph to run in place of the recorded one, such as one with blocks of your own.
        manager: who holds the components; by default the one of this process.
        device: the device of all components; by default the manager's.
        passed: inputs that the record has by their contents only (pictures, tensors) or not at all (private ones), and
            components that were objects in memory. Others replace recorded values, and the report says so.

    Raises:
        PictureError: a file without a record, or with a broken one.
        InputError: inputs or components that must be passed, all of them.
        GraphFileError, LoadError: a graph that cannot be built, or files that are not found.
    """
    record, old = read_record(file)
    made = rebuilt(record, name_of(file), folder, graph, manager, device, passed)
    read = inputs.from_json(made.graph, record["inputs"], made.inputs)
    if read.missing:
        raise InputError(
            [
                Problem("missing", name, f"{reason}. Pass it: sf.replay(file, {name}=…).")
                for name, reason in read.missing.items()
            ]
        )
    differences = [*_versions(record), *made.differences, *_changed_inputs(record, made.graph, read)]
    row, rows = record["picture"].get("row", 0), record["picture"].get("rows", 1)
    pictures = _pictures(made.graph(**read.values), name_of(file))
    if not (isinstance(row, int) and 0 <= row < len(pictures) == rows):
        text = f"{name_of(file)}: is picture {row + 1} of {rows}, and the replay has {len(pictures)}."
        raise PictureError(f"{text} Pass the inputs as they were recorded.")
    picture: Picture = pictures[row]
    largest, mean = _apart(picture, old)
    lossy = old.format != "PNG" and keys.pixels_key(old) != record["picture"].get("pixels")
    if old.format == "PNG" and keys.pixels_key(old) != record["picture"].get("pixels"):
        differences.append("picture: the pixels of the file were changed after it was saved")
    if keys.pixels_key(picture) == record["picture"].get("pixels"):
        verdict: Verdict = "identical"
    else:
        verdict = "within tolerance" if (mean <= MEAN_OF_LOSSY if lossy else largest <= LARGEST) else "different"
    return Replay(verdict, tuple(differences), picture, largest, mean, record, made.graph, read.values)


def _versions(record: Json) -> list[str]:
    now, before = keys.versions(), record["versions"]
    pairs = (
        (name, printable(str(before.get(name, "none"))), now.get(name, "none")) for name in keys.changed(before, now)
    )
    return [f"{name}: {old} made the picture, and this machine has {new}" for name, old, new in pairs]


def _changed_inputs(record: Json, graph: Structure, read: inputs.Inputs) -> list[str]:
    recorded: Mapping[str, Any] = record["keys"].get("inputs", {})
    found = [f"input {name}: another value is passed than the recorded one" for name in read.other]
    own = {name: keys.json_key(data) for name, data in record["inputs"].items()}
    found += [f"input {name}: was changed in the record" for name in keys.changed(recorded, own)]
    defaults = inputs.defaults(graph, read.values)
    for name, value in record["defaults"].items():
        if name in defaults and defaults[name] != value:
            found.append(f"input {name}: its default was {value!r}, and is {defaults[name]!r} now")
    return found


def _pictures(outputs: Mapping[str, Any], where: str) -> list[Picture]:
    """The pictures of a run. Of several outputs with pictures, the first."""
    for value in outputs.values():
        if isinstance(value, Picture):
            return [value]
        if isinstance(value, list) and value and isinstance(value[0], Picture):
            return value
    raise PictureError(f"{where}: the recorded graph has no pictures among its outputs ({', '.join(outputs)}).")


def _apart(new: Image.Image, old: Image.Image) -> tuple[int, float]:
    """The largest and the mean difference of channels."""
    if new.size != old.size:
        return 255, 255.0
    one, other = (np.asarray(picture.convert("RGB"), dtype=np.int16) for picture in (new, old))
    apart = np.abs(one - other)
    return int(apart.max()), float(apart.mean())
