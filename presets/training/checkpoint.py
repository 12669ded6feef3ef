"""Checkpoints: all that a training needs to go on as if it had not stopped.

A checkpoint is a folder `step-00000120`, or `step-00000120-2` after two batches of the next step. It has
`checkpoint.json` (position, settings, validation loss) and a file of safetensors for each part: what is trained, the
optimizer, the moving average, and for each process its generators and the gradients of an unfinished step. Folders are
saved whole or not at all.
"""

import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ...graph import LoadError, SaveError
from ...graph.json_text import JsonTextError, pretty, read
from ...graph.saving import saving_folder
from ...graph.stored import BrokenFile, NotStored, read_file, restore, store, write_file
from ...registry.log import LOG
from .batches import Position
from .sharding import own_part

FORM = "sfumato training 1"
_FACTS = "checkpoint.json"
_NAME = re.compile(r"step-(\d{8,})(?:-(\d+))?")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on the disk. Its parts are read by `part`."""

    folder: Path
    position: Position
    settings: Mapping[str, Any]  # JSON values
    facts: Mapping[str, Any]  # JSON values

    @property
    def validation_loss(self) -> float | None:
        """The loss on the validation data at this step, if it was measured."""
        return self.facts.get("validation_loss")

    def part(self, name: str) -> Any:  # the stored value
        """A part by its name.

        Raises:
            LoadError: its file is missing or broken.
        """
        file = self.folder / f"{name}.safetensors"
        try:
            return restore(read_file(file, FORM)[0][name], ())
        except OSError as error:
            raise LoadError(f"{file}: cannot be read ({error.strerror or error}). {_OTHER}") from None
        except (BrokenFile, ValueError, KeyError) as error:
            raise LoadError(f"{file}: is broken: {error}. {_OTHER}") from None


_OTHER = "Resume from another checkpoint."


def place_of(folder: Path, position: Position) -> Path:
    """The folder of a checkpoint in the folder of all checkpoints."""
    inside = f"-{position.batch}" if position.batch else ""
    return folder / f"step-{position.step:08d}{inside}"


def write_checkpoint(checkpoint: Checkpoint, parts: Mapping[str, Any]) -> None:
    """Write a checkpoint into its folder, whole or not at all.

    Args:
        checkpoint: its facts.
        parts: values of tensors, numbers, texts, lists and mappings, by name.

    Raises:
        SaveError: it cannot be written. Other checkpoints are unchanged.
    """
    with saving_folder(checkpoint.folder) as draft:
        for name, value in parts.items():
            try:
                stored = store(moved(value, "cpu"))
            except NotStored as error:
                raise SaveError(f"{checkpoint.folder}: {name} has {error}, which no checkpoint can have.") from None
            write_file(draft.path / f"{name}.safetensors", FORM, {name: stored}, {})
        position, settings = asdict(checkpoint.position), checkpoint.settings
        text = pretty({"form": FORM, "position": position, "settings": settings, **checkpoint.facts})
        (draft.path / _FACTS).write_text(text + "\n", encoding="utf-8")


def read_checkpoint(folder: Path) -> Checkpoint:
    """Read the facts of a checkpoint.

    Raises:
        LoadError: no checkpoint, or one of another version.
    """
    file = folder / _FACTS
    try:
        facts = read(file, "config_bytes")
        if facts["form"] != FORM:
            raise LoadError(f"{file}: its form is {facts['form']!r}, and this version reads {FORM!r}. {_OTHER}")
        return Checkpoint(folder, Position(**facts.pop("position")), facts.pop("settings"), facts)
    except OSError as error:
        raise LoadError(f"{folder}: is no checkpoint ({error.strerror or error}: {_FACTS}). Pass its folder.") from None
    except (JsonTextError, KeyError, TypeError, AttributeError) as error:
        raise LoadError(f"{file}: is broken: {error}. {_OTHER}") from None


def checkpoints_in(folder: Path) -> list[Checkpoint]:
    """All checkpoints in a folder, the oldest first. Those whose facts cannot be read are left out with a warning."""
    found = list[Checkpoint]()
    for place in folder.iterdir() if folder.is_dir() else ():
        if _NAME.fullmatch(place.name) and (place / _FACTS).exists():
            try:
                found.append(read_checkpoint(place))
            except LoadError as error:
                LOG.warning("%s", error)
    return sorted(found, key=lambda each: each.position)


def best_of(checkpoints: Iterable[Checkpoint]) -> Checkpoint | None:
    """The checkpoint with the least validation loss; None where it was never measured."""
    measured = [each for each in checkpoints if each.validation_loss is not None]
    return min(measured, key=lambda each: each.validation_loss or 0.0, default=None)


def remove_old(folder: Path, keep: int, present: Position) -> None:
    """Remove all checkpoints but the newest `keep` and the best.

    present: that of the newest one. Later ones are broken, since training went on from one before them.
    """
    every = checkpoints_in(folder)
    found = [each for each in every if each.position <= present]
    kept = [*found[-keep:], best_of(found)]
    for each in every:
        if each not in kept:
            (each.folder / _FACTS).unlink()  # from here on it is no checkpoint, whatever ends the process
            shutil.rmtree(each.folder)


def moved(value: Any, device: Any) -> Any:  # a value of tensors, lists and mappings
    """The value with its tensors on a device. Values of other classes stay as they are."""
    if isinstance(value, Tensor):
        return value.detach().to(device)
    if isinstance(value, dict):
        return {key: moved(item, device) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(moved(item, device) for item in value)
    return value


def bytes_of(value: Any) -> int:  # a value of tensors, lists and mappings
    """The bytes of all tensors in a value, of sharded ones in this process."""
    if isinstance(value, Tensor):
        value = own_part(value)
        return value.numel() * value.element_size()
    inner: Iterable[Any] = (
        value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    )
    return sum(map(bytes_of, inner))
