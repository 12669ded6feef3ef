"""Files that want more than to be read: each fails closed, with nothing run, imported, read or written elsewhere."""

import io
import json
import os
import pickle
import shutil
import struct
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import sfumato as sf
from sfumato.components.loading.index import read_index
from sfumato.components.storage.hub import open_repo

from .support import EMBEDDED, fresh

WEIGHTS = "diffusion_pytorch_model.safetensors"


class Payload:
    """What a pickle can do to who reads it."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> Any:
        return open, (str(self.proof), "w")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return shutil.copytree(EMBEDDED, tmp_path / "checkpoint")


@pytest.fixture(autouse=True)
def proof(tmp_path: Path) -> Any:  # the path
    """A file that exists only if a sample got its way."""
    path = tmp_path / "proof"
    yield path
    assert not path.exists()
    assert "antigravity" not in sys.modules


def used(folder: Path, **more: Any) -> None:
    """Load a checkpoint, check it and load each of its parts."""
    pipe = sf.load(folder, manager=fresh(), **more)
    if problems := pipe.check():
        raise sf.LoadError("; ".join(problem.message for problem in problems))
    for value in pipe.bindings.values():
        value.load()


def index(folder: Path, **keys: Any) -> None:
    path = folder / "model_index.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **keys}))


def modular(folder: Path, **entry: Any) -> None:
    spec = {"pretrained_model_name_or_path": "an/other", "subfolder": "unet", "revision": None, "variant": None}
    data = {"_class_name": "StableDiffusionModularPipeline"}
    hint = {"type_hint": ["diffusers", "UNet2DConditionModel"]}
    (folder / "modular_model_index.json").write_text(
        json.dumps({**data, "unet": [None, None, {**spec, **hint, **entry}]})
    )


# ---------------------------------------------------------------------------------------------------- pickles
def pickled(path: Path, proof: Path) -> None:
    path.write_bytes(pickle.dumps({"state_dict": Payload(proof)}))


def zipped(path: Path, proof: Path) -> None:
    torch.save({"state_dict": Payload(proof)}, path)


def tarred(path: Path, proof: Path) -> None:
    with tarfile.open(path, "w") as archive:
        data = pickle.dumps(Payload(proof))
        for name in ("sys_info", "pickle", "storages", "tensors"):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def bomb(path: Path, _: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"a": 1}))
        archive.writestr("archive/data/0", bytes(50_000_000))


@pytest.mark.parametrize("make", [pickled, zipped, tarred, bomb])
@pytest.mark.parametrize("asked", [False, True])
def test_pickles_run_nothing_asked_for_or_not(
    make: Callable[[Path, Path], None], asked: bool, tmp_path: Path, proof: Path
) -> None:
    make(tmp_path / "model.ckpt", proof)
    read = "is compressed, which torch never writes" if make is bomb else "cannot be read as plain"
    with pytest.raises(sf.LoadError, match=read if asked else "is a pickle"):
        sf.load(tmp_path / "model.ckpt", allow_pickle=asked)


@pytest.mark.parametrize("make", [pickled, zipped])
@pytest.mark.parametrize("asked", [False, True])
def test_a_pickle_in_a_folder_or_under_another_name(
    make: Callable[[Path, Path], None], asked: bool, folder: Path, proof: Path
) -> None:
    make(folder / "unet" / WEIGHTS, proof)
    with pytest.raises(sf.LoadError, match="is a pickle of torch under another name, not a safetensors file"):
        used(folder, allow_pickle=asked)
    (folder / "unet" / WEIGHTS).unlink()
    make(folder / "unet" / "diffusion_pytorch_model.bin", proof)
    with pytest.raises(sf.LoadError, match="cannot be read as plain" if asked else "only pickles"):
        used(folder, allow_pickle=asked)


# ---------------------------------------------------------------------------------------------------- names and links
OUTSIDE = ["../outside.safetensors", "/etc/hostname.safetensors", "a/../../b.safetensors", "..\\b.safetensors", "x.bin"]


@pytest.mark.parametrize("name", OUTSIDE)
def test_shards_lie_beside_their_index(folder: Path, name: str) -> None:
    (folder / "unet" / WEIGHTS).unlink()
    (folder / "unet" / f"{WEIGHTS}.index.json").write_text(json.dumps({"weight_map": {"conv_in.weight": name}}))
    with pytest.raises(sf.LoadError, match="names the shard"):
        used(folder)


@pytest.mark.parametrize(
    "entry",
    [
        {"subfolder": "../../etc"},
        {"subfolder": "/etc"},
        {"subfolder": "C:\\x"},
        {"revision": "../../../x"},
        {"revision": "/etc"},
        {"variant": "../x"},
    ],
)
def test_entries_of_an_index_stay_inside(folder: Path, entry: dict[str, str]) -> None:
    modular(folder, **entry)
    with pytest.raises(sf.LoadError, match=r"needs a .*\. Got "):
        used(folder)


def test_a_revision_writes_no_file_elsewhere(tmp_path: Path) -> None:
    with pytest.raises(sf.LoadError, match="needs a branch, tag or commit"):
        open_repo("someone/emoji", "../../../../proof")


@pytest.mark.parametrize("what", ["a file", "a folder", "a config", "a shard"])
def test_links_that_lead_out_are_not_followed(folder: Path, tmp_path: Path, what: str) -> None:
    secret = tmp_path / "secret"
    shutil.move(folder / "unet", secret)
    if what == "a folder":
        (folder / "unet").symlink_to(secret)
    else:
        (folder / "unet").mkdir()
        linked = "config.json" if what == "a config" else WEIGHTS
        for name in ("config.json", WEIGHTS):
            if name == linked:
                (folder / "unet" / name).symlink_to(secret / name)
            else:
                shutil.copy(secret / name, folder / "unet" / name)
    if what == "a shard":
        os.rename(folder / "unet" / WEIGHTS, folder / "unet" / "one.safetensors")
        weight_map = {"weight_map": {"conv_in.weight": "one.safetensors"}}
        (folder / "unet" / f"{WEIGHTS}.index.json").write_text(json.dumps(weight_map))
    with pytest.raises(sf.LoadError, match="is a link that leads out of"):
        used(folder)


def test_links_that_stay_inside_are_files_like_others(folder: Path) -> None:
    os.rename(folder / "unet" / WEIGHTS, folder / "whole.safetensors")
    (folder / "unet" / WEIGHTS).symlink_to("../whole.safetensors")
    used(folder)


def test_a_graph_file_names_no_folder_outside_the_package(tmp_path: Path) -> None:
    sf.load("emoji").save(tmp_path)
    text = (tmp_path / "graph.json").read_text()
    (tmp_path / "graph.json").write_text(text.replace("sfumato:presets/embedded", "sfumato:../../presets/embedded"))
    with pytest.raises(sf.GraphFileError, match=r"'sfumato:\.\./\.\./presets/embedded/emoji' leads out of the folder"):
        sf.load(tmp_path)


# ---------------------------------------------------------------------------------------------------- sizes
def test_json_that_is_too_large_or_too_deep(folder: Path) -> None:
    (folder / "model_index.json").write_text("[" * 200_000)
    with pytest.raises(sf.LoadError, match="nested more than 128 levels deep"):
        used(folder)
    with (folder / "model_index.json").open("wb") as file:
        file.truncate(10**9)  # takes no disk
    with pytest.raises(sf.LoadError, match="has 1,000,000,000 bytes, and the limit is 4,194,304"):
        used(folder)


@pytest.mark.parametrize(
    "data",
    [
        struct.pack("<Q", 2**63 - 1) + b"{}",
        struct.pack("<Q", 200_000_000) + b"{" * 10_000,
        struct.pack("<Q", 10) + b"{" * 10,
        struct.pack("<Q", 62) + b'{"a":{"dtype":"F32","shape":[9999999],"data_offsets":[0,4]}}  ' + bytes(4),
        struct.pack("<Q", 62) + b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,999999999]}}' + bytes(4),
        b"",
    ],
    ids=[
        "a huge header",
        "a header beyond the file",
        "no JSON",
        "a shape beyond its bytes",
        "bytes beyond it",
        "empty",
    ],
)
def test_headers_of_weights_that_lie(folder: Path, data: bytes) -> None:
    (folder / "unet" / WEIGHTS).write_bytes(data)
    with pytest.raises(sf.LoadError, match=r"damaged or not a safetensors file|is empty"):
        used(folder)
    (folder / "one.safetensors").write_bytes(data)
    with pytest.raises(sf.LoadError, match=r"damaged or not a safetensors file|is empty"):
        sf.load(folder / "one.safetensors")


def test_a_config_that_asks_for_a_model_beyond_all_memory(folder: Path) -> None:
    """It is refused before it is made."""
    config = json.loads((folder / "vae" / "config.json").read_text())
    config["block_out_channels"] = [2**20 for _ in config["block_out_channels"]]
    (folder / "vae" / "config.json").write_text(json.dumps(config))
    with pytest.raises(sf.LoadError, match="has 1,048,576 channels, and the limit is"):
        used(folder)


# ---------------------------------------------------------------------------------------------------- code
@pytest.mark.parametrize(
    "hint",
    [
        ["os", "system"], ["subprocess", "Popen"], ["antigravity", "Fly"], ["builtins", "eval"], ["torch", "load"],
        ["diffusers", "os"], ["diffusers", "__class__"], ["transformers", "pipeline"], ["transformers", "__builtins__"],
        ["sfumato", "load"],
    ],
)  # fmt: skip
def test_hints_lead_to_models_and_to_nothing_else(folder: Path, hint: list[str]) -> None:
    index(folder, unet=hint)
    with pytest.raises((sf.LoadError, sf.WireError)):
        used(folder)


def test_code_beside_a_checkpoint_is_not_run(folder: Path, proof: Path) -> None:
    (folder / "block.py").write_text(f"open({str(proof)!r}, 'w')")
    (folder / "unet" / "block.py").write_text(f"open({str(proof)!r}, 'w')")
    config = json.loads((folder / "unet" / "config.json").read_text())
    for name in ("_auto_map", "auto_map"):
        (folder / "unet" / "config.json").write_text(json.dumps({**config, name: {"AutoModel": "block.Net"}}))
        index(folder, unet=["diffusers", "AutoModel"], auto_map={"ModularPipelineBlocks": "block.Blocks"})
        try:
            used(folder)
        except (sf.LoadError, sf.ConfigError):
            continue


def test_a_class_that_only_code_in_the_repo_has_is_refused(folder: Path) -> None:
    config = json.loads((folder / "unet" / "config.json").read_text())
    told = {**config, "_class_name": "NovelNet", "auto_map": {"AutoModel": "block.NovelNet"}}
    (folder / "unet" / "config.json").write_text(json.dumps(told))
    index(folder, unet=["diffusers", "AutoModel"])
    with pytest.raises(sf.LoadError, match="NovelNet"):
        used(folder)


def test_an_index_of_a_repo_names_no_path_of_this_machine(folder: Path, tmp_path: Path) -> None:
    """A name without an owner, or an absolute path, is of the machine that wrote it."""
    from sfumato.components.storage.hub import Access, Repo
    from sfumato.components.storage.listing import RepoFile

    modular(folder, pretrained_model_name_or_path=str(EMBEDDED), subfolder="vae")
    cache = tmp_path / "models--a--b" / "snapshots" / "0"
    cache.mkdir(parents=True)
    shutil.copy(folder / "modular_model_index.json", cache)
    files = {"modular_model_index.json": RepoFile()}
    repo = Repo("a/b", "0", files, Access(cache_dir=str(tmp_path)), online=False)
    assert read_index(repo).loadable == {}
    assert read_index(folder).spec("unet").pretrained_model_name_or_path == str(folder)


def test_names_that_are_no_repos_are_asked_nowhere(tmp_path: Path) -> None:
    for name in ("owner/../..", "../owner/name", "http://x/y", "owner/name\n", "a/b/c", "~/x"):
        with pytest.raises(sf.LoadError):
            sf.load(name)


def test_a_single_file_takes_no_config_that_is_not_its_own(tmp_path: Path) -> None:
    save_file({"x": torch.ones(1)}, tmp_path / "x.safetensors", metadata={"config": "os.system('touch proof')"})
    with pytest.raises(sf.LoadError, match="holds no known model"):
        sf.load(tmp_path / "x.safetensors")
