"""`sf.save_values` and `sf.load_values`: conditionings, latents and other values of a run in a file."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..graph.errors import LoadError, SaveError
from ..graph.files.faults import reads_files
from ..graph.stored import BrokenFile, NotStored, read_file, restore, store, write_file
from ..registry import blocks
from .types import Conditioning, Random, Schedule

FORM = "sfumato values 1"
CLASSES = (Conditioning, Random, Schedule)
"""Classes of values, imported here since a file can import nothing."""


def save_values(file: str | os.PathLike[str], /, **values: Any) -> Path:  # any values that flow in a graph
    """Write values into a file of safetensors, whole or not at all. Gives its path.

    `sf.save_values("fox.safetensors", positive=…, latents=…)`: tensors, conditionings, schedules, random states,
    pictures, numbers and texts, and lists of them. The file has the tensors, and the rest as JSON in its header.

    Raises:
        SaveError: a value of another kind, such as a model or a function; a file that cannot be written.
    """
    stored = {}
    for name, value in values.items():
        try:
            stored[name] = store(value)
        except NotStored as error:
            raise SaveError(f"{name}: is {error}, which a file of values cannot have. Leave it out.") from None
    write_file(Path(file), FORM, stored, {})
    return Path(file)


@reads_files
def load_values(file: str | os.PathLike[str]) -> dict[str, Any]:
    """Read what `save_values` wrote: `pipe(**sf.load_values("fox.safetensors"), seed=7)`.

    A file from a stranger is safe to read. It runs no code and imports nothing: classes are those of this library, and
    of packages whose blocks are imported. Tensors are on the device that they were on, or on the CPU where this machine
    lacks it.

    Raises:
        LoadError: a file that is missing, broken, or of another kind.
    """
    path = Path(file)
    try:
        stored, _ = read_file(path, FORM)
        return {name: restore(value, value_packages()) for name, value in stored.items()}
    except FileNotFoundError:
        raise LoadError(f"{path}: there is no such file. sf.save_values(file, …) writes one.") from None
    except OSError as error:
        raise LoadError(f"{path}: cannot be read ({error.strerror or error}).") from error
    except ValueError as error:
        kind = "cannot be read as values" if isinstance(error, BrokenFile) else "has a value that cannot be made"
        raise LoadError(f"{path}: {kind}: {error}. sf.save_values(file, …) writes such files.") from None


def value_packages() -> frozenset[str]:
    """The packages whose classes of values a file may name: this one, and those of the known blocks."""
    return frozenset({__name__.partition(".")[0], *_packages(blocks)})


def _packages(names: Iterable[str]) -> set[str]:
    return {name.partition(".")[0] for name in names if "." in name}
