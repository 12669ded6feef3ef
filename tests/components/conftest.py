"""Folders that the tests of this room share."""

import json
import shutil
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
import torch

import sfumato as sf
from sfumato.components.memory.mover import Mover

from .hub_repos import CALL, EMOJI, MODELS
from .hub_server import Hub, asked_here


class AnyDevice(Mover):
    """A machine that has every device, "meta" too."""

    def check_device(self, device: str) -> None:
        """Refuse none."""


@pytest.fixture
def emoji(tmp_path: Path) -> Path:
    """A copy of the embedded model's folder that a test may change."""
    return shutil.copytree(EMOJI, tmp_path / "emoji")


@pytest.fixture
def an_index(tmp_path: Path) -> Callable[..., Path]:
    """Make a folder that holds one index file with these keys."""

    def make(keys: dict[str, Any] | str, file: str = "modular_model_index.json") -> Path:
        folder = tmp_path / "made"
        folder.mkdir(exist_ok=True)
        (folder / file).write_text(keys if isinstance(keys, str) else json.dumps(keys))
        return folder

    return make


def sharded(folder: Path) -> None:
    """Cut a model's weights in shards."""
    model = sf.models.AutoencoderKL.from_pretrained(folder)
    model.save_pretrained(folder, max_shard_size="1MB")


@pytest.fixture(scope="session")
def repos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repos that the server has: whole, sharded, with variants, in parts, and some that are not to be had."""
    root = tmp_path_factory.mktemp("hub")
    whole = shutil.copytree(EMOJI, root / "someone/emoji")
    (whole / "whole.ckpt").write_bytes(b"a pickle that nobody asked for")
    (whole / "unet/diffusion_pytorch_model.bin").write_bytes(b"another pickle")
    for name, stem in MODELS.items():  # fp16 is what lies there; the plain file is another
        shutil.copy(whole / name / f"{stem}.safetensors", whole / name / f"{stem}.fp16.safetensors")
    (whole / "safety_checker").mkdir()
    (whole / "safety_checker/model.safetensors").write_bytes(b"what no task uses")
    shutil.copytree(EMOJI, root / "someone/emoji@old")
    for name in ("private", "gated"):
        shutil.copytree(EMOJI, root / "someone" / name)
    shards = shutil.copytree(EMOJI, root / "someone/shards")
    sharded(shards / "vae")
    nested = root / "someone/nested/deep/down"
    shutil.copytree(EMOJI, nested)
    (root / "someone/empty").mkdir()
    parts = root / "someone/parts"
    for name in ("scheduler", "tokenizer", "text_encoder"):
        shutil.copytree(EMOJI / name, parts / name)
    index: dict[str, Any] = {"_class_name": "StableDiffusionModularPipeline", "_diffusers_version": "0.42.1"}
    for name, hint in json.loads((EMOJI / "model_index.json").read_text()).items():
        if isinstance(hint, list) and hint[0]:
            elsewhere = {"unet": ("someone/emoji", "old"), "vae": ("someone/shards", None)}.get(name, ("d_mod", None))
            spec = {"pretrained_model_name_or_path": elsewhere[0], "revision": elsewhere[1], "subfolder": name}
            hint = ["diffusers", "AutoModel"] if name in ("unet", "vae") else hint
            index[name] = [*hint, {**spec, "type_hint": hint, "variant": None}]
    index["image_encoder"] = [None, None, None]
    (parts / "modular_model_index.json").write_text(json.dumps(index))
    return root


@pytest.fixture
def hub(repos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Hub]:
    """The server, and this process's client pointed at it with an empty cache."""
    with asked_here(repos, tmp_path / "cache", monkeypatch) as server:
        yield server


@pytest.fixture
def load(hub: Hub) -> Callable[..., sf.Graph]:
    """`sf.load` with a manager of its own."""

    def call(x: str, *args: Any, **more: Any) -> sf.Graph:
        return sf.load(x, *args, manager=sf.ComponentsManager(), **more)

    return call


@pytest.fixture(scope="session")
def picture() -> torch.Tensor:
    """What all of them draw."""
    return sf.load(EMOJI)(**CALL).images
