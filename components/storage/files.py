"""Small files of a checkpoint: find the folder, read JSON, write a file whole or not at all."""

import json
import os
import tempfile
from collections.abc import Collection
from pathlib import Path
from stat import S_ISREG
from typing import Any

from ...graph.errors import LoadError
from .faults import fault_of

CONFIGS = ("config.json", "scheduler_config.json", "guider_config.json", "preprocessor_config.json")
"""Names of config files: of a model, a scheduler, a guider, an image processor."""

TOKENIZERS = ("tokenizer.json", "vocab.json", "tokenizer.model", "spiece.model", "tokenizer_config.json")
"""A tokenizer's folder has at least one of these."""

_MAX_BYTES = 64 * 2**20
"""A larger JSON file is not read. The largest published tokenizers have half of it."""

WEIGHTS = (".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json")
"""Ends of the names of weight files."""


def find_folder(source: str) -> Path:
    """The local folder of this path. LoadError if there is none."""
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists():
        raise LoadError(f"{source}: this is a file, and a folder was wanted. Give the folder that holds it.")
    raise LoadError(f"{source}: there is no such folder. Check the path; the working folder is {Path.cwd()}.")


def read_json(path: Path) -> dict[str, Any]:  # JSON may be anything below its keys
    """The JSON object in a file. LoadError if the file is missing, too large, not JSON, or not an object."""
    try:
        status = path.stat()
        if not S_ISREG(status.st_mode):  # reading a pipe or a device may never end
            raise LoadError(f"{path}: is not a plain file. Put the file itself there.")
        if (size := status.st_size) > _MAX_BYTES:
            raise LoadError(f"{path}: has {size / 1e6:.0f} MB, and no config is larger than {_MAX_BYTES / 1e6:.0f} MB.")
        data = json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise LoadError(f"{path}: is nested too deeply for a config. Fetch the file again.") from None
    except FileNotFoundError:
        names = sorted(p.name for p in path.parent.glob("*"))[:12] if path.parent.is_dir() else []
        folder = f"The folder has: {', '.join(names)}." if names else "The folder is empty or missing."
        raise LoadError(f"{path}: there is no such file. {folder}") from None
    except UnicodeDecodeError as error:
        raise LoadError(f"{path}: not a text file ({error.reason} at byte {error.start}). Fetch it again.") from error
    except json.JSONDecodeError as error:
        if " is damaged or not " not in (text := fault_of(path, "JSON")):  # a pointer, a web page, no content
            raise LoadError(text) from None
        place = f"line {error.lineno}, column {error.colno}"
        raise LoadError(f"{path}: not JSON at {place} ({error.msg}). Fetch the file again, or correct it.") from error
    except ValueError as error:  # a number of more digits than Python reads
        raise LoadError(f"{path}: cannot be read as JSON ({error}).") from None
    if not isinstance(data, dict):
        raise LoadError(f"{path}: needs a JSON object, got {type(data).__name__}. Fetch the file again.")
    return data


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all. After a failure the old file is unchanged."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
        # mkstemp makes files that only their owner can read.
        Path(name).chmod(0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_json(path: Path, data: dict[str, Any]) -> None:
    """Write JSON as published files have it: two spaces, sorted keys, a newline at the end."""
    write_text(path, json.dumps(data, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def has_files(names: Collection[str]) -> bool:
    """Whether a component can be loaded from these files: weights, a tokenizer, or a config that needs no weights."""
    # A folder with only a config.json is a model without its weights.
    return any(n.endswith(WEIGHTS) or n in TOKENIZERS or (n in CONFIGS and n != "config.json") for n in names)
