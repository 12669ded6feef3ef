"""A file of values: their tensors as safetensors, and their trees as JSON in its header, with a hash of both."""

import hashlib
import json
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..json_text import parse
from ..limits import check_limit
from ..saving import saving_file
from .values import Stored, tensor_bytes


class BrokenFile(ValueError):
    """A file that is not of the form, or not what was written. The text has the reason."""


def write_file(file: Path, form: str, values: Mapping[str, Stored], rest: Mapping[str, Any]) -> None:
    """Write values by name, whole or not at all. form: the name and version of the kind of file. rest: JSON values."""
    from safetensors.torch import save_file  # here, since few programs store values

    tensors = {f"{name} {i}": t.cpu() for name, stored in values.items() for i, t in enumerate(stored.tensors)}
    content = {**rest, "values": {name: [len(stored.tensors), stored.tree] for name, stored in values.items()}}
    text = json.dumps(content)
    with saving_file(file) as draft:
        save_file(tensors, draft, {"form": form, "content": text, "hash": _hash(text, tensors)})


def read_file(file: Path, form: str) -> tuple[dict[str, Stored], dict[str, Any]]:
    """The values of a file by name, and the rest of its content. No class is made: see `restore`.

    Raises:
        BrokenFile: a file of another form, that is above a limit, or that was changed.
        OSError: it is missing or cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with file.open("rb") as opened:
            check_limit("header_bytes", struct.unpack("<Q", opened.read(8))[0])
        with safe_open(file, "pt") as opened:
            header, names = opened.metadata() or {}, list(opened.keys())
            if header.get("form") != form:
                raise BrokenFile(f"its form is {header.get('form')!r}, not {form!r}")
            check_limit("tensors", len(names))
            tensors = {name: opened.get_tensor(name) for name in names}
        if header.get("hash") != _hash(header["content"], tensors):
            raise BrokenFile("its hash is another one")
        content = parse(header["content"])
        values = {
            name: Stored(tree, [tensors.pop(f"{name} {i}") for i in range(count)])
            for name, (count, tree) in content.pop("values").items()
        }
    except BrokenFile:
        raise
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise BrokenFile(str(error) or type(error).__name__) from error
    return values, content


def _hash(text: str, tensors: Mapping[str, Any]) -> str:
    return _digest(text.encode(), *(part for name in sorted(tensors) for part in _parts(name, tensors[name])))


def _parts(name: str, tensor: Any) -> Iterable[bytes]:
    return name.encode(), str((tensor.dtype, tuple(tensor.shape))).encode(), tensor_bytes(tensor)


def _digest(*parts: bytes) -> str:
    made = hashlib.sha256()
    for part in parts:
        made.update(len(part).to_bytes(8, "little"))
        made.update(part)
    return made.hexdigest()
