"""The Python files of blocks, read as text. Nothing is run."""

import ast
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from .errors import LoadError

HUB = "sfumato_hub"
"""The package of all code from repos and folders. Each has a subpackage named with its digest."""

_RUNS = ("__import__", "compile", "eval", "exec", "import_module")  # calls that may run code that is not in the text


class Imports(NamedTuple):
    """The imports of one file: modules of other packages, files beside it, and calls that may import more."""

    outside: tuple[str, ...]
    inside: tuple[str, ...]
    calls: tuple[str, ...]


@dataclass(frozen=True)
class Source:
    """The texts of Python files, by path inside the repo or folder ("block.py", "parts/mirror.py")."""

    files: Mapping[str, str]

    @cached_property
    def sha256(self) -> dict[str, str]:
        """The hash of each file."""
        return {name: hashlib.sha256(text.encode()).hexdigest() for name, text in sorted(self.files.items())}

    @cached_property
    def digest(self) -> str:
        """One hash of all names and contents."""
        return hash_of(self.sha256)

    @cached_property
    def imports(self) -> dict[str, Imports]:
        """The imports of each file."""
        return {name: _imports(parse(name, text), name, self.files.get)[0] for name, text in self.files.items()}


def hash_of(sha256: Mapping[str, str]) -> str:
    """The digest of several files, from the hash of each."""
    lines = "".join(f"{name}\0{value}\n" for name, value in sorted(sha256.items()))
    return f"sha256:{hashlib.sha256(lines.encode()).hexdigest()}"


def gather(entries: Iterable[str], read: Callable[[str], str | None]) -> Source:
    """These files, and all files beside them that they import. `read` returns the text of a file, or None.

    Raises:
        LoadError: a file is missing or is no valid Python.
    """
    found: dict[str, str] = {}
    todo = [(name, "") for name in entries]
    while todo:
        name, by = todo.pop(0)
        if name in found:
            continue
        text = read(name)
        if text is None:
            raise LoadError(f"{by or name}: {f'imports {name}, which' if by else 'this file'} does not exist.")
        found[name] = text
        more, missing = _imports(parse(name, text), name, read)
        if missing:
            line, what = missing[0]
            raise LoadError(f"{name}, line {line}: imports {what!r}, and no such file is beside it.")
        parents = [f"{'/'.join(name.split('/')[:i])}/__init__.py".lstrip("/") for i in range(name.count("/") + 1)]
        todo += [(other, name) for other in more.inside]
        todo += [(init, name) for init in parents if read(init) is not None]
    return Source(dict(sorted(found.items())))


def parse(name: str, text: str) -> ast.Module:
    """The syntax tree of a file. Raises `LoadError` if it is no valid Python."""
    try:
        return ast.parse(text, name)
    except SyntaxError as error:
        raise LoadError(f"{name}, line {error.lineno or '?'}: is no Python ({error.msg}).") from None
    except (RecursionError, MemoryError, ValueError) as error:
        raise LoadError(f"{name}: cannot be read as Python ({error or type(error).__name__}).") from None


def module_of(name: str) -> str:
    """The module name of a file: `parts.mirror` for "parts/mirror.py". An `__init__.py` has the name of its folder.

    >>> module_of("parts/mirror.py"), module_of("parts/__init__.py"), module_of("__init__.py")
    ('parts.mirror', 'parts', '')
    """
    return name.removesuffix(".py").removesuffix("__init__").rstrip("/").replace("/", ".")


def _imports(
    tree: ast.Module, name: str, read: Callable[[str], str | None]
) -> tuple[Imports, list[tuple[int, str]]]:  # and missing files: line and import
    outside: set[str] = set()
    inside: set[str] = set()
    calls: set[str] = set()
    missing: list[tuple[int, str]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            outside |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            outside.add(node.module or "")
        elif isinstance(node, ast.ImportFrom):
            files = _beside(node, name, read)
            if not files:
                missing.append((node.lineno, f"{'.' * node.level}{node.module or ''}"))
            inside |= files
        elif isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            # `re.compile` and `torch.compile` run no hidden code.
            if called in _RUNS and not (called == "compile" and isinstance(node.func, ast.Attribute)):
                calls.add(called)
    return Imports(tuple(sorted(outside)), tuple(sorted(inside)), tuple(sorted(calls))), missing


def _beside(node: ast.ImportFrom, name: str, read: Callable[[str], str | None]) -> set[str]:
    """The files that a relative import imports."""
    folder = name.split("/")[:-1]
    up = node.level - 1
    if up > len(folder):
        return set()
    path = [*folder[: len(folder) - up], *(node.module.split(".") if node.module else [])]

    def file_of(parts: list[str]) -> str | None:
        joined = "/".join(parts)
        names = [f"{joined}.py"] if parts else []
        return next((n for n in (*names, f"{joined}/__init__.py".lstrip("/")) if read(n) is not None), None)

    own = file_of(path)
    modules = {found for alias in node.names if (found := file_of([*path, alias.name])) is not None}
    return modules | ({own} if own is not None and own != name else set())


def classes_from(text: str, name: str, cls: str) -> tuple[str, ...] | None:
    """The base classes of a class, as dotted names with modules; None if the file has no such class.

    A base class in the same file is replaced by its own base classes.
    """
    tree = parse(name, text)
    known: dict[str, str] = {}
    bases: dict[str, list[str]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            known |= {a.asname or a.name.partition(".")[0]: a.name if a.asname else a.name.partition(".")[0]
                      for a in node.names}  # fmt: skip
        elif isinstance(node, ast.ImportFrom):
            head = f"{'.' * node.level}{node.module or ''}"
            known |= {a.asname or a.name: f"{head}.{a.name}" for a in node.names}
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            bases[node.name] = [ast.unparse(base) for base in node.bases]
    if cls not in bases:
        return (known[cls],) if cls in known else None

    def whole(base: str, seen: frozenset[str]) -> Iterator[str]:
        if base in bases and base not in seen:
            for inner in bases[base]:
                yield from whole(inner, seen | {base})
        else:
            head, dot, rest = base.partition(".")
            yield known.get(head, head) + dot + rest

    return tuple(whole(cls, frozenset()))
