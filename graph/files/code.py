"""Blocks of one's own in saved graphs: their source goes beside `graph.json`, with the hash of each file."""

import os
import sys
import sysconfig
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from ..code import Source, gather, module_of
from ..errors import GraphFileError, LoadError


@dataclass(frozen=True)
class Origin:
    """Files that were brought by a repo (at a commit) or a folder, and run here because somebody trusted them."""

    source: Source
    requirements: Mapping[str, str]
    repo: str | None = None
    revision: str | None = None


_brought: dict[str, Origin] = {}


def brought(package: str, origin: Origin) -> None:
    """Remember what a package below `sfumato_hub` is made of."""
    _brought[package] = origin


class Home(NamedTuple):
    """The files of a block's class, and what `auto_map` says of it: "file.Class"."""

    package: str
    """What is written together: files of one package or folder keep their places beside each other."""
    address: str
    origin: Origin


def home_of(cls: type[Any]) -> Home | None:
    """The files of a class that no installed package brings; None for classes of sfumato and of such packages.

    Raises:
        LoadError: a class whose source cannot be given to others; says why, and what to do.
    """
    package = ".".join(cls.__module__.split(".")[:2])
    if package in _brought:
        return Home(package, f"{cls.__module__.removeprefix(package + '.')}.{cls.__name__}", _brought[package])
    module = sys.modules.get(cls.__module__)
    file = getattr(module, "__file__", None)
    top = cls.__module__.partition(".")[0]
    if top == "sfumato" or (file is not None and _installed(top, file)):
        return None
    where = f"{cls.__module__}.{cls.__qualname__}"
    move = "Write it into a module of its own, and import it from there"
    if top == "__main__":
        raise LoadError(f"{where}: is written in the script or session that runs. {move}.")
    if file is None or not file.endswith(".py"):
        raise LoadError(f"{where}: has no source file. {move}.")
    if cls.__qualname__ != cls.__name__:
        raise LoadError(f"{where}: is written inside a function or class. Write it at the top of its file.")
    path = Path(file)
    parts = cls.__module__.split(".")
    inner = parts[1:] if len(parts) > 1 else parts  # a package's own name is given anew where it is loaded
    is_init = path.name == "__init__.py"
    entry = "/".join([*(inner if len(parts) > 1 else []), "__init__.py"] if is_init else inner)
    entry = entry if is_init else f"{entry}.py"
    root = path.parents[entry.count("/")]
    source = _source_of(root, entry, path.stat().st_mtime_ns)
    for name, made in source.imports.items():
        for module_name in made.outside:
            first = module_name.partition(".")[0]
            if first == top or _is_local(first):
                text = f"imports {module_name}, which no package brings, so that it would not come along"
                raise LoadError(f"{where}: {name} {text}. Put both into one folder with an __init__.py, and write "
                                "`from .` before what is imported.")  # fmt: skip
    address = f"{module_of(entry)}.{cls.__name__}".lstrip(".")
    if "." not in address:
        raise LoadError(f"{where}: is written in the __init__.py of its package. {move}.")
    return Home(f"{top} {root}", address, Origin(source, _requirements(source)))


@cache
def _source_of(root: Path, entry: str, changed: int) -> Source:
    """The files of a module as they are now; `changed` is when the first of them was written."""

    def read(name: str) -> str | None:
        path = root / name
        try:
            return path.read_bytes().decode() if path.is_file() else None
        except (UnicodeDecodeError, OSError) as error:
            raise LoadError(f"{path}: cannot be read as text ({error}).") from None

    return gather([entry], read)


@cache
def _installed(top: str, file: str) -> bool:
    """Whether a module is of the standard library or of a package that pip knows, editable ones included."""
    from importlib.metadata import packages_distributions

    if top in sys.stdlib_module_names:
        return True
    homes = {sysconfig.get_path(name) for name in ("purelib", "platlib")}
    return any(Path(file).is_relative_to(home) for home in homes) or top in packages_distributions()


@cache
def _is_local(top: str) -> bool:
    """Whether a name is a module that lies in somebody's folder."""
    if top in sys.builtin_module_names or top in sys.stdlib_module_names or top == "sfumato":
        return False
    file = getattr(sys.modules.get(top), "__file__", None)
    return file is not None and not _installed(top, file)


def _requirements(source: Source) -> dict[str, str]:
    """The packages that files import and sfumato does not bring, in any version."""
    from importlib.metadata import packages_distributions, requires

    tops = {name.partition(".")[0] for made in source.imports.values() for name in made.outside}
    tops -= {*sys.stdlib_module_names, "sfumato"}
    if not tops:
        return {}
    known = packages_distributions()
    ours = {_plain(line) for line in requires("sfumato") or () if "extra ==" not in line}
    found = {known[top][0] for top in sorted(tops) if top in known}
    return {name: "" for name in sorted(found) if _plain(name) not in ours}


def _plain(requirement: str) -> str:
    """The name of a requirement line, as pip compares names."""
    end = next((i for i, c in enumerate(requirement) if not (c.isalnum() or c in "-_.")), len(requirement))
    return requirement[:end].lower().replace("_", "-").replace(".", "-")


# ------------------------------------------------------------------------------------------------ writing
@dataclass
class Code:
    """What a graph file says of code, and the files that go beside it."""

    auto_map: dict[str, str] = field(default_factory=dict[str, str])
    files: dict[str, str] = field(default_factory=dict[str, str])
    told: dict[str, dict[str, str]] = field(default_factory=dict[str, dict[str, str]])
    requirements: dict[str, str] = field(default_factory=dict[str, str])
    lost: list[str] = field(default_factory=list[str])
    """Classes whose source cannot be given to others, and why."""

    def keys(self) -> dict[str, Any]:  # JSON values
        """The keys of the graph file."""
        made = {"auto_map": self.auto_map, "code": self.told, "requirements": self.requirements}
        return {key: value for key, value in made.items() if value}


def code_of(classes: Mapping[str, type[Any]]) -> Code:
    """The code of these classes, by the names that the file gives them. Files of packages that would stand on each
    other's places go into folders of their own."""
    made = Code()
    places: dict[str, str] = {}
    for name, cls in classes.items():
        try:
            home = home_of(cls)
        except LoadError as error:
            made.lost.append(str(error))
            continue
        if home is None:
            continue
        source, origin = home.origin.source, home.origin
        if home.package not in places:
            taken = any(made.files.get(file, text) != text for file, text in source.files.items())
            clean = "".join(c if c.isalnum() else "_" for c in home.package.rpartition("/")[2].rpartition(".")[2])
            places[home.package] = f"{clean}_{source.digest[7:15]}/".lstrip("0123456789") if taken else ""
        place = places[home.package]
        made.auto_map[name] = place.replace("/", ".") + home.address
        of = {"repo": origin.repo, "revision": origin.revision}
        for file, text in source.files.items():
            made.files[place + file] = text
            told = {"sha256": source.sha256[file], **of}
            made.told[place + file] = {key: value for key, value in told.items() if value is not None}
        made.requirements |= origin.requirements
    return made


def check_free(code: Code, place: Path, before: Mapping[str, Any]) -> None:
    """Refuse to write over files of others; `before` is what the graph file that is there says of its code."""
    for name, text in code.files.items():
        path = place / name
        if path.is_file() and (there := path.read_bytes()) != text.encode():
            import hashlib

            said: Any = before.get(name)
            if not (isinstance(said, dict) and said.get("sha256") == hashlib.sha256(there).hexdigest()):
                raise GraphFileError(
                    f"{path}: is another file than the code of this graph that would stand there. Save into another "
                    "folder, or move it away."
                )


def write(code: Code, place: Path) -> None:
    """Put the files into the folder, each whole or not at all."""
    for name, text in code.files.items():
        path = place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(text.encode())
        Path(draft).chmod(0o644)
        os.replace(draft, path)
