"""The code that a repo or folder brings, as text: found by `auto_map`, and nothing of it run."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from ....graph.code import Source, classes_from, gather
from ....graph.errors import LoadError
from ....registry import did_you_mean
from ...storage.files import read_json
from ...storage.location import Folder, Location

CONFIG = "modular_config.json"
"""What diffusers calls the file that says which class a repo of one custom block has."""

_ADDRESS = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", re.ASCII)
_MOST = 2**20
"""Bytes of the largest file of code that is read: the largest model of transformers has a quarter of it."""


@dataclass(frozen=True)
class Code:
    """What a repo or folder brings, before anybody has trusted it."""

    where: str
    """The repo or folder, and the folder inside."""
    place: Path
    """The local copy."""
    source: Source
    auto_map: Mapping[str, str]
    """Names of blocks -> "file.Class"."""
    requirements: Mapping[str, str] = field(default_factory=dict[str, str])
    recorded: Mapping[str, str] = field(default_factory=dict[str, str])
    """The SHA-256 of each file, as the graph file says it."""
    repo: str | None = None
    revision: str | None = None

    @property
    def named(self) -> str:
        """The source with its commit, for people."""
        return f"{self.where} at {self.revision[:12]}" if self.revision else self.where


def read_code(
    root: Location,
    subfolder: str,
    auto_map: Mapping[str, str],
    requirements: Mapping[str, str] | None = None,
    recorded: Mapping[str, str] | None = None,
) -> Code:
    """The files that these blocks are made of, and all that they import from beside them.

    Raises:
        LoadError: addresses that are no "file.Class", files that are missing, too large, links that lead out, no
            text or no Python; classes that are diffusers' own blocks.
    """
    folder = str(PurePosixPath(subfolder)) if subfolder else ""
    where = f"{root.source}/{folder}" if folder else root.source
    try:
        entries = {name: _file_of(name, address) for name, address in auto_map.items()}
        kept: dict[str, str | None] = {}

        def read(name: str) -> str | None:
            if name not in kept:
                kept[name] = _text(root, folder, name)
            return kept[name]

        for name, file in entries.items():
            if read(file) is None:
                there = sorted(n for n in root.names(folder) if n.endswith(".py"))
                text = f"auto_map says that {name!r} is in {file}, which is not there. {did_you_mean(file, there)}"
                raise LoadError(text)
        source = gather(dict.fromkeys(entries.values()), read)
        for name, address in auto_map.items():
            _is_for_us(source, entries[name], address.rpartition(".")[2])
    except LoadError as error:
        raise LoadError(f"{where}: {error}") from None
    repo = None if isinstance(root, Folder) else root.source
    place = root.local(folder, ())
    return Code(where, place, source, auto_map, requirements or {}, recorded or {}, repo, root.revision)


def read_config(root: Location, subfolder: str) -> tuple[dict[str, str], dict[str, str]]:
    """The class and the requirements that a `modular_config.json` names, the class by its name. LoadError where it
    names none."""
    data = read_json(root.local(subfolder, [CONFIG]) / CONFIG)
    auto_map, wanted = data.get("auto_map"), data.get("requirements") or {}
    address = auto_map.get("ModularPipelineBlocks") if isinstance(auto_map, dict) else None
    if not isinstance(address, str):
        form = '{"auto_map": {"ModularPipelineBlocks": "file.Class"}}'
        raise LoadError(f"{root.source}: its {CONFIG} names no class. Came {auto_map!r}, wanted {form}.")
    if not (isinstance(wanted, dict) and all(isinstance(value, str) for value in wanted.values())):
        form = '{"requirements": {"scipy": ">=1.10"}}'
        raise LoadError(f"{root.source}: the requirements in its {CONFIG} are {wanted!r}, wanted {form}.")
    return {address.rpartition(".")[2]: address}, {str(name): str(value) for name, value in wanted.items()}


def _file_of(name: str, address: str) -> str:
    if not _ADDRESS.fullmatch(address):
        elsewhere = " Code of another repo is never taken." if "--" in address else ""
        text = f"auto_map says {address!r} for {name!r}; wanted 'file.Class', a Python file in it and a class in that."
        raise LoadError(f"{text}{elsewhere}")
    return "/".join(address.split(".")[:-1]) + ".py"


def _text(root: Location, folder: str, name: str) -> str | None:
    """The text of one file, exactly as its bytes say it; None where there is none."""
    path = PurePosixPath(folder, name)
    inside = "" if str(path.parent) == "." else str(path.parent)
    if path.name not in root.names(inside):
        return None
    # A link that leads out is refused before anything asks what it leads to.
    if isinstance(root, Folder) and not (root.local(inside, [path.name]) / path.name).is_file():
        raise LoadError(f"{name}: is not a plain file.")
    size = root.size(inside, path.name)
    if size is not None and size > _MOST:
        raise LoadError(f"{name}: has {size / 1e6:.1f} MB, and no file of code is larger than {_MOST / 1e6:.0f} MB.")
    data = (root.local(inside, [path.name]) / path.name).read_bytes()
    if len(data) > _MOST:
        raise LoadError(f"{name}: is larger than {_MOST / 1e6:.0f} MB.")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise LoadError(f"{name}, line {line}: is no UTF-8 text (byte {error.start}: {error.reason}).") from None


def _is_for_us(source: Source, file: str, cls: str) -> None:
    """Refuse what the text alone shows to be no block of ours."""
    bases = classes_from(source.files[file], file, cls)
    if bases is None:
        raise LoadError(f"{file}: has no class {cls!r} at its top level.")
    if theirs := [base for base in bases if base.partition(".")[0] == "diffusers"]:
        raise LoadError(
            f"{file}: {cls} is a block of diffusers ({theirs[0]}), and runs in diffusers only. Here a block is a "
            "subclass of sf.Block with typed ports: write it so (docs/your-own-block.md), or load it with diffusers."
        )
