"""What the tests of blocks from elsewhere share: repos and folders with code, a hub, and modules of one's own."""

import importlib
import json
import sys
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

import sfumato as sf
from sfumato.components.loading.code.trust import trust_folder
from sfumato.registry import blocks as BLOCKS

from ..components.hub_server import Hub, asked_here

PICTURE = torch.rand(1, 3, 4, 6, generator=torch.Generator().manual_seed(0))
FLIP = """
from typing import NamedTuple

import sfumato as sf
from sfumato.components.types import Images


class Flipped(NamedTuple):
    images: Images


class Flip(sf.Block):
    def __call__(self, images: Images) -> Flipped:
        return Flipped(images.flip(-1))
"""
DIM = FLIP.replace("images.flip(-1)", "images / 2")
MARK = "from pathlib import Path\nPath(__file__).with_name('ran').touch()\n"


def put(folder: Path, files: Mapping[str, str | bytes], address: Any = "block.Flip", **config: Any) -> Path:
    """A repo as diffusers publishes one with a block: files, and a `modular_config.json` that names the class."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode() if isinstance(text, str) else text)
    folder.mkdir(parents=True, exist_ok=True)
    config = {"_class_name": "Flip", "auto_map": {"ModularPipelineBlocks": address}, **config}
    (folder / "modular_config.json").write_text(json.dumps(config))
    return folder


def refusal(x: Any, **more: Any) -> str:
    with pytest.raises((sf.LoadError, sf.GraphFileError)) as told:
        sf.load(x, **more)
    return str(told.value)


def trusted(x: Any, **more: Any) -> sf.Graph:
    return sf.load(x, trust_remote_code=True, **more)


def images(graph: sf.Graph) -> torch.Tensor:
    return graph(images=PICTURE).images


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What is trusted in a test is forgotten after it."""
    monkeypatch.setenv("SFUMATO_HOME", str(tmp_path / "kept"))
    return trust_folder()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Hub]:
    with asked_here(tmp_path / "hub", tmp_path / "cache", monkeypatch) as server:
        yield server


class Own:
    """A user's own module files, imported as a user would; `forget` makes of this process another one."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.monkeypatch = monkeypatch
        self.known = dict(BLOCKS._table)
        self.modules = set(sys.modules)

    def __call__(self, name: str, text: str, **beside: str) -> Any:  # a module
        package, _, module = name.rpartition(".")
        for file, content in {**beside, module: text}.items():
            path = self.folder / package / f"{file}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        self.monkeypatch.syspath_prepend(str(self.folder))
        importlib.invalidate_caches()
        return importlib.import_module(name)

    def forget(self) -> None:
        for name, cls in list(BLOCKS._table.items()):  # those of sfumato are registered once, at their import
            if name not in self.known and cls.__module__.partition(".")[0] != "sfumato":
                del BLOCKS._table[name]
        BLOCKS._table.update(self.known)


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Own]:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    own = Own(tmp_path / "own", monkeypatch)
    yield own
    own.forget()
    for name in set(sys.modules) - own.modules:
        if name.partition(".")[0] in ("acme_flip", "acme_help", "acme"):
            del sys.modules[name]
