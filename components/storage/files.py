"""Small files of a checkpoint: find the folder, read JSON, write JSON and text."""

import json
from collections.abc import Collection, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from ...graph import json_text
from ...graph.errors import LoadError
from ...graph.json_text import JsonTextError
from ...graph.limits import AboveLimit, check_limit
from ...graph.saving import saving_file, undo_interrupted
from .faults import fault_of

CONFIGS = ("config.json", "scheduler_config.json", "guider_config.json", "preprocessor_config.json")
"""Names of config files: of a model, a scheduler, a guider, an image processor."""

TOKENIZERS = ("tokenizer.json", "vocab.json", "tokenizer.model", "spiece.model", "tokenizer_config.json")
"""A tokenizer's folder has at least one of these."""

WEIGHTS = (".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json")
"""Ends of the names of weight files."""


def find_folder(source: str) -> Path:
    """The local folder of this path, after undoing a save that was interrupted. LoadError if there is none."""
    folder = Path(source).expanduser()
    if folder.is_dir():
        undo_interrupted(folder)
        return folder
    if folder.exists():
        raise LoadError(f"{source}: this is a file, and a folder was wanted. Give the folder that holds it.")
    raise LoadError(f"{source}: there is no such folder. Check the path; the working folder is {Path.cwd()}.")


def read_json(path: Path, most: str = "config_bytes") -> dict[str, Any]:  # JSON may be anything below its keys
    """The JSON object in a file. `most` is the name of the limit on its bytes, in `graph/limits.py`.

    Raises:
        LoadError: a file that is missing, too large, not strict JSON, or not an object.
    """
    with reading_text(path):
        data = json_text.read(path, most, infinity=True)
    if not isinstance(data, dict):
        raise LoadError(f"{path}: needs a JSON object, got {type(data).__name__}. Fetch the file again.")
    with reading_text(path):
        if most == "config_bytes":
            check_limit("config_keys", len(cast("dict[str, Any]", data)))
    return cast("dict[str, Any]", data)


def read_lines(path: Path, most: str) -> list[str]:
    """The lines of a text file. LoadError as for `read_json`."""
    with reading_text(path):
        return json_text.read_text(path, most).split("\n")


@contextmanager
def reading_text(path: Path) -> Generator[None]:
    """Raise errors of the reader as LoadError, with the path, what is wrong, and what to do."""
    try:
        yield
    except FileNotFoundError:
        names = sorted(p.name for p in path.parent.glob("*"))[:12] if path.parent.is_dir() else []
        folder = f"The folder has: {', '.join(names)}." if names else "The folder is empty or missing."
        raise LoadError(f"{path}: there is no such file. {folder}") from None
    except OSError as error:
        raise LoadError(f"{path}: cannot be read ({error.strerror or error}). Check its permissions.") from None
    except AboveLimit as error:
        raise LoadError(f"{path}: {error}") from None
    except JsonTextError as error:
        text = fault_of(path, "JSON")  # a pointer, a web page, no content
        known = " is damaged or not " not in text and " is not JSON " in f" {error}"
        raise LoadError(text if known else f"{path}: {error}") from None


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all (`saving_file`). SaveError if it cannot be written."""
    with saving_file(path) as draft:
        draft.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, data: dict[str, Any]) -> None:
    """Write JSON as published files have it: two spaces, sorted keys, a newline at the end. See `write_text`."""
    write_text(path, json.dumps(data, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def has_files(names: Collection[str]) -> bool:
    """Whether a component can be loaded from these files: weights, a tokenizer, or a config that needs no weights."""
    # A folder with only a config.json is a model without its weights.
    return any(n.endswith(WEIGHTS) or n in TOKENIZERS or (n in CONFIGS and n != "config.json") for n in names)
