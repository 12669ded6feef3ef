"""The source of a user's own blocks in saved graphs: its files are written beside `graph.json`, with their hashes."""

import hashlib
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from ..code import Source, gather, module_of
from ..errors import GraphFileError, LoadError


@dataclass(frozen=True)
class Origin:
    """Source files, the packages that they require, and the repo and commit that they come from, if any."""

    source: Source
    requirements: Mapping[str, str]
    repo: str | None = None
    revision: str | None = None


_origins: dict[str, Origin] = {}


def remember_origin(package: str, origin: Origin) -> None:
    """Remember the files of a package below `sfumato_hub`, whose code was loaded because the user trusts it."""
    _origins[package] = origin


class ClassFiles(NamedTuple):
    """The source files of a class."""

    package: str
    """Files of one package or folder are written together and keep their relative places."""
    address: str
    """The entry of `auto_map`: "file.Class"."""
    origin: Origin


def class_files(cls: type[Any]) -> ClassFiles | None:
    """The source files of a class. None for classes of sfumato and of installed packages.

    Raises:
        LoadError: the source of this class cannot be saved; the text says why, and what to do.
    """
    package = ".".join(cls.__module__.split(".")[:2])
    if package in _origins:
        return ClassFiles(package, f"{cls.__module__.removeprefix(package + '.')}.{cls.__name__}", _origins[package])
    module = sys.modules.get(cls.__module__)
    file = getattr(module, "__file__", None)
    top = cls.__module__.partition(".")[0]
    where = f"{cls.__module__}.{cls.__qualname__}"
    if why := getattr(cls, "no_file", ""):
        raise LoadError(f"{where}: {why}.")
    if top == "sfumato" or (file is not None and _is_installed(top, file)):
        return None
    advice = "Write it into a module of its own, and import it from there"
    if top == "__main__":
        raise LoadError(f"{where}: is defined in the script or session that runs. {advice}.")
    if file is None or not file.endswith(".py"):
        raise LoadError(f"{where}: has no source file. {advice}.")
    if cls.__qualname__ != cls.__name__:
        raise LoadError(f"{where}: is defined inside a function or class. Define it at the top level of its file.")
    path = Path(file)
    parts = cls.__module__.split(".")
    inner = parts[1:] if len(parts) > 1 else parts  # the package gets another name where it is loaded
    is_init = path.name == "__init__.py"
    entry = "/".join([*(inner if len(parts) > 1 else []), "__init__.py"] if is_init else inner)
    entry = entry if is_init else f"{entry}.py"
    root = path.parents[entry.count("/")]
    source = _source_of(root, entry, path.stat().st_mtime_ns)
    for name, imports in source.imports.items():
        for module_name in imports.outside:
            first = module_name.partition(".")[0]
            if first == top or _is_local(first):
                raise LoadError(
                    f"{where}: {name} imports {module_name}, which is in no installed package and would not be saved. "
                    "Put both into one folder with an __init__.py, and import with `from .`."
                )
    address = f"{module_of(entry)}.{cls.__name__}".lstrip(".")
    if "." not in address:
        raise LoadError(f"{where}: is defined in the __init__.py of its package. {advice}.")
    return ClassFiles(f"{top} {root}", address, Origin(source, _requirements(source)))


@cache
def _source_of(root: Path, entry: str, changed: int) -> Source:
    """The files of a module as they are now; `changed` is the time stamp of its own file."""

    def read(name: str) -> str | None:
        path = root / name
        try:
            return path.read_bytes().decode() if path.is_file() else None
        except (UnicodeDecodeError, OSError) as error:
            raise LoadError(f"{path}: cannot be read as text ({error}).") from None

    return gather([entry], read)


@cache
def _is_installed(top: str, file: str) -> bool:
    """Whether a module belongs to the standard library or to a package that pip knows, editable ones included."""
    if top in sys.stdlib_module_names:
        return True
    folders = {sysconfig.get_path(name) for name in ("purelib", "platlib")}
    return any(Path(file).is_relative_to(folder) for folder in folders) or top in _packages()


@cache
def _is_local(top: str) -> bool:
    """Whether a module belongs to no installed package."""
    if top in sys.builtin_module_names or top in sys.stdlib_module_names or top == "sfumato":
        return False
    file = getattr(sys.modules.get(top), "__file__", None)
    return file is not None and not _is_installed(top, file)


def _packages() -> Mapping[str, list[str]]:
    """The packages that pip knows, by the modules that they install."""
    folders = [Path(entry or ".") for entry in sys.path]
    return _packages_in(tuple((str(folder), folder.stat().st_mtime_ns) for folder in folders if folder.is_dir()))


@lru_cache(1)
def _packages_in(folders: tuple[tuple[str, int], ...]) -> Mapping[str, list[str]]:
    """Read once while no package is installed or removed: it takes a second where there are two hundred."""
    from importlib.metadata import packages_distributions

    return packages_distributions()


def _requirements(source: Source) -> dict[str, str]:
    """The packages that the files import and sfumato does not require, in any version."""
    from importlib.metadata import requires

    tops = {name.partition(".")[0] for imports in source.imports.values() for name in imports.outside}
    tops -= {*sys.stdlib_module_names, "sfumato"}
    if not tops:
        return {}
    known = _packages()
    ours = {_distribution(line) for line in requires("sfumato") or () if "extra ==" not in line}
    found = {known[top][0] for top in sorted(tops) if top in known}
    return {name: "" for name in sorted(found) if _distribution(name) not in ours}


def _distribution(requirement: str) -> str:
    """The name in a requirement line, normalised as pip does."""
    end = next((i for i, c in enumerate(requirement) if not (c.isalnum() or c in "-_.")), len(requirement))
    return requirement[:end].lower().replace("_", "-").replace(".", "-")


# ------------------------------------------------------------------------------------------------ writing
@dataclass
class Code:
    """The files that are written beside a graph file, and its keys about them."""

    auto_map: dict[str, str] = field(default_factory=dict[str, str])
    files: dict[str, str] = field(default_factory=dict[str, str])
    hashes: dict[str, dict[str, str]] = field(default_factory=dict[str, dict[str, str]])
    requirements: dict[str, str] = field(default_factory=dict[str, str])
    without_source: list[str] = field(default_factory=list[str])
    """One text for each class whose source cannot be saved."""

    def keys(self) -> dict[str, Any]:  # JSON values
        """The keys of the graph file."""
        made = {"auto_map": self.auto_map, "code": self.hashes, "requirements": self.requirements}
        return {key: value for key, value in made.items() if value}


def code_of(classes: Mapping[str, type[Any]]) -> Code:
    """The code of these classes, by the names that the file gives them.

    If two packages have files of one name, the second gets a folder of its own.
    """
    made = Code()
    folders: dict[str, str] = {}
    for name, cls in classes.items():
        try:
            found = class_files(cls)
        except LoadError as error:
            made.without_source.append(str(error))
            continue
        if found is None:
            continue
        origin, source = found.origin, found.origin.source
        if found.package not in folders:
            clash = any(made.files.get(file, text) != text for file, text in source.files.items())
            clean = "".join(c if c.isalnum() else "_" for c in found.package.rpartition("/")[2].rpartition(".")[2])
            folders[found.package] = f"{clean}_{source.digest[7:15]}/".lstrip("0123456789") if clash else ""
        folder = folders[found.package]
        made.auto_map[name] = folder.replace("/", ".") + found.address
        for file, text in source.files.items():
            made.files[folder + file] = text
            entry = {"sha256": source.sha256[file], "repo": origin.repo, "revision": origin.revision}
            made.hashes[folder + file] = {key: value for key, value in entry.items() if value is not None}
        made.requirements |= origin.requirements
    return made


def refuse_overwriting(code: Code, folder: Path, before: Mapping[str, Any]) -> None:
    """Raise `GraphFileError` if a file of others would be overwritten.

    `before` is the key "code" of the graph file that the folder already has: its files may be overwritten.
    """
    for name, text in code.files.items():
        path = folder / name
        if path.is_file() and (content := path.read_bytes()) != text.encode():
            entry: Any = before.get(name)
            if not (isinstance(entry, dict) and entry.get("sha256") == hashlib.sha256(content).hexdigest()):
                raise GraphFileError(
                    f"{path}: exists and is not the code of this graph, which would be written there. Save into "
                    "another folder, or move the file."
                )


def write(code: Code, folder: Path) -> None:
    """Write the files into the draft of a save."""
    for name, text in code.files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())
