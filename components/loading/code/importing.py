"""Trusted code as modules: imported from the hashed text, with the source and the hash in the module names."""

import importlib.abc
import importlib.machinery
import importlib.util
import re
import sys
import threading
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from ....graph.block import Block
from ....graph.code import HUB, Source, module_of
from ....graph.errors import LoadError
from ....graph.files.code import Origin, remember_origin
from ....graph.named import Named
from ....graph.structure import Container
from .reading import Code

_LOCK = threading.RLock()
_made: dict[str, tuple[Source, Path]] = {}  # packages below `sfumato_hub`, with their source and their folder


def package_of(code: Code) -> str:
    """The package of this code, named after its source and hash. The same bytes are imported once."""
    for package, (source, _) in _made.items():
        if source.digest == code.source.digest:
            return package
    name = re.sub(r"\W+", "_", code.repo or code.place.name, flags=re.ASCII).strip("_") or "code"
    return f"{HUB}.{name}_{code.source.digest[7:19]}"


def announce(code: Code) -> str:
    """Register the package of this code, so that graphs with its blocks are saved with it. Runs nothing."""
    package = package_of(code)
    _made.setdefault(package, (code.source, code.place))
    remember_origin(package, Origin(code.source, code.requirements, code.repo, code.revision))
    return package


def import_blocks(code: Code) -> dict[str, type[Block]]:
    """Import the code.

    Returns:
        The classes that its `auto_map` names, by name.

    Raises:
        LoadError: the code raises during its import (with file and line), or a name is not a block class.
    """
    with _LOCK:
        package = announce(code)
        if _FINDER not in sys.meta_path:
            sys.meta_path.append(_FINDER)
        found: dict[str, type[Block]] = {}
        try:
            for name, address in code.auto_map.items():
                found[name] = _class(code, package, address)
        except BaseException:
            for module in [m for m in sys.modules if m == package or m.startswith(f"{package}.")]:
                del sys.modules[module]
            raise
        for name, cls in found.items():
            cls.registered_name = name
        return found


def _class(code: Code, package: str, address: str) -> type[Block]:
    inside, _, attribute = address.rpartition(".")
    file = inside.replace(".", "/") + ".py"
    try:
        module = importlib.import_module(f"{package}.{inside}")
    except (Exception, SystemExit) as error:  # foreign code may raise anything
        raise LoadError(f"{code.named}: {_import_error_text(code, _made[package][1], file, error)}") from error
    made: object = getattr(module, attribute, None)
    if isinstance(made, type) and issubclass(made, Block) and _is_own_block(made):
        return made
    what = f"the class {made.__name__}" if isinstance(made, type) else f"a {type(made).__name__}"
    raise LoadError(f"{code.named}: {file}: {attribute} needs to be a subclass of sf.Block, and is {what}.")


def _is_own_block(cls: type[Block]) -> bool:
    """Whether the class is a block that code can define: not the base, a container or a renamed block."""
    return cls is not Block and not issubclass(cls, Container | Named)


def _import_error_text(code: Code, place: Path, file: str, error: BaseException) -> str:
    """The error of an import, with the innermost file and line of the code itself."""
    places = {str(place / name): name for name in code.source.files}
    line = ""
    for frame in traceback.extract_tb(error.__traceback__):
        if frame.filename in places:
            file, line = places[frame.filename], f", line {frame.lineno}"
    what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    text = f"{file}{line}: raised {what} while it was imported."
    if isinstance(error, ModuleNotFoundError) and error.name:
        top = error.name.partition(".")[0]
        if f"{top}.py" in code.source.files or (code.place / f"{top}.py").is_file():
            text += f" {top}.py is in the same folder: write `from .{top} import …`."
        elif top != HUB:
            text += f" Install its package: pip install {top}, if that is its name."
    return text


class _Finder(importlib.abc.MetaPathFinder):
    """Finds modules below `sfumato_hub`, in memory."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        parts = fullname.split(".")
        if parts[0] != HUB:
            return None
        package = ".".join(parts[:2])
        if fullname == HUB:
            return importlib.util.spec_from_loader(fullname, _Loader("", ""), is_package=True)
        if package not in _made:
            return None
        source, folder = _made[package]
        inside, files = ".".join(parts[2:]), source.files
        for name, text in files.items():
            if module_of(name) == inside:
                loader = _Loader(text, str(folder / name))
                return importlib.util.spec_from_loader(
                    fullname, loader, origin=loader.file, is_package=name.endswith("__init__.py")
                )
        if not inside or any(name.startswith(inside.replace(".", "/") + "/") for name in files):
            return importlib.util.spec_from_loader(fullname, _Loader("", ""), is_package=True)
        return None


class _Loader(importlib.abc.InspectLoader):
    """Runs one text from memory. The file is not read again, so the hashed bytes run."""

    def __init__(self, text: str, file: str) -> None:
        self.text = text
        self.file = file

    def get_source(self, fullname: str) -> str:
        return self.text

    def is_package(self, fullname: str) -> bool:
        return self.file.endswith("__init__.py") or not self.file

    def exec_module(self, module: ModuleType) -> None:
        if self.file:
            module.__file__ = self.file
            exec(compile(self.text, self.file, "exec", dont_inherit=True), module.__dict__)


_FINDER = _Finder()
