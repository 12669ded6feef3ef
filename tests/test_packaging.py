"""How the package is put together: its links, its dependencies, and what `import sfumato` imports."""

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


@pytest.mark.parametrize("room", ROOMS)
def test_the_rooms_are_linked_under_src(room: str) -> None:
    link = ROOT / "src" / "sfumato" / room
    advice = (
        f"src/sfumato/{room} must be a link to ../../{room}. This checkout was made without symbolic links: run "
        "`git config core.symlinks true && git checkout -- src` (on Windows in developer mode), then install again."
    )
    assert link.is_symlink(), advice
    assert link.readlink() == Path(f"../../{room}"), advice


def test_every_package_of_the_dev_extra_is_installed() -> None:
    """Else tests that need one would be skipped, and nobody would see it."""
    required = map(
        Requirement, tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["dev"]
    )
    installed = {canonicalize_name(made.name) for made in distributions()}
    missing = [
        str(r)
        for r in required
        if (r.marker is None or r.marker.evaluate()) and canonicalize_name(r.name) not in installed
    ]
    assert not missing, f"pip install {' '.join(missing)}"


def modules_after(code: str) -> set[str]:
    """The modules that a new process has imported after it ran the code."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys\nprint(*sys.modules)"], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


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
