"""The code of a repo or folder as text, found by its `auto_map`. Nothing is run."""

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
"""diffusers' name for the file that names the class of a repo of one custom block."""

_ADDRESS = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", re.ASCII)
_MAX_BYTES = 2**20
"""A larger file of code is not read. The largest model of transformers has a quarter of it."""


@dataclass(frozen=True)
class Code:
    """The code of a repo or folder, trusted or not."""

    where: str
    """The repo or folder, with the subfolder."""
    place: Path
    """The local copy."""
    source: Source
    auto_map: Mapping[str, str]
    """The "file.Class" of each block name."""
    requirements: Mapping[str, str] = field(default_factory=dict[str, str])
    recorded: Mapping[str, str] = field(default_factory=dict[str, str])
    """The SHA-256 of each file, as recorded in the graph file."""
    repo: str | None = None
    revision: str | None = None

    @property
    def named(self) -> str:
        """The source with its commit, for texts."""
        return f"{self.where} at {self.revision[:12]}" if self.revision else self.where


def read_code(
    root: Location,
    subfolder: str,
    auto_map: Mapping[str, str],
    requirements: Mapping[str, str] | None = None,
    recorded: Mapping[str, str] | None = None,
) -> Code:
    """Read the files of these blocks, and the files of the same folder that they import.

    Args:
        root: the folder or repo.
        subfolder: the folder in it.
        auto_map: the "file.Class" of each block name.
        requirements: packages that the code needs, with their versions.
        recorded: the SHA-256 of each file, as the graph file has it.

    Raises:
        LoadError: an address that is not "file.Class"; a file that is missing, too large, a link that leads out, not
            UTF-8 or not Python; a class that is a block of diffusers.
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
                files = sorted(n for n in root.names(folder) if n.endswith(".py"))
                text = f"auto_map names the file {file} for {name!r}, which does not exist. {did_you_mean(file, files)}"
                raise LoadError(text)
        source = gather(dict.fromkeys(entries.values()), read)
        for name, address in auto_map.items():
            _check_class(source, entries[name], address.rpartition(".")[2])
    except LoadError as error:
        raise LoadError(f"{where}: {error}") from None
    repo = None if isinstance(root, Folder) else root.source
    place = root.local(folder, ())
    return Code(where, place, source, auto_map, requirements or {}, recorded or {}, repo, root.revision)


def read_config(root: Location, subfolder: str) -> tuple[dict[str, str], dict[str, str]]:
    """The `auto_map` and the requirements of a `modular_config.json`. LoadError if it names no class."""
    data = read_json(root.local(subfolder, [CONFIG]) / CONFIG)
    auto_map, wanted = data.get("auto_map"), data.get("requirements") or {}
    address = auto_map.get("ModularPipelineBlocks") if isinstance(auto_map, dict) else None
    if not isinstance(address, str):
        form = '{"auto_map": {"ModularPipelineBlocks": "file.Class"}}'
        raise LoadError(f"{root.source}: its {CONFIG} names no class. Needs {form}, got {auto_map!r}.")
    if not (isinstance(wanted, dict) and all(isinstance(value, str) for value in wanted.values())):
        form = '{"requirements": {"scipy": ">=1.10"}}'
        raise LoadError(f"{root.source}: the requirements in its {CONFIG} need the form {form}, got {wanted!r}.")
    return {address.rpartition(".")[2]: address}, {str(name): str(value) for name, value in wanted.items()}


def _file_of(name: str, address: str) -> str:
    if not _ADDRESS.fullmatch(address):
        other_repo = " Code of another repo is never used." if "--" in address else ""
        text = f"auto_map needs 'file.Class' for {name!r} (a Python file and a class in it), got {address!r}."
        raise LoadError(f"{text}{other_repo}")
    return "/".join(address.split(".")[:-1]) + ".py"


def _text(root: Location, folder: str, name: str) -> str | None:
    """The text of one file, without changes to its bytes; None if it does not exist."""
    path = PurePosixPath(folder, name)
    inside = "" if str(path.parent) == "." else str(path.parent)
    if path.name not in root.names(inside):
        return None
    # A link that leads out is refused before its target is looked at.
    if isinstance(root, Folder) and not (root.local(inside, [path.name]) / path.name).is_file():
        raise LoadError(f"{name}: is not a plain file.")
    size = root.size(inside, path.name)
    if size is not None and size > _MAX_BYTES:
        raise LoadError(f"{name}: has {size / 1e6:.1f} MB, and a file of code may have {_MAX_BYTES / 1e6:.0f} MB.")
    data = (root.local(inside, [path.name]) / path.name).read_bytes()
    if len(data) > _MAX_BYTES:
        raise LoadError(f"{name}: is larger than {_MAX_BYTES / 1e6:.0f} MB.")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise LoadError(f"{name}, line {line}: is not UTF-8 text (byte {error.start}: {error.reason}).") from None


def _check_class(source: Source, file: str, cls: str) -> None:
    """Refuse a class that is missing or a block of diffusers, by the text alone."""
    bases = classes_from(source.files[file], file, cls)
    if bases is None:
        raise LoadError(f"{file}: has no class {cls!r} at its top level.")
    if theirs := [base for base in bases if base.partition(".")[0] == "diffusers"]:
        raise LoadError(
            f"{file}: {cls} is a block of diffusers ({theirs[0]}), and runs in diffusers only. sfumato needs a "
            "subclass of sf.Block with typed ports: write one (docs/your-own-block.md), or use diffusers."
        )
