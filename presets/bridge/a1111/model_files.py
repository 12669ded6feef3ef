"""Files of models that a text names, in a folder of the user: found by name, and by their hashes."""

import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from ....graph import LoadError
from ....graph.memo.contents import file_key
from ...search import walk

WEIGHTS = (".safetensors", ".sft", ".ckpt", ".pt", ".bin", ".gguf")
_INDEXES = ("model_index.json", "modular_model_index.json")
_OLD_HASH = 8
"""Letters of the hash that versions before 1.0 wrote."""


class Found(NamedTuple):
    """A file or folder, or None; and a note on it."""

    path: Path | None
    note: str = ""


class ModelFiles:
    """The weight files below some folders, and the folders of pipelines."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self.folders = tuple(folders)

    @cached_property
    def paths(self) -> tuple[Path, ...]:
        """Weight files, and folders with an index of a pipeline."""
        found: list[Path] = []
        for folder in self.folders:
            if not folder.is_dir():
                raise LoadError(f"{folder}: there is no such folder. Pass folder= with one that has models.")
            found += [folder] if any((folder / name).is_file() for name in _INDEXES) else []
            for path in walk(folder):
                if path.name in _INDEXES:
                    found.append(path.parent)
                elif path.suffix.lower() in WEIGHTS and path.is_file():
                    found.append(path)
        return tuple(dict.fromkeys(found))

    def find(self, name: str, hash: str = "") -> Found:
        """The file or folder of this name, with or without suffix and folders; else the file that has the hash.

        hash: the first letters of a sha256: of the file, or of its tensors as LoRAs have it; or 8 letters of the oldest
        versions. All files are read for their hashes where no name fits.
        """
        stem = _stem(name)
        named = [path for path in self.paths if name and _stem(path.name) == stem]
        if hash:
            exact = [path for path in named if has_hash(path, hash)]
            if exact:
                return Found(exact[0])
            others = [path for path in self.paths if path not in named and has_hash(path, hash)]
            if others:
                return Found(others[0], f"found by its hash, as {others[0].name}")
        if not named:
            return Found(None, f"no file has this {'name or hash' if hash else 'name'}")
        note = f"its hash is not {hash}" if hash and named[0].is_file() else ""
        several = f"the first of {len(named)} of this name" if len(named) > 1 else ""
        return Found(named[0], "; ".join(filter(None, [note, several])))


def _stem(name: str) -> str:
    plain = PurePosixPath(name.replace("\\", "/")).name
    suffix = next((suffix for suffix in WEIGHTS if plain.lower().endswith(suffix)), "")
    return plain[: len(plain) - len(suffix)].casefold() if suffix else plain.casefold()


def has_hash(file: Path, hash: str) -> bool:
    """Whether a file has a hash that begins with these letters. A folder has none."""
    if not file.is_file():
        return False
    wanted = hash.lower()
    return file_key(file).startswith(wanted) or wanted in (_old_hash(file), tensors_hash(file)[: len(wanted)])


def tensors_hash(file: Path) -> str:
    """The sha256 of a safetensors file without its header, by which A1111 knows LoRAs; "" for other files."""
    if file.suffix != ".safetensors":
        return ""
    with file.open("rb") as data:
        size = int.from_bytes(data.read(8), "little")
        data.seek(8 + min(size, 2**62))
        return hashlib.file_digest(data, "sha256").hexdigest()


def _old_hash(file: Path) -> str:
    """The hash of versions before 1.0: of 64 KiB after the first MiB."""
    with file.open("rb") as data:
        data.seek(0x100000)
        return hashlib.sha256(data.read(0x10000)).hexdigest()[:_OLD_HASH]
