"""How large the parts of the library are, and which of them import which."""

import ast
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import TypeAlias

import grimp
import networkx as nx
import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("registry", "graph", "components", "blocks", "presets")
LIBRARY = tuple(sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py")))
TESTS = tuple(sorted((ROOT / "tests").rglob("*.py")))
LONGEST_FILE, LONGEST_CLASS = 400, 250
Graph: TypeAlias = "nx.DiGraph[str]"


@cache
def imports() -> grimp.ImportGraph:
    """Every import of one of our modules by another.

    Imports inside functions count, and so do those under `TYPE_CHECKING`: a module that names a type knows of it.
    """
    return grimp.build_graph("sfumato", cache_dir=None)


def edges(inside: str) -> Graph:
    """The imports between the modules of one package."""
    graph = imports()
    modules = {name for name in graph.modules if f"{name}.".startswith(f"{inside}.")}
    made: Graph = nx.DiGraph()
    for name in modules:
        made.add_edges_from((name, other) for other in graph.find_modules_directly_imported_by(name) & modules)
    return made


def cycles(graph: Graph) -> Iterator[str]:
    """The shortest cycle of each set of nodes that reach each other, as a chain that names the lines."""
    for together in nx.strongly_connected_components(graph):
        inner = graph.subgraph(together)
        if inner.number_of_edges() == 0:  # one module that does not import itself
            continue
        back = [[*nx.shortest_path(inner, other, name), other] for name, other in inner.edges]
        chain = min(back, key=_short)
        yield f"{len(together)} modules import each other. The shortest cycle:\n" + "\n".join(
            f"  {a} -> {b}{lines(a, b)}" for a, b in pairwise(chain)
        )


def _short(chain: list[str]) -> tuple[int, list[str]]:
    return len(chain), chain


def lines(importer: str, imported: str) -> str:
    """Where the import is written."""
    found = imports().get_import_details(importer=importer, imported=imported)
    return "".join(f"\n      line {one['line_number']}: {one['line_contents']}" for one in found)


@pytest.mark.parametrize("room", ROOMS)
def test_no_modules_of_a_room_import_each_other(room: str) -> None:
    found = list(cycles(edges(f"sfumato.{room}")))
    assert not found, "\n".join(found)


def test_no_rooms_import_each_other() -> None:
    between: Graph = nx.DiGraph()
    for importer, imported in edges("sfumato").edges:
        pair = importer.split(".")[1:2], imported.split(".")[1:2]
        if pair[0] != pair[1] and all(name in ([room] for room in ROOMS) for name in pair):
            between.add_edge(*(name[0] for name in pair))
    # `sfumato` itself is left out: it is the table of public names, and imports a room when a name is read.
    assert set(between) == set(ROOMS)
    assert nx.is_directed_acyclic_graph(between), nx.find_cycle(between)


def test_the_layers_are_kept() -> None:
    tool = shutil.which("lint-imports", path=str(Path(sys.executable).parent)) or shutil.which("lint-imports")
    assert tool is not None, "import-linter is not installed: pip install import-linter"
    done = subprocess.run([tool, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_inside_the_library_imports_are_relative() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{number}: {line}"
        for path in LIBRARY
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if line.startswith(("import sfumato", "from sfumato"))
    ]
    assert not wrong, "Write `from ..` for `from sfumato.`:\n" + "\n".join(wrong)


def test_cycles_are_found_and_shown_as_a_chain() -> None:
    graph: Graph = nx.DiGraph([("a", "b"), ("b", "c"), ("c", "a"), ("c", "b"), ("d", "a")])
    (found,) = cycles(graph)
    assert found == "3 modules import each other. The shortest cycle:\n  b -> c\n  c -> b"


def too_long(path: Path) -> Iterator[str]:
    """What is too long in a file, and how long it may be."""
    text = path.read_text(encoding="utf-8")
    if (length := len(text.splitlines())) > LONGEST_FILE:
        yield f"{path.relative_to(ROOT)} has {length} lines, and {LONGEST_FILE} are allowed. Split it."
    for found in ast.walk(ast.parse(text)):
        if isinstance(found, ast.ClassDef) and (length := (found.end_lineno or 0) - found.lineno + 1) > LONGEST_CLASS:
            yield (
                f"{path.relative_to(ROOT)}:{found.lineno}: class {found.name} has {length} lines, and "
                f"{LONGEST_CLASS} are allowed. Split it."
            )


def test_files_and_classes_are_short() -> None:
    wrong = [line for path in (*LIBRARY, *TESTS) for line in too_long(path)]
    assert not wrong, "\n".join(wrong)


def test_every_method_of_blocks_but_call_has_a_docstring() -> None:
    """ruff checks the rest of the library, where `__call__` needs one too."""
    missing = [
        f"{path.relative_to(ROOT)}:{method.lineno}: {owner.name}.{method.name}"
        for path in (ROOT / "blocks").rglob("*.py")
        for owner in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(owner, ast.ClassDef) and not owner.name.startswith("_")
        for method in owner.body
        if isinstance(method, ast.FunctionDef) and not method.name.startswith("_") and not ast.get_docstring(method)
    ]
    assert not missing, "\n".join(missing)
