"""Small files of a checkpoint folder: where the folder is, reading JSON, writing it all or not at all."""

import json
import os
import tempfile
from collections.abc import Collection
from pathlib import Path
from stat import S_ISREG
from typing import Any

from ...graph.errors import LoadError

CONFIGS = ("config.json", "scheduler_config.json", "guider_config.json", "preprocessor_config.json")
"""What the config of a component is called, by kind: model, scheduler, guider, image processor."""

TOKENIZERS = ("tokenizer.json", "vocab.json", "tokenizer.model", "spiece.model", "tokenizer_config.json")
"""Files of which a tokenizer's folder has at least one."""

_MOST = 64 * 2**20
"""Bytes of the largest JSON file that is read: the largest tokenizers that are published have half of it."""

WEIGHTS = (".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json")
"""How the names of weight files end."""


def locate(source: str) -> Path:
    """The local folder of that name. LoadError where there is none."""
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists():
        raise LoadError(f"{source}: this is a file, and a folder was wanted. Give the folder that holds it.")
    raise LoadError(f"{source}: there is no such folder. Check the path; the working folder is {Path.cwd()}.")


def read_json(path: Path) -> dict[str, Any]:  # JSON may be anything below its keys
    """The JSON object in the file `path`. A missing file, bad JSON or a list is a LoadError that says where."""
    try:
        there = path.stat()
        if not S_ISREG(there.st_mode):  # to read a pipe or a device may never end
            raise LoadError(f"{path}: is no plain file. Put the file itself there.")
        if (size := there.st_size) > _MOST:
            raise LoadError(f"{path}: has {size / 1e6:.0f} MB, and no config is larger than {_MOST / 1e6:.0f} MB.")
        data = json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise LoadError(f"{path}: is nested too deeply for a config. Fetch the file again.") from None
    except FileNotFoundError:
        beside = sorted(p.name for p in path.parent.glob("*"))[:12] if path.parent.is_dir() else []
        there = f"The folder has: {', '.join(beside)}." if beside else "The folder is empty or missing."
        raise LoadError(f"{path}: there is no such file. {there}") from None
    except UnicodeDecodeError as error:
        raise LoadError(f"{path}: not a text file ({error.reason} at byte {error.start}). Fetch it again.") from error
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise LoadError(f"{path}: not JSON at {where} ({error.msg}). Fetch the file again, or mend it.") from error
    except ValueError as error:  # a number of more digits than Python reads
        raise LoadError(f"{path}: cannot be read as JSON ({error}).") from None
    if not isinstance(data, dict):
        raise LoadError(f"{path}: came {type(data).__name__}, wanted a JSON object of keys. Fetch the file again.")
    return data


def write_text(path: Path, text: str) -> None:
    """Write the file whole or not at all: readers never see half of it, and a failure leaves the old one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
        # mkstemp makes files that only their owner reads; a checkpoint is meant to be shared as its folder is.
        Path(name).chmod(0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_json(path: Path, data: dict[str, Any]) -> None:
    """Write `data` as the ecosystem does: two spaces, sorted keys, a newline at the end."""
    write_text(path, json.dumps(data, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def has_files(names: Collection[str]) -> bool:
    """Whether a component can be loaded from files of these names: weights, a config that needs none, a tokenizer."""
    # A config.json alone is a model whose weights are elsewhere.
    return any(n.endswith(WEIGHTS) or n in TOKENIZERS or (n in CONFIGS and n != "config.json") for n in names)
