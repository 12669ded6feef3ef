"""The folder of a memo: a file of safetensors for each entry, with the rest as JSON in its header."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..stored import Stored, read_file, write_file
from .entry import Entry
from .node_keys import NodeKey

_FORM = "sfumato memo 2"
_SUFFIX = ".memo.safetensors"


class Folder:
    """Entries as files, which processes share. A file is whole or absent, and its name is the key of its entry."""

    def __init__(self, path: Path, limit: int) -> None:
        self.path = path
        self.limit = limit

    def write(self, entry: Entry) -> None:
        """Write an entry, unless another process has; beyond the limit, remove the files that were used longest ago."""
        file = self._file(entry.node.key)
        if file.exists():
            return
        self.path.mkdir(parents=True, exist_ok=True)
        rest = {"name": entry.name, "parts": dict(entry.node.parts), "seconds": entry.seconds, "notes": entry.notes}
        write_file(file, _FORM, entry.outputs, rest)
        self._shrink()

    def read(self, key: str, notes: list[str]) -> Entry | None:
        """The entry of a key; None without one. A broken file is removed, and a note says so."""
        file = self._file(key)
        if not file.is_file():
            return None
        try:
            outputs, rest = read_file(file, _FORM)
            entry = _entry(key, outputs, rest)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
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


def _entry(key: str, outputs: dict[str, Stored], rest: Any) -> Entry:  # JSON of a file; a wrong form raises
    parts = {str(name): str(part) for name, part in rest["parts"].items()}
    notes = tuple(str(note) for note in rest["notes"])
    return Entry(str(rest["name"]), NodeKey(key, parts), float(rest["seconds"]), outputs, notes)
