"""How the house is built: links, sizes, directions, and what starting up imports."""

import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
ROOMS = ("blocks", "components", "graph", "presets", "registry")
FILES = sorted(str(p.relative_to(ROOT)) for room in ROOMS for p in (ROOT / room).rglob("*.py"))


@pytest.mark.parametrize("room", ROOMS)
def test_the_rooms_are_linked_under_src(room: str) -> None:
    link = ROOT / "src" / "sfumato" / room
    mend = (
        f"src/sfumato/{room} must be a link to ../../{room}. This checkout was made without symbolic links: run "
        "`git config core.symlinks true && git checkout -- src` (on Windows in developer mode), then install again."
    )
    assert link.is_symlink(), mend
    assert link.readlink() == Path(f"../../{room}"), mend


@pytest.mark.parametrize("path", FILES)
def test_a_file_is_one_thing(path: str) -> None:
    lines = len((ROOT / path).read_text().splitlines())
    assert lines < 400, f"{path} has {lines} lines: it has become two things. Split it."


@pytest.mark.parametrize("path", FILES)
def test_inside_the_library_imports_are_relative(path: str) -> None:
    wrong = [
        line for line in (ROOT / path).read_text().splitlines() if line.startswith(("import sfumato", "from sfumato"))
    ]
    assert not wrong, f"{path} imports {wrong[0]!r}: write `from ..{wrong[0].split('.', 1)[-1]}`"


def test_the_rooms_import_in_one_direction() -> None:
    tool = shutil.which("lint-imports", path=str(Path(sys.executable).parent)) or shutil.which("lint-imports")
    if tool is None:
        pytest.skip("import-linter is not installed; `make check` has it")
    done = subprocess.run([tool, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_all_that_tests_need_is_installed() -> None:
    """So that a test that is skipped for want of a package is skipped only where there is no such package."""
    asked = map(
        Requirement, tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["dev"]
    )
    there = {canonicalize_name(made.name) for made in distributions()}
    missing = [
        str(r) for r in asked if (r.marker is None or r.marker.evaluate()) and canonicalize_name(r.name) not in there
    ]
    assert not missing, f"pip install {' '.join(missing)}"


def modules_after(code: str) -> set[str]:
    said = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys\nprint(*sys.modules)"], capture_output=True, text=True, check=True
    )
    return set(said.stdout.split())


def test_importing_sfumato_imports_nothing_heavy() -> None:
    heavy = {"torch", "transformers", "pydantic", "networkx", "numpy", "diffusers", "PIL", "safetensors", "accelerate"}
    assert not heavy & modules_after("import sfumato")


def test_importing_the_language_imports_nothing_heavy() -> None:
    heavy = {"torch", "transformers", "pydantic", "networkx", "numpy", "jaxtyping", "huggingface_hub"}
    assert not heavy & modules_after("import sfumato as sf\nsf.Graph, sf.Loop, sf.Switch")


def test_making_and_running_a_plain_graph_needs_no_torch() -> None:
    code = """
from typing import NamedTuple
import sfumato as sf
class X(NamedTuple):
    x: int
class Add(sf.Block):
    def __call__(self, x: int) -> X: return X(x + 1)
assert sf.Graph(add=Add())(x=1).x == 2
"""
    assert not {"torch", "transformers", "networkx", "diffusers"} & modules_after(code)
