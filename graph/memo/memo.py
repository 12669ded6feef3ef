"""`Memo`: outputs of blocks by their content keys, in memory and in a folder."""

import os
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from .entry import Entry
from .folder import Folder
from .node_keys import NodeKey

GIB = 2**30


class Memo:
    """Outputs of nodes by their keys; `sf.memo` makes one.

    folder: where they are kept besides; None for memory alone. memory_bytes: the limit in memory.
    """

    def __init__(self, folder: Folder | None, memory_bytes: int) -> None:
        self.folder = folder
        self.memory_bytes = memory_bytes
        self._entries: dict[str, Entry] = {}
        self._other_keys: dict[str, str] = {}  # each with the key of its entry
        self._used = 0
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        """In another process: a memo of the same folder and limits, with nothing in memory yet."""
        return Memo, (self.folder, self.memory_bytes)

    def __repr__(self) -> str:
        where = f", folder {self.folder.path}" if self.folder else ""
        return f"Memo({len(self._entries)} entries, {self._used / 2**20:.1f} MiB in memory{where})"

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: str, notes: list[str]) -> Entry | None:
        """The entry of a key. A file that is broken is removed, and a note says so."""
        with self._lock:
            entry = self._entries.get(self._other_keys.get(key, key))
        if entry is None and self.folder is not None and (entry := self.folder.read(key, notes)) is not None:
            self._keep(entry)
        return entry

    def put(self, entry: Entry, by_values: NodeKey | None = None) -> None:
        """Keep an entry. by_values: another key that finds it."""
        self._keep(entry)
        if self.folder is not None:
            self.folder.write(entry)
        if by_values is None:
            return
        with self._lock:
            self._other_keys[by_values.key] = entry.node.key
        if self.folder is not None:
            self.folder.write(replace(entry, node=by_values))

    def nearest(self, name: str, node: NodeKey) -> Entry | None:
        """The entry of a node of this name that differs in the fewest parts; None without any."""
        with self._lock:
            entries = [e for e in self._entries.values() if e.name == name]
        return min(entries, key=lambda e: len(changed(e.node, node)), default=None)

    def clear(self) -> None:
        """Drop all entries in memory, and remove the files of the folder."""
        with self._lock:
            self._entries.clear()
            self._other_keys.clear()
            self._used = 0
        if self.folder is not None:
            self.folder.clear()

    def _keep(self, entry: Entry) -> None:
        with self._lock:
            if (old := self._entries.pop(entry.node.key, None)) is not None:
                self._used -= old.bytes
            self._entries[entry.node.key] = entry
            self._used += entry.bytes
            while self._used > self.memory_bytes and self._entries:
                least = min(self._entries.values(), key=lambda e: e.seconds / e.bytes)
                self._used -= self._entries.pop(least.node.key).bytes
                self._other_keys = {key: one for key, one in self._other_keys.items() if one != least.node.key}


def memo(path: str | os.PathLike[str] | None = None, *, memory_bytes: int = GIB, folder_bytes: int = 20 * GIB) -> Memo:
    """Make a memo, which keeps outputs of blocks by keys of their code and inputs. `pipe(prompt="a fox", memo=memo)`.

    Outputs are kept in memory up to a number of bytes. Beyond it, those that save the fewest seconds for each
    byte are dropped. With a folder, they are also written there, for later programs and for others that run now. One
    memo may serve many graphs and threads.

    Args:
        path: the folder, which is made at the first write; None for memory alone.
        memory_bytes: the limit in memory.
        folder_bytes: the limit in the folder. Beyond it, the files that were used longest ago are removed.

    Raises:
        ConfigError: a limit below 0, or a path that is a file.
    """
    for name, limit in (("memory_bytes", memory_bytes), ("folder_bytes", folder_bytes)):
        if limit < 0:
            raise ConfigError(f"{name}: needs 0 or more, got {limit}.")
    if path is not None and Path(path).is_file():
        raise ConfigError(f"path: needs a folder, got the file {path}.")
    return Memo(None if path is None else Folder(Path(path), folder_bytes), memory_bytes)


def changed(old: NodeKey, new: NodeKey) -> list[str]:
    """The parts that differ: "code", "config strength", "prompt", "component vae"."""
    return [name for name in {**old.parts, **new.parts} if old.parts.get(name) != new.parts.get(name)]
