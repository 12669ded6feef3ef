"""How the package is put together: its links, its dependencies, and what `import sfumato` imports."""

import importlib.util
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
from importlib.metadata import PackageNotFoundError, distributions, requires
from pathlib import Path
from zipfile import ZipFile

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


def test_constraints_pin_all_that_ci_installs() -> None:
    """What the package and its dev extra require, and what those require, each at one version."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {canonicalize_name(line.partition("==")[0]) for line in lines if re.fullmatch(r"[\w.-]+==[\w.]+", line)}
    assert len(pinned) == len(lines), "each line is NAME==VERSION"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"]
    declared = [*project["project"]["dependencies"], *project["build-system"]["requires"]]
    waiting = [Requirement(line) for line in (*declared, *(line for extra in extras.values() for line in extra))]
    seen: set[tuple[str, str]] = set()
    while waiting:
        required = waiting.pop()
        for extra in ("", *required.extras):
            name = canonicalize_name(required.name)
            if (name, extra) in seen or not (required.marker is None or required.marker.evaluate({"extra": ""})):
                continue
            seen.add((name, extra))
            try:
                further = map(Requirement, requires(name) or ())
            except PackageNotFoundError:  # of another extra, or of another machine
                continue
            waiting += [r for r in further if r.marker is None or r.marker.evaluate({"extra": extra})]
    installed = {canonicalize_name(made.name) for made in distributions()}
    assert sorted({name for name, _ in seen if name in installed} - pinned) == []
    assert {canonicalize_name(Requirement(line).name) for extra in extras.values() for line in extra} <= pinned


# ------------------------------------------------------------------------------------------------ distributions
DATA = {".json", ".txt", ".md", ".model", ".safetensors"}
"""Suffixes of what is in the package beside Python: configs, vocabularies, licences and the embedded model."""
_BUILD = """
import sys
from setuptools import build_meta
folder = sys.argv[1]  # which the builds change
build_meta.build_sdist(folder)
build_meta.build_wheel(folder)
"""


@pytest.fixture(scope="module")
def tracked() -> set[str]:
    """The files of the repository."""
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        pytest.skip("this is no checkout of the repository")
    listed = subprocess.run([git, "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    return {name for name in listed.stdout.split("\0") if name and (ROOT / name).exists()}


@pytest.fixture(scope="module")
def built(tracked: set[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the source distribution, built of the tracked files alone, without the network."""
    if importlib.util.find_spec("setuptools") is None:
        pytest.skip("setuptools, which builds the package, is not installed")
    tree, folder = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("built")
    for name in tracked:
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, tree / name, follow_symlinks=False)
    done = subprocess.run([sys.executable, "-c", _BUILD, folder], cwd=tree, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def package_files(tracked: set[str]) -> set[str]:
    """The files of the package, by their paths in a wheel."""
    own = {f"sfumato/{name}" for name in ("__init__.py", "__main__.py", "py.typed")}
    return own | {f"sfumato/{name}" for name in tracked if name.split("/")[0] in ROOMS}


def test_the_wheel_holds_the_package_and_nothing_else(built: Path, tracked: set[str]) -> None:
    (file,) = built.glob("*.whl")
    with ZipFile(file) as wheel:
        names = {name for name in wheel.namelist() if not name.endswith("/")}
        assert not [part.filename for part in wheel.infolist() if part.external_attr >> 16 & 0o170000 == 0o120000]
    info = {name for name in names if name.startswith("sfumato-") and ".dist-info/" in name}
    about = ("METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE", "top_level.txt")
    assert {name.partition("/")[2] for name in info} == set(about)
    assert names - info == package_files(tracked)
    assert {Path(name).suffix for name in names - info} <= {".py", ".typed", *DATA}
    assert file.stat().st_size < 25e6


def test_the_source_distribution_holds_what_builds_the_wheel(built: Path, tracked: set[str]) -> None:
    (file,) = built.glob("*.tar.gz")
    with tarfile.open(file) as made:
        members = made.getmembers()
    assert all(member.isfile() or member.isdir() for member in members)
    names = {member.name.partition("/")[2] for member in members if member.isfile()}
    about = {"LICENSE", "MANIFEST.in", "PKG-INFO", "README.md", "pyproject.toml", "setup.cfg"}
    egg = {name for name in names if name.startswith("src/sfumato.egg-info/")}
    assert names - egg == about | {f"src/{name}" for name in package_files(tracked)}


# ------------------------------------------------------------------------------------------------ imports
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
