"""The folder of a memo: a file of safetensors for each entry, with the rest as JSON in its header."""

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..json_text import parse
from ..saving import saving_file
from .code import digest
from .entry import Entry
from .library_values import tensor_bytes
from .node_keys import NodeKey
from .stored_values import Stored

_FORM = "sfumato memo 1"
_SUFFIX = ".memo.safetensors"


class Folder:
    """Entries as files, which processes share. A file is whole or absent, and its name is the key of its entry."""

    def __init__(self, path: Path, limit: int) -> None:
        self.path = path
        self.limit = limit

    def write(self, entry: Entry) -> None:
        """Write an entry, unless another process has; beyond the limit, remove the files that were used longest ago."""
        from safetensors.torch import save_file  # here, since few programs have a folder

        file = self._file(entry.node.key)
        if file.exists():
            return
        tensors = {f"{port} {i}": t.cpu() for port, s in entry.outputs.items() for i, t in enumerate(s.tensors)}
        rest = {
            "name": entry.name, "parts": dict(entry.node.parts), "seconds": entry.seconds, "notes": entry.notes,
            "trees": {port: stored.tree for port, stored in entry.outputs.items()},
            "sizes": {port: len(stored.tensors) for port, stored in entry.outputs.items()},
        }  # fmt: skip
        text = json.dumps(rest)
        self.path.mkdir(parents=True, exist_ok=True)
        with saving_file(file) as draft:
            save_file(tensors, draft, {"form": _FORM, "entry": text, "hash": _hash(text, tensors)})
        self._shrink()

    def read(self, key: str, notes: list[str]) -> Entry | None:
        """The entry of a key; None without one. A broken file is removed, and a note says so."""
        from safetensors import SafetensorError, safe_open

        file = self._file(key)
        if not file.is_file():
            return None
        try:
            with safe_open(file, "pt") as opened:
                header = opened.metadata() or {}
                tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  it is no dict
            if header.get("form") != _FORM or header.get("hash") != _hash(header["entry"], tensors):
                raise ValueError("its hash is another one")
            entry = _entry(key, parse(header["entry"]), tensors)
        except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            notes.append(f"{file}: is a broken entry of the memo ({error}). It was removed, and is computed again.")
            with suppress(OSError):
                file.unlink()
            return None
        with suppress(OSError):
            os.utime(file)  # the time of its last use
        return entry

    def clear(self) -> None:
        """Remove the files of all entries."""
        for file in self.path.glob(f"*{_SUFFIX}"):
            file.unlink(missing_ok=True)

    def _file(self, key: str) -> Path:
        return self.path / f"{key}{_SUFFIX}"

    def _shrink(self) -> None:
        found: list[tuple[float, int, Path]] = []
        for file in self.path.glob(f"*{_SUFFIX}"):
            with suppress(OSError):  # another process has removed it
                state = file.stat()
                found.append((state.st_mtime, state.st_size, file))
        left = sum(size for _, size, _ in found)
        for _, size, file in sorted(found):
            if left <= self.limit:
                break
            left -= size
            file.unlink(missing_ok=True)


def _hash(text: str, tensors: dict[str, Any]) -> str:
    return digest(text, *(part for name in sorted(tensors) for part in (name, tensor_bytes(tensors[name]))))


def _entry(key: str, rest: Any, tensors: dict[str, Any]) -> Entry:  # JSON of a file; a wrong form raises
    outputs = {
        port: Stored(tree, [tensors[f"{port} {i}"] for i in range(rest["sizes"][port])])
        for port, tree in rest["trees"].items()
    }
    parts = {str(name): str(part) for name, part in rest["parts"].items()}
    notes = tuple(str(note) for note in rest["notes"])
    return Entry(str(rest["name"]), NodeKey(key, parts), float(rest["seconds"]), outputs, notes)
